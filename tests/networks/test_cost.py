"""What a network costs, against counting by hand."""

import dataclasses

import pytest
from flax import nnx

from lmjax import networks
from lmjax.config import ModelConfig


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("unroll", [True, False])
def test_convolutions_of_resnet20(width, unroll):
    model = dataclasses.replace(ModelConfig("resnet20", width=width), unroll=unroll)
    network = nnx.eval_shape(lambda: model.build(classes=10, cin=3, rngs=nnx.Rngs(0)))
    stem, (large, middle, small) = 16 * 32 * 32, [width * 16 * 32 * 32 // 2**i for i in range(3)]
    shortcuts = middle + small + (large if width > 1 else 0)  # where the shape changes
    written = stem + 6 * (large + middle + small) + shortcuts
    assert networks.convolutions(network, (32, 32, 3)) == (19 + 2 + (width > 1), written)


def test_convolutions_count_every_evaluation_of_a_shared_branch():
    network = ModelConfig("resnet14", "rk4", sharing="all").outline(classes=10, cin=3)
    # The stem, two shortcuts, and in each stage a plain step and one of four evaluations, of two convolutions each.
    assert networks.convolutions(network, (32, 32, 3))[0] == 1 + 2 + 3 * (1 + 4) * 2


def test_an_outline_allocates_nothing():
    network = ModelConfig("resnet1202").outline(classes=10, cin=3)
    assert networks.parameter_count(network) == pytest.approx(19.4e6, rel=0.01)
    assert all(not hasattr(x, "devices") for x in nnx.to_pure_dict(nnx.state(network, nnx.Param))["head"].values())
