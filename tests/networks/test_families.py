"""The networks besides the CIFAR ResNets: sizes, shapes, sharing, boundaries, randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lmjax import InputError, networks, steppers
from lmjax.config import ModelConfig
from lmjax.networks import Block, Options, PoolAndPad, Symmetric, basic
from lmjax.networks.stage import Entry
from lmjax.steppers import StepInfo

IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


def count(name, stepper=None, **options):
    stepper = None if stepper is None else steppers.get(stepper)
    model = nnx.eval_shape(lambda: networks.create(name, stepper=stepper, rngs=nnx.Rngs(0), **options))
    return networks.parameter_count(model)


@pytest.mark.versions
@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
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
        # Gomez et al. 2017: 0.46, 1.73 and 1.75 million.
        ("revnet38", {}, 464_922),
        ("revnet110", {}, 1_729_226),
        ("revnet164", {}, 1_748_810),
        # Shortcuts without parameters, as in the first ResNets: 0.27 million.
        ("resnet20", {"placement": "post", "shortcut": "pad"}, 269_722),
        ("resnet26", {"width": 10}, 36_480_186),  # WRN-28-10 (36.5 million), which counts its projections as layers
    ],
)
def test_parameters(name, options, parameters):
    assert count(name, **options) == parameters


def test_sharing_saves_what_it_says():
    own, convolutions, everything = (count("resnet20", "poly(2)", sharing=s) for s in ("none", "convolutions", "all"))
    euler = count("resnet20", "euler")
    assert everything == euler
    # Batch normalization, two scales and two biases, of a second evaluation in two blocks of each stage.
    assert convolutions - euler == sum(2 * 4 * c for c in (16, 32, 64))
    assert own - euler == sum(2 * (2 * 9 * c * c + 4 * c) for c in (16, 32, 64))


def small(stepper=None, name="resnet20", **options):
    stepper = None if stepper is None else steppers.get(stepper)
    return networks.create(name, stepper=stepper, width=0.25, rngs=nnx.Rngs(0), **options)


def gradient_and_statistics(model, key=None, images=IMAGES):
    graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, statistics = nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)

    def loss(params):
        model = nnx.merge(graph, params, statistics)
        logits = model(images, key)
        return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[:, 0]), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return jax.jit(jax.grad(loss, has_aux=True))(params)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        pytest.param("revnet38", {}, 8, marks=pytest.mark.slow),
        pytest.param("revnet164", {}, 8, marks=pytest.mark.slow),
        pytest.param("resnext29_8x64d", {"placement": "post"}, 8, marks=pytest.mark.slow),
        pytest.param("resnet18", {}, 32, marks=pytest.mark.slow),
        ("resnet14", {"stepper": "lm", "placement": "post", "shortcut": "pad"}, 8),
        ("resnet14", {"stepper": "dense"}, 8),
        pytest.param("resnet20", {"stepper": "shake_shake(lm)", "boundary": "step"}, 8, marks=pytest.mark.slow),
        ("resnet14", {"stepper": "midpoint", "boundary": "step", "sharing": "convolutions"}, 8),
    ],
    ids=str,
)
def test_every_parameter_takes_part(name, options, size):
    model = small(name=name, **options)
    images = jax.random.normal(jax.random.key(1), (2, size, size, 3))
    gradient, _ = gradient_and_statistics(model, jax.random.key(3), images)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))
    silent = [p for p, x in jax.tree_util.tree_leaves_with_path(gradient) if not jnp.abs(x).max() > 0]
    assert not [p for p in silent if "coefficients" not in jax.tree_util.keystr(p)]


@pytest.mark.versions
def test_shared_convolutions_have_statistics_for_each_evaluation():
    block = Block(Options("poly(2)", branch=basic(), sharing="convolutions"), 4, rngs=nnx.Rngs(0))
    first, second = block.branches
    assert first.conv1 is second.conv1
    assert first.act1.norm is not second.act1.norm
    u = jax.random.normal(jax.random.key(0), (5, 6, 6, 4))
    f = nnx.clone(first)(u)
    block(u, ())
    for branch, x in ((first, u), (second, f)):
        np.testing.assert_allclose(branch.act1.norm.mean[...], 0.1 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_a_shared_branch_takes_the_mean_of_its_evaluations():
    block = Block(Options("poly(2)", branch=basic(), sharing="all"), 4, rngs=nnx.Rngs(0))
    u = jax.random.normal(jax.random.key(0), (5, 6, 6, 4))
    f = nnx.clone(block.branches[0])(u)
    block(u, ())
    (branch,) = block.branches
    mean = (u.mean((0, 1, 2)) + f.mean((0, 1, 2))) / 2
    np.testing.assert_allclose(branch.act1.norm.mean[...], 0.1 * mean, rtol=1e-4, atol=1e-6)


def entry_of(stepper):
    return Entry(Options(stepper, branch="basic", shortcut="projection"), 4, 8, stride=2, rngs=nnx.Rngs(0))


def test_a_branch_that_is_evaluated_repeatedly_cannot_change_the_shape():
    with pytest.raises(InputError, match="backward_euler evaluates a branch repeatedly"):
        entry_of(steppers.backward_euler())


def test_what_a_branch_reads_is_as_declared():
    def late(fs, u, history, coef):
        return steppers.combine((1, u), (1, fs[0](2 * u))), history

    u = jnp.ones((1, 4, 4, 4))
    with pytest.raises(InputError, match="late: branch 0 is not given the state that `reads` says"):
        entry_of(steppers.Stepper("late", late))(u, (), None)
    after, _, before = entry_of(steppers.Stepper("late", late, reads=()))(u, (), None)
    assert after.shape == before.shape == (1, 2, 2, 8)


def test_revnet_is_coupled_across_the_boundary():
    """Its first step of a stage, written out: x+ = P(x) + F(y), y+ = P(y) + G(x+)."""
    model = small(name="revnet38")
    entry = model.stages[1].entry
    x, y = jnp.split(jax.random.normal(jax.random.key(0), (2, 8, 8, 8)), 2, axis=-1)
    F, G = (nnx.clone(branch) for branch in entry.branches)

    def pool_and_pad(x):
        pooled = x.reshape(2, 4, 2, 4, 2, 4).mean((2, 4))
        return jnp.pad(pooled, ((0, 0), (0, 0), (0, 0), (2, 2)))

    x_next = pool_and_pad(x) + F(y)
    y_next = pool_and_pad(y) + G(x_next)
    (found_x, found_y), _, _ = entry((x, y), None, None)
    np.testing.assert_allclose(found_x, x_next, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found_y, y_next, rtol=1e-5, atol=1e-5)


def test_symmetric_branch_is_a_gradient():
    """With the normalization fixed, its Jacobian is symmetric: that of -grad of sum(relu(..)^2) / 2, and so on."""
    branch = Symmetric(2, 2, rngs=nnx.Rngs(0))
    branch.act.norm.scale[...] = jnp.ones(2)
    branch.eval()
    u = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
    jacobian = jax.jacobian(branch)(u).reshape(u.size, u.size)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-5)
    assert np.linalg.eigvalsh(jacobian).max() < 1e-5  # and it pulls back
    assert np.abs(jacobian).max() > 0.1


def test_post_activation_rectifies_every_state():
    model = small("lm", placement="post")
    u, _ = model.stages[0](model.stem(IMAGES))
    assert u.min() == 0
    assert model.activation is None


def test_averaging_and_padding():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    found = PoolAndPad(1, 4, stride=2)(x)
    assert found.shape == (1, 2, 2, 4)
    np.testing.assert_allclose(found[0, :, :, 1], [[2.5, 4.5], [10.5, 12.5]])
    assert jnp.abs(found[..., jnp.array([0, 2, 3])]).max() == 0


def test_width_multiplies_the_stages_and_only_narrows_the_stem():
    wide, narrow = (
        nnx.eval_shape(lambda w=w: networks.create("resnet20", width=w, rngs=nnx.Rngs(0))) for w in (4, 0.5)
    )
    assert wide.stem.conv.kernel.shape[-1] == 16
    assert wide.head.kernel.shape == (256, 10)
    assert narrow.stem.conv.kernel.shape[-1] == 8
    assert narrow.head.kernel.shape == (32, 10)


def test_zero_stability_of_learned_coefficients():
    model = small("lm(-0.1, 0.0)")
    margins = networks.zero_stability(model)
    k = networks.coefficients(model)
    for stage in ("stage1", "stage2", "stage3"):
        np.testing.assert_allclose(margins[stage], 1 - np.abs(k[stage]), rtol=1e-6)
    assert networks.zero_stability(small("dense")) == {}  # its polynomial is not looked at
    assert networks.zero_stability(small("learned_multistep(3)"))["stage1"].shape == (2,)
    assert networks.zero_stability(small("lm(per_channel=True)"))["stage2"].shape == (2, 8)
    assert networks.zero_stability(small("noise(lm, 0.1)"))["stage1"].shape == (2,)


@pytest.mark.versions
def test_random_networks_are_functions_of_their_key():
    model = small("stochastic_depth(lm, 0.3)")
    graph, state = nnx.split(model)

    def logits(key):
        return jax.jit(lambda state, key: nnx.merge(graph, state)(IMAGES, key))(nnx.to_pure_dict(state), key)

    first, again, other = logits(jax.random.key(1)), logits(jax.random.key(1)), logits(jax.random.key(2))
    assert (first == again).all()
    assert jnp.abs(first - other).max() > 1e-3
    assert model.random
    with pytest.raises(InputError, match=r"draws random numbers in training: call model\(images, key\)"):
        model(IMAGES)
    model.eval()
    assert (model(IMAGES) == model(IMAGES, jax.random.key(5))).all()
    assert not small("lm").random


def test_each_step_draws_for_itself_and_knows_its_place():
    """The infos that the steps of a network are given: all steps once, in order, with keys of their own."""
    seen = []

    def step(fs, u, history, coef, info):
        seen.append((int(info.index), info.count, jax.random.key_data(info.key).tolist()))
        return steppers.combine((1, u), (1, fs[0](u))), history

    recorder = steppers.Stepper("recorder", step, informed=True, random=True, over=lambda depth: (recorder, recorder))
    model = networks.create("resnet20", stepper=recorder, width=0.25, rngs=nnx.Rngs(0))
    with jax.disable_jit():
        model(IMAGES[:, :4, :4], jax.random.key(9))
    expected = [(n, 9, jax.random.key_data(jax.random.fold_in(jax.random.key(9), n)).tolist()) for n in range(9)]
    assert seen == expected
    assert StepInfo(None, 8, 9).depth == 1


@pytest.mark.versions
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("revnet39", {}, "unknown network 'revnet39': did you mean 'revnet38'"),
        ("resnext29", {}, r"network 'resnext\(29\)': missing a required argument: 'groups'; resnext takes"),
        ("resnext42_32x4d", {}, "unknown network 'resnext42_32x4d'"),
        ("fractalnet30", {}, "unknown network 'fractalnet30'"),
        ("fractalnet9x2", {}, "has 1 to 5 blocks"),
        ("fractalnet3x0", {}, "columns must be an integer of at least 1, got 0"),
        ("fractalnet20", {"stepper": steppers.lm()}, "is a scheme of its own, and takes no stepper"),
        ("fractalnet20", {"memory": "remat"}, "is a scheme of its own, and takes no memory"),
        ("resnet20", {"branch": "cube"}, "unknown branch 'cube'"),
        ("resnext29_8x64d", {"branch": "bottleneck"}, "has branches of its own: leave out branch"),
        ("resnext29_0x64d", {}, "has two numbers from 1, got 0x64d"),
        ("revnet38", {"stepper": steppers.lm()}, "made for a coupled scheme such as reversible, not for lm"),
        ("resnet20", {"boundary": "step"}, "euler has no history and one branch"),
        ("resnet20", {"stepper": steppers.lm(), "sharing": "all"}, "sharing all: lm has one branch a step"),
        ("resnet20", {"stepper": steppers.dense(), "boundary": "step"}, "dense remembers a whole stage"),
        ("resnet20", {"width": 0}, "width positive"),
        ("revnet38", {"width": 0.03}, "splits the channels into 2 equal parts, and 1 does not divide: choose a width"),
        ("resnext29_8x64d", {"width": 0.01}, "channels do not divide into 8 groups"),
        ("resnet20", {"branch": "symmetric", "placement": "post"}, "keeps the shape, and has its activation inside"),
        (
            "resnet20",
            {"branch": "symmetric", "sharing": "convolutions", "stepper": steppers.poly()},
            "a symmetric branch has none to share",
        ),
        (
            "resnet20",
            {"stepper": steppers.backward_euler(), "boundary": "step"},
            "backward_euler has no history and one branch, so that a first step is plain",
        ),
    ],
)
def test_what_is_wrong_is_named(name, options, message):
    with pytest.raises(InputError, match=message):
        networks.create(name, rngs=nnx.Rngs(0), **options)


def test_dense_multistep_goes_through_all_states_of_a_stage():
    """As its authors' code: the projected input is the first of the states."""
    model = small("dense", name="resnet26")
    stage = model.stages[1]
    u = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    model.eval()
    found, _ = stage(u)
    v = stage.entry.shortcuts[0](u)
    states = [v, v + stage.entry.branches[0](u)]
    graph, variables = nnx.split(stage.steps.item)
    variables = nnx.to_pure_dict(variables)
    for n in range(3):
        block = nnx.merge(graph, jax.tree.map(lambda x, n=n: x[n], variables))
        k = np.asarray(block.coefficients[0][...])[: len(states)]
        mixed = sum(w * x for w, x in zip(k / k.sum(), states[::-1], strict=True))
        states.append(mixed + block.branches[0](states[-1]))
    np.testing.assert_allclose(found, states[-1], rtol=1e-4, atol=1e-5)
    assert variables["coefficients"][0].shape == (3, 4)


def test_residual_scaling_of_polynet():
    """1 + s (F + F^2), with s falling from 1 to 0.5 over five steps."""
    scheme = steppers.poly(2, scale=0.5)
    for n, scale in enumerate((1, 0.875, 0.75, 0.625, 0.5)):
        u, _ = scheme.step((lambda u: 3 * u,) * 2, jnp.float32(1.0), (), None, StepInfo(None, n, 5))
        assert u == 1 + scale * (3 + 9)
    assert not scheme.random


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("resnet56", "resnet56"),
        ("resnet( 56 )", "resnet56"),
        ("resnext(29, 8, 64)", "resnext29_8x64d"),
        ("fractalnet(3, 4)", "fractalnet3x4"),
        ("vit(depth=3,patch=2)", "vit(depth=3, patch=2)"),
        ("convnext-atto", "convnext_atto"),
    ],
)
def test_one_way_to_write_a_network(text, form):
    assert networks.normalize(text) == networks.normalize(form) == form
    assert type(networks.get(text)) is type(networks.get(form))
    assert ModelConfig(text).name == form


def test_branches_and_shortcuts_by_name():
    grouped = networks.create("resnet14", branch="bottleneck(inner=1, groups=2)", shortcut="pad", rngs=nnx.Rngs(0))
    assert grouped.stages[1].entry.branches[0].conv2.kernel.shape == (3, 3, 16, 32)
    assert isinstance(grouped.stages[1].entry.shortcuts[0], PoolAndPad)


def test_a_family_and_a_branch_of_ones_own(monkeypatch):
    for registry in (networks.registry, networks.branches):
        monkeypatch.setattr(registry, "_makers", dict(registry._makers))

    class Half(nnx.Module):
        def __init__(self, cin, cout, *, stride=1, options, rngs):
            self.linear = nnx.Linear(cin, cout, rngs=rngs)

        def __call__(self, u):
            return self.linear(u) / 2

    @networks.branches.register
    def half():
        return Half

    @networks.register
    def plain(depth: int):
        return networks.Architecture((depth,), (4,))

    model = networks.create("plain(3)", branch="half", stepper="lm", rngs=nnx.Rngs(0))
    assert isinstance(model.stages[0].entry.branches[0], Half)
    assert model(IMAGES).shape == (4, 10)
    assert networks.create("plain3", rngs=nnx.Rngs(0))(IMAGES).shape == (4, 10)
