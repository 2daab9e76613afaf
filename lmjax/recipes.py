"""Training recipes as published. The learning rate drops at fractions of the run, and moves along with its length."""

import dataclasses

from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def _sgd(*milestones: float, nesterov: bool = False, **options) -> OptimizerConfig:
    """SGD with momentum 0.9; unless given, rate 0.1, divided by 10 at 1/2 and 3/4 of the run, and decay 1e-4."""
    fractions = ", ".join(map(repr, milestones or (1 / 2, 3 / 4)))
    return OptimizerConfig(
        name=f"sgd(momentum=0.9{', nesterov=True' * nesterov})", schedule=f"steps({fractions}, drop=0.1)", **options
    )


def lm(data: str, model: ModelConfig) -> Config:
    """LM-ResNet on CIFAR (Lu et al. 2018), and the ResNets beside it (He et al. 2016).

    Batch 128, SGD with momentum 0.9, learning rate 0.1, weight decay 1e-4, random crops after padding by 4 black
    pixels, random flips. CIFAR-10: 160 epochs, learning rate divided by 10 after 80 and 120. CIFAR-100: 300 epochs,
    divided by 10 after 150 and 225.
    """
    return Config(DataConfig(data), model, _sgd(), TrainConfig(epochs=160 if data == "cifar10" else 300))


def lm_released(data: str, model: ModelConfig) -> Config:
    """As `lm`, with what differs in the authors' code: crops after padding by 2 reflected pixels, and a decay of k.

    Their k is 1 - k here, and all parameters decay towards 0: so k does towards 1. The code has no recipe of its own.
    """
    return dataclasses.replace(
        lm(data, model),
        data=DataConfig(data, augment=("crop(2, padding=reflect)", "flip")),
        optimizer=_sgd(decay_coefficients=True, coefficient_target=1.0),
    )


def stochastic_depth(data: str, model: ModelConfig, *, nesterov: bool = False) -> Config:
    """As `lm`, for 500 epochs, divided after 250 and 375 (Lu et al. 2018; Huang et al. 2016 with Nesterov)."""
    return Config(DataConfig(data), model, _sgd(nesterov=nesterov), TrainConfig(epochs=500))


def resnext(data: str, model: ModelConfig, *, nesterov: bool, batch_size: int) -> Config:
    """ResNeXt-29 on CIFAR (Xie et al. 2017): as `lm` on CIFAR-100, with weight decay 5e-4."""
    sgd = _sgd(nesterov=nesterov, weight_decay=5e-4)
    return Config(DataConfig(data), model, sgd, TrainConfig(epochs=300, batch_size=batch_size))


def revnet(data: str, model: ModelConfig) -> Config:
    """RevNet on CIFAR (Gomez et al. 2017): 80,000 steps of 100 images, weight decay 2e-4."""
    sgd = _sgd(weight_decay=2e-4)
    return Config(DataConfig(data), model, sgd, TrainConfig(epochs=160, batch_size=100))


def fractalnet(data: str, model: ModelConfig) -> Config:
    """FractalNet on CIFAR (Larsson et al. 2017): 400 epochs of batch 100, learning rate 0.02.

    It is divided by 10 whenever half of the remaining epochs have passed. No weight decay is known to us.
    """
    sgd = _sgd(1 / 2, 3 / 4, 7 / 8, 15 / 16, learning_rate=0.02, weight_decay=0.0)
    return Config(DataConfig(data), model, sgd, TrainConfig(epochs=400, batch_size=100))


def imagenet(model: ModelConfig) -> Config:
    """ImageNet (He et al. 2016): batch 256, 90 epochs, learning rate 0.1 divided by 10 every 30, weight decay 1e-4.

    Crops of random size and shape, and flips. Other batch sizes scale the learning rate; larger ones want
    `--optimizer.warmup-epochs 5` (Goyal et al. 2017). The evaluation takes the middle of each image once.
    """
    sgd = _sgd(1 / 3, 2 / 3, reference_batch_size=256)
    return Config(DataConfig("photographs(224)"), model, sgd, TrainConfig(epochs=90, batch_size=256))
