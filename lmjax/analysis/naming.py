"""What to call runs, so that no two are called the same."""

import collections
import os
import re
from collections.abc import Sequence
from pathlib import Path


def labels(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The names of runs, each with its folder where a run in another folder has the same name.

    Args:
        names: such as "resnet20, lm".
        folders: of each, as it was given.

    Returns:
        Labels: the same for the same name and folder, and for no others.
    """
    places = collections.defaultdict(dict)
    for name, folder in zip(names, folders, strict=True):
        places[name][folder] = None
    suffixes = {name: dict(zip(theirs, distinct(list(theirs)), strict=True)) for name, theirs in places.items()}
    found = [
        name if len(suffixes[name]) == 1 else f"{name} ({suffixes[name][folder]})"
        for name, folder in zip(names, folders, strict=True)
    ]
    # Matplotlib takes what is between two $ for a formula, and cannot draw what is no text.
    return [label.encode(errors="backslashreplace").decode().replace("$", r"\$") for label in found]


def distinct(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths of different folders, as many as it takes to tell them apart."""
    places = [Path(os.path.abspath(folder)) for folder in folders]
    least = [2 if re.fullmatch(r"seed\d+", place.name) else 1 for place in places]  # "seed0" alone says too little
    for count in range(1, max((len(place.parts) for place in places), default=1) + 1):
        names = [str(Path(*place.parts[-max(count, n) :])) for place, n in zip(places, least, strict=True)]
        if len(set(names)) == len(names):
            break
    return names
