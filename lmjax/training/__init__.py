"""Training: one compiled update, whatever the stepper."""

from lmjax.training.checkpoint import Checkpoints
from lmjax.training.optimizer import create_optimizer, learning_rate
from lmjax.training.placement import data_mesh
from lmjax.training.record import Record
from lmjax.training.step import Programs, TrainState
from lmjax.training.trainer import NonFiniteLoss, Trainer

__all__ = [
    "Checkpoints",
    "NonFiniteLoss",
    "Programs",
    "Record",
    "TrainState",
    "Trainer",
    "create_optimizer",
    "data_mesh",
    "learning_rate",
]
