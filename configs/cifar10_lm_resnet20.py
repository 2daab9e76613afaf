"""LM-ResNet-20 on CIFAR-10: 272,384 parameters, basic blocks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_lm_resnet20.py

Published: 8.33% test error (Lu et al. 2018, LM-ResNet-20).
"""

from lmjax.recipes import cifar10

config = cifar10("resnet20", stepper="lm")
