"""CIFAR-100: every published row, from the recipe of its paper.

    python train.py --config configs/cifar100.py:lm_resnet110
    python train.py --config configs/cifar100.py:lm_resnext29_8x64d --model.dtype bfloat16

`lmjax published cifar100` lists the rows with their parameters, cost and published errors. Those of Lu et
al. (2018) on CIFAR-100 are quoted from memory and have not been checked against the paper again. The ResNeXts need an
accelerator.
"""

from lmjax.results.published import CIFAR100 as rows

__all__ = ["rows"]
