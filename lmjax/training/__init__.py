"""Training: one compiled update, whatever the stepper."""

from lmjax.training.checkpoint import Checkpoints
from lmjax.training.interruption import Interruption
from lmjax.training.optimizer import create_optimizer, learning_rate
from lmjax.training.placement import data_mesh
from lmjax.training.record import Record
from lmjax.training.run import Diverged, Run, Stopped
from lmjax.training.schedule import Schedule
from lmjax.training.step import Programs, TrainState
from lmjax.training.trained import Trained, open_run
from lmjax.training.trainer import NonFiniteLoss, Tally, Trainer

__all__ = [
    "Checkpoints",
    "Diverged",
    "Interruption",
    "NonFiniteLoss",
    "Programs",
    "Record",
    "Run",
    "Schedule",
    "Stopped",
    "Tally",
    "TrainState",
    "Trained",
    "Trainer",
    "create_optimizer",
    "data_mesh",
    "learning_rate",
    "open_run",
]
