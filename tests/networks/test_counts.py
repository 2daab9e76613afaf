"""Parameter counts, exactly, without allocating anything."""

import pytest
from flax import nnx

from lmjax import networks, steppers

pytestmark = pytest.mark.versions


def count(name, stepper, **options):
    return networks.parameter_count(
        nnx.eval_shape(lambda: networks.create(name, stepper=stepper, rngs=nnx.Rngs(0), **options))
    )


@pytest.mark.parametrize(
    ("name", "euler", "lm"),
    [
        ("resnet20", 272_378, 272_384),
        ("resnet32", 466_810, 466_822),
        ("resnet44", 661_242, 661_260),
        ("resnet56", 855_674, 855_698),
        ("resnet110", 1_730_618, 1_730_669),
        # The published code's 1,703,760 less its unused parameters: 32 of the stem's batch normalization and 3 k.
        ("resnet164", 1_703_674, 1_703_725),
    ],
)
def test_parameters(name, euler, lm):
    assert count(name, steppers.euler()) == euler
    assert count(name, steppers.lm()) == lm


@pytest.mark.parametrize(("name", "extra"), [("resnet20", 5_850), ("resnet164", 23_130)])
def test_a_hundred_classes(name, extra):
    assert count(name, steppers.euler(), classes=100) - count(name, steppers.euler()) == extra


def test_very_deep_networks_are_cheap_to_describe():
    assert count("resnet1202", steppers.lm()) == 19_424_527  # 3 * 199 of them are k
    assert count("resnet1001", steppers.lm()) == 10_328_452


def test_projected_history_costs_a_second_set_of_projections():
    plain, projected = (count("resnet20", steppers.lm(), boundary=b) for b in ("plain", "step"))
    projections = (16 * 32 + 2 * 16) + (32 * 64 + 2 * 32)  # conv1x1 and batch normalization, at two boundaries
    assert projected - plain == projections + 2  # and the two boundary steps have a k each


def test_per_channel_coefficients():
    extra = count("resnet20", steppers.lm(per_channel=True)) - count("resnet20", steppers.euler())
    assert extra == 2 * (16 + 32 + 64)


def test_a_branch_for_each_evaluation():
    euler, rk4 = count("resnet20", steppers.euler()), count("resnet20", steppers.rk4())
    blocks = [2 * 9 * c * c + 2 * 2 * c for c in (16, 32, 64)]
    assert rk4 - euler == 3 * 2 * sum(blocks)  # three more branches in two blocks a stage


def test_the_number_of_arrays_does_not_grow_with_depth():
    def arrays(name):
        model = nnx.eval_shape(lambda: networks.create(name, stepper=steppers.lm(), rngs=nnx.Rngs(0)))
        return len(nnx.to_flat_state(nnx.state(model)))

    assert arrays("resnet20") == arrays("resnet110") == arrays("resnet1202")
