"""Train a network whose blocks are steps of a numerical scheme: `lmjax train`.

python train.py --config configs/digits.py
python train.py --config configs/cifar10.py:lm_resnet56 --train.epochs 40 --seed 1
python train.py --config configs/imagenet.py:lm_resnet50 --data.dir path/to/imagenet
python train.py --config configs/digits.py --seeds 0 1 2
python train.py --config configs/digits.py --workdir runs/a --resume auto
python train.py --config configs/digits.py --evaluate runs/a
python train.py --config configs/digits.py --log tensorboard wandb --profile
"""

from lmjax.cli import train_command
from lmjax.training import program


def main(arguments: list[str] | None = None) -> int:
    """Train; returns the exit code."""
    return train_command(arguments, prog="train.py")


if __name__ == "__main__":
    program.end(main())
