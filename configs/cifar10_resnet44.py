"""ResNet-44 on CIFAR-10: 661,242 parameters, basic blocks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_resnet44.py

Published: 7.17% test error (He et al. 2016, post-activation), the baseline of Lu et al. 2018.
"""

from lmjax.recipes import cifar10

config = cifar10("resnet44", stepper="euler")
