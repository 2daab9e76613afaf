"""How rows are told apart: the same colour and dash in the table and in every picture."""

import dataclasses
from collections.abc import Sequence

from lmjax.report.markup import Markup, element
from lmjax.report.runs import Row
from lmjax.report.svg import SERIES

_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))


@dataclasses.dataclass(frozen=True)
class Look:
    """Of a row.

    Attributes:
        index: of its colour.
        dash: lengths on and off, in line widths; () for a solid line.
    """

    index: int
    dash: tuple[float, ...]

    @property
    def line(self) -> dict:
        """For matplotlib's `plot`."""
        return {"color": SERIES[self.index], "linestyle": (0, self.dash) if self.dash else "-"}

    def swatch(self) -> Markup:
        """A sample of the line."""
        dash = " ".join(f"{2 * x:g}" for x in self.dash) or None
        line = element(
            "line", x1=0, y1=4, x2=26, y2=4, stroke=f"var(--series-{self.index})", stroke_width=2, stroke_dasharray=dash
        )
        return element("svg", line, class_="swatch", viewBox="0 0 26 8", aria_hidden="true")


def looks(rows: Sequence[Row], schemes: Sequence[str]) -> list[Look]:
    """A colour for each scheme and a dash for each network, where that tells the rows apart; else both in turn.

    Args:
        rows: of the report.
        schemes: theirs.
    """
    networks = [row.network for row in rows]
    kinds, nets = list(dict.fromkeys(schemes)), list(dict.fromkeys(networks))
    pairs = list(zip(schemes, networks, strict=True))
    drawn = {(row.data, *pair) for row, pair in zip(rows, pairs, strict=True)}  # each data set has its own pictures
    apart = len(drawn) == len(pairs)
    if apart and 1 < len(kinds) <= len(SERIES) and len(nets) <= len(_DASHES):
        return [Look(kinds.index(kind), _DASHES[nets.index(net)]) for kind, net in pairs]
    return [Look(i % len(SERIES), _DASHES[i // len(SERIES) % len(_DASHES)]) for i in range(len(rows))]


def legend(names: Sequence[str], chosen: Sequence[Look]) -> Markup:
    """What line is which row."""
    items = (element("li", look.swatch(), " ", name) for name, look in zip(names, chosen, strict=True))
    return element("ul", *items, class_="legend")
