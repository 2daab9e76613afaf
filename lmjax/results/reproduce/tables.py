"""The comparisons: rows of runs, and which of them are compared with which, seed by seed."""

import dataclasses
from collections.abc import Callable

from lmjax import recipes
from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from lmjax.errors import unknown
from lmjax.results import published


@dataclasses.dataclass(frozen=True)
class Images:
    """The images that the rows of a table are trained on.

    Attributes:
        name: what to call them beside the numbers.
        shape: height, width and channels.
        classes: how many.
        train: how many to train on.
        stored: the data sets that may hold them, by the names in a config; () for that of the rows alone.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    train: int
    stored: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """Runs that answer a question together.

    Attributes:
        claim: what was claimed, and by whom.
        protocol: how the rows are run, where that is not as published.
        rows: the runs, by name. The folder, the seed and the place of the data are left open.
        seeds: from how many seeds each row is to be run at least.
        pairs: (row, baseline), compared by the differences of their test errors and training losses from the same seed.
        folder: what the folder of its runs is called. Tables that have rows in common share it, and what is run for one
            is there for the others.
        images: what they are trained on.
        level: a test error in percent; the epoch that first reaches it is compared, too.
        primary: the pair that decides, whose p is not corrected for the others.
    """

    claim: str
    protocol: str
    rows: dict[str, Config]
    seeds: dict[str, int]
    pairs: tuple[tuple[str, str], ...]
    folder: str
    images: Images = Images("CIFAR-10", (32, 32, 3), 10, 50_000, ("cifar10", "folder"))
    level: float | None = None
    primary: tuple[str, str] | None = None


_BRANCHES = "15 branches, each with its own weights and evaluated once; reversible has more, with half the channels"


def _published(*names: str) -> dict[str, Config]:
    return {name: published.CIFAR10[name].config for name in names}


def _equal_cost(of: Callable[[str, str], Config]) -> dict[str, Config]:
    """Networks of one cost: 15 branch evaluations, the same convolutions, and so the same parameters (but for k).

    A stage is one plain step and four evaluations: four steps of a scheme with one evaluation a step, two of one with
    two, one of one with four. A coupled scheme evaluates two branches of half the channels in a step, and so makes
    more steps.
    """
    schemes = {
        "euler": "resnet32", "lm": "resnet32", "leapfrog": "resnet32", "midpoint": "resnet20", "poly(2)": "resnet20",
        "rk4": "resnet14", "reversible": "resnet56",
    }  # fmt: skip
    return {scheme: of(name, scheme) for scheme, name in schemes.items()}


def _whole(name: str, scheme: str) -> Config:
    return recipes.lm("cifar10", ModelConfig(name, scheme))


def _scaled_down(name: str, scheme: str) -> Config:
    """Half the channels, half the resolution (and so half the padding), a twentieth of the epochs."""
    config = recipes.lm("cifar10", ModelConfig(name, scheme, width=0.5))
    return _shortened(config.model, config.optimizer)


def _shortened(model: ModelConfig, optimizer: OptimizerConfig, **train) -> Config:
    return Config(
        DataConfig("folder(16)", augment=("crop(2)", "flip")), model, optimizer, TrainConfig(epochs=8, **train)
    )


def _against(baseline: str, rows: dict[str, Config]) -> tuple[tuple[str, str], ...]:
    return tuple((name, baseline) for name in rows if name != baseline)


def _depth() -> Table:
    depths = (20, 32, 44, 56)
    rows = _published(*(f"{prefix}resnet{depth}" for depth in depths for prefix in ("", "lm_")))
    return Table(
        "LM-ResNet beats ResNet at equal depth, and reaches its error with fewer parameters (Lu et al. 2018)",
        "as published: 160 epochs",
        rows,
        dict.fromkeys(rows, 3),
        (
            *((f"lm_resnet{depth}", f"resnet{depth}") for depth in depths),
            ("lm_resnet32", "resnet44"),
            ("lm_resnet44", "resnet56"),
        ),
        "published",
    )


def _deep() -> Table:
    rows = _published("resnet110", "lm_resnet110", "lm_resnet56")
    return Table(
        "LM-ResNet-56 and -110 against ResNet-110, which has twice as many parameters as the former (Lu et al. 2018)",
        "as published: 160 epochs",
        rows,
        dict.fromkeys(rows, 3),
        (("lm_resnet110", "resnet110"), ("lm_resnet56", "resnet110")),
        "published",
    )


def _stochastic_depth() -> Table:
    rows = _published("resnet56_sd", "lm_resnet56_sd", "resnet110_sd", "lm_resnet110_sd", "lm_resnet56", "lm_resnet110")
    # Stochastic depth came with three times the epochs, which may be what helps.
    plain = rows["lm_resnet56"]
    longer = dataclasses.replace(plain, train=dataclasses.replace(plain.train, epochs=500))
    rows["lm_resnet56, 500 epochs"] = longer
    return Table(
        "Stochastic depth helps LM-ResNet, and LM-ResNet is ahead of ResNet with it (Lu et al. 2018)",
        "as published: 500 epochs with stochastic depth, 160 without, and one row that has 500 without",
        rows,
        dict.fromkeys(rows, 3),
        (
            ("lm_resnet56_sd", "lm_resnet56"),
            ("lm_resnet56_sd", "lm_resnet56, 500 epochs"),
            ("lm_resnet110_sd", "lm_resnet110"),
            ("lm_resnet56_sd", "resnet56_sd"),
            ("lm_resnet110_sd", "resnet110_sd"),
        ),
        "published",
    )


def _schemes() -> Table:
    rows = _equal_cost(_whole)
    return Table(
        "At equal parameters and equal operations, which scheme wins? (Not published.)",
        f"{_BRANCHES}, the recipe of LM-ResNet: 160 epochs",
        rows,
        dict.fromkeys(rows, 3),
        _against("euler", rows),
        "schemes",
    )


_SMALL = Images("CIFAR-10", (16, 16, 3), 10, 50_000)


def _small() -> Table:
    equal = _equal_cost(_scaled_down)
    shallow = {f"{scheme}, 9": _scaled_down("resnet20", scheme) for scheme in ("euler", "lm")}
    return Table(
        "After a short training: which scheme is ahead at equal parameters and equal operations? And does LM with 9 "
        "branch evaluations do what Euler does with 15?",
        f"{_BRANCHES}; 9 in the last two rows; images of 16 x 16 pixels, half the channels, the recipe of LM-ResNet "
        "shortened from 160 epochs to 8",
        {**equal, **shallow},
        {name: 20 if name.startswith(("euler", "lm")) else 5 for name in (*equal, *shallow)},
        (*_against("euler", equal), ("lm, 9", "euler, 9"), ("lm, 9", "euler"), ("euler, 9", "euler")),
        "small",
        _SMALL,
        level=45.0,
        primary=("lm", "euler"),
    )


def _twins(
    claim: str,
    protocol: str,
    of: Callable[[str], Config],
    folder: str,
    seeds: int = 10,
    images: Images = _SMALL,
    level: float | None = None,
) -> Table:
    """LM against Euler in one network, which `of` makes for a scheme."""
    rows = {scheme: of(scheme) for scheme in ("euler", "lm")}
    return Table(claim, protocol, rows, dict.fromkeys(rows, seeds), _against("euler", rows), folder, images, level)


def _recipe() -> Table:
    optimizer = OptimizerConfig(
        "sgd(momentum=0.9, nesterov=True)", schedule="cosine", warmup_epochs=1.0, weight_decay=5e-4, decay="kernels"
    )
    return _twins(
        "Does a difference between LM and Euler survive a better recipe?",
        "the networks of `small` with 15 evaluations, 8 epochs of SGD with Nesterov's momentum, a cosine after one "
        "epoch of warm-up, weight decay 5e-4 of the kernels alone, and label smoothing 0.1",
        lambda scheme: _shortened(ModelConfig("resnet32", scheme, width=0.5), optimizer, label_smoothing=0.1),
        "recipe",
        level=45.0,
    )


def _vit() -> Table:
    network = "vit(width=64, depth=6, heads=4, patch=4, image=16)"
    optimizer = OptimizerConfig("adamw", 2e-3, schedule="cosine", warmup_epochs=1.0, weight_decay=0.05, decay="kernels")
    return _twins(
        "Does the linear multistep step help a network that is no ResNet? A vision transformer against its Euler twin",
        "8 epochs of AdamW, learning rate 2e-3 with a cosine after one epoch of warm-up, weight decay 0.05 of the "
        "kernels alone; images of 16 x 16 pixels in patches of 4 x 4",
        lambda scheme: _shortened(ModelConfig(network, scheme), optimizer),
        "vit",
        level=55.0,
    )


def _digits() -> Table:
    data = DataConfig("digits", augment=("crop(1)",))  # a mirrored digit is another digit, or none
    return _twins(
        "To see how this works, in minutes and with nothing to download: do LM and Euler differ on handwritten digits?",
        "configs/digits.py: 15 epochs",
        lambda scheme: Config(data, ModelConfig("resnet20", scheme), train=TrainConfig(epochs=15, batch_size=64)),
        "digits",
        20,
        Images("The 8 x 8 digits of scikit-learn, 360 of them to test on", (8, 8, 1), 10, 1437),
    )


TABLES = {
    "digits": _digits,
    "depth": _depth,
    "deep": _deep,
    "stochastic-depth": _stochastic_depth,
    "schemes": _schemes,
    "small": _small,
    "recipe": _recipe,
    "vit": _vit,
}


def table(name: str) -> Table:
    """A table by its name.

    Raises:
        InputError: if there is none of that name.
    """
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    return TABLES[name]()
