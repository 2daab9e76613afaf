"""Networks that cannot be are refused in one message that names what is wrong and the cure."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lmjax import InputError, networks, steppers
from lmjax.config import ModelConfig
from lmjax.networks import Block, Options, basic, group_batch_norm
from lmjax.networks.fractalnet import FractalNet
from tests.networks.small import IMAGES, small

pytestmark = pytest.mark.versions
CONVNEXT = "convnext((2, 3), (6, 8), patch=1)"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnt20", {}, "unknown network 'resnt20': did you mean 'resnet20'"),
        ("revnet39", {}, "unknown network 'revnet39': did you mean 'revnet38'"),
        ("convnext_tinny", {}, "unknown network 'convnext_tinny': did you mean 'convnext_tiny'"),
        ("resnext42_32x4d", {}, "unknown network 'resnext42_32x4d'"),
        ("fractalnet30", {}, "unknown network 'fractalnet30'"),
        ("vit(splitting=string)", {}, "unknown network 'string'"),
        ("convnext", {}, "network 'convnext': missing a required argument: 'depths'; convnext takes (depths, channels"),
        ("resnext29", {}, "network 'resnext(29)': missing a required argument: 'groups'; resnext takes"),
        ("resnet21", {}, "its depth must be 6n + 2"),
        ("resnet2", {}, "its depth must be 6n + 2"),
        ("fractalnet9x2", {}, "has 1 to 5 blocks"),
        ("fractalnet3x0", {}, "columns must be an integer from 1 to 10, got 0"),
        ("resnext29_0x64d", {}, "has two numbers from 1, got 0x64d"),
        ("convnext((1, 1), (2,))", {}, "must have a whole number a stage"),
        ("convnext((2.5,), (8,))", {}, "must have a whole number a stage"),
        (
            "vit(patch=3)",
            {},
            "and patch divide image, got width 192, depth 12, heads 3, patch 3 and image 224",
        ),
        ("vit(heads=5)", {}, "transformer: 192 channels do not divide into 5 heads"),
        ("resnet20", {"classes": 0}, "network: classes must be a whole number, at least 1, got 0"),
        ("resnet20", {"width": 0}, "network: width must be a positive number, got 0"),
        ("resnet20", {"zero_init": "no"}, "network: zero_init must be True or False, got 'no'"),
        ("resnet20", {"unroll": -1}, "network: unroll must be None, True, False or a whole number, at least 1, got -1"),
        ("resnet20", {"branch": 3}, "network: branch must be a name or a function, got 3"),
        (20, {}, "network: its name must be a text, as 'resnet20', got 20"),
        ("resnet20", {"rngs": 0}, "rngs must be an nnx.Rngs, such as nnx.Rngs(0), got 0"),
        ("revnet38", {"width": 0.03}, "splits the channels into 2 equal parts, and 1 does not divide: choose a width"),
        ("resnet20", {"width": 0.3, "stepper": "reversible"}, "splits the channels into 2 equal parts, and 5"),
        ("resnext29_8x64d", {"width": 0.01}, "channels do not divide into 8 groups"),
        ("resnet20", {"stepper": 3}, "stepper must be a Stepper, such as steppers.lm(), got 3"),
        ("resnet8", {"stepper": "rk4"}, "rk4 would take no step at all"),
        ("resnet8", {"stepper": "noise(lm, 0.1)"}, "noise(lm) would take no step at all"),
        ("revnet38", {"stepper": "lm"}, "made for a coupled scheme such as reversible, not for lm"),
        ("fractalnet20", {"stepper": "lm"}, "is a scheme of its own, and takes no stepper"),
        ("fractalnet20", {"memory": "remat"}, "is a scheme of its own, and takes no memory"),
        ("fractalnet20", {"zero_init": True}, "is a scheme of its own, and takes no zero_init: leave it out"),
        ("resnet20", {"branch": "cube"}, "unknown branch 'cube'"),
        (CONVNEXT, {"branch": "convnect"}, "unknown branch 'convnect': did you mean 'convnext'"),
        (CONVNEXT, {"branch": "convnext(4)"}, "convnext: kernel must be odd, so that it has a middle, got 4"),
        ("resnext29_8x64d", {"branch": "bottleneck"}, "has branches of its own: leave out branch"),
        ("vit_tiny", {"branch": "basic"}, "it has branches of its own: leave out branch"),
        ("vit_tiny", {"placement": "post"}, "placement post: a transformer branch has its activation inside: leave"),
        (CONVNEXT, {"placement": "post"}, "a convnext branch has its activation inside: leave placement out"),
        ("resnet20", {"branch": "symmetric", "placement": "post"}, "a symmetric branch has its activation inside"),
        ("resnet8", {"placement": "before"}, "unknown placement 'before'"),
        ("resnet20", {"stepper": "lm", "sharing": "all"}, "sharing all: lm has one branch a step"),
        (CONVNEXT, {"stepper": "poly(2)", "sharing": "convolutions"}, "not for a convnext branch"),
        (
            "resnet20",
            {"branch": "symmetric", "sharing": "convolutions", "stepper": "poly"},
            "not for a symmetric branch",
        ),
        (
            "resnet8",
            {"branch": "bottleneck(inner=1e300)"},
            "inner=1e+300 makes 1.6e+301 channels: choose a smaller one",
        ),
        ("resnext(29, 1, 100000000)", {}, "channels: choose a smaller one"),
        ("convnext(1, 8)", {}, "network convnext: depths and channels must have a whole number a stage"),
        ("resnet20", {"boundary": "step"}, "euler has no history and one branch"),
        (
            "resnet20",
            {"stepper": "backward_euler", "boundary": "step"},
            "backward_euler has no history and one branch, so that a first step is plain",
        ),
        ("resnet20", {"stepper": "dense", "boundary": "step"}, "dense remembers a whole stage"),
        (
            "resnet20",
            {"branch": "symmetric", "zero_init": True, "stepper": "hamiltonian", "memory": "reversible"},
            "zero_init: a symmetric branch that starts at zero never learns: leave it out",
        ),
        ("resnet8", {"normalization": "group(3)"}, "normalization group: 16 channels do not divide into 3 groups"),
        (
            "resnet8",
            {"normalization": "relu"},
            "unknown normalization 'relu': known: batch, group, layer, rms ('relu' is one of the activations)",
        ),
        ("resnet8", {"activation": "gelo"}, "unknown activation 'gelo': did you mean 'gelu'"),
        (
            "resnet20",
            {"stepper": "lm", "memory": "reversible"},
            "lm has no inverse, so that its states cannot be rebuilt: choose stored or remat",
        ),
        (
            "resnet20",
            {"stepper": "momentum", "memory": "reversible", "placement": "post"},
            "momentum is rectified after each step",
        ),
    ],
)
def test_what_is_wrong_is_named(name, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        networks.create(name, **{"rngs": nnx.Rngs(0), **options})


@pytest.mark.parametrize("name", ["resnet8", "fractalnet(2, 2)"])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (8, 8, 3)])
def test_images_of_another_layout(name, shape):
    with pytest.raises(InputError, match=r"images must be \[N, H, W, 3\], got"):
        nnx.eval_shape(lambda: networks.create(name, rngs=nnx.Rngs(0))(jnp.ones(shape), jax.random.key(0)))


def test_wrapped_euler_makes_stages_of_one_step():
    model = ModelConfig("resnet8", "stochastic_depth(euler, 0.5)").outline(classes=10, cin=3)
    assert [stage.depth for stage in model.stages] == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": 0}, "columns must be an integer from 1 to 10, got 0"),
        ({"columns": 2.0}, "columns must be an integer from 1 to 10, got 2.0"),
        ({"channels": (4, 6, 8)}, "channels and dropout must have an entry a block, got 3 and 2"),
        ({"channels": (), "dropout": ()}, "must have an entry a block, got 0 and 0"),
        ({"dropout": (0.0, 1.0)}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"drop_path": -0.1}, "drop_path must be at least 0 and below 1, got -0.1"),
        ({"global_paths": 1.5}, "global_paths must be a probability, from 0 to 1, got 1.5"),
    ],
)
def test_fractalnets_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        FractalNet(**({"channels": (4, 6), "dropout": (0.0, 0.2)} | options), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("given", [{"branch": basic()}, {"stepper": "euler"}])
def test_a_block_names_what_its_options_leave_out(given):
    needed = "stepper" if "branch" in given else "branch"
    with pytest.raises(InputError, match=rf"a step needs {needed}: give it in the options, as in Options\({needed}="):
        Block(Options(**given), 4, rngs=nnx.Rngs(0))


def test_a_branch_that_is_evaluated_repeatedly_cannot_change_the_shape():
    with pytest.raises(InputError, match="backward_euler evaluates a branch repeatedly"):
        networks.stage.Entry(
            Options("backward_euler", branch="basic", shortcut="projection"), 4, 8, stride=2, rngs=nnx.Rngs(0)
        )


def test_images_of_a_size_that_does_not_fit():
    with pytest.raises(InputError, match="made for 8 x 8 pixels, got 6 x 6: give image=6"):
        small(name="vit(width=8, depth=2, heads=2, patch=4, image=8)")(IMAGES[:, :6, :6])
    with pytest.raises(InputError, match=r"too small: 1 x 1 pixels or features do not hold a patch of 2 x 2.*patch=1"):
        small(name="convnext((1, 1), (4, 8), patch=8)")(IMAGES[:, :8, :8])
    model = FractalNet(2, channels=(4, 6), dropout=(0.0, 0.0), rngs=nnx.Rngs(0))
    model.eval()
    with pytest.raises(InputError, match=r"images of 3 x 8 are too small for 2 blocks.*give at least 4 x 4"):
        model(IMAGES[:, :3])
    for column in (2, -3, "deepest"):
        with pytest.raises(InputError, match=f"column must be from -2 to 1, got {column!r}"):
            model(IMAGES, column=column)


def test_what_draws_random_numbers_needs_a_key():
    plain = {"dropout": (0.0, 0.0), "drop_path": 0.0, "global_paths": 0.0}
    rates = [{}, {"dropout": (0.0, 0.1)}, {"drop_path": 0.1}, {"global_paths": 0.1}]
    fractals = [FractalNet(2, channels=(4, 6), **(plain | rate), rngs=nnx.Rngs(0)) for rate in rates]
    assert not fractals[0].random
    for model in (*fractals[1:], small("stochastic_depth(lm, 0.3)")):
        assert model.random
        with pytest.raises(InputError, match=r"draws random numbers in training: call model\(images, key\)"):
            model(IMAGES)


def test_groups_of_images_are_of_batch_normalization():
    model = small(normalization="layer", name="resnet8")
    group_batch_norm(model, None)
    with pytest.raises(InputError, match="batch_norm_group: this network has no batch normalization: leave it out"):
        group_batch_norm(model, 8)
    with pytest.raises(InputError, match="batch_norm_group: must be at least 1, got 0"):
        group_batch_norm(small(name="resnet8"), 0)


def test_what_an_earlier_config_called_activation_is_placement():
    with pytest.raises(InputError, match=r"must be a function such as relu \(.* is model.placement now"):
        ModelConfig(activation="post")


def test_what_a_branch_reads_is_as_declared():
    def late(fs, u, history, coef):
        return steppers.combine((1, u), (1, fs[0](2 * u))), history

    def first_step(**facts):
        options = Options(steppers.Stepper("late", late, **facts), branch="basic", shortcut="projection")
        entry = networks.stage.Entry(options, 4, 8, stride=2, rngs=nnx.Rngs(0))
        return entry(IMAGES[:1, :4, :4].repeat(2, -1)[..., :4], (), None)

    with pytest.raises(InputError, match="late: branch 0 is not given the state that `reads` says"):
        first_step()
    after, _, before = first_step(reads=())
    assert after.shape == before.shape == (1, 2, 2, 8)
