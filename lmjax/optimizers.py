"""Optimizers by name: "sgd(momentum=0.9)", "adamw(b2=0.95)", "lion", ..., and your own.

A registered function takes the rule's own arguments, and gives the rule without its learning rate and weight decay,
which are a run's: an `optax.GradientTransformation` such as `optax.scale_by_adam()`, or a `Rule` of two. With its
result u, the parameters become w - rate u. docs/api/optimizers.md has an example.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import optax

from lmjax.errors import InputError
from lmjax.registry import Registry


class Rule(NamedTuple):
    """An update rule with a place for the weight decay: u = after(before(g) + decay w).

    Attributes:
        before: applied to the gradients g, without the weight decay. If the whole rule is here, the decay is decoupled
            (Loshchilov and Hutter 2019). A function that returns a single transformation sets this one.
        after: applied to the sum. If the whole rule is here, the decay is part of the gradient.
    """

    before: optax.GradientTransformation = optax.identity()
    after: optax.GradientTransformation = optax.identity()


registry: Registry[optax.GradientTransformation | Rule] = Registry(
    "optimizer",
    (optax.GradientTransformation, Rule),
    example="adamw(b2=0.95)",
    returns="an optax.GradientTransformation or an lmjax.optimizers.Rule",
)
register, normalize = registry.register, registry.normalize


def get(call: str) -> Rule:
    """The rule of a name or a call.

    Raises:
        InputError: if there is none, or its function gives something else.
    """
    made = registry.get(call)
    return made if isinstance(made, Rule) else Rule(made)


@register
def sgd(momentum: float = 0.9, *, nesterov: bool = False) -> Rule:
    """Stochastic gradient descent with momentum: v+ = momentum v + (g + decay w), u = v+.

    With nesterov, u = momentum v+ + (g + decay w) (Sutskever et al. 2013). The decay is part of the gradient, as in
    He et al. 2016.
    """
    _require_fractions("sgd", momentum=momentum)
    if nesterov and not momentum:
        raise InputError("sgd: nesterov must be off without momentum")
    return Rule(after=optax.trace(momentum, nesterov) if momentum else optax.identity())


@register
def rmsprop(smoothing: float = 0.99, *, momentum: float = 0.0, eps: float = 1e-8) -> Rule:
    """RMSProp: gradients, with decay w, over the root of the running mean of their squares (Tieleman and Hinton 2012).

    s+ = smoothing s + (1 - smoothing) g², u = g / sqrt(s+ + eps), then momentum as in `sgd`.
    """
    _require_fractions("rmsprop", smoothing=smoothing, momentum=momentum)
    _require_positive("rmsprop", eps)
    return Rule(after=optax.chain(optax.scale_by_rms(smoothing, eps), sgd(momentum).after))


@register
def adam(b1: float = 0.9, b2: float = 0.999, *, eps: float = 1e-8) -> Rule:
    """Adam with decay w in the gradient: u = m / (sqrt(v) + eps) (Kingma and Ba 2015, Algorithm 1).

    m and v are running means of g and g², by b1 and b2, made unbiased.
    """
    return Rule(after=_adam("adam", b1, b2, eps))


@register
def adamw(b1: float = 0.9, b2: float = 0.999, *, eps: float = 1e-8) -> Rule:
    """Adam with decoupled weight decay: u = m / (sqrt(v) + eps) + decay w (Loshchilov and Hutter 2019, Algorithm 2)."""
    return Rule(_adam("adamw", b1, b2, eps))


@register
def lamb(b1: float = 0.9, b2: float = 0.999, *, eps: float = 1e-6) -> Rule:
    """AdamW whose update of each kernel has the length of the kernel: u |w| / |u| (You et al. 2020, Algorithm 2).

    Each step of a network has its own ratio. Whatever is no kernel has the ratio 1, as in the authors' program.
    """
    return Rule(_adam("lamb", b1, b2, eps), optax.masked(_each_step(optax.scale_by_trust_ratio()), kernels))


@register
def lion(b1: float = 0.9, b2: float = 0.99) -> Rule:
    """Lion: u = sign(b1 m + (1 - b1) g) + decay w, then m+ = b2 m + (1 - b2) g (Chen et al. 2023, Algorithm 2).

    It wants a rate 3 to 10 times smaller than adamw, and a decay as many times larger.
    """
    _require_fractions("lion", b1=b1, b2=b2)
    return Rule(optax.scale_by_lion(b1, b2))


@register
def muon(beta: float = 0.95, *, rms: float = 0.2, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Rule:
    """Muon: momentum of kernels made orthogonal; all else by `adamw(b1, b2)` (Jordan et al. 2024).

    A kernel is a matrix [inputs, outputs], that of a convolution [height width inputs, outputs], those of the queries,
    keys and values of attention [inputs, heads x outputs], each step of a network its own. Its Nesterov momentum U S V'
    becomes nearly U V' by five Newton-Schulz iterations, and is multiplied by rms sqrt(max(inputs, outputs)): at rms
    0.2, rates and decays of adamw suit (Liu et al. 2025, equation 4).
    """
    _require_fractions("muon", beta=beta)
    _require_positive("muon", rms, "rms")

    def size(path, x):
        first, outputs = _stacked(path), _outputs(path, x)
        return rms * math.sqrt(max(math.prod(x.shape[first:outputs]), math.prod(x.shape[outputs:]))) * x

    matrices = optax.chain(
        optax.contrib.scale_by_muon(beta=beta, weight_dimension_numbers=_matrices),
        optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(size, updates)),
    )
    return Rule(optax.partition({True: matrices, False: _adam("muon", b1, b2, eps)}, kernels))


def decay_mask(params: Any, *, decay: Literal["all", "kernels"] = "kernels", of_coefficients: bool = False) -> Any:
    """True for what weight decay is for, in an optax chain of your own: `optax.adamw(0.001, mask=decay_mask)`.

    The usual `x.ndim > 1` does not tell: the variables of a stage are stacked, so that every scale and bias in it has a
    second axis, the step.

    Args:
        params: nested dicts of arrays, or an `nnx.State`, named as the network names them.
        decay: kernels alone, or all parameters of the network.
        of_coefficients: those of the scheme, too, such as k of `lm`.
    """

    def decays(coefficient, kernel):
        return of_coefficients if coefficient else kernel or decay == "all"

    return jax.tree.map(decays, coefficients(params), kernels(params))


def kernels(params: Any) -> Any:
    """True for what multiplies features: what is called "kernel", and is a matrix or more.

    Args:
        params: see `decay_mask`.
    """

    def is_kernel(path, x):
        return _names(path)[-1:] == ["kernel"] and x.ndim - _stacked(path) >= 2

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def coefficients(params: Any) -> Any:
    """True for the scheme's coefficients.

    They are told by name: by shape they cannot be, since the variables of a stage are stacked.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(entry, "key", None) == "coefficients" for entry in path), params
    )


def _names(path: tuple[Any, ...]) -> list[Any]:
    return [entry.key for entry in path if hasattr(entry, "key")]  # a State has another entry below, of the value


def _stacked(path: tuple[Any, ...]) -> int:
    """The number of leading axes of an array that count steps: `lmjax.networks.Stack` calls its variables "item"."""
    return sum(getattr(entry, "key", None) == "item" for entry in path)


def _outputs(path: tuple[Any, ...], x: Any) -> int:
    """The first axis of a kernel's outputs: the last axis, or that of the heads in nnx.MultiHeadAttention."""
    of_heads = x.ndim - _stacked(path) == 3 and _names(path)[-2:-1] in (["query"], ["key"], ["value"])
    return x.ndim - (2 if of_heads else 1)


def _matrices(params: Any) -> Any:
    """The axes of kernels that are rows, and those that are columns, for optax."""

    def axes(path, x):
        outputs = _outputs(path, x)
        return optax.contrib.MuonDimensionNumbers(tuple(range(_stacked(path), outputs)), tuple(range(outputs, x.ndim)))

    return jax.tree_util.tree_map_with_path(axes, params)


def _each_step(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """The rule, one without a state, for each step of a stack alone."""

    def one(update, param):
        return rule.update(update, optax.EmptyState(), param)[0]

    def each(path, update, param):
        function = one
        for _ in range(_stacked(path)):
            function = jax.vmap(function)
        return function(update, param)

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(each, updates, params))


def _adam(name: str, b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    _require_fractions(name, b1=b1, b2=b2)
    _require_positive(name, eps)
    return optax.scale_by_adam(b1, b2, eps)


def _require_fractions(name: str, **values: float) -> None:
    for key, value in values.items():
        if not 0 <= value < 1:
            raise InputError(f"{name}: {key} must be at least 0 and less than 1, got {value:g}")


def _require_positive(name: str, value: float, key: str = "eps") -> None:
    if value <= 0:
        raise InputError(f"{name}: {key} must be positive, got {value:g}")
