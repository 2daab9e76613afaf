"""Weights of PyTorch's networks give the same logits here, and go back unchanged."""

import sys

import jax
import numpy as np
import pytest
from flax import nnx

from lmjax import InputError, networks
from tests.networks.reference import conv, numpy_pad
from tests.networks.small import outline
from tests.parameters import few

IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


class Drawn:
    """What a network of PyTorch computes, in NumPy and float64; the state_dict is drawn while it does."""

    def __init__(self):
        self.rng, self.state = np.random.default_rng(1), {}

    def draw(self, name, shape, low, high):
        return self.state.setdefault(name, self.rng.uniform(low, high, shape).astype(np.float32)).astype(float)

    def conv(self, x, name, cout, size, stride=1, groups=1):
        cin = x.shape[-1] // groups
        bound = (3 / (cin * size**2)) ** 0.5
        kernel = self.draw(f"{name}.weight", (cout, cin, size, size), -bound, bound).transpose(2, 3, 1, 0)
        parts = zip(np.split(x, groups, axis=-1), np.split(kernel, groups, axis=-1), strict=True)
        return np.concatenate([conv(part, theirs, stride, numpy_pad) for part, theirs in parts], axis=-1)

    def norm(self, x, name):
        self.state[f"{name}.num_batches_tracked"] = np.array(3)
        bounds = {"weight": (0.5, 1.5), "bias": (-0.3, 0.3), "running_mean": (-0.3, 0.3), "running_var": (0.5, 1.5)}
        scale, bias, mean, var = (self.draw(f"{name}.{key}", x.shape[-1], *of) for key, of in bounds.items())
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def act(self, x, name):
        return self.norm(x, name).clip(0)

    def linear(self, x, name, classes, *ones):
        weight = self.draw(f"{name}.weight", (classes, x.shape[-1], *ones), -0.5, 0.5)
        return x @ weight.reshape(classes, -1).T + self.draw(f"{name}.bias", classes, -1, 1)


def max_pool(x):
    """Over 3x3 pixels with stride 2; the odd ones out are at the upper left."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    n = x.shape[1] // 2 - 1
    return np.max([x[:, i : i + 2 * n : 2, j : j + 2 * n : 2] for i in range(3) for j in range(3)], axis=0)


def layers(cout, stride, inner, groups):
    """Of each convolution of a branch its channels, size, stride and groups."""
    if inner is None:
        return [(cout, 3, stride, 1), (cout, 3, 1, 1)]
    return [(round(inner * cout), 1, 1, 1), (round(inner * cout), 3, stride, groups), (cout, 1, 1, 1)]


def resnet(drawn, depths, channels, inner=None, groups=1, stem=8):
    """A ResNet of torchvision."""
    x = max_pool(drawn.act(drawn.conv(IMAGES.astype(float), "conv1", stem, 7, 2), "bn1"))
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            cout, stride, name = (
                channels * 2 ** (stage - 1),
                2 if stage > 1 and block == 0 else 1,
                f"layer{stage}.{block}",
            )
            f, shortcut = x, x
            for i, layer in enumerate(layers(cout, stride, inner, groups), start=1):
                f = drawn.norm(drawn.conv(f.clip(0) if i > 1 else f, f"{name}.conv{i}", *layer), f"{name}.bn{i}")
            if x.shape != f.shape:
                convolved = drawn.conv(x, f"{name}.downsample.0", cout, 1, stride)
                shortcut = drawn.norm(convolved, f"{name}.downsample.1")
            x = (f + shortcut).clip(0)
    return drawn.linear(x.mean((1, 2)), "fc", 7)


def resnetv2(drawn, depths, channels, inner=None, stem=8):
    """A resnetv2 of timm."""
    x = max_pool(drawn.conv(IMAGES.astype(float), "stem.conv", stem, 7, 2))
    for stage, depth in enumerate(depths):
        for block in range(depth):
            cout, stride, name = channels * 2**stage, 2 if stage and block == 0 else 1, f"stages.{stage}.blocks.{block}"
            f, shortcut = x, x
            for i, layer in enumerate(layers(cout, stride, inner, 1), start=1):
                f = drawn.act(f, f"{name}.norm{i}")
                if i == 1 and (stride > 1 or x.shape[-1] != cout):
                    shortcut = drawn.conv(f, f"{name}.downsample.conv", cout, 1, stride)
                f = drawn.conv(f, f"{name}.conv{i}", *layer)
            x = f + shortcut
    return drawn.linear(drawn.act(x, "norm").mean((1, 2)), "head.fc", 7, 1, 1)


def lm_resnet(drawn, depths, channels, inner=None, stem=8, scheme="lm"):
    """A network of the code of Lu et al. (2018): MResNet, or MResNetC with a k for each channel."""
    x, last, block = drawn.conv(IMAGES.astype(float), "conv1", stem, 3), 0, 0
    drawn.norm(x, "bn1")  # which they do not call
    for stage, depth in enumerate(depths):
        for step in range(depth):
            cout, stride, name = channels * 2**stage, 2 if stage and step == 0 else 1, f"blocks.{block}"
            f, residual = x, x
            for i, layer in enumerate(layers(cout, stride, inner, 1), start=1):
                f = drawn.conv(drawn.act(f, f"{name}.bn{i}"), f"{name}.conv{i}", *layer)
            if x.shape != f.shape:
                change = f"downsample{['1', '21', '31'][stage]}.downsample"
                residual = drawn.conv(drawn.act(x, f"{change}.0"), f"{change}.2", cout, 1, stride)
            k = drawn.draw(f"ks.{block}", (cout, 1, 1) if scheme == "channels" else 1, 0.7, 1.3).reshape(-1)
            k = 1 if scheme == "euler" or step == 0 else k
            x, last = f + k * residual + (1 - k) * (last if step else 0), residual
            block += 1
    return drawn.linear(drawn.act(x, "bn").mean((1, 2)), "fc", 7)


PER_CHANNEL = "lm(per_channel=True)"
# The name here, its options, and the network there.
CASES = {
    "resnet18": ("resnet18", {"width": 1 / 8}, lambda d: resnet(d, (2, 2, 2, 2), 8)),
    "resnet34": ("resnet34", {"width": 1 / 8}, lambda d: resnet(d, (3, 4, 6, 3), 8)),
    "resnet50": ("resnet50", {"width": 1 / 8}, lambda d: resnet(d, (3, 4, 6, 3), 32, 1 / 4)),
    "resnet101": ("resnet101", {"width": 1 / 8}, lambda d: resnet(d, (3, 4, 23, 3), 32, 1 / 4)),
    "resnext50": ("resnext50_32x4d", {"width": 1 / 4}, lambda d: resnet(d, (3, 4, 6, 3), 64, 1 / 2, 32, stem=16)),
    "wide": ("resnet50", {"width": 1 / 8, "branch": "bottleneck(0.5)"}, lambda d: resnet(d, (3, 4, 6, 3), 32, 1 / 2)),
    "resnetv2_18": ("resnet18", {"width": 1 / 8}, lambda d: resnetv2(d, (2, 2, 2, 2), 8)),
    "resnetv2_50": ("resnet50", {"width": 1 / 8}, lambda d: resnetv2(d, (3, 4, 6, 3), 32, 1 / 4)),
    "MResNet20": ("resnet20", {"width": 1 / 2, "stepper": "lm"}, lambda d: lm_resnet(d, (3, 3, 3), 8)),
    "MResNet20, pretrain": (
        "resnet20", {"width": 1 / 2, "stepper": "euler"}, lambda d: lm_resnet(d, (3, 3, 3), 8, scheme="euler"),
    ),
    "MResNetC20": (
        "resnet20", {"width": 1 / 2, "stepper": PER_CHANNEL}, lambda d: lm_resnet(d, (3, 3, 3), 8, scheme="channels"),
    ),
    "MResNet29": (
        "resnet20", {"width": 2, "stepper": "lm", "branch": "bottleneck"},
        lambda d: lm_resnet(d, (3, 3, 3), 32, 1 / 4, stem=16),
    ),
}  # fmt: skip


def logits(network, images=IMAGES):
    network.eval()
    graph, state = nnx.split(network)
    return jax.jit(lambda state: nnx.merge(graph, state)(images))(state)


def program(case):
    return "lm_resnet" if case.startswith("M") else "resnetv2" if "v2" in case else "torchvision"


@pytest.mark.versions
@pytest.mark.parametrize("case", few(CASES, ["resnet50", "resnetv2_18", "MResNet20"]))
def test_the_logits_are_those_of_pytorch_and_the_weights_go_back(case):
    name, options, theirs = CASES[case]
    drawn = Drawn()
    expected = theirs(drawn)
    network = networks.from_torch(drawn.state, name, unroll=False, **options)
    found = logits(network)
    assert found.shape == (2, 7)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))

    back = networks.to_torch(network, program(case))
    assert all(x.dtype == np.float32 for x in back.values())
    for key, x in back.items():
        np.testing.assert_allclose(x, drawn.state[key], rtol=0, atol=1e-7 if key.startswith("ks.") else 0)
    left = {key.split(".")[0] for key in drawn.state.keys() - back.keys() if "num_batches_tracked" not in key}
    assert left == ({"bn1", "ks"} if program(case) == "lm_resnet" else set())


@pytest.fixture(scope="module")
def weights():
    """Of a ResNet-14 by the names of the code of Lu et al."""
    drawn = Drawn()
    lm_resnet(drawn, (2, 2, 2), 8)
    return drawn.state


def load(weights, name="resnet14", **options):
    return networks.from_torch(weights, name, **({"width": 1 / 2, "stepper": "lm"} | options))


def test_it_takes_what_training_scripts_save(weights):
    parallel = {f"module.{key}": x.astype(np.float16) for key, x in weights.items()}
    found = networks.to_torch(load({"epoch": 3, "state_dict": parallel}), "lm_resnet")
    assert all(np.allclose(x, weights[key], atol=1e-3) for key, x in found.items())
    assert all(x.dtype == np.float32 for x in found.values())
    assert networks.to_torch(load({"model": weights}), "lm_resnet").keys() == found.keys()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"name": "resnet20"}, "^weights: .* not those of resnet20: missing: blocks.*; of another shape"),
        ({}, {"name": "resnet8", "stepper": "euler"}, r"unexpected: .*blocks.3.* and \d+ more"),
        ({"bn.bias": None, "fc.bias": None}, {}, "not those of resnet14: missing: bn.bias, fc.bias$"),
        ({"layer5.x": np.ones(1)}, {}, "not those of resnet14: unexpected: layer5.x$"),
        ({"bn.bias": np.ones(3)}, {}, r"of another shape: bn.bias is \(3,\), not \(32,\)$"),
        ({"ks.1": np.ones((8, 1, 1))}, {}, r"of another shape: ks.1 is \(8, 1, 1\), not \(1,\)$"),
        ({"fc.weight": None}, {}, "missing: fc.weight; of another shape: fc.bias"),
        ({"fc.weight": np.ones(())}, {}, r"fc.weight is \(\), not \(1, 32\)"),
        ({}, {"width": 1}, r"of another shape: bn.bias is \(32,\), not \(64,\).* and \d+ more"),
        ({}, {"stepper": "heun"}, "has no counterpart"),
        ({}, {"shortcut": "pad"}, "unexpected: downsample21"),
        ({}, {"classes": 7, "cin": 3}, "from_torch: classes, cin: follows from the weights: leave it out"),
        ({}, {"name": "fractalnet20", "stepper": None, "width": 1}, "takes ResNets and ResNeXts, not fractalnet20"),
        ({}, {"name": "convnext((2, 2), (6, 8))", "width": 1, "stepper": "euler"}, "batch normalization alone"),
        ({"blocks.0.conv1.weight": None}, {}, "has none of .* but conv1.weight, .*: is no ResNet that can be read"),
    ],
)  # fmt: skip
def test_what_does_not_match_is_listed(weights, change, options, message):
    changed = {key: x for key, x in (weights | change).items() if x is not None}
    with pytest.raises(InputError, match=message):
        load(changed, **options)


def test_lm_resnets_ask_for_a_scheme(weights):
    with pytest.raises(InputError, match="give stepper='lm', or 'euler' if it was trained with pretrain=True"):
        networks.from_torch(weights, "resnet14", width=1 / 2)


def test_a_network_without_names_in_pytorch(weights):
    lm = load(weights)
    with pytest.raises(InputError, match="networks of torchvision take steps of euler, not of lm"):
        networks.to_torch(lm)
    with pytest.raises(InputError, match="has no counterpart"):
        networks.to_torch(outline(name="resnet8", sharing="none"), "torchvision")
    with pytest.raises(InputError, match="unknown program of to_torch 'tf': known: lm_resnet, resnetv2, torchvision"):
        networks.to_torch(lm, "tf")
    with pytest.raises(InputError, match="batch normalization alone"):
        networks.to_torch(outline(name="resnet8", normalization="group(4)"), "lm_resnet")
    euler = load(weights, stepper="euler")
    with pytest.raises(InputError, match=r"resnetv2 has one stages.1.blocks.0.norm1.\w+ for the branch and the short"):
        networks.to_torch(euler, "resnetv2")


@pytest.mark.parametrize(
    ("options", "program", "said"),
    [
        (
            {"placement": "post", "stepper": "leapfrog"},
            "torchvision",
            "networks of torchvision take steps of euler, not of leapfrog",
        ),
        (
            {"stepper": "adams_bashforth(2)"},
            "lm_resnet",
            "networks of lm_resnet take steps of euler or lm, not of adams_bashforth2",
        ),
        (
            {"placement": "post", "activation": "silu"},
            "torchvision",
            "networks of torchvision have the activation relu",
        ),
        ({"activation": "silu"}, "lm_resnet", "networks of lm_resnet have the activation relu"),
        ({"shortcut": "bare_projection"}, "resnetv2", "networks of resnetv2 have the shortcut projection"),
        ({"shortcut": "pad"}, "lm_resnet", "networks of lm_resnet have the shortcut projection"),
        ({"branch": "bottleneck(stride_first=True)"}, "lm_resnet", "bottlenecks of lm_resnet have their stride in the"),
    ],
)
def test_another_function_of_the_same_variables(options, program, said):
    with pytest.raises(InputError, match=f"to_torch: {said}"):
        networks.to_torch(outline(name="resnet14", **options), program)


def assert_same(path, weights):
    """What is loaded from a file is what was put there."""
    found, expected = (networks.to_torch(load(of), "lm_resnet") for of in (path, weights))
    assert found.keys() == expected.keys()
    assert all((found[key] == expected[key]).all() for key in expected)


def test_files(weights, tmp_path):
    shapes = {"layer1.0.conv1.weight": (8, 8, 3, 3), "conv1.weight": (8, 3, 7, 7), "fc.weight": (2, 8)}
    with pytest.raises(InputError, match="weights of a ResNet, which do not fit vit_tiny: "):
        networks.from_torch({name: np.zeros(shape) for name, shape in shapes.items()}, "vit_tiny")
    with pytest.raises(InputError, match="there is no such file"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"needs a state_dict, as model.state_dict\(\)"):
        load([1])
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "a.safetensors"
    safetensors.save_file(weights, path)
    assert_same(path, weights)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"a.safetensors: cannot be read \("):
        load(path)


def test_a_file_of_pytorch_needs_torch(tmp_path, monkeypatch):
    (tmp_path / "a.pth").touch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"a.pth: it needs torch, which is not installed: pip install torch"):
        load(tmp_path / "a.pth")


def test_files_of_pytorch(weights, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    torch.save({key: torch.tensor(x) for key, x in weights.items()}, path)
    assert_same(path, weights)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"a.pth: cannot be read \(it is damaged, or .*save its state_dict\(\)"):
        load(path)
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(InputError, match="of a network, save its state_dict"):
        load(path)


TORCHVISION = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2",
)  # fmt: skip
TIMM = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "resnext101_32x4d",
    *(f"resnetv2_{n}" for n in (18, 34, 50, 101, 152)),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "name"), [*(("torchvision.models", n) for n in TORCHVISION), *(("timm.models", n) for n in TIMM)]
)
def test_pytorch_itself(package, name):
    torch, models = pytest.importorskip("torch"), pytest.importorskip(package)
    theirs = getattr(models, name)(num_classes=7).eval()
    rng = torch.Generator().manual_seed(0)
    bounds = {"running_mean": (-0.3, 0.3), "running_var": (0.5, 1.5), "weight": (0.5, 1.2), "bias": (-0.3, 0.3)}
    for key, x in theirs.state_dict().items():
        if x.ndim == 1:
            x.uniform_(*bounds[key.rpartition(".")[2]], generator=rng)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2)).numpy()

    branch = {"branch": "bottleneck(0.5)"} if name.startswith("wide") else {}
    ours = name.removeprefix("wide_").removesuffix("_2").replace("v2_", "")
    network = networks.from_torch(theirs.state_dict(), ours, unroll=False, **branch)
    np.testing.assert_allclose(logits(network, images), expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
    back = networks.to_torch(network, program(name))
    matched = theirs.load_state_dict({key: torch.tensor(x) for key, x in back.items()})
    assert not matched.missing_keys
    assert not matched.unexpected_keys
