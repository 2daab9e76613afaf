"""ResNet-164 on CIFAR-10: 1,703,674 parameters, bottlenecks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_resnet164.py

Published: 5.46% test error (He et al. 2016, pre-activation), the baseline of Lu et al. 2018.
"""

from lmjax.recipes import cifar10

config = cifar10("resnet164", stepper="euler")
