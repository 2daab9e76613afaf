"""ImageNet: every published row.

    python train.py --config configs/imagenet.py:lm_resnet50 --data.dir path/to/images --model.dtype bfloat16

`python -m lmjax.published imagenet` lists the rows with their parameters, cost and published single-crop errors, which
are quoted from memory and have not been checked against the papers again. The networks and the optimiser are those of
the publications. The images are not yet: a folder train/<class>/, val/<class>/ is read into memory at 224 pixels and
augmented by flips, which does for a part of ImageNet, or any other set of photographs that fits.
"""

from lmjax.published import IMAGENET as rows

__all__ = ["rows"]
