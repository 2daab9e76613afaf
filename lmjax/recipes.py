"""Training recipes as published. The learning rate drops at fractions of the run, and moves along with its length."""

import dataclasses

from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

_SGD = OptimizerConfig()  # learning rate 0.1, divided by 10 at 1/2 and 3/4 of the run; momentum 0.9, decay 1e-4


def lm(data: str, model: ModelConfig) -> Config:
    """LM-ResNet on CIFAR (Lu et al. 2018), and the ResNets beside it (He et al. 2016).

    Batch 128, SGD with momentum 0.9, learning rate 0.1, weight decay 1e-4, random crops after padding by 4 black
    pixels, random flips. CIFAR-10: 160 epochs, learning rate divided by 10 after 80 and 120. CIFAR-100: 300, 150 and
    225.
    """
    return Config(DataConfig(data), model, _SGD, TrainConfig(epochs=160 if data == "cifar10" else 300))


def stochastic_depth(data: str, model: ModelConfig, *, nesterov: bool = False) -> Config:
    """As `lm`, for 500 epochs, divided after 250 and 375 (Lu et al. 2018; Huang et al. 2016 with Nesterov)."""
    return Config(DataConfig(data), model, dataclasses.replace(_SGD, nesterov=nesterov), TrainConfig(epochs=500))


def resnext(data: str, model: ModelConfig, *, nesterov: bool, batch_size: int) -> Config:
    """ResNeXt-29 on CIFAR (Xie et al. 2017): as `lm` on CIFAR-100, with weight decay 5e-4."""
    sgd = dataclasses.replace(_SGD, weight_decay=5e-4, nesterov=nesterov)
    return Config(DataConfig(data), model, sgd, TrainConfig(epochs=300, batch_size=batch_size))


def revnet(data: str, model: ModelConfig) -> Config:
    """RevNet on CIFAR (Gomez et al. 2017): 80,000 steps of 100 images, weight decay 2e-4."""
    sgd = dataclasses.replace(_SGD, weight_decay=2e-4)
    return Config(DataConfig(data), model, sgd, TrainConfig(epochs=160, batch_size=100))


def fractalnet(data: str, model: ModelConfig) -> Config:
    """FractalNet on CIFAR (Larsson et al. 2017): 400 epochs of batch 100, learning rate 0.02.

    It is divided by 10 whenever half of the remaining epochs have passed. No weight decay is known to us.
    """
    sgd = dataclasses.replace(_SGD, learning_rate=0.02, milestones=(1 / 2, 3 / 4, 7 / 8, 15 / 16), weight_decay=0.0)
    return Config(DataConfig(data), model, sgd, TrainConfig(epochs=400, batch_size=100))


def imagenet(model: ModelConfig) -> Config:
    """ImageNet (He et al. 2016): batch 256, 90 epochs, learning rate 0.1 divided by 10 every 30, weight decay 1e-4.

    Crops of random size and shape, and flips. Other batch sizes scale the learning rate; larger ones want
    `--optimizer.warmup-epochs 5` (Goyal et al. 2017). The evaluation takes the middle of each image once.
    """
    sgd = dataclasses.replace(_SGD, milestones=(1 / 3, 2 / 3), reference_batch_size=256)
    data = DataConfig("imagenet", size=224)
    return Config(data, model, sgd, TrainConfig(epochs=90, batch_size=256))
