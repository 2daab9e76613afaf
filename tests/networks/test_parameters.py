"""What networks cost, exactly and without allocating anything: parameters, arrays, convolutions."""

import itertools

import jax
import pytest
from flax import nnx

from lmjax import networks
from lmjax.config import ModelConfig
from lmjax.networks.fractalnet import FractalNet
from tests.networks.small import outline

pytestmark = pytest.mark.versions


def count(name, stepper=None, **options):
    return networks.parameter_count(outline(stepper, name, **options))


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("resnet20", {"classes": 100}, 272_378 + 5_850),
        ("resnet20", {"stepper": "lm(per_channel=True)"}, 272_378 + 2 * (16 + 32 + 64)),
        ("resnet1001", {"stepper": "lm"}, 10_328_452),
        ("resnet1202", {"stepper": "lm"}, 19_424_527),  # 3 * 199 of them are k
        ("resnet26", {"width": 10}, 36_480_186),  # WRN-28-10 (36.5 million), which counts its projections as layers
        # Post-activated, the networks of torchvision; pre-activated they have other batch normalizations.
        ("resnet18", {"placement": "post", "classes": 1000}, 11_689_512),
        ("resnet34", {"placement": "post", "classes": 1000}, 21_797_672),
        ("resnet50", {"placement": "post", "classes": 1000}, 25_557_032),
        ("resnet101", {"placement": "post", "classes": 1000}, 44_549_160),
        ("resnet152", {"placement": "post", "classes": 1000}, 60_192_808),
        ("resnext50_32x4d", {"classes": 1000}, 25_028_904),
        ("resnext101_32x8d", {"classes": 1000}, 88_791_336),
        ("resnext101_32x4d", {"classes": 1000}, 44_177_704),
        # 34.43 and 68.16 million (Xie et al. 2017), post-activated; LM-ResNeXt 35.1 and 68.8 million (Lu et al. 2018).
        ("resnext29_8x64d", {"placement": "post"}, 34_426_698),
        ("resnext29_16x64d", {"placement": "post"}, 68_155_210),
        ("resnext29_8x64d", {"stepper": "lm", "boundary": "step"}, 35_081_810),
        ("resnext29_16x64d", {"stepper": "lm", "boundary": "step"}, 68_810_322),
        ("convnext_tiny", {"classes": 1000}, 28_589_128),  # 28.6 million in Liu et al. 2022
        ("convnext_atto", {"classes": 1000}, 3_695_520),  # 3.70 million in timm's table
        # Touvron et al. 2021 and timm.
        ("vit_tiny", {"classes": 1000}, 5_717_416),
        ("vit_small", {"classes": 1000}, 22_050_664),
    ],
    ids=str,
)
def test_parameters_as_published(name, options, parameters):
    """Those of the rows of `lmjax published` are in tests/results/test_published.py."""
    assert count(name, **options) == parameters


@pytest.mark.parametrize(("columns", "weights"), [(3, 33_698_880), (4, 76_057_344)])
def test_parameters_of_fractalnet_as_published(columns, weights):
    model = nnx.eval_shape(lambda: FractalNet(columns, rngs=nnx.Rngs(0)))
    widths = (3, 64, 128, 256, 512, 512)
    # Of the 2^C - 1 units of a block, the first of each column has the block's input.
    units = 2**columns - 1
    assert weights == 9 * sum(columns * cin * c + (units - columns) * c * c for cin, c in itertools.pairwise(widths))
    assert networks.parameter_count(model) == weights + 512 * 10 + 10
    assert len(jax.tree.leaves(nnx.state(model, nnx.BatchStat))) == 2 * 5 * units


def test_what_an_option_costs():
    blocks = sum(2 * (2 * 9 * c * c + 4 * c) for c in (16, 32, 64))  # the branches of two blocks a stage
    euler, poly = count("resnet20", "euler"), {s: count("resnet20", "poly(2)", sharing=s) for s in ("none", "all")}
    assert count("resnet20", "rk4") - euler == 3 * blocks
    assert poly["none"] - euler == blocks
    assert poly["all"] == euler
    # Batch normalization, two scales and two biases, of a second evaluation in two blocks of each stage.
    assert count("resnet20", "poly(2)", sharing="convolutions") - euler == sum(2 * 4 * c for c in (16, 32, 64))
    # A history that crosses the boundaries: 1 x 1 convolutions and batch normalization, and a k for either step.
    projections = (16 * 32 + 2 * 16) + (32 * 64 + 2 * 32)
    assert count("resnet20", "lm", boundary="step") - count("resnet20", "lm") == projections + 2
    convnext = "convnext((2, 3), (6, 8), patch=1)"
    patches = 2 * 6 + 2 * 2 * 6 * 8 + 8  # a layer normalization, and a convolution
    assert count(convnext, "lm", boundary="step") - count(convnext, "lm") == patches + 1


def test_the_number_of_arrays_does_not_grow_with_depth():
    assert len({len(nnx.to_flat_state(nnx.state(outline("lm", f"resnet{n}")))) for n in (20, 110, 1202)}) == 1


def test_width_multiplies_the_stages_and_only_narrows_the_stem():
    for width, stem, head in ((4, 16, 256), (0.5, 8, 32)):
        model = outline(width=width)
        assert model.stem.conv.kernel.shape[-1] == stem
        assert model.head.kernel.shape == (head, 10)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("unroll", [True, False])
def test_convolutions_of_resnet20(width, unroll):
    network = outline(width=width, unroll=unroll)
    stem, (large, middle, small) = 16 * 32 * 32, [width * 16 * 32 * 32 // 2**i for i in range(3)]
    shortcuts = middle + small + (large if width > 1 else 0)  # where the shape changes
    written = stem + 6 * (large + middle + small) + shortcuts
    assert networks.convolutions(network, (32, 32, 3)) == (19 + 2 + (width > 1), written)


def test_convolutions_count_every_evaluation_of_a_shared_branch():
    network = ModelConfig("resnet14", "rk4", sharing="all").outline(classes=10, cin=3)
    # The stem, two shortcuts, and in each stage a plain step and one of four evaluations, of two convolutions each.
    assert networks.convolutions(network, (32, 32, 3))[0] == 1 + 2 + 3 * (1 + 4) * 2


def test_an_outline_allocates_nothing():
    state = nnx.to_pure_dict(nnx.state(ModelConfig("resnet1202").outline(classes=10, cin=3)))
    assert {type(x) for x in jax.tree.leaves(state)} == {jax.ShapeDtypeStruct}
