"""Many modules of one kind as a single module whose variables have a leading axis."""

import functools
import types
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jax import lax

from lmjax.errors import InputError

# Flax before 0.12 has no nnx.List: there a plain list of modules is part of the graph.
List = getattr(nnx, "List", list)


F = TypeVar("F", bound=Callable[..., Any])


def inner(method: F) -> F:
    """A method that is no row of `nnx.tabulate`: that calls each method under `jax.jit`, which takes arrays alone."""
    plain: Any = _Inner(method)
    return plain


class _Inner:
    """A method that Flax does not take for one, as it looks for functions in a class."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        functools.update_wrapper(self, function)

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **options)


class Stack(nnx.Module):
    """`depth` modules that differ only in their variables, e.g. the blocks of a stage.

    A network of any depth then has the same number of arrays, so that what an optimizer or a checkpoint costs does
    not grow with the depth, and the learned coefficients of a stage are one array.

    Args:
        make: makes one module from its `nnx.Rngs`.
        depth: how many; may be 0.
        unroll: True lays the modules out one after another in the compiled program, which is fastest; False compiles
            one loop, whose compile time does not grow with the depth; a number in between is what `jax.lax.scan`
            makes of it. On a CPU, the gradients of grouped convolutions are an order of magnitude slower in a loop.
    """

    def __init__(
        self, make: Callable[[nnx.Rngs], nnx.Module], depth: int, *, unroll: bool | int = True, rngs: nnx.Rngs
    ):
        self.depth, self.unroll = depth, unroll
        if depth:
            keys = jax.random.split(rngs.params(), depth)
            variables = jax.vmap(lambda key: nnx.state(make(nnx.Rngs(key))))(keys)
            graph = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
            self.item = nnx.merge(graph, variables)

    @inner
    def scan(
        self, body: Callable[[nnx.Module, Any, Any], Any], carry: Any, inputs: Any = None, *, remat: bool = False
    ) -> Any:
        """carry <- body(item, carry, inputs) for each item in turn; what a call changes is updated on the way.

        Args:
            body: from one module, the carry and the inputs of the module to the next carry, of the same
                structure, shapes and dtypes.
            carry: any pytree of arrays.
            inputs: a pytree of arrays with a leading axis, one entry a module.
            remat: recompute each module's inner activations in the backward pass instead of storing them.
        """
        if not self.depth:
            return carry
        graph, variables = nnx.split(self.item)

        def one(carry, step):
            variables, inputs = step
            item = nnx.merge(graph, variables)
            return observed(item, lambda: body(item, carry, inputs))

        if remat:
            one = jax.checkpoint(one)
        elif self.unroll is not True:
            one = jax.checkpoint(one, prevent_cse=False, policy=_is_costly)
        carry, new = lax.scan(one, carry, (nnx.to_pure_dict(variables), inputs), unroll=self.unroll)
        nnx.update(self.item, new)
        return carry


def _is_costly(primitive, *_, **__):
    """True for what a loop stores for the backward pass; all else is computed again.

    Otherwise XLA writes intermediate results to memory, in float32 even where the features are bfloat16.
    """
    return primitive.name in ("conv_general_dilated", "dot_general", "two_sums")


def observed(module: nnx.Module, call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """The result of a call of a module, and its variables after it; {} if it has written none.

    It may write all but the trainable ones: running statistics, and the counters of random streams, as of nnx.Dropout.
    What is not written stays the very same array, and must not be updated: a module that only reads its variables can
    be called inside any transformation, one that writes them cannot.

    Raises:
        InputError: if the call has written a trainable variable, or has made or removed a variable: a loop over modules
            cannot keep that.
    """
    trained, before = _arrays(module)
    result = call()
    trained_after, after = _arrays(module)
    if jax.tree.structure((trained, before)) != jax.tree.structure((trained_after, after)):
        old, new = (
            {jax.tree_util.keystr(path) for each in both for path, _ in jax.tree_util.tree_leaves_with_path(each)}
            for both in ((trained, before), (trained_after, after))
        )
        raise InputError(
            f"a branch makes or removes variables when it is called: {', '.join(sorted(old ^ new))}: make them "
            "in __init__"
        )
    if _differ(trained, trained_after):
        raise InputError(
            "a branch writes an nnx.Param when it is called: let what a call changes be an nnx.BatchStat, say"
        )
    return result, after if _differ(before, after) else {}


def _arrays(module: nnx.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The trainable variables and the others, as nested dicts of arrays."""
    trained, others = nnx.Param, nnx.Not(nnx.Param)
    return nnx.to_pure_dict(nnx.state(module, trained)), nnx.to_pure_dict(nnx.state(module, others))


def _differ(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return any(x is not y for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
