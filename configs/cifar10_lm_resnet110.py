"""LM-ResNet-110 on CIFAR-10: 1,730,669 parameters, basic blocks, the recipe of the paper (160 epochs, batch 128).

    python train.py --config configs/cifar10_lm_resnet110.py

Published: 6.16% test error (Lu et al. 2018, LM-ResNet-110).
The paper lists 1.14M parameters for it; its layout has 1.73M.
"""

from lmjax.recipes import cifar10

config = cifar10("resnet110", stepper="lm")
