"""A run in Trackio (huggingface.co/docs/trackio)."""

import contextvars
import secrets

from lmjax.config import to_dict
from lmjax.training.trackers.appending import Appending


class Trackio(Appending):
    """Scalars, histograms and the config, in the project "lmjax": see `Tracker`.

    Where to is Trackio's own choice: a folder of its own on this machine, or what TRACKIO_SPACE_ID or
    TRACKIO_SERVER_URL names; `trackio show --project lmjax` shows it. It knows a run by its name, which therefore ends
    in a random number.
    """

    NAME = "trackio"

    def _start(self, name: str, before: str | None) -> str:
        name = before or f"{name}-{secrets.token_hex(4)}"
        # In a context of its own: `init` ends the run that the context has, which may be that of another seed.
        self._run = contextvars.Context().run(
            self._module().init, project="lmjax", name=name, config=to_dict(self._config), resume="allow", embed=False
        )
        return name

    def _finish(self, finished: bool) -> None:
        self._run.finish()
