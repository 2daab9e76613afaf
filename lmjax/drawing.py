"""Figures of matplotlib in one style, and their files."""

import io
from pathlib import Path
from typing import Any

from lmjax import files
from lmjax.errors import optional_import

# The one of Okabe and Ito (2008), which color-blind readers can tell apart, without its yellow, too pale for a line.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
FAINT = "0.8"  # of what is behind the curves


def figure(width: float, height: float, *, purpose: str = "drawing") -> Any:
    """An empty figure, in inches. It needs no display, and leaves pyplot's global state alone.

    Args:
        width, height: in inches.
        purpose: what is said to need matplotlib where it is missing.

    Raises:
        InputError: if matplotlib is not installed.
    """
    module = optional_import("matplotlib.figure", package="matplotlib", purpose=purpose)
    return module.Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: Path) -> None:
    """Write a picture in the format of its ending; a link of its name is replaced, not followed."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=150)
    files.write(path, content.getvalue())


def open_frame(axes: Any) -> None:
    """Only the two sides of the frame that carry numbers."""
    axes.spines[["top", "right"]].set_visible(False)
