"""ResNet-20 on CIFAR-10: 272,378 parameters, basic blocks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_resnet20.py

Published: 8.75% test error (He et al. 2016, post-activation), the baseline of Lu et al. 2018.
"""

from lmjax.recipes import cifar10

config = cifar10("resnet20", stepper="euler")
