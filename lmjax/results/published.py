"""The published results that the schemes are compared by, each as a run: the one source of configs/ and their tests."""

import dataclasses
import re
from collections.abc import Iterator

from lmjax import recipes
from lmjax.config import Config, DataConfig, ModelConfig

_LM, _HE16, _HE16B = "Lu et al. 2018", "He et al. 2016a", "He et al. 2016b"
_HUANG, _GOMEZ = "Huang et al. 2016", "Gomez et al. 2017"
_XIE, _LARSSON = "Xie et al. 2017", "Larsson et al. 2017"
REPRODUCTION = (
    "by others: the last epoch of one seed, University of Buenos Aires 2023 (github.com/CrossNox/beyond), crops of 2 "
    "reflected pixels"
)
_REPRODUCED = {20: 8.00, 32: 7.96, 44: 7.21, 56: 6.85, 110: 6.43, 164: 5.61}
_RELEASED = "the authors' code instead of their text: k decays, towards 1, and crops are of 2 reflected pixels"
_REVNET = (
    "the released code pads by 2 pixels, subtracts the mean image, decays kernels alone, and normalizes with momentum "
    "0.99 and epsilon 1e-3; its first unit has no activation"
)
_HELD_OUT = "trained on all 50,000 images; Huang et al. train on 45,000, and choose the epoch by the others"
_QUOTED = "the errors are quoted from memory, and have not been compared with the paper again"
_DROPS = "with drop-path and dropout, images augmented"


@dataclasses.dataclass(frozen=True)
class Row:
    """One published result.

    Attributes:
        config: the run.
        parameters: of the network, as it is built here.
        error: published test error (ImageNet: single-crop top-1 error), in percent; None for a baseline that was not
            published in this form.
        source: where.
        top5: published top-5 error, in percent.
        note: in what the run or the number differs from the publication.
        reproduced: test error of the last epoch of one seed, by others; see `REPRODUCTION`.
    """

    config: Config
    parameters: int
    error: float | None
    source: str
    top5: float | None = None
    note: str = ""
    reproduced: float | None = None

    def describe(self) -> str:
        """One line."""
        model = self.config.model
        scheme = f", {model.stepper}" if model.stepper else ""
        error = "no published error" if self.error is None else f"published error {self.error:g}%"
        note = f"; {self.note}" if self.note else ""
        again = "" if self.reproduced is None else f", by others {self.reproduced:g}%"
        return f"{model.name}{scheme}: {self.parameters:,} parameters, {error}{again} ({self.source}{note})"


def _resnets(data: str, errors: dict[int, float | None], counts: dict[int, int], stepper: str, source: str):
    prefix = "" if stepper == "euler" else f"{stepper}_"
    return {
        f"{prefix}resnet{depth}": Row(
            recipes.lm(data, ModelConfig(f"resnet{depth}", stepper)), counts[depth], error, source,
            note="pre-activated, the baseline of LM-ResNet" if error is None
            else _QUOTED if (data, stepper) == ("cifar100", "lm") else "",
            reproduced=_REPRODUCED[depth] if (data, stepper) == ("cifar10", "lm") else None,
        )
        for depth, error in errors.items()
    }  # fmt: skip


def _post(data: str, depth: int, parameters: int, error: float, *, stepper: str = "euler", source: str = _HE16):
    """As first published: post-activated, shortcuts without parameters."""
    model = ModelConfig(f"resnet{depth}", stepper, placement="post", shortcut="pad")
    if source == _HUANG:
        return Row(recipes.stochastic_depth(data, model, nesterov=True), parameters, error, source, note=_HELD_OUT)
    return Row(recipes.lm(data, model), parameters, error, source, note="its shortcuts subsample, these average")


def _first_dropped(data: str, depth: int, parameters: int, error: float) -> Row:
    """With the stochastic depth of its authors."""
    stepper = "stochastic_depth(euler, 0.5, rescale='evaluation', rule='first_dropped')"
    return _post(data, depth, parameters, error, stepper=stepper, source=_HUANG)


def _dropped(network: str, stepper: str, survival: float) -> Config:
    model = ModelConfig(network, f"stochastic_depth({stepper}, {survival})")
    return recipes.stochastic_depth("cifar10", model)


def _revnet(data: str, depth: int, parameters: int, error: float) -> Row:
    return Row(recipes.revnet(data, ModelConfig(f"revnet{depth}")), parameters, error, _GOMEZ, note=_REVNET)


def _released(data: str, counts: dict[int, int]) -> dict[str, Row]:
    """LM-ResNets by what is known of the code of their authors."""
    return {
        f"lm_resnet{depth}_released": Row(
            recipes.lm_released(data, ModelConfig(f"resnet{depth}", "lm")), parameters, None, _LM, note=_RELEASED
        )
        for depth, parameters in counts.items()
    }


def _fractalnet(data: str, depth: int, parameters: int, error: float, note: str) -> Row:
    return Row(recipes.fractalnet(data, ModelConfig(f"fractalnet{depth}")), parameters, error, _LARSSON, note=note)


def _resnext(data: str, groups: int, parameters: int, error: float) -> Row:
    model = ModelConfig(f"resnext29_{groups}x64d", "euler")
    return Row(recipes.resnext(data, model, nesterov=True, batch_size=256), parameters, error, _XIE)


def _lm_resnext(groups: int, parameters: int, error: float) -> Row:
    model = ModelConfig(f"resnext29_{groups}x64d", "lm", boundary="step")
    note = "that the history crosses the boundaries is inferred from the published size, which is that of 10 classes; "
    config = recipes.resnext("cifar100", model, nesterov=False, batch_size=128)
    return Row(config, parameters, error, _LM, note=note + _QUOTED)


def _imagenet(name: str, stepper: str | None, parameters: int, error: float, top5: float | None, source: str) -> Row:
    return Row(recipes.imagenet(ModelConfig(name, stepper)), parameters, error, source, top5, note=_QUOTED)


_EULER_10 = {20: 272_378, 32: 466_810, 44: 661_242, 56: 855_674, 110: 1_730_618, 164: 1_703_674}
# The released code has 35 more in 164: 32 of a batch normalization of the stem and 3 k, all unused.
_LM_10 = {20: 272_384, 32: 466_822, 44: 661_260, 56: 855_698, 110: 1_730_669, 164: 1_703_725}
_EULER_100 = {110: 1_736_468, 164: 1_726_804, 1001: 10_351_252}
_LM_100 = {110: 1_736_519, 164: 1_726_855}

CIFAR10 = {
    **_resnets("cifar10", dict.fromkeys((20, 32, 44, 56)), _EULER_10, "euler", _HE16B),
    **_resnets("cifar10", {110: 6.37, 164: 5.46}, _EULER_10, "euler", _HE16B),
    "resnet20_post": _post("cifar10", 20, 269_722, 8.75),
    "resnet32_post": _post("cifar10", 32, 464_154, 7.51),
    "resnet44_post": _post("cifar10", 44, 658_586, 7.17),
    "resnet56_post": _post("cifar10", 56, 853_018, 6.97),
    "resnet110_post": _post("cifar10", 110, 1_727_962, 6.43),
    **_resnets(
        "cifar10", {20: 8.33, 32: 7.18, 44: 6.66, 56: 6.31, 110: 6.16, 164: 5.27}, _LM_10, "lm", _LM
    ),
    **_released("cifar10", _LM_10),
    "resnet56_sd": Row(_dropped("resnet56", "euler", 0.8), 855_674, 5.55, _LM),
    "resnet110_sd": _first_dropped("cifar10", 110, 1_727_962, 5.25),
    "resnet1202_sd": _first_dropped("cifar10", 1202, 19_421_274, 4.91),
    "lm_resnet56_sd": Row(_dropped("resnet56", "lm", 0.8), 855_698, 5.14, _LM, reproduced=5.60),
    "lm_resnet110_sd": Row(_dropped("resnet110", "lm", 0.5), 1_730_669, 4.80, _LM, reproduced=4.88),
    "revnet38": _revnet("cifar10", 38, 464_922, 7.24),
    "revnet110": _revnet("cifar10", 110, 1_729_226, 5.76),
    "revnet164": _revnet("cifar10", 164, 1_748_810, 5.17),
    "fractalnet20": _fractalnet("cifar10", 20, 33_704_010, 4.60, _DROPS + "; quoted with 38.6M parameters"),
    "resnext29_8x64d": _resnext("cifar10", 8, 34_424_906, 3.65),
    "resnext29_16x64d": _resnext("cifar10", 16, 68_153_418, 3.58),
}  # fmt: skip

CIFAR100 = {
    **_resnets("cifar100", {110: None, 164: 24.33, 1001: 22.71}, _EULER_100, "euler", _HE16B),
    **_resnets("cifar100", {110: 25.87, 164: 22.90}, _LM_100, "lm", _LM),
    **_released("cifar100", _LM_100),
    "resnet110_sd": _first_dropped("cifar100", 110, 1_733_812, 24.58),
    "resnet110_post": _post("cifar100", 110, 1_733_812, 27.76, source=_HUANG),  # Lu et al. quote it as pre-activated
    "revnet38": _revnet("cifar100", 38, 475_092, 28.96),
    "revnet110": _revnet("cifar100", 110, 1_740_836, 25.40),
    "revnet164": _revnet("cifar100", 164, 1_794_980, 23.69),
    "fractalnet20": _fractalnet("cifar100", 20, 33_750_180, 23.73, _DROPS + "; quoted with 38.6M parameters"),
    "fractalnet40": _fractalnet("cifar100", 40, 76_108_644, 22.49, "quoted with 22.9M parameters: narrower layers"),
    "resnext29_8x64d": _resnext("cifar100", 8, 34_517_156, 17.77),
    "resnext29_16x64d": _resnext("cifar100", 16, 68_245_668, 17.31),
    "lm_resnext29_8x64d": _lm_resnext(8, 35_174_060, 17.49),
    "lm_resnext29_16x64d": _lm_resnext(16, 68_902_572, 16.79),
}  # fmt: skip

IMAGENET = {
    "resnet50": _imagenet("resnet50", "euler", 25_553_064, 24.7, 7.8, _LM),
    "resnet101": _imagenet("resnet101", "euler", 44_545_192, 23.6, 7.1, _LM),
    "resnet152": _imagenet("resnet152", "euler", 60_188_840, 23.0, 6.7, _LM),
    "lm_resnet50": _imagenet("resnet50", "lm", 25_553_076, 23.8, 7.0, _LM),
    "lm_resnet101": _imagenet("resnet101", "lm", 44_545_221, 22.6, 6.4, _LM),
    "revnet104": _imagenet("revnet104", None, 45_428_200, 23.10, None, _GOMEZ),
    "resnext50_32x4d": _imagenet("resnext50_32x4d", "euler", 25_028_904, 22.2, None, _XIE),
    "resnext101_32x4d": _imagenet("resnext101_32x4d", "euler", 44_177_704, 21.2, 5.6, _XIE),
}

TABLES = {"cifar10": CIFAR10, "cifar100": CIFAR100, "imagenet": IMAGENET}
SHAPES = {"cifar10": ((32, 32, 3), 10), "cifar100": ((32, 32, 3), 100), "imagenet": ((224, 224, 3), 1000)}


def find(config: Config) -> tuple[str, Row] | None:
    """The row, with its name, of the network of a run on the same data, whatever the recipe; None if there is none.

    Two networks are the same if their `ModelConfig`s are, but for how they are computed: dtype, memory, unroll. Of
    several rows with the network, it is the one of the same augmentation and optimizer, or else the first.
    """
    wanted = _network(config.model)
    rows = TABLES.get(table_of(config.data), {}).items()
    found = [(key, row) for key, row in rows if _network(row.config.model) == wanted]
    recipe = config.data.augment, config.optimizer
    alike = [each for each in found if (each[1].config.data.augment, each[1].config.optimizer) == recipe]
    return next(iter(alike + found), None)


def table_of(data: DataConfig) -> str:
    """The name of the table of a data set. Photographs may be those of ImageNet, which has 1000 classes, or others."""
    return "imagenet" if data.origin.streamed else data.name


def _network(model: ModelConfig) -> ModelConfig:
    own = None if model.stepper else model.scheme()
    stepper = own.name if own else model.stepper  # None for a FractalNet, which is not made of steps
    return dataclasses.replace(model, stepper=stepper, dtype="float32", memory="stored", unroll=None)


def cost(table: str, row: Row) -> dict[str, int | None]:
    """{"parameters", "forward_macs", "branch_evaluations"} of a row's network, from its program alone."""
    from lmjax import networks

    shape, classes = SHAPES[table]
    model = row.config.model.outline(classes=classes, cin=shape[-1])
    return {
        "parameters": networks.parameter_count(model),
        "forward_macs": networks.forward_macs(model, shape),
        "branch_evaluations": networks.branch_evaluations(model),
    }


def describe(table: str) -> Iterator[str]:
    """The rows of a table, and their cost, as lines of text."""
    yield f"\n{table}: lmjax train --config {table}:ROW\n"
    head = f"{'row':22}{'depth':>6}{'parameters':>13}{'MACs, 1e6':>11}{'evaluations':>13}"
    yield f"{head}{'published':>11}{'by others':>12}  source"
    notes: list[str] = []
    for key, row in TABLES[table].items():
        found = cost(table, row)
        depth = re.search(r"\d+", row.config.model.name)[0]
        error = "-" if row.error is None else f"{row.error:.2f}%"
        again = "" if row.reproduced is None else f"{row.reproduced:.2f}%"
        evaluations = found["branch_evaluations"] or "-"
        if row.note and row.note not in notes:
            notes.append(row.note)
        mark = f" [{notes.index(row.note) + 1}]" if row.note else ""
        yield (
            f"{key:22}{depth:>6}{found['parameters']:>13,}{found['forward_macs'] / 1e6:>11,.1f}"
            f"{evaluations:>13}{error:>11}{again:>12}  {row.source}{mark}"
        )
    yield "".join(f"\n[{i}] {note}" for i, note in enumerate(notes, start=1))
    if any(row.reproduced is not None for row in TABLES[table].values()):
        yield REPRODUCTION
