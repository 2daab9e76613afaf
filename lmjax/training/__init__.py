"""Training: one compiled update, whatever the stepper."""

from lmjax.devices import data_mesh, seed_mesh
from lmjax.training.checkpoint import Checkpoints
from lmjax.training.due import Due
from lmjax.training.epoch import epoch_metrics, evaluate, require_finite, train_epoch
from lmjax.training.interruption import Interruption
from lmjax.training.loop import Diverged, Stopped
from lmjax.training.optimizer import create_optimizer, learning_rate
from lmjax.training.run_record import RunRecord
from lmjax.training.run_record_writer import RunRecordWriter
from lmjax.training.runs import train, train_seeds
from lmjax.training.state import TrainState
from lmjax.training.step import StepFunctions
from lmjax.training.trained_network import Prediction, TrainedNetwork
from lmjax.training.trainer import EpochSums, NonFiniteLoss, Trainer

__all__ = [
    "Checkpoints",
    "Diverged",
    "Due",
    "EpochSums",
    "Interruption",
    "NonFiniteLoss",
    "Prediction",
    "RunRecord",
    "RunRecordWriter",
    "StepFunctions",
    "Stopped",
    "TrainState",
    "TrainedNetwork",
    "Trainer",
    "create_optimizer",
    "data_mesh",
    "epoch_metrics",
    "evaluate",
    "learning_rate",
    "require_finite",
    "seed_mesh",
    "train",
    "train_epoch",
    "train_seeds",
]
