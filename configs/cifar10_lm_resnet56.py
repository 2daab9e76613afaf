"""LM-ResNet-56 on CIFAR-10: 855,698 parameters, basic blocks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_lm_resnet56.py

Published: 6.31% test error (Lu et al. 2018, LM-ResNet-56).
"""

from lmjax.recipes import cifar10

config = cifar10("resnet56", stepper="lm")
