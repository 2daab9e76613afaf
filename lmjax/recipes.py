"""Training recipes as published, from which the files in configs/ are made."""

from lmjax.config import Config, DataConfig, ModelConfig


def cifar10(network: str, stepper: str) -> Config:
    """The CIFAR-10 recipe of LM-ResNet (Lu et al. 2018) and of ResNet (He et al. 2016).

    Batch 128, SGD with momentum 0.9, learning rate 0.1, divided by 10 after 80 and 120 of 160 epochs, weight decay
    1e-4, random crops after padding by 4 black pixels, random flips. Those are the defaults of `Config`.

    Args:
        network: e.g. "resnet56".
        stepper: e.g. "lm" or "euler".
    """
    return Config(data=DataConfig(name="cifar10"), model=ModelConfig(name=network, stepper=stepper))
