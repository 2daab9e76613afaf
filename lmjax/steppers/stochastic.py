"""Wrappers for stochastic training: each takes a scheme, and gives the same scheme with perturbed branches or states.

The random numbers of a step follow from its `StepInfo` alone, so that a step that is undone, recomputed or resumed
repeats them. Without a key (in evaluation) a step is deterministic. Wrappers can be nested.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lmjax.errors import InputError
from lmjax.promotion import at_least_float32, lenient
from lmjax.steppers.base import Branch, State, StepInfo, Stepper, combine, register
from lmjax.steppers.one_step import over_stage


def _wrapped(name: str, stepper: Stepper, around: Callable[[Stepper], dict[str, Any]], **fields: Any) -> Stepper:
    """`stepper` with the functions that `around` makes of it, and so both schemes of a stage."""

    @functools.cache
    def of(inner):
        changes = {"name": f"{name}({inner.name})", "informed": True, **around(inner), **fields}
        return dataclasses.replace(inner, **changes, over=lambda depth: tuple(map(of, over_stage(inner, depth))))

    return of(stepper)


def _around_branches(inner: Stepper, perturb: Callable[[tuple[Branch, ...], StepInfo], tuple]) -> dict[str, Any]:
    """Step and inverse with `perturb(fs, info) -> (fs, info)` before them."""

    def of(function):
        def perturbed(fs, u, history, coef, info):
            fs, info = perturb(fs, info)
            return function(fs, u, history, coef, info)

        return perturbed

    return {"step": of(inner.step), "inverse": None if inner.inverse is None else of(inner.inverse)}


def _scaled_by(factor: Callable[[jax.Array], Any], f: Branch) -> Branch:
    """The branch u -> factor(leaf) * f(u), leaf by leaf."""
    return lambda u: jax.tree.map(lambda x: combine((factor(x), x)), f(u))


def _per(sample: bool, x: jax.Array) -> tuple[int, ...]:
    """The shape of numbers of which there is one a sample (the first axis of x), or just one."""
    return (x.shape[0],) + (1,) * (x.ndim - 1) if sample else ()


@register
def scaled(stepper: Stepper, first: float = 1.0, last: float = 0.7) -> Stepper:
    """f -> s f, with s falling linearly from `first` at the first step of the network to `last` at the last one.

    Each branch is scaled by itself: where one feeds the next, the scale acts on both. (PolyNet's residual scaling, of
    the sum of the powers, is the `scale` of `poly`.) Deterministic.
    """

    def perturb(fs, info):
        scale = first + (last - first) * info.depth
        return tuple(_scaled_by(lambda x: scale, f) for f in fs), info

    return _wrapped("scaled", stepper, lambda inner: _around_branches(inner, perturb))


@register
def stochastic_depth(
    stepper: Stepper,
    survival: float = 0.5,
    *,
    per_sample: bool = False,
    rescale: Literal["training", "evaluation"] = "training",
    rule: Literal["first_kept", "first_dropped"] = "first_kept",
) -> Stepper:
    """f -> eta f with eta ~ Bernoulli(p_n): stochastic depth (Huang et al. 2016) of any scheme.

    A gate a step, shared by all its branches. Only the increments are dropped, the states stay: for LM
    u[n+1] = (1 - k) u[n] + k u[n-1] + eta f(u[n]) (Lu et al. 2018). p_n falls linearly with depth, from 1 to
    `survival` at the last step.

    Args:
        stepper: the scheme.
        survival: p of the last step, in (0, 1].
        per_sample: a gate for each sample of the batch (the first axis of the state) instead of one for the batch.
        rescale: "training" divides by p_n when training (the authors of LM-ResNet); "evaluation" multiplies by p_n
            when evaluating (Huang et al.). Either way evaluation is the expectation of training for a scheme that is
            linear in its increments, such as euler or lm; where one branch feeds the next (rk4, poly), it is not.
        rule: with steps n = 0..N-1, "first_kept" is p_n = 1 - n/(N-1) (1 - survival) (the authors' code), and
            "first_dropped" p_n = 1 - (n+1)/N (1 - survival) (Huang et al., and the text of Lu et al.).

    Raises:
        InputError: if `survival` is not in (0, 1].
    """
    if not 0 < survival <= 1:
        raise InputError(
            f"stochastic_depth: survival must be above 0 and at most 1 (a drop rate in [0, 1)), got {survival}"
        )

    def perturb(fs, info):
        depth = info.depth if rule == "first_kept" else info.share(info.index + 1, info.count)
        p = 1 - depth * (1 - survival)
        key, info = info.split()

        @lenient()
        def factor(x):
            if key is None:
                return p if rescale == "evaluation" else 1
            wide = at_least_float32(jnp.finfo(jnp.result_type(x)).dtype)
            gate = jax.random.bernoulli(key, p, _per(per_sample, x)).astype(wide)
            return gate / p if rescale == "training" else gate

        return tuple(_scaled_by(factor, f) for f in fs), info

    return _wrapped("stochastic_depth", stepper, lambda inner: _around_branches(inner, perturb), random=True)


@register
def shake_shake(
    stepper: Stepper,
    *,
    per_sample: bool = True,
    forward: Literal["shake", "even"] = "shake",
    backward: Literal["shake", "keep", "even"] = "shake",
) -> Stepper:
    """f -> eta f1 + (1 - eta) f2 with eta ~ U(0, 1): shake-shake (Gastaldi 2017) of any scheme.

    The backward pass draws a fresh eta of its own; evaluation takes the mean, eta = 1/2. There are twice as many
    branches: 2i and 2i + 1 take the place of the scheme's branch i.

    Args:
        stepper: the scheme.
        per_sample: an eta for each sample of the batch (Shake-...-Image) instead of one for the batch (-Batch).
        forward: "shake", or "even" for 1/2.
        backward: "shake"; "keep" takes the forward pass's eta, "even" 1/2. The published names are those of forward
            and backward: S-S-I is ("shake", "shake", per_sample=True), S-E-I ("shake", "even"), E-S ("even", "shake").
    """

    def mixed(f1, f2, key):
        def mix(u):
            def leaf(x1, x2):
                def eta(how, key):
                    return 0.5 if how == "even" else jax.random.uniform(key, _per(per_sample, x1))

                if key is None:
                    return combine((0.5, x1), (0.5, x2))
                ahead, back = jax.random.split(key)
                a = eta(forward, ahead)
                value = combine((a, x1), (1 - a, x2))
                if backward == "keep":
                    return value
                b = eta(backward, back)
                carrier = combine((b, x1), (1 - b, x2))  # whose gradient is that of the backward pass
                return carrier + lax.stop_gradient(value - carrier)

            return jax.tree.map(leaf, f1(u), f2(u))

        return mix

    def perturb(fs, info):
        key, info = info.split()
        keys = [None] * (len(fs) // 2) if key is None else jax.random.split(key, len(fs) // 2)
        return tuple(mixed(fs[2 * i], fs[2 * i + 1], keys[i]) for i in range(len(fs) // 2)), info

    def around(inner):
        def twice(values):
            return tuple(x for x in values for _ in range(2))

        nodes = (0.0,) if inner.evaluations == 1 else None  # what `odeint` takes where they are not known
        nodes = nodes if inner.known.nodes is None else inner.known.nodes
        known = dataclasses.replace(inner.known, nodes=None if nodes is None else twice(nodes))
        return _around_branches(inner, perturb) | {
            "evaluations": 2 * inner.evaluations, "reads": twice(inner.reads), "known": known,
        }  # fmt: skip

    return _wrapped("shake_shake", stepper, around, random=True)


@register
def noise(stepper: Stepper, sigma: float = 0.001, *, distribution: Literal["normal", "uniform"] = "normal") -> Stepper:
    """u[n+1] -> u[n+1] + xi after each step of training: noise injection (Lu et al. 2018).

    Args:
        stepper: the scheme.
        sigma: the scale of the noise.
        distribution: of xi, independent for each number of the state: "normal" is N(0, sigma^2), "uniform" is
            U(0, sigma), as in the authors' code; its mean is sigma/2, not zero.
    """
    if not sigma >= 0:
        raise InputError(f"noise: sigma must be 0 or more, got {sigma}")
    draw = jax.random.normal if distribution == "normal" else jax.random.uniform

    def add(sign, key, u: State):
        leaves, tree = jax.tree.flatten(u)
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(
            tree, [combine((1, x), (sign * sigma, draw(k, x.shape))) for k, x in zip(keys, leaves, strict=True)]
        )

    def around(inner):
        def step(fs, u, history, coef, info):
            key, info = info.split()
            u, history = inner.step(fs, u, history, coef, info)
            return (u if key is None else add(1, key, u)), history

        def inverse(fs, u, history, coef, info):
            key, info = info.split()
            return inner.inverse(fs, u if key is None else add(-1, key, u), history, coef, info)

        return {"step": step, "inverse": None if inner.inverse is None else inverse}

    return _wrapped("noise", stepper, around, random=True)
