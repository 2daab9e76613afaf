"""LM-ResNet-44 on CIFAR-10: 661,260 parameters, basic blocks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_lm_resnet44.py

Published: 6.66% test error (Lu et al. 2018, LM-ResNet-44).
"""

from lmjax.recipes import cifar10

config = cifar10("resnet44", stepper="lm")
