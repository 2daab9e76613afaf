"""HTML from Python values, in which only what is marked as HTML is not escaped."""

import html
from collections.abc import Iterable
from typing import Any

_VOID = ("img", "meta")  # elements without an end


class Markup(str):
    """Text that is HTML already. Any other text is escaped where it enters an element."""


def element(tag: str, *content: Any, **attributes: Any) -> Markup:
    """An element: `element("td", "a < b", class_="number", data_value=3)`.

    Args:
        tag: its name.
        *content: `Markup` as it is, anything else as escaped text; None is left out.
        **attributes: escaped; underscores become hyphens, and one at the end is dropped. None leaves an attribute out,
            True gives it no value.
    """
    words = [tag]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            words.append(name)
        elif value is not None:
            words.append(f'{name}="{html.escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if tag in _VOID else f"{start}{join(content)}</{tag}>")


def join(parts: Iterable[Any], between: str = "") -> Markup:
    """The parts one after another, escaped unless they are `Markup`; None is left out."""
    return Markup(between.join(x if isinstance(x, Markup) else html.escape(str(x)) for x in parts if x is not None))


def table(heads: Iterable[Any], rows: Iterable[Iterable[Any]], caption: str, *, numbers: bool = True) -> Markup:
    """A plain table of data, that scrolls in its own box; its first column are the heads of the rows.

    Args:
        heads: of the columns.
        rows: the cells of each.
        caption: what it shows.
        numbers: align all but the first column to the right.
    """
    body = (join([element("th", first, scope="row"), *(element("td", x) for x in rest)]) for first, *rest in rows)
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
        element("tbody", *(element("tr", row) for row in body)),
        class_="data numbers" if numbers else "data",
    )
    return scrolling(whole, caption)


def scrolling(content: Markup, label: str) -> Markup:
    """A box that scrolls by itself where its content is too wide, by the keyboard, too."""
    return element("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


def details(summary: str, *content: Any) -> Markup:
    """What is shown on demand."""
    return element("details", element("summary", summary), *content)
