"""A trained network, gone through step by step: as the network does it, with a look at what it does."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.errors import InputError
from lmjax.networks import Block, Network
from lmjax.networks.block import PureBranch
from lmjax.steppers import Branch, StepInfo, Stepper


class Walk(NamedTuple):
    """The way of some images through a stage.

    Attributes:
        states: [steps + 1, N, H, W, C], the features that the first step starts from, brought to the shape of the
            stage by its shortcut, and those after each step. Coupled states are joined along the channels.
        branches: [steps, N, H, W, C], what the residual branches add in each step: what the step arrives at, less what
            it would arrive at if they were zero in this step. For `euler` and `lm` it is f(u).
    """

    states: jax.Array
    branches: jax.Array


def walk(network: Network, images: jax.Array) -> tuple[list[Walk], jax.Array]:
    """The states between all steps of a network, in evaluation.

    Args:
        network: whose `eval()` has been called.
        images: as the network takes them, [N, H, W, C].

    Returns:
        A `Walk` for each stage, in the dtype of the features, and the logits, those of the network.

    Raises:
        InputError: if the network is not made of steps.
    """
    require_steps(network)
    walks = []

    def visit(stage, u, history, info):
        u, history, found = _walk_stage(stage, u, history, info)
        walks.append(found)
        return u, history

    features = network.features(images, visit=visit)
    return walks, network.classify(features)


def require_steps(network: nnx.Module) -> None:
    """Checks that a network is made of steps.

    Raises:
        InputError: if it is not.
    """
    if not isinstance(network, Network):
        raise InputError(
            f"{type(network).__name__} is not made of the steps of a scheme, so that there are no states between them: "
            "choose a run of a resnet, resnext or revnet"
        )


def advance(
    block: Block, u: Any, history: Any, info: StepInfo | None, change: Callable[[Branch], Branch] = lambda f: f
) -> tuple[Any, Any]:
    """A block's step with each of its branches changed; (u, history), where u is not rectified yet."""
    fs = tuple(change(PureBranch(branch)) for branch in block.evaluated())
    return block.stepper.step(fs, u, history, block.values(), info)


def _walk_stage(stage, u, history, info):
    state, start, first = _first_step(stage, u, history, info)
    inputs, info_of = stage.step_inputs(info)
    entered = stage.depth - stage.steps.depth
    states = jnp.zeros((stage.depth + 1, *start.shape), start.dtype).at[0].set(start)
    branches = jnp.zeros((stage.depth, *start.shape), start.dtype)
    if entered:
        states, branches = states.at[1].set(stage.join(state[0])), branches.at[0].set(first)

    def body(block, carry, step):
        n, (u, history), states, branches = carry
        info = info_of(step)
        without, _ = advance(block, u, history, info, _silent)
        u, history = advance(block, u, history, info)
        branches = branches.at[n].set(stage.join(u) - stage.join(without))
        u = block.after(u)
        return n + 1, (u, history), states.at[n + 1].set(stage.join(u)), branches

    _, (u, history), states, branches = stage.steps.scan(body, (entered, state, states, branches), inputs)
    return stage.join(u), history, Walk(states, branches)


def _first_step(stage, u, history, info):
    """The state after the entry of a stage, the features before it in the new shape, and what its branches add."""
    if stage.entry is None:
        state, v = stage.begin(u, history, info)
        return state, stage.join(v), None
    with_branches, without = nnx.clone(stage), nnx.clone(stage)
    with_branches.entry.after = without.entry.after = lambda u: u
    without.entry.stepper = _silenced(stage.entry.stepper)
    (arrived, history_after), v = with_branches.begin(u, history, info)
    (stayed, _), _ = without.begin(u, history, info)
    increment = stage.join(arrived) - stage.join(stayed)
    return (jax.tree.map(stage.entry.after, arrived), history_after), stage.join(v), increment


def _silent(f: Branch) -> Branch:
    return lambda u: jax.tree.map(jnp.zeros_like, u)


def _silenced(stepper: Stepper) -> Stepper:
    """The scheme of u' = 0."""

    def step(fs, u, history, coef, info=None):
        return stepper.step(tuple(map(_silent, fs)), u, history, coef, info)

    return dataclasses.replace(stepper, step=step)
