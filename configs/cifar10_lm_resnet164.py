"""LM-ResNet-164 on CIFAR-10: 1,703,725 parameters, bottlenecks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_lm_resnet164.py

Published: 5.27% test error (Lu et al. 2018, LM-ResNet-164).
"""

from lmjax.recipes import cifar10

config = cifar10("resnet164", stepper="lm")
