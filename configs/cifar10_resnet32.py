"""ResNet-32 on CIFAR-10: 466,810 parameters, basic blocks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_resnet32.py

Published: 7.51% test error (He et al. 2016, post-activation), the baseline of Lu et al. 2018.
"""

from lmjax.recipes import cifar10

config = cifar10("resnet32", stepper="euler")
