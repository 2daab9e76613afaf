"""What can be read off the compiled programs, exactly, without an accelerator: types, layouts, sizes, memory.

That the stepper costs nothing is in tests/networks/test_network.py and tests/test_benchmarks.py; that the state is
donated and every program compiled once, in tests/training/test_trainer.py.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import data
from lmjax.config import Config, DataConfig, ModelConfig, TrainConfig
from lmjax.training import Trainer
from lmjax.training.optimizer import create_optimizer
from lmjax.training.state import initialize
from tests.devices import ONE
from tests.networks.small import backward, outline, parts
from tests.parameters import few, slow

BATCH = 16


@pytest.fixture(scope="module")
def images():
    digits = data.load("digits")
    return dataclasses.replace(digits, train=data.Split(digits.train.images[:BATCH], digits.train.labels[:BATCH]))


def lowered(images, platform, **model):
    """The program of a training step, as it is given to XLA for a platform."""
    config = Config(
        data=DataConfig(augment=("crop(1)", "flip")), model=ModelConfig(**{"name": "resnet14", "width": 0.25, **model}),
        train=TrainConfig(batch_size=BATCH),
    )  # fmt: skip
    trainer = Trainer(config, images, ONE)
    step = jax.jit(trainer.compiled.functions.train, static_argnames="steps", donate_argnums=0)
    traced = step.trace(trainer.state, np.uint32(0), trainer.feed.example, steps=1)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.versions
@pytest.mark.parametrize("platform", few(["cuda", "tpu"], ["tpu"]))
def test_bfloat16_convolutions_and_no_transposed_feature_map_on_accelerators(images, platform):
    program = lowered(images, platform, stepper="lm", dtype="bfloat16")
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) > 25  # the blocks of a stage share functions
    for line in convolutions:
        types = re.search(r": \((.*)\) -> (.*?)(?: loc.*)?$", line)
        assert "f32" not in types[0], line
        assert types[0].count("bf16") == 3
    assert "f64" not in program
    assert not re.findall(rf"stablehlo.transpose.*-> tensor<{BATCH}x\d+x\d+x(?!1x)\d+x", program)


def test_a_loop_over_the_blocks_is_the_same_program_at_any_depth(images):
    lines = [len(lowered(images, "cuda", name=f"resnet{n}", unroll=False).splitlines()) for n in (20, 26)]
    assert lines[0] == lines[1]


def test_the_optimizer_is_as_many_operations_at_any_depth():
    """Variables of a stage are stacked, so that there are no more arrays to update in a deeper network."""
    counts = []
    for depth in (14, 20):
        config = Config(
            model=ModelConfig(name=f"resnet{depth}", stepper="lm", width=0.25), train=TrainConfig(batch_size=BATCH)
        )
        optimizer = create_optimizer(config.optimizer, lambda step: 0.1)
        _, state = initialize(config, 10, 1, None, optimizer)
        program = jax.make_jaxpr(optimizer.update)(state.params, state.optimizer, state.params, step=0)
        counts.append((len(jax.tree.leaves(state.params)), len(program.eqns)))
    assert counts[0] == counts[1]


def gradient(name, stepper, **options):
    """The compiled gradient of a network for CIFAR, which is never run."""
    model = outline(stepper, name, **options)
    _, params, statistics = parts(model)
    images = jax.ShapeDtypeStruct((BATCH, 32, 32, 3), jnp.float32)
    return jax.jit(lambda *arguments: backward(model)(*arguments)).lower(params, statistics, None, images).compile()


@pytest.mark.slow
def test_the_second_step_of_lm_is_nearly_free():
    """Bytes that a gradient moves, by the compiler's count: one feature map more a step, and its part of dk."""
    costs = [gradient("resnet20", stepper).cost_analysis() for stepper in ("lm", "euler")]
    costs = [cost[0] if isinstance(cost, list) else cost for cost in costs]
    assert 1 < costs[0]["bytes accessed"] / costs[1]["bytes accessed"] <= 1.15
    assert 1 < costs[0]["flops"] / costs[1]["flops"] <= 1.01


@pytest.mark.parametrize(
    ("memory", "stepper", "least", "most"),
    # In feature maps of the block. What is stored: both convolutions' inputs and outputs, the state, and on a CPU, that
    # computes nothing again, the difference that the gradient of k sums over. What remat keeps: the states, of which LM
    # has two. XLA:CPU's scheduler, which favors concurrency, adds to both.
    [
        ("stored", "lm", 4, 7.5),
        slow("remat", "lm", 1.5, 2.2),
        slow("remat", "euler", 0.7, 1.3),
        ("reversible", "leapfrog", 0, 0.05),
        slow("reversible", "momentum", 0, 0.05),
        slow("reversible", "reversible", 0, 0.05),
    ],
)
def test_memory_of_a_block(memory, stepper, least, most):
    bytes_of = [
        gradient(f"resnet{6 * n + 2}", stepper, memory=memory).memory_analysis().temp_size_in_bytes for n in (3, 5)
    ]
    feature_maps = 4 * BATCH * (32 * 32 * 16 + 16 * 16 * 32 + 8 * 8 * 64)
    assert least <= (bytes_of[1] - bytes_of[0]) / (2 * feature_maps) <= most
