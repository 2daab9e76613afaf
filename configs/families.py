"""Every family of networks, one epoch each on the digits: does each one run, and learn?

    python -m benchmarks.families
    python train.py --config configs/families.py:revnet

One epoch is no comparison of the families; it shows that each learns at all. Whatever has a scheme of its own stands on
the skeleton of ResNet-20.
"""

from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def digits(name: str = "resnet20", stepper: str | None = None, *, learning_rate: float = 0.05, **model) -> Config:
    return Config(
        data=DataConfig(name="digits", augment=("crop(1)",)),
        model=ModelConfig(name, stepper, **model),
        optimizer=OptimizerConfig(learning_rate=learning_rate, schedule="constant"),
        train=TrainConfig(epochs=1, batch_size=16),
    )


rows = {
    "resnet": digits(stepper="euler"),
    "lm_resnet": digits(stepper="lm"),
    "lm_resnet_per_channel": digits(stepper="lm(per_channel=True)"),
    "lm_resnet_projected_history": digits(stepper="lm", boundary="step"),
    "lm_resnet_fixed_k": digits(stepper="lm(-0.5, -0.5)"),
    "dense_multistep": digits(stepper="dense"),
    "learned_multistep": digits(stepper="learned_multistep(3)"),
    "midpoint": digits(stepper="midpoint"),
    "heun": digits(stepper="heun"),
    "rk4_shared": digits(stepper="rk4", sharing="convolutions"),
    "poly2": digits(stepper="poly(2)", sharing="convolutions", learning_rate=0.01),
    "mpoly2": digits(stepper="poly(2)"),
    "polynet": digits(stepper="way(2, drop=0.25, scale=0.7)"),
    "fractal_stepper": digits(stepper="fractal(2)"),
    "fractalnet": digits("fractalnet2x3", width=0.25),
    "revnet": digits("revnet38", memory="reversible"),
    "momentum": digits(stepper="momentum", memory="reversible"),
    "leapfrog": digits(stepper="leapfrog", memory="reversible", learning_rate=0.01),
    "hamiltonian": digits(stepper="hamiltonian", branch="symmetric", memory="reversible"),
    "resnext": digits("resnext29_8x64d", width=0.0625),
    "lm_resnext": digits("resnext29_8x64d", "lm", width=0.0625, boundary="step"),
    "wide": digits("resnet14", "lm", width=2),
    "stochastic_depth": digits(stepper="stochastic_depth(lm, 0.8)"),
    "shake_shake": digits(stepper="shake_shake(lm)"),
    "noise": digits(stepper="noise(lm, 0.01)"),
}
