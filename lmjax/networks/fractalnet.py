"""FractalNet: chains of layers of different lengths, side by side, joined wherever they meet (Larsson et al. 2017).

The expansion rule, with new parameters wherever a unit stands, and ⊕ the mean over what is joined:

    f_1(z) = unit(z),    f_{C+1}(z) = f_C(f_C(z)) ⊕ unit(z).

Joins that directly follow one another are one join, whose inputs have equal weights. Written out, f_C is a grid of
2^(C-1) rows and C columns. A unit of column c = 0 (shallowest), ..., C-1 (deepest) spans 2^(C-1-c) rows; after each
row, the columns whose units end there are joined, and all of them go on from the joined features. For C = 3:

    row    column 0    column 1    column 2
     1         |           |         unit
     2         |         unit        unit      join of columns 1 and 2
     3         |           |         unit
     4       unit        unit        unit      pool, join of all
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from lmjax.errors import InputError
from lmjax.networks.convolution import convolve
from lmjax.networks.normalization import BatchNorm
from lmjax.networks.options import Options, family, require_images
from lmjax.networks.pooling import max_pool
from lmjax.networks.stack import List, inner
from lmjax.promotion import at_least_float32
from lmjax.steppers import combine

# The channels and the dropout rate of each of the five blocks, and the number of columns by the depth of the network.
CHANNELS, DROPOUT = (64, 128, 256, 512, 512), (0.0, 0.1, 0.2, 0.3, 0.4)
_COLUMNS = {20: 3, 40: 4}
_xavier = jax.nn.initializers.lecun_uniform()  # Caffe's "xavier"


def local_weights(key: jax.Array, inputs: int, drop: float) -> jax.Array:
    """The weights [inputs] of a mean over the inputs that survive when each is dropped with probability `drop`.

    If none does, one of them, uniformly random, is kept after all.
    """
    each, one = jax.random.split(key)
    keep = jax.random.bernoulli(each, 1 - drop, (inputs,))
    revived = jnp.arange(inputs) == jax.random.randint(one, (), 0, inputs)
    keep = jnp.where(jnp.any(keep), keep, revived).astype(jnp.float32)
    return keep / jnp.sum(keep)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["key", "whole", "column"], meta_fields=["drop", "columns"]
)
@dataclasses.dataclass(frozen=True)
class DropPath:
    """The draws of drop-path for one step of training.

    It only weighs the inputs of joins: every column is computed whatever has been drawn, so that one compiled program
    does for all draws, and the running statistics of every unit are updated.
    """

    key: jax.Array  # what the joins draw from
    drop: float  # the probability with which a join drops an input (local drop-path)
    columns: int  # the number of columns
    whole: jax.Array  # bool []: whether instead one column is used throughout the network (global drop-path)
    column: jax.Array  # int []: the column that is used then

    @classmethod
    def draw(cls, key: jax.Array, *, columns: int, drop: float, whole: float) -> "DropPath":
        """Global drop-path with probability `whole`, its column uniformly random."""
        kind, which, joins = jax.random.split(key, 3)
        column = jax.random.randint(which, (), 0, columns)
        return cls(joins, drop, columns, jax.random.bernoulli(kind, whole), column)

    def within(self, block: int) -> "DropPath":
        """The same for one block, whose joins draw for themselves."""
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, block))

    def weights(self, row: int, inputs: int) -> jax.Array:
        """The weights [inputs], of sum 1, of the join after that row: of the `inputs` deepest columns."""
        local = local_weights(jax.random.fold_in(self.key, row), inputs, self.drop)
        chosen = jnp.arange(self.columns - inputs, self.columns) == self.column
        # With global drop-path, the result of a join without that column has weight 0 in later joins: any weights do.
        return jnp.where(self.whole, jnp.where(jnp.any(chosen), chosen.astype(local.dtype), 1 / inputs), local)


class Unit(nnx.Module):
    """One layer: conv3x3, dropout, batch normalization, ReLU; [N, H, W, cin] -> [N, H, W, cout].

    The normalization has no scale and no bias (Caffe's). Nor has the convolution a bias: the released one has, but the
    normalization takes it away again. Weights are uniform with variance 1 / fan-in.
    """

    def __init__(self, cin: int, cout: int, *, dropout: float, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dropout = dropout
        self.conv = nnx.Conv(
            cin, cout, (3, 3), padding=1, use_bias=False, kernel_init=_xavier, conv_general_dilated=convolve,
            dtype=dtype, rngs=rngs,
        )  # fmt: skip
        self.norm = BatchNorm(cout, momentum=0.9, epsilon=1e-5, use_scale=False, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        x = self.conv(x)
        if key is not None and self.dropout > 0:
            keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)  # so that its expectation is that of evaluation
        return self.norm(x, rectify=True)


class Block(nnx.Module):
    """f_C, with a 2x2 max-pooling of each column before the last join; [N, H, W, cin] -> [N, H / 2, W / 2, cout]."""

    def __init__(self, columns: int, cin: int, cout: int, *, dropout: float, dtype: DTypeLike, rngs: nnx.Rngs):
        self.rows = 2 ** (columns - 1)
        options = {"dropout": dropout, "dtype": dtype, "rngs": rngs}
        self.columns = List(
            [List([Unit(cout if i else cin, cout, **options) for i in range(2**c)]) for c in range(columns)]
        )

    def __call__(self, x: jax.Array, paths: DropPath | None = None, key: jax.Array | None = None) -> jax.Array:
        """All columns. `paths` weighs what is joined (None: the mean); dropout follows from `key` (None: none)."""
        features, joined = [x] * len(self.columns), x
        for row in range(1, self.rows + 1):
            # Column c has 2**c units, and c = 0 the fewest: those that end in a row are always the deepest columns.
            ending = [c for c in range(len(self.columns)) if row % (self.rows >> c) == 0]
            ends = [self._unit(c, row, features[c], key) for c in ending]
            if row == self.rows:
                ends = [_pool(u) for u in ends]
            weights = [1 / len(ends)] * len(ends) if paths is None else paths.weights(row, len(ends))
            joined = combine(*zip(weights, ends, strict=True)) if len(ends) > 1 else ends[0]
            for c in ending:
                features[c] = joined
        return joined

    @inner
    def alone(self, x: jax.Array, column: int, key: jax.Array | None = None) -> jax.Array:
        """One column, a chain of 2^column units: what global drop-path leaves of the block."""
        for i in range(1, 2**column + 1):
            x = self._unit(column, i * (self.rows >> column), x, key)
        return _pool(x)

    def _unit(self, c, row, x, key):
        # Each unit has its own key, the same whether all columns are computed or its column alone.
        key = None if key is None else jax.random.fold_in(key, row * len(self.columns) + c)
        return self.columns[c][row // (self.rows >> c) - 1](x, key)


def _pool(x):
    return max_pool(x, 2, 2)


class FractalNet(nnx.Module):
    """Blocks of C columns, each of which halves the resolution; the mean over what pixels remain; and a linear map.

    By default the 20 layers for CIFAR (Larsson, Maire and Shakhnarovich 2017); its longest path has 2^(C-1) units a
    block. A normal NNX module: `model(images)` gives logits, `model.train()` and `model.eval()` switch batch
    normalization and randomness, and it starts in training mode. In training, each mini-batch either drops inputs of
    each join (local drop-path), or uses one column throughout (global), so that each column alone is a network, too:
    `model(images, column=-1)`.

    Args:
        columns: C.
        channels: of each block.
        dropout: the rate of each block, each in [0, 1).
        drop_path: with which probability a join drops an input, in [0, 1).
        global_paths: with which probability a mini-batch uses one column instead, in [0, 1].
        classes: how many logits.
        cin: channels of the images.
        dtype: of the computation. Parameters, running statistics and logits are float32 throughout.
        rngs: draws the initial parameters.

    Raises:
        InputError: for a number that cannot be.
    """

    def __init__(
        self, columns: int = 3, *, channels: Sequence[int] = CHANNELS, dropout: Sequence[float] = DROPOUT,
        drop_path: float = 0.15, global_paths: float = 0.5, classes: int = 10, cin: int = 3,
        dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs,
    ):  # fmt: skip
        if not isinstance(columns, int) or not 1 <= columns <= 10:  # 10 columns have 1,023 convolutions
            raise InputError(f"FractalNet: columns must be an integer from 1 to 10, got {columns!r}")
        if not channels or len(channels) != len(dropout):
            raise InputError(
                f"FractalNet: channels and dropout must have an entry a block, got {len(channels)} and {len(dropout)}"
            )
        for name, rate in (*(("dropout", rate) for rate in dropout), ("drop_path", drop_path)):
            if not 0 <= rate < 1:
                raise InputError(f"FractalNet: {name} must be at least 0 and below 1, got {rate}")
        if not 0 <= global_paths <= 1:
            raise InputError(f"FractalNet: global_paths must be a probability, from 0 to 1, got {global_paths}")
        self.columns, self.dropout = columns, tuple(dropout)
        # float: jax.random.bernoulli takes no integer probabilities, not even 0 or 1.
        self.drop_path, self.global_paths = float(drop_path), float(global_paths)
        self.deterministic, self.cin = False, cin
        widths = (cin, *channels)
        options = {"dtype": dtype, "rngs": rngs}
        self.blocks = List([Block(columns, *widths[i : i + 2], dropout=p, **options) for i, p in enumerate(dropout)])
        self.head = nnx.Linear(widths[-1], classes, kernel_init=_xavier, rngs=rngs)

    @property
    def scheme(self) -> str:
        """The name of the scheme."""
        return f"fractal expansion of {self.columns} columns"

    @property
    def random(self) -> bool:
        """True if training needs a key."""
        return any(rate > 0 for rate in (*self.dropout, self.drop_path, self.global_paths))

    def __call__(self, images: jax.Array, key: jax.Array | None = None, *, column: int | None = None) -> jax.Array:
        """[N, H, W, cin], normalized -> logits [N, classes], float32.

        Args:
            images: the images.
            key: from which everything random of this step of training follows; needed to train a network that is
                `random`, and not used otherwise.
            column: evaluates one column alone, from 0, the shallowest, to -1, the deepest, with the running statistics
                that it has from training among the others; None joins all of them.

        Raises:
            InputError: if a key is missing, if there is no such column, or if the images are too small
                or have another shape.
        """
        units = paths = None
        if self.random and not self.deterministic:
            if key is None:
                raise InputError(
                    "FractalNet draws random numbers in training: call model(images, key), or model.eval() first"
                )
            joins, units = jax.random.split(key)
            paths = DropPath.draw(joins, columns=self.columns, drop=self.drop_path, whole=self.global_paths)
        if column is not None and column not in range(-self.columns, self.columns):
            raise InputError(f"FractalNet: column must be from {-self.columns} to {self.columns - 1}, got {column!r}")
        require_images(images, self.cin)
        height, width = images.shape[1:3]
        smallest = 2 ** len(self.blocks)
        if min(height, width) < smallest:
            raise InputError(
                f"FractalNet: images of {height} x {width} are too small for {len(self.blocks)} blocks, each of which "
                f"halves them: give at least {smallest} x {smallest}, or fewer blocks (fractalnet2x3 has two)"
            )
        x = images
        for i, block in enumerate(self.blocks):
            key = None if units is None else jax.random.fold_in(units, i)
            if column is None:
                # By name, as nnx.tabulate can show them.
                x = block(x, paths=None if paths is None else paths.within(i), key=key)
            else:
                x = block.alone(x, column % self.columns, key)
        return self.head(jnp.mean(x.astype(at_least_float32(x.dtype)), axis=(1, 2)))


@family(*(f"fractalnet{depth}" for depth in _COLUMNS))
def fractalnet(blocks: int, columns: int | None = None) -> Callable[[Options, nnx.Rngs], FractalNet]:
    """FractalNets (Larsson et al. 2017), which are a scheme of their own: there is none to choose.

    Args:
        blocks: how many of the five published ones; or, alone, the depth 20 or 40 of all five.
        columns: of each block; None for those of the depth, three or four.
    """
    if columns is None:
        if blocks not in _COLUMNS:
            raise InputError(f"unknown network 'fractalnet{blocks}': give 20, 40, or two numbers as in fractalnet3x4")
        blocks, columns = len(CHANNELS), _COLUMNS[blocks]
    if not 1 <= blocks <= len(CHANNELS):
        raise InputError(f"network fractalnet: has 1 to {len(CHANNELS)} blocks, the first number, got {blocks}")
    used = ("classes", "cin", "width", "dtype", "unroll")

    def build(options: Options, rngs: nnx.Rngs) -> FractalNet:
        given = [
            field.name
            for field in dataclasses.fields(options)
            if field.name not in used and getattr(options, field.name) != field.default
        ]
        if given:
            cure = " (on the command line --model.stepper None)" if "stepper" in given else ""
            raise InputError(
                f"network fractalnet: is a scheme of its own, and takes no {' or '.join(given)}: leave it out{cure}"
            )
        return FractalNet(
            columns, channels=[options.channels(c) for c in CHANNELS[:blocks]], dropout=DROPOUT[:blocks],
            classes=options.classes, cin=options.cin, dtype=options.dtype, rngs=rngs,
        )  # fmt: skip

    return build
