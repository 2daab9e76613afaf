"""Runs that start from weights, with frozen parts and other rates."""

import dataclasses
import shutil
from pathlib import Path

import chex
import jax
import numpy as np
import optax
import pytest
from flax import nnx

from lmjax import InputError, load, weights
from lmjax.config import InitConfig, OptimizerConfig
from lmjax.training import Trainer, create_optimizer, seed_mesh, train, train_epoch, train_seeds
from lmjax.training.initial import load_initial
from lmjax.training.state import initialize
from tests import tiny
from tests.devices import ONE
from tests.documentation import blocks, text
from tests.parameters import slow
from tests.tiny import changed


@pytest.fixture
def config(config, runs):
    """Starts from seed 1 of the runs of lm."""
    return changed(config, init={"run": str(runs["lm"] / "seed1")})


@pytest.fixture(scope="session")
def old(runs):
    """The weights that it starts from."""
    with load(runs["lm"] / "seed1") as trained:
        return trained.weights().arrays


@pytest.fixture
def letters(digits):
    """As many classes, with other names."""
    return dataclasses.replace(digits, classes=tuple("abcdefghij"))


def arrays(trainer, i=0):
    state = trainer.state_of(i)
    return jax.device_get(weights.names(state.params) | weights.names(state.statistics))


HEAD = {"head.bias", "head.kernel"}


@pytest.mark.versions
def test_seeds_differ_in_the_new_head_alone(config, letters, old, capsys):
    with Trainer(config, letters, seed_mesh(2), (3, 4)) as trainer:
        three, four = (arrays(trainer, i) for i in (0, 1))
    said = capsys.readouterr().out
    assert f"starting from {len(old) - 2} of {len(old)} arrays\n" in said
    assert said.endswith("  new, as the classes differ: head.bias, head.kernel\n")
    assert three.keys() == old.keys() > HEAD
    for name in old:
        assert (three[name] == old[name]).all() == (name not in HEAD), name
        assert (three[name] == four[name]).all() == (name != "head.kernel"), name  # a bias starts at zero
    drawn = Trainer(changed(config, init=InitConfig()), letters, ONE, (3,))
    chex.assert_trees_all_equal(arrays(drawn)["head.kernel"], three["head.kernel"])


def test_the_same_classes_keep_the_head(config, digits, old):
    with Trainer(config, digits, ONE) as trainer:
        chex.assert_trees_all_equal(arrays(trainer), old)
        state = initialize(changed(config, train={"average": 0.9}), 10, 1, 0, None, trainer._loaded)[1]
    chex.assert_trees_all_equal(weights.names(state.average["params"]), weights.names(state.params))


def test_what_does_not_fit_is_listed(config, digits, old, tmp_path, capsys):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    odd = old | {"stem.conv.kernel": np.zeros((3, 3, 3, 8), np.float32), "more": np.zeros(1)}
    del odd["activation.norm.bias"]
    data = {"classes": digits.classes, "mean": digits.mean, "std": digits.std, "shape": digits.shape}
    weights.save(path, weights.Weights(odd, config.model, **data))
    config = changed(config, init={"run": None, "weights": str(path)})
    loaded = load_initial(config, digits)
    assert loaded.keys() == old.keys() - {"stem.conv.kernel", "activation.norm.bias"}
    assert capsys.readouterr().out == (
        f"init.weights {path}: starting from {len(old) - 2} of {len(old)} arrays\n"
        "  new, not in the weights: activation.norm.bias\n"
        "  new, of another shape: stem.conv.kernel (3, 3, 3, 8) -> (3, 3, 1, 8)\n"
        "  not used: more\n"
    )
    weights.save(path, weights.Weights({"more": np.zeros(1)}, config.model, **data))
    with pytest.raises(
        InputError, match=r"no array has the name and the shape of one of tiny: the weights are of tiny; train"
    ):
        load_initial(config, digits)


@pytest.mark.parametrize("options", [{}, slow({"loaded_rate": 0.25, "freeze": ("stem",)})], ids=str)
def test_it_goes_on_without_the_weights(runs, tmp_path, monkeypatch, options):
    """Unless it has no checkpoint, and so begins again."""
    monkeypatch.setattr(tiny, "_trainers", {})
    source, run = shutil.copytree(runs["euler"], tmp_path / "source"), tmp_path / "run"
    config = changed(
        tiny.config, model={"stepper": "euler"}, init={"run": str(source)}, workdir=str(run), optimizer=options,
        checkpoint={"epochs": 1},
    )  # fmt: skip
    train(config)
    whole = tiny.rows(run)
    source.rename(tmp_path / "gone")
    tiny._trainers.clear()  # whose trainers have the weights
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints" / str(whole[1]["step"]))
    train(config, resume="required")
    assert tiny.rows(run) == whole
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match=f"{source} holds no run"):
        train(config, resume="required")


@pytest.mark.versions
def test_what_is_frozen_stays(config, letters):
    """Also the running statistics; and the network computes in training as in an evaluation."""
    frozen = ("stem", "stage1.*.act1", "activation")
    config = changed(config, optimizer={"freeze": frozen, "weight_decay": 0.1}, train={"on_nan": "skip"})
    with Trainer(config, letters, ONE) as trainer:
        before = arrays(trainer)
        kept = {name for name in before if weights.matches(name, frozen)}
        momenta = weights.names(trainer.state.optimizer.inner_states["trained"])
        assert len(momenta) == len(weights.names(trainer.state.params).keys() - kept)
        train_epoch(trainer)
        after = arrays(trainer)
    same = {name for name in before if (before[name] == after[name]).all()}
    assert same == kept > {"stem.conv.kernel", "activation.norm.mean", "stage1.steps.item.branches.0.act1.norm.var"}


def test_a_frozen_network_computes_as_in_an_evaluation(config, letters):
    config = changed(config, optimizer={"freeze": ("stem", "stage*", "activation")})
    model, state = initialize(config, 10, 1, 0, optax.identity(), load_initial(config, letters))
    model = nnx.merge(nnx.graphdef(model), state.params, state.statistics)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    trained = model(images)
    model.eval()
    np.testing.assert_array_equal(trained, model(images))


def test_loaded_parameters_have_a_rate_of_their_own(config, letters):
    """Plain gradient descent: the first update is proportional to the rate."""
    plain = changed(config, optimizer={"name": "sgd(0)", "weight_decay": 0.0}, data={"augment": ()})
    moved = {}
    for rate in (1.0, 0.25):
        with Trainer(changed(plain, optimizer={"loaded_rate": rate}), letters, ONE) as trainer:
            before = arrays(trainer)
            train_epoch(trainer, pause=lambda step: step == 1)
            moved[rate] = {name: x - before[name] for name, x in arrays(trainer).items()}
    for name in weights.names(trainer.state.params):
        factor = 1 if name in HEAD else 0.25
        assert np.abs(moved[1.0][name]).max() > 1e-5, name
        np.testing.assert_allclose(moved[0.25][name], factor * moved[1.0][name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "lamb", "lion", "muon"])
def test_every_rule_with_frozen_parameters(name):
    """As of the parameters that are trained alone, in which the frozen ones are not counted."""
    rng = np.random.default_rng(0)
    params = {a: {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)} for a in ("stem", "head")}
    gradients = jax.tree.map(np.cos, params)
    options = {"name": name, "clip_norm": 0.1, "accumulate_steps": 2}
    found = {}
    for freeze, tree in (((), {"head": params["head"]}), (("stem",), params)):
        optimizer = create_optimizer(OptimizerConfig(**options, freeze=freeze), lambda step: 0.1)
        state, now = optimizer.init(tree), tree
        for step in range(2):
            updates, state = optimizer.update({a: gradients[a] for a in tree}, state, now, step=step)
            now = optax.apply_updates(now, updates)
        found[freeze] = now
    chex.assert_trees_all_close(found[("stem",)]["head"], found[()]["head"], rtol=1e-6)
    chex.assert_trees_all_close(found[("stem",)]["stem"], params["stem"], rtol=1e-6)


def test_mistakes(config, digits):
    for freeze, said in (
        (("stem", "stagge1"), "unknown name in optimizer.freeze 'stagge1': did you mean 'stage1'"),
        (("*.var",), r"optimizer.freeze: \*.var is a running variance, which is frozen with its mean: name that"),
        (("*",), r"optimizer.freeze: \* leaves nothing to train"),
    ):
        with pytest.raises(InputError, match=said):
            Trainer(changed(config, init=InitConfig(), optimizer={"freeze": freeze}), digits, ONE)
    with pytest.raises(InputError, match=r"init.weights: must be left out where init.run is given, got '.*/a'"):
        InitConfig(run="b", weights="a")
    with pytest.raises(InputError, match=r"optimizer.loaded_rate: must be left out without init.run and init.weights"):
        changed(config, init=InitConfig(), optimizer={"loaded_rate": 0.1})
    with pytest.raises(InputError, match=r"optimizer.loaded_rate: must be positive \(optimizer.freeze is for 0\)"):
        OptimizerConfig(loaded_rate=0)
    with pytest.raises(InputError, match=r"gs:// is not supported"):
        InitConfig(run="gs://a/b")
    assert InitConfig(run="a") == InitConfig(run=str(Path.cwd() / "a"))  # wherever the run goes on


@pytest.mark.slow
def test_the_second_half_of_the_digits_is_learned_faster_after_the_first(tmp_path):
    """As docs/finetuning.md has it: the test accuracy after two epochs, in the mean of three seeds."""
    namespace: dict = {}
    exec(blocks(text("docs/finetuning.md"))[0], namespace)
    tuned = namespace["config"]
    source = changed(tuned, data={"name": "some_digits(0, 4)"}, workdir=str(tmp_path / "source"))
    train(source)
    tuned = changed(tuned, train={"epochs": 2}, optimizer={"schedule": "constant"}, init={"run": source.workdir})
    means = {}
    for name, config in (("tuned", tuned), ("scratch", changed(tuned, init=InitConfig()))):
        train_seeds(changed(config, workdir=str(tmp_path / name)), [0, 1, 2])
        last = [tiny.rows(tmp_path / name / f"seed{seed}")[-1]["test_accuracy"] for seed in range(3)]
        means[name] = sum(last) / len(last)
    assert means["tuned"] >= means["scratch"] + 0.1, means
