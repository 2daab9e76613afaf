"""Tables of a benchmark, and what belongs to a measurement: when, where and with what it was made."""

import datetime
import importlib.metadata
import platform
import shlex
import statistics
from collections.abc import Hashable, Iterable

from lmjax import devices
from lmjax.training.run_folder import commit


def circumstances(module: str, arguments: list[str], packages: Iterable[str]) -> dict[str, object]:
    """The date, the command, the commit, the machine, and the versions of some packages."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", module, *arguments]),
        "commit": commit(),
        "machine": {"cpu": devices.cpu(), "cores": devices.cores()},
        "versions": {"python": platform.python_version()} | {package: _version(package) for package in packages},
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def compare(rounds: dict[Hashable, list[dict]], peers: dict[Hashable, Hashable], rate: str) -> dict[Hashable, dict]:
    """The spread of all that was measured, and as "relative" that of `rate` over the peer's in the same round.

    Args:
        rounds: for each row of a table what each round found.
        peers: the row that it is compared to, which may be missing.
        rate: what to compare.
    """
    found = {}
    for key, measured in rounds.items():
        found[key] = {what: spread([m[what] for m in measured]) for what in measured[0]}
        if peers[key] in rounds:
            pairs = zip(measured, rounds[peers[key]], strict=True)
            found[key]["relative"] = spread([m[rate] / peer[rate] for m, peer in pairs])
    return found


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def median(row: dict, key: str, digits: int = 0, unit: float = 1) -> str:
    """For a table, where it was measured."""
    return f"{row[key]['median'] / unit:.{digits}f}" if key in row else "-"


def extremes(row: dict, key: str, digits: int = 0) -> str:
    return f"{row[key]['min']:.{digits}f}..{row[key]['max']:.{digits}f}" if key in row else "-"


def line(name: str, *columns: object, width: int = 40) -> None:
    """Prints a row of a table, or its head; its name is so many characters wide."""
    print(f"{name:{width}}" + "".join(f"{column:>14}" for column in columns), flush=True)
