"""Handwritten digits on scikit-learn's 8 x 8 images: nothing to download.

python train.py --config configs/digits.py
python train.py --config configs/digits.py --model.stepper euler
python train.py --config configs/digits.py:vit --model.stepper lm

`config` is LM-ResNet-20, in less than a minute on two CPU cores. `convnext` and `vit` are small ones of these families,
in one to two minutes; their optimizer and augmentation were chosen on a fifth of the training images.
"""

from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = Config(
    data=DataConfig(name="digits", augment=("crop(1)",)),  # a mirrored digit is another digit, or none
    model=ModelConfig(name="resnet20", stepper="lm"),
    optimizer=OptimizerConfig(learning_rate=0.1),
    train=TrainConfig(epochs=15, batch_size=64),
)


def by_muon(network: str, *, epochs: int, warmup: float, augment: tuple[str, ...]) -> Config:
    optimizer = OptimizerConfig("muon", 0.005, schedule="cosine", warmup_epochs=warmup, weight_decay=0.05)
    return Config(DataConfig("digits", augment=augment), ModelConfig(network), optimizer, TrainConfig(epochs, 64))


rows = {
    "convnext": by_muon(
        "convnext((2, 2, 2), (16, 32, 64), patch=1)", epochs=15, warmup=1.0, augment=("crop(1)",)
    ),
    "vit": by_muon(
        "vit(width=48, depth=4, heads=3, patch=2, image=8)", epochs=80, warmup=5.0, augment=("crop(1)", "cutmix(1.0)")
    ),
}  # fmt: skip
