"""The outcome of a trained network when its steps are made smaller and more, as a numerical method allows.

The scheme of a network is a method for u' = F(u, t), with increments f = h F. To refine it by m, every step of a stage
but the first one (which may change the shape) becomes m steps with the branch f/m and the same coefficients: F and the
end of the integration stay, the step is h/m. An `lm` network integrates (1 + k) u' = F, whatever h is, so that k stays;
`verlet` integrates u'' = F with f = h^2 F, so that its branch becomes f/m^2.

What a multistep scheme remembers at the start of a stage is brought to the other grid: earlier states u[-j] become
u[0] + (u[-j] - u[0])/m, those on the straight line of the first step, and earlier increments their m-th part. With the
state u[-1] left where it was, LM would go off by k (u[-1] - u[0]) at once, however small h, and would not converge to
the solution that starts at u[0].

For m -> infinity the features of a consistent and zero-stable scheme converge, with an error of O(1/m): F is Lipschitz
and, its parameters being constant over each step of the network, piecewise constant in time. What tells whether the
network is the discretisation of an ODE is how far it is from that limit. Plain ResNets are not invariant under such a
change of the step (Queiruga et al. 2020, "Continuous-in-depth neural networks"). Batch normalization keeps the
statistics of the training here, those of the coarse path. Schemes whose trained coefficients are not consistent
(`learned_multistep` with weights that do not sum to 1) or not zero-stable (|k| > 1) have no limit at all.

To coarsen by c leaves c - 1 of c steps out, and gives the remaining one their time: the branch c f. If c does not
divide the number of steps, the last one stands for fewer, and what is remembered is brought to its size.
"""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from lmjax.analysis.walk import advance, require_steps
from lmjax.errors import InputError
from lmjax.networks import Network, Stack, Stage
from lmjax.steppers import Branch, StepInfo, Stepper, combine
from lmjax.training import TrainedNetwork

_BATCH = 128


def refined(network: Network, images: jax.Array, factor: Fraction | int) -> tuple[jax.Array, jax.Array]:
    """The features after the last stage, and the logits, of the refined or coarsened network, in evaluation.

    Args:
        network: whose `eval()` has been called.
        images: as the network takes them, [N, H, W, C].
        factor: m >= 1 to refine by it, 1/c to coarsen by c. 1 is the network itself.

    Raises:
        InputError: if it is neither, the network is not made of steps, or its scheme has coefficients for each of the
            states of a stage (`dense`).
    """
    factor = Fraction(factor)
    if factor <= 0 or 1 not in (factor.numerator, factor.denominator):
        raise InputError(f"refinement by {factor}: give a whole number, or 1/2, 1/3, ... to coarsen")

    if factor == 1:
        require_steps(network)
        u = network.features(images)
    else:
        require_refinable(network)
        u = network.features(images, visit=functools.partial(_refined_stage, factor=factor))
    return u, network.classify(u)


def require_refinable(network: nnx.Module) -> None:
    """Checks that a network can be refined and coarsened.

    Raises:
        InputError: if it is not made of steps, or has coefficients for each of the states of a stage (`dense`).
    """
    require_steps(network)
    if network.stepper.known.steps_back is None:
        raise InputError(
            f"{network.stepper.name} weighs all the states of a stage, and has no weights for more or fewer"
        )


def _refined_stage(stage: Stage, u: Any, history: Any, info: StepInfo, factor: Fraction) -> tuple[Any, Any]:
    (u, history), _ = stage.begin(u, history, info)
    inputs, info_of = stage.step_inputs(info)
    group = factor.denominator
    starts = np.arange(0, stage.steps.depth, group)
    # The time that the branch of a step stands for, in steps of the network: the last one may stand for fewer.
    times = np.float32(np.minimum(group, stage.steps.depth - starts) / factor.numerator)

    ratios = times / np.float32([1, *times[:-1]])  # to the step before: what is remembered is that far away

    def body(block, state, step):
        inputs, time, ratio = step
        scale = time**2 if _second_order(block) else time

        def substep(_, state):
            u, history = advance(block, *state, info_of(inputs), _scaled(scale))
            return block.after(u), history

        u, history = state
        return lax.fori_loop(0, factor.numerator, substep, (u, _rescaled(stage.stepper, u, history, ratio)))

    steps = (jax.tree.map(lambda x: x[starts], inputs), times, ratios)
    u, history = _thinned(stage.steps, group).scan(body, (u, history), steps)
    if len(times):  # the first step of the next stage is as long as in the network
        history = _rescaled(stage.stepper, u, history, 1 / times[-1])
    return stage.join(u), history


def _thinned(stack: Stack, group: int) -> Stack:
    """The first of every so many modules of a stack."""
    if group == 1 or not stack.depth:
        return stack
    thin = nnx.clone(stack)
    graph, variables = nnx.split(stack.item)
    thin.item = nnx.merge(graph, jax.tree.map(lambda x: x[::group], variables))
    thin.depth = -(-stack.depth // group)
    return thin


def _scaled(scale: Any) -> Callable[[Branch], Branch]:
    return lambda f: lambda u: jax.tree.map(lambda x: combine((scale, x)), f(u))


def _second_order(block: Any) -> bool:
    """True if the scheme of the block integrates u'' = F, and nothing of u'."""
    damping = block.stepper.known.damping(block.values())
    return isinstance(damping, float) and damping == 0


def _rescaled(stepper: Stepper, u: Any, history: Any, ratio: jax.Array | float) -> Any:
    """The history at a state u, as it would be if its steps had been `ratio` times as long."""

    def moved(earlier, group):
        def move(w):
            return combine((ratio, w), (1 - ratio, u)) if earlier else combine((ratio, w))

        return jax.tree.map(move, group, is_leaf=lambda w: jax.tree.structure(w) == jax.tree.structure(u))

    return jax.tree.map(moved, stepper.known.earlier, history)


def refinements(
    trained: TrainedNetwork, images: np.ndarray, labels: np.ndarray, factors: list[Fraction]
) -> dict[str, dict[str, float]]:
    """The classifications of a trained network that is refined or coarsened, and how far its features move.

    Args:
        trained: the run.
        images, labels: pixels, 0 to 255, [N, H, W, C], and the labels [N].
        factors: in increasing order, and 1 among them.

    Returns:
        For each factor, as "1/2", "1", "2", ...: "accuracy"; "agreement", the share of images classified as by the
        network itself; "features" and "logits", the median over the images of their distance from those of the network
        itself, relative to the length of these; "change", that of the features from those of the factor before.
    """
    itself = factors.index(1)

    def program(network, pixels, labels):
        outcomes = [refined(network, trained.normalized(pixels), factor) for factor in factors]
        features, logits = (
            [x.reshape(len(x), -1).astype(jnp.float32) for x in each] for each in zip(*outcomes, strict=True)
        )
        predicted = [x.argmax(-1) for x in logits]
        return [
            {
                "accuracy": predicted[i] == labels,
                "agreement": predicted[i] == predicted[itself],
                "features": _distance(features[i], features[itself]),
                "logits": _distance(logits[i], logits[itself]),
                "change": _distance(features[i], features[max(i - 1, 0)]),
            }
            for i in range(len(factors))
        ]

    found = trained.over_batches(program, _BATCH, images, labels)
    of = {"accuracy": np.mean, "agreement": np.mean, "features": np.median, "logits": np.median, "change": np.median}
    return {
        str(factor): {key: float(of[key](x)) for key, x in values.items()}
        for factor, values in zip(factors, found, strict=True)
    }


def _distance(x: jax.Array, reference: jax.Array) -> jax.Array:
    """|x - reference| / |reference| of each row; infinite where x is not finite."""
    distance = jnp.linalg.norm(x - reference, axis=-1) / jnp.linalg.norm(reference, axis=-1)
    return jnp.where(jnp.isfinite(distance), distance, jnp.inf)
