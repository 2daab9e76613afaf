"""Handwritten digits in a minute: LM-ResNet-20 on scikit-learn's 8 x 8 images. Nothing to download.

python train.py --config configs/digits.py
python train.py --config configs/digits.py --model.stepper euler
"""

from lmjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig

config = Config(
    data=DataConfig(name="digits", augment=("crop(1)",)),  # a mirrored digit is another digit, or none
    model=ModelConfig(name="resnet20", stepper="lm"),
    optimizer=OptimizerConfig(learning_rate=0.1),
    train=TrainConfig(epochs=15, batch_size=64),
)
