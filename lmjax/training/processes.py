"""The processes of one run, which have to do the same."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lmjax.config import Config, differences, from_dict, to_dict
from lmjax.errors import InputError

_OWN = ("workdir", "data.dir", "data.workers", "data.threads")


def require_alike(config: Config, **others: Any) -> None:
    """Check that all processes were given the same run, before one of them waits for what the others never do.

    Args:
        config: of the run. Where the data is, and how it is read (`_OWN`), may be another in each.
        others: what else has to be the same, as plain data.

    Raises:
        InputError: in all of them, naming what differs where it does.
    """
    if jax.process_count() == 1:
        return
    ours = others | {"workdir": str(Path(config.folder).absolute())}
    first = _of_the_first({"config": to_dict(config), "others": ours})
    different = {key: (there, ours[key]) for key, there in first["others"].items() if there != ours[key]}
    different |= differences(from_dict(first["config"]), config, but=_OWN)
    if not np.all(multihost_utils.process_allgather(np.bool_(not different))):
        told = [
            f"{key} is {there!r} in the first process and {here!r} in this one"
            for key, (there, here) in different.items()
        ]
        raise InputError(
            f"{', '.join(told) or 'another process of this run differs, as it says'}: give all processes the same "
            "command, and a --workdir that all of them see"
        )


def _of_the_first(values: dict[str, Any]) -> dict[str, Any]:
    """The values of the first process."""
    text = np.frombuffer(json.dumps(values).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    # Only the first process's text counts; np.resize brings that of the others to its length.
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(np.resize(text, size)), np.uint8).tobytes())
