"""Programs compiled for accelerators that are not there, and read."""

import json
from unittest.mock import Mock

import jax
import pytest

from lmjax import InputError, cli, estimate, recipes
from lmjax.config import DataConfig, ModelConfig
from lmjax.estimate import targets
from lmjax.estimate.hlo import Module
from lmjax.estimate.summary import _is_map, summarize
from tests.data.photos import write_folder
from tests.tiny import changed, config

TEXT = """HloModule jit_train, is_scheduled=true

%fused_gather (p0: u8[1000,192], p1: s32[4]) -> u8[4,8,8,3] {
  %p0 = u8[1000,192]{1,0} parameter(0)
  %p1 = s32[4]{0} parameter(1)
  %whole = u8[1000,8,8,3]{3,2,1,0} bitcast(%p0)
  ROOT %gather = u8[4,8,8,3]{3,2,1,0} gather(%whole, %p1), offset_dims={1,2,3}
}

%body (arg: (s32[], f32[4,8,8,16])) -> (s32[], f32[4,8,8,16]) {
  %arg = (s32[], f32[4,8,8,16]{3,2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %u = f32[4,8,8,16]{3,2,1,0:T(8,128)S(1)} get-tuple-element(%arg), index=1
  %conv = (f32[4,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%u, %u), custom_call_target="__cudnn$convForward"
  %v = f32[4,8,8,16]{3,2,1,0} get-tuple-element(%conv), index=0
  ROOT %out = (s32[], f32[4,8,8,16]{3,2,1,0}) tuple(%i, %v)
}

%condition (arg.1: (s32[], f32[4,8,8,16])) -> pred[] {
  %limit = s32[] constant(7)
  %arg.1 = (s32[], f32[4,8,8,16]{3,2,1,0}) parameter(0)
  %j = s32[] get-tuple-element(%arg.1), index=0
  ROOT %less = pred[] compare(%j, %limit), direction=LT
}

ENTRY %main (images: u8[1000,192], index: s32[4], state: (s32[], f32[4,8,8,16])) -> (s32[], f32[4,8,8,16]) {
  %images = u8[1000,192]{1,0} parameter(0)
  %index = s32[4]{0} parameter(1)
  %state = (s32[], f32[4,8,8,16]{3,2,1,0}) parameter(2)
  %batch = u8[4,8,8,3]{3,2,1,0} fusion(%images, %index), kind=kLoop, calls=%fused_gather
  ROOT %loop = (s32[], f32[4,8,8,16]{3,2,1,0}) while(%state), condition=%condition, body=%body
}
"""


def test_text_of_a_program():
    """A gather reads what it picks; a loop counts as often as its body is executed."""
    module = Module(TEXT)
    found = [(x.name, times, module.traffic(x, inside)) for x, inside, times in module.executed() if "(" not in x.name]
    found = {name: (times, traffic) for name, times, traffic in found}
    picked, state = 4 * 8 * 8 * 3, 4 * 4 * 8 * 8 * 16
    assert found["batch"] == (1, 2 * picked + 4 * 4)
    assert found["conv"] == (7, 3 * state)
    (conv,) = (x for x, _, _ in module.executed() if x.name == "conv")
    assert module.convolutions(conv) == 1


def test_feature_maps_that_are_written_in_float32_and_moved():
    copies = """ENTRY %main (u: bf16[4,8,8,16], v: f32[4,4,4,32]) -> (bf16[4,16,8,8], f32[4,4,4,32]) {
  %u = bf16[4,8,8,16]{3,2,1,0} parameter(0)
  %v = f32[4,4,4,32]{3,2,1,0} parameter(1)
  %t = bf16[4,16,8,8]{3,2,1,0} transpose(%u), dimensions={0,3,1,2}
  %w = f32[4,4,4,32]{2,3,1,0} copy(%v)
  ROOT %both = (bf16[4,16,8,8]{3,2,1,0}, f32[4,4,4,32]{2,3,1,0}) tuple(%t, %w)
}
"""
    for text, bfloat16, wide, moved in ((TEXT, True, 7, 0), (TEXT, False, 0, 0), (copies, True, 1, 2)):
        compiled = Mock(**{"as_text.return_value": text})
        found = summarize(compiled, batch=4, steps=1, bfloat16=bfloat16, size=(8, 8))
        assert (found.wide_maps, found.moved_maps) == (wide, moved)


COLLECTIVES = """ENTRY %main (a: f32[8], b: f32[16]) -> f32[32] {
  %a = f32[8]{0} parameter(0)
  %b = f32[16]{0} parameter(1)
  %sums = (f32[8]{0}, f32[16]{0}) all-reduce(%a, %b), to_apply=%add
  %started = (f32[16]{0}, f32[32]{0}) all-gather-start(%b), dimensions={0}
  ROOT %done = f32[32]{0} all-gather-done(%started)
}
"""


def test_bytes_of_collectives():
    """Those of all results, of arrays that are summed at once, too; not those of the operands."""
    compiled = Mock(**{"as_text.return_value": COLLECTIVES})
    found = summarize(compiled, batch=4, steps=1, bfloat16=False, size=(8, 8)).collectives
    assert found == {"all-reduce": (1, 4 * 24), "all-gather": (1, 4 * 32)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h1000", "unknown target 'h1000': did you mean"),
        ("v5e:2", "takes a number of devices, as in v5e:2x2"),
        ("v5e:3x5", "its compiler does not know such devices"),
        ("v5e:2x2x2", "takes a number of devices, as in v5e:2x2"),
        ("v5p:2x2", "takes a number of devices, as in v5p:2x2x2"),
        ("h100:2x2", "takes a number of devices, as in h100:8"),
        ("h100:", "takes a number of devices, as in h100:8"),
        ("h100:0", "takes a number of devices, as in h100:8"),
    ],
)
def test_targets_that_are_none(name, message):
    if "compiler" in message:
        pytest.importorskip("libtpu")
    with pytest.raises(InputError, match=message):
        estimate.target(name)


@pytest.mark.parametrize(("name", "extra"), [("v5e", "lmjax[tpu]"), ("h100", "lmjax[cuda12]")])
def test_missing_compiler(monkeypatch, capsys, name, extra):
    monkeypatch.setattr(targets, "_installed", lambda module: False)
    assert cli.main(["estimate", "--config", "digits", "--target", name]) == 2
    assert f"target {name}: its compiler is not installed: pip install '{extra}'" in capsys.readouterr().err


def test_tpu(capsys):
    """A small network in bfloat16 on four chips: nothing is there, and nothing is run."""
    pytest.importorskip("libtpu")
    words = ["--config", "tests/tiny.py", "--target", "v5e:2x2", "--json", "--model.dtype", "bfloat16"]
    assert cli.main(["estimate", *words]) == 0
    train, evaluation = json.loads(capsys.readouterr().out)
    assert (train["program"], evaluation["program"], train["devices"]) == ("train", "evaluate", 4)
    assert train["fits"]
    assert train["padding"] == 128 / train["batch"]
    summary = train["summary"]
    assert summary["wide_maps"] == 0
    norms = 5  # two in each of two blocks, and one before the logits
    assert {kind: count for kind, (count, _) in summary["collectives"].items()} == {"all-reduce": 2 * norms + 1}
    assert sum(summary["cycles"].values()) > sum(evaluation["summary"]["cycles"].values())
    assert jax.default_backend() == "cpu"


@pytest.mark.parametrize("unroll", [True, False])
def test_gpu(unroll):
    """What must not come back: float32 features, copies of features, kernels for each array of the state."""
    pytest.importorskip("jax_cuda12_plugin")
    large = changed(
        recipes.lm("cifar10", ModelConfig("resnet14", "lm", dtype="bfloat16", unroll=unroll)),
        train={"batch_size": 128, "steps_per_dispatch": 39},
    )
    summary = next(estimate.estimate(large, estimate.target("h100"))).summary
    assert summary.wide_maps == summary.moved_maps == 0
    assert set(summary.convolutions) == {"bf16"}
    if unroll:
        assert summary.kernels <= 215  # 210 were measured, of which a block that is an LM step has 19


def test_photographs_on_a_gpu():
    """Max-pooling and the last ReLU of a block write no float32 map, and read no sum again."""
    pytest.importorskip("jax_cuda12_plugin")
    model = ModelConfig("resnet18", "euler", placement="post", dtype="bfloat16")
    # From 84 images on, XLA splits the sums over 7 x 7 pixels; of fewer, it writes these small maps in float32.
    large = changed(recipes.imagenet(model), train={"batch_size": 88})
    found = next(estimate.estimate(large, estimate.target("h100")))
    assert found.summary.wide_maps == found.summary.moved_maps == 0
    assert 1 < found.summary.traffic / found.plain_traffic <= 1.65  # 1.62 were measured, and 2.01 without


@pytest.mark.slow
def test_batch_normalization_of_each_chip_exchanges_no_sums():
    """The gradients are in one message, or with the running statistics in two."""
    pytest.importorskip("libtpu")
    grouped = changed(config, train={"batch_norm_group": 16})
    found = next(estimate.estimate(grouped, estimate.target("v5e:2x2"))).summary
    assert found.collectives["all-reduce"][0] <= 2


def test_more_seeds_than_devices():
    where = Mock(devices=jax.devices()[:1])
    where.name = "v5e"
    with pytest.raises(InputError, match="--seeds 2: target v5e has 1 devices, each for one seed: give fewer"):
        next(estimate.estimate(config, where, seeds=(0, 1)))
    assert cli.main(["estimate", "--config", "digits", "--seeds", "0..x", "--target", "v5e"]) == 2


@pytest.mark.parametrize(
    "options", [{"data": {"name": "photographs(32)", "augment": ()}}, {"train": {"shard_parameters": True}}]
)
def test_seeds_that_take_turns(options):
    with pytest.raises(InputError, match=r"--seeds: photographs and train\.shard_parameters train one seed after"):
        next(estimate.estimate(changed(config, **options), Mock(devices=jax.devices()), seeds=(0, 1)))


def test_photographs_of_a_folder(tmp_path, capsys):
    """They are loaded for their number and classes, and taken for ImageNet only where they are not here."""
    root = write_folder(tmp_path, train=20, val=9)
    here, there = (DataConfig("photographs(32)", dir=str(path), augment=()) for path in (root, tmp_path / "none"))
    assert len(estimate._dataset(here).classes) == 3
    assert capsys.readouterr().err == ""
    assert len(estimate._dataset(there).classes) == 1000
    assert "none: is not here, and is taken for 1,281,167 training images of 1,000 classes" in capsys.readouterr().err


def test_memory_that_jax_takes(monkeypatch):
    one, other = (estimate.Target("a", platform, 80, []) for platform in ("cuda", "tpu"))
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    assert (estimate._room(one), estimate._room(other)) == (60, 80)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    assert estimate._room(one) == 40
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "most")
    with pytest.raises(InputError, match="XLA_CLIENT_MEM_FRACTION: must be a number, got 'most'"):
        estimate._room(one)


def test_photographs_of_no_folder():
    """ImageNet's number of images is known; the data need not be there."""
    dataset = changed(config, data={"name": "photographs(32)", "augment": ("flip",)}).data.origin.outline()
    assert (len(dataset.train), len(dataset.classes), dataset.shape) == (1_281_167, 1000, (32, 32, 3))


def test_what_is_a_feature_map():
    """Not the statistics of a layer normalization, which have no channels, and not a kernel."""
    assert _is_map((8, 4, 4, 16), 8, 4, 4)
    assert _is_map((16, 4, 4, 8), 8, 4, 4)
    for shape in ((8, 4, 4), (8, 4, 4, 1), (16, 3, 3, 8), (8, 16)):
        assert not _is_map(shape, 8, 4, 4)
