"""Figures as inline SVG that takes its colours and its font from the page."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from lmjax.drawing import COLORS
from lmjax.errors import optional_import
from lmjax.report.markup import Markup, element

# What is drawn in these becomes what the page says they are, in the light and in the dark.
INK, FAINT = "#010203", "#040506"
# Matplotlib does not write what is filled with plain black.
SERIES = tuple("#070809" if colour == "#000000" else colour for colour in COLORS)
_VARIABLES = {INK: "currentColor", FAINT: "var(--faint)"} | {x: f"var(--series-{i})" for i, x in enumerate(SERIES)}

_WIDTH = 4.4  # inches; a phone then shows it at about its size, and letters stay legible


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draws figures for a page: within, and in nothing else, matplotlib's defaults are these."""
    matplotlib = optional_import("matplotlib", package="matplotlib", purpose="a report")
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    options = dict.fromkeys(inked, INK) | {
        "font.size": 9,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "axes.linewidth": 0.7,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "xtick.minor.width": 0.5,
        "ytick.minor.width": 0.5,
        "lines.linewidth": 1.5,
        "svg.fonttype": "none",  # letters stay letters: in the font of the page, to be found and copied
        "svg.hashsalt": "lmjax",  # the same figure is the same text
    }
    with matplotlib.rc_context(options):
        yield


def figure(height: float = 3.0) -> tuple[Any, Any]:
    """A figure and its axes, within `drawing`; `height` in inches."""
    from lmjax import drawing as common

    drawn = common.figure(_WIDTH, height, purpose="a report")
    axes = drawn.subplots()
    common.open_frame(axes)
    return drawn, axes


def inline(drawn: Any, key: str, label: str) -> Markup:
    """The figure as an SVG element, within `drawing`.

    Args:
        drawn: a matplotlib figure.
        key: unlike that of any other figure of the page, so that the ids are, too.
        label: what it shows, for those who cannot see it.
    """
    import io

    file = io.StringIO()
    drawn.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    view = re.search(r'viewBox="([\d. ]+)"', text)[1]
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r'href="#|url\(#', lambda found: f"{found[0]}{key}-", body)
    body = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', lambda found: _rounded(found[0]), body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return element("svg", Markup(body), class_="plot", viewBox=view, role="img", aria_label=label)


def _rounded(text: str) -> str:
    """Hundredths of a point are more than a screen shows."""
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), text)


def plain_logarithmic(axis: Any) -> None:
    """Numbers as they are, not as powers, on an axis that is logarithmic already."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    low, high = sorted(axis.get_view_interval())
    marks = [m * 10.0**e for e in range(-12, 13) for m in (1, 2, 3, 5, 7)]
    shown = [x for x in marks if low <= x <= high]
    if len(shown) > 6:
        shown = [x for x in shown if f"{x:e}"[0] in "125"]
    if len(shown) > 6:
        shown = [x for x in shown if f"{x:e}"[0] == "1"]
    if len(shown) < 3:  # less than an octave
        shown = [x for x in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= x <= high]
    # As many digits as tell them apart.
    digits = next((n for n in range(3, 9) if len({short(x, n) for x in shown}) == len(shown)), 9)
    axis.set_major_locator(FixedLocator(shown))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: short(value, digits))


def short(value: float, digits: int = 3) -> str:
    """272384 -> "272k", 0.05 -> "0.05"."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.{digits}g}{letter}"
    return f"{value:.{digits}g}"
