"""CIFAR-10: every published row, from the recipe of its paper.

    python train.py --config configs/cifar10.py:lm_resnet56
    python train.py --config configs/cifar10.py:resnet56 --train.epochs 40 --seed 1

`resnet20` to `resnet164` are the pre-activated ResNets that LM-ResNet is compared with, `resnet20_post` to
`resnet110_post` those first published (He et al. 2016a); `_sd` is stochastic depth. `lmjax published cifar10`
lists the rows with their parameters, cost and published errors. The 160 epochs of `lm_resnet20` take ten hours on two
CPU cores; the deeper ones want an accelerator.
"""

from lmjax.results.published import CIFAR10 as rows

__all__ = ["rows"]
