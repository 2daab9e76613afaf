"""ResNet-56 on CIFAR-10: 855,674 parameters, basic blocks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_resnet56.py

Published: 6.97% test error (He et al. 2016, post-activation), the baseline of Lu et al. 2018.
"""

from lmjax.recipes import cifar10

config = cifar10("resnet56", stepper="euler")
