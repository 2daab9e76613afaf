"""LM-ResNet-32 on CIFAR-10: 466,822 parameters, basic blocks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_lm_resnet32.py

Published: 7.18% test error (Lu et al. 2018, LM-ResNet-32).
"""

from lmjax.recipes import cifar10

config = cifar10("resnet32", stepper="lm")
