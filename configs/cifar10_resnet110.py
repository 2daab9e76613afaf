"""ResNet-110 on CIFAR-10: 1,730,618 parameters, basic blocks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_resnet110.py

Published: 6.37% test error (He et al. 2016, pre-activation), the baseline of Lu et al. 2018.
"""

from lmjax.recipes import cifar10

config = cifar10("resnet110", stepper="euler")
