"""ImageNet: every published row.

    python train.py --config configs/imagenet.py:lm_resnet50 --data.dir path/to/imagenet --model.dtype bfloat16

`--data.dir` is a folder train/<wnid>/*.JPEG, val/<wnid>/*.JPEG, or what tensorflow-datasets has prepared
(`lmjax prepare imagenet2012` does that from the official archives). Other sets of photographs in one of these
layouts (Imagenette, for example) train by the same command; the number of classes is theirs.

`lmjax published imagenet` lists the rows with their parameters, cost and published single-crop errors, which
are quoted from memory and have not been checked against the papers again. None has been reproduced here yet.

A larger batch scales the learning rate: --train.batch-size 1024 --optimizer.warmup-epochs 5. Other options of later
recipes: --optimizer.schedule cosine, --train.label-smoothing 0.1, --train.average 0.9999, --model.zero-init,
--data.augment "crop_area(0.25)" flip.
"""

from lmjax.results.published import IMAGENET as rows

__all__ = ["rows"]
