"""The table of all rows."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from lmjax.config import differences
from lmjax.published import SHAPES, find, table_of
from lmjax.published import Row as Published
from lmjax.report.markup import Markup, element, join, scrolling
from lmjax.report.network import Facts
from lmjax.report.runs import Row, data_title
from lmjax.report.series import Look

_COLUMNS = {
    "run": "text", "data": "text", "test error, %": "number", "published, %": "number", "network": "text",
    "scheme": "text", "parameters": "number", "MACs": "number", "seeds": "number", "epochs": "number",
    "images/s": "number", "time": "number",
}  # fmt: skip
_ABOUT = (
    "Test error after the last epoch, mean ± standard deviation over the finished seeds. MACs are multiply-accumulate "
    "operations of one image forward. Images/s are those of training, without compilation, and time is that of a "
    "seed, both means over the seeds; seeds that are trained side by side share the machine."
)
_RECIPE = ("data", "optimizer", "train", "model.dtype")


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a cell says, and what its column is sorted by: a number or a text; None goes last."""

    content: Any
    value: float | str | None


def published(row: Row, fact: Facts) -> tuple[str, Published] | None:
    """What was published of the network of a row, on its data."""
    found = find(row.config)
    classes = len(fact.data.get("classes", ())) or None
    if row.config.data.origin.streamed and classes is None:
        return None  # it may be any set of photographs
    return found if found and classes in (None, SHAPES[table_of(row.config.data)][1]) else None


def recipe(row: Row, theirs: Published) -> list[str]:
    """In what the recipe of a row differs from the published one, a phrase each."""
    changed = differences(theirs.config, row.config, _RECIPE)
    return [f"{key} {there} (here {here})" for key, (there, here) in changed.items() if key != "train.on_nan"]


def section(rows: Sequence[Row], facts: Sequence[Facts], looks: Sequence[Look]) -> Markup:
    """The table with its notes."""
    notes: list[Markup] = []
    lines = [cells(row, fact, look, notes) for row, fact, look in zip(rows, facts, looks, strict=True)]
    empty = {"data"} if len({row.data for row in rows}) == 1 else set()
    if not notes:
        empty.add("published, %")
    shown = {name: kind for name, kind in _COLUMNS.items() if name not in empty}
    heads = (
        element("th", element("button", name, type="button"), scope="col", aria_sort="none", data_kind=kind)
        for name, kind in shown.items()
    )
    body = (element("tr", *(_cell(name, line[name]) for name in shown)) for line in lines)
    whole = element(
        "table",
        element("caption", "All runs; a column's head sorts by it", class_="hidden"),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
        class_="runs",
        id="runs",
    )
    if notes:
        listed = element("ol", *(element("li", note) for note in notes), class_="note")
    else:
        listed = element("p", "Nothing is published of these networks on this data.", class_="note")
    return join([scrolling(whole, "All runs"), element("p", _ABOUT, class_="note"), listed])


def _cell(name: str, cell: Cell) -> Markup:
    tag, scope = ("th", "row") if name == "run" else ("td", None)
    kind = "number" if _COLUMNS[name] == "number" else None
    content = "–" if cell.content is None else cell.content
    return element(tag, content, scope=scope, class_=kind, data_value="" if cell.value is None else cell.value)


def cells(row: Row, fact: Facts, look: Look, notes: list[Markup]) -> dict[str, Cell]:
    """The cells of a row, by column; adds to the notes what is to be said below the table."""
    config, done = row.config, row.finished
    speeds = [x for x in (run.speed() for run in row.runs) if x]
    seconds = [x for x in (run.seconds() for run in row.runs) if x]
    speed = statistics.mean(speeds) if speeds else None
    time = statistics.mean(seconds) if seconds else None
    state = None
    if len(done) < len(row.runs):
        state = "unfinished" if not done else f"{len(row.runs) - len(done)} of {len(row.runs)} seeds unfinished"
    epochs = [len(run.epochs) if run.summary is None else run.config.train.epochs for run in row.runs]
    told = f"{min(epochs)} of {config.train.epochs}" if state else str(config.train.epochs)
    name = join([look.swatch(), " ", row.name])
    return {
        "run": Cell(join([name, _small(state)]), row.name),
        "data": Cell(data_title(config), data_title(config)),
        "network": Cell(row.network, row.network),
        "scheme": Cell(fact.scheme, fact.scheme),
        "parameters": Cell(None if fact.parameters is None else f"{fact.parameters:,}", fact.parameters),
        "MACs": Cell(None if fact.macs is None else f"{fact.macs / 1e6:,.1f} M", fact.macs),
        "seeds": Cell(len(row.runs), len(row.runs)),
        "epochs": Cell(told, statistics.mean(epochs)),
        "test error, %": _error(row),
        "published, %": _published(row, fact, notes),
        "images/s": Cell(None if speed is None else f"{speed:,.0f}", speed),
        "time": Cell(None if time is None else duration(time), time),
    }


def _small(text: str | None) -> Markup | None:
    return None if text is None else element("small", text)


def _error(row: Row) -> Cell:
    if error := row.error():
        mean, std = error
        return Cell(f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}"), mean)
    if run := row.best_run():
        error, epoch = run.best
        return Cell(join([f"{error:.2f}", _small(f"best so far, epoch {epoch}")]), error)
    return Cell(join(["–", _small("no epoch yet")]), None)


def _published(row: Row, fact: Facts, notes: list[Markup]) -> Cell:
    found = published(row, fact)
    if found is None or found[1].error is None:
        return Cell(None, None)
    key, theirs = found
    different = recipe(row, theirs)
    said = [f"{key}: {theirs.error:g}% ({theirs.source})"]
    if theirs.note:
        said.append(theirs.note)
    said.append("trained there with " + ", ".join(different) if different else "the recipe is the same")
    note = join(["; ".join(said), "."])
    if note not in notes:
        notes.append(note)
    mark = element("sup", f"{notes.index(note) + 1}")
    content = join([f"{theirs.error:.2f}", mark, _small("another recipe") if different else None])
    return Cell(content, theirs.error)


def duration(seconds: float) -> str:
    """1.5 -> "1.5 s", 5400 -> "1 h 30 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
