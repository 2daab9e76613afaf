"""Train a network whose blocks are steps of a numerical scheme: `lmjax train`.

python train.py --config configs/digits.py
python train.py --config configs/cifar10.py:lm_resnet56 --train.epochs 40 --seed 1
python train.py --config configs/imagenet.py:lm_resnet50 --data.dir path/to/imagenet
python train.py --config configs/digits.py --seeds 0 1 2
python train.py --config configs/digits.py --workdir runs/a --resume auto
python train.py --evaluate runs/a
python train.py --config configs/digits.py --log tensorboard wandb --profile
"""

from lmjax import cli
from lmjax.cli.train import Train


def main(arguments: list[str] | None = None) -> int:
    """Train; returns the exit code."""
    return cli.main(arguments, command=Train, prog="train.py")


if __name__ == "__main__":
    cli.end(main())
