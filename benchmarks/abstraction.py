"""C1: what it costs that a stage is made of a stepper: its program beside that of the same stage written by hand."""

import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from benchmarks.row import Plan, figure, ratio
from benchmarks.timing import Calls, interleaved
from lmjax.networks import Options, Projection, Stage, basic

SCHEMES = {
    "euler": lambda u, previous, f, k: u + f,
    "lm": lambda u, previous, f, k: u + k[0] * (previous - u) + f,
}


def programs(scheme: str, depth: int, channels: int):
    """(loss of the stepper's stage, loss of the same by hand), each (state, u) -> (loss, statistics), and a state.

    The stage halves the resolution: a plain first block with a projection, then steps of the scheme.
    """
    options = Options(scheme, branch=basic(), shortcut=Projection)
    stage = nnx.eval_shape(lambda: Stage(options, channels // 2, channels, depth, stride=2, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(stage)
    state = jax.tree.map(lambda x: jnp.full(x.shape, 0.1, x.dtype), nnx.to_pure_dict(state))
    entry, shortcut = nnx.graphdef(stage.entry.branches[0]), nnx.graphdef(stage.entry.shortcuts[0])
    branch, formula = nnx.graphdef(stage.steps.item.branches[0]), SCHEMES[scheme]

    def statistics(module):
        return nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    def with_stepper(state, u):
        stage = nnx.merge(graph, state)
        u, _ = stage(u)
        return jnp.mean(jnp.sin(u)), statistics(stage)

    def by_hand(state, u):
        p = nnx.merge(shortcut, state["entry"]["shortcuts"][0])
        previous = p(u)
        f = nnx.merge(entry, state["entry"]["branches"][0])
        u = previous + f(u)

        def step(carry, variables):
            u, previous = carry
            f = nnx.merge(branch, variables["branches"][0])
            new = formula(u, previous, f(u), variables.get("coefficients"))
            return (new, u), {"branches": {0: statistics(f)}}

        (u, _), stacked = lax.scan(step, (u, previous), state["steps"]["item"], unroll=True)
        first = {"branches": {0: statistics(f)}, "shortcuts": {0: statistics(p)}}
        return jnp.mean(jnp.sin(u)), {"entry": first, "steps": {"item": stacked}}

    return with_stepper, by_hand, state


def equations(jaxpr) -> int:
    """How many a program has, those of its loops and functions included."""
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for inner in jax.core.jaxprs_in_params(equation.params):
            total += equations(inner)
    return total


def costs(function, state, u) -> tuple[dict[str, float], Calls]:
    """The counts of the gradient's program, and it itself, to be timed."""
    gradient = jax.grad(function, has_aux=True)
    compiled = jax.jit(gradient).lower(state, u).compile()
    analysis = compiled.cost_analysis()
    counts = {
        "jaxpr equations": equations(jax.make_jaxpr(gradient)(state, u).jaxpr),
        "compiled operations": len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", compiled.as_text(), re.MULTILINE)),
        "flops": analysis["flops"],
        "bytes accessed": analysis["bytes accessed"],
    }
    return counts, Calls(lambda: jax.block_until_ready(compiled(state, u)))


def abstraction(plan: Plan) -> Iterator[dict]:
    """Counts of the gradient of a stage, stepper / by hand, and the ratio of its times."""
    channels, batch, size = plan.of((32, 32, 16), (8, 4, 8))
    u = jax.random.normal(jax.random.key(0), (batch, size, size, channels // 2))
    for scheme in SCHEMES:
        with_stepper, by_hand, state = programs(scheme, 5, channels)
        (ours, our_side), (theirs, their_side) = costs(with_stepper, state, u), costs(by_hand, state, u)
        for what, count in ours.items():
            yield figure(f"{scheme}: {what}", [count / theirs[what]], "x", counts=[count, theirs[what]])
        sides = {"stepper": our_side, "by hand": their_side}
        times = interleaved(sides, rounds=plan.rounds, seconds=plan.round_seconds)
        yield ratio(f"{scheme}: time", times["stepper"], times["by hand"])
