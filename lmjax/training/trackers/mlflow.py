"""A run in MLflow (mlflow.org)."""

import contextlib
import os
import time
from typing import Any

from lmjax.config import flatten, to_dict
from lmjax.training.trackers.appending import Appending
from lmjax.training.trackers.tracker import scalars


class MLflow(Appending):
    """Scalars, as metrics, and the config with which the run was started, as parameters: see `Tracker`.

    Where to is MLflow's own choice: MLFLOW_TRACKING_URI, or a database in the current folder, which `mlflow ui` shows.
    The experiment is "lmjax" unless MLFLOW_EXPERIMENT_NAME names another. MLflow has no histograms, and can
    neither change a parameter nor delete a metric.
    """

    NAME = "mlflow"

    def _start(self, name: str, before: str | None) -> str:
        # By MLflow's own default a server that is not there is waited for about four minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
        mlflow = self._module()
        self._client = mlflow.MlflowClient()  # mlflow.start_run has one run at a time, and here each seed has its own
        if before is not None:
            self._client.update_run(before, status="RUNNING")
            return before
        started = self._client.create_run(self._experiment(), run_name=name).info.run_id
        params = [mlflow.entities.Param(key, str(x)) for key, x in flatten(to_dict(self._config)).items()]
        self._client.log_batch(started, params=params)
        return started

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "lmjax")
        if (found := self._client.get_experiment_by_name(name)) is None:
            with contextlib.suppress(self._module().MlflowException):  # another run may have made it just now
                return self._client.create_experiment(name)
            found = self._client.get_experiment_by_name(name)
        return found.experiment_id

    def _send(self, row: dict[str, Any]) -> None:
        metric, now = self._module().entities.Metric, int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[metric(key, x, now, row["step"]) for key, x in scalars(row).items()])

    def _finish(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")
