"""One HTML page about runs, to be read anywhere: `lmjax report RUN [RUN ...] --out report.html`.

The page is one file without anything from elsewhere. It has a table, learning curves, the learned coefficients, error
against parameters, and what the networks are wrong about. `report.html.j2` has its elements, `report.css` its looks.
"""

import base64
import contextlib
import datetime
import functools
import io
import math
import re
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import lmjax
from lmjax import files, networks
from lmjax.config import Config, ModelConfig, differences, flatten, to_dict
from lmjax.console import duration, few
from lmjax.errors import InputError, optional_import, unknown
from lmjax.results import plots, predictions, published
from lmjax.results import runs as folders
from lmjax.results.coefficients import last_weights
from lmjax.results.statistics import spread
from lmjax.training.checkpoint_folder import newest_about

__all__ = ["write"]

TEST_IMAGES = 10_000  # at most so many are evaluated, of any data set
_ROWS_WITH_IMAGES = 6  # by default: a network has to be evaluated for each
_MATRIX_BELOW = 40  # classes; from there on, the most confused pairs
_PAIRS, _KEEP, _SIDE = 20, 18, 64
_SHOWN = 16  # epochs in the table of the curves; the file has all
_COLUMNS = {
    "run": "text", "data": "text", "test error, %": "number", "published, %": "number", "network": "text",
    "scheme": "text", "parameters": "number", "MACs": "number", "seeds": "number", "epochs": "number",
    "images/s": "number", "time": "number",
}  # fmt: skip
_SEEDS = "Lines are means over the seeds that have come so far, bands one standard deviation."
_RECIPE = ("data", "optimizer", "train", "model.dtype")
# The keys in which two points of one curve may differ: those of the network (the scheme, which `stepper` names, is the
# same in a curve), and those that change no number.
_MAY_DIFFER = r"seed|workdir|checkpoint|data\.dir|model\.(name|width|stepper|memory)$|train\.on_nan"


def write(
    directories: Sequence[str | Path],
    out: str | Path,
    *,
    images: bool = True,
    images_of: Sequence[str] | None = None,
    data_dir: str | None = None,
) -> Path:
    """Write the report on runs.

    Args:
        directories: the folder of a run, or of several seeds, each. Runs that differ only in the seed are one row.
        out: the file to write; another report there is replaced.
        images: show what the networks are wrong about, which takes an evaluation of each.
        images_of: the names of the rows to do that of; None for all, at most the six with the lowest error.
        data_dir: where the data is now, if it is not where it was in training.

    Returns:
        The path of the file.

    Raises:
        InputError: naming the folder that is not that of a run, the file in it that cannot be read, or a row that is
            none; if matplotlib, pandas or Jinja is missing, or the report cannot be written.
    """
    out = files.local(out, "--out")
    files.require_place(out, "--out")
    plots.figure(1, 1, purpose="a report")
    for package in ("pandas", "jinja2"):
        optional_import(package, package=package, purpose="a report")
    rows = read_rows(directories)
    shown, without = _with_images(rows, images, images_of)
    text = page(rows, shown, without, data_dir)
    with files.writing(out, "--out"):
        files.write(out, text)
    return out


class Row:
    """Runs that differ only in the seed, and what is known of their network.

    Attributes:
        seeds: the `results.summaries` of the runs, by increasing seed.
        about: the training data, as a checkpoint has it; {} if there is none.
        error: of the finished seeds after the last epoch, in percent; None if there is none.
        parameters, macs: trainable numbers, and multiply-accumulate operations of one image forward, or None.
        known, published: what was published of the network on the data, with its name, and the error, in percent.
        recipe: the same for what was trained alike.
    """

    def __init__(self, runs: list[folders.Run]):
        self.runs, self.name, self.data, self.config = runs, runs[0].name, runs[0].data, runs[0].config
        self.seeds = folders.summaries(runs)
        model = self.config.model
        self.network = model.name if model.width == 1 else f"{model.name}, width {model.width:g}"
        self.about = next(filter(None, map(_described, runs)), {})
        shape, classes = self.about.get("shape"), len(self.about.get("classes", ()))
        if not shape and self.config.data.name in published.SHAPES:
            shape, classes = published.SHAPES[self.config.data.name]
        try:
            found = _cost(model, tuple(shape) if shape else None, classes or 10)
        except InputError as error:
            raise InputError(f"{runs[0].record.directory}: its network cannot be built: {error}") from error
        self.scheme, self.parameters, self.macs = found
        if "parameters" in self.seeds and len(counted := self.seeds.parameters.dropna()):
            self.parameters = int(counted.iloc[0])
        self.known = _known(self.config, len(self.about.get("classes", ())))
        self.published = self.known[1].error if self.known else None
        config = flatten(to_dict(self.config))
        self.recipe = {key: x for key, x in config.items() if not re.match(_MAY_DIFFER, key)}
        errors = self.seeds.test_error.dropna()
        self.error = spread(errors) if len(errors) else None

    def best_run(self) -> folders.Run | None:
        """The seed with the lowest test error; among unfinished ones, the lowest so far."""
        errors = (self.seeds.test_error if self.seeds.finished.any() else self.seeds.best_error).dropna()
        return self.runs[errors.astype(float).idxmin()] if len(errors) else None


def read_rows(directories: Sequence[str | Path]) -> list[Row]:
    """The rows of the table, in the order given."""
    return list(map(Row, folders.groups(directories)))


def _described(run: folders.Run) -> dict[str, Any]:
    """The training data, as the newest checkpoint has it; {} if none says what it was."""
    _, about = newest_about(run.record.directory / "checkpoints") or (None, {})
    with contextlib.suppress(KeyError, TypeError):
        data = about["data"]
        sizes = [n for n in data["shape"] if type(n) is int and 0 < n < 2**16]
        if len(sizes) == len(data["shape"]) == 3 and isinstance(data["classes"], list):
            return data
    return {}


@functools.cache
def _cost(model: ModelConfig, shape: tuple[int, int, int] | None, classes: int) -> tuple[str, int | None, int | None]:
    built = model.outline(classes=classes, cin=(shape or (3,))[-1])
    scheme = model.stepper or networks.scheme(built)
    if shape is None:
        return scheme, None, None
    return scheme, networks.parameter_count(built), networks.forward_macs(built, shape)


def _known(config: Config, classes: int) -> tuple[str, published.Row] | None:
    if config.data.origin.streamed and not classes:
        return None  # it may be any set of photographs
    found = published.find(config)
    return found if found and classes in (0, published.SHAPES[published.table_of(config.data)][1]) else None


def _with_images(rows: list[Row], images: bool, wanted: Sequence[str] | None) -> tuple[list[Row], str]:
    """The rows to show mistakes of, and the note on the others."""
    if not images:
        return [], "Left out, by lmjax report --no-images."
    if wanted is not None:
        names = {row.name: row for row in rows}
        for name in wanted:
            if name not in names:
                raise unknown("run in --images-of", name, names)
        return [names[name] for name in dict.fromkeys(wanted)], ""
    if len(rows) <= _ROWS_WITH_IMAGES:
        return rows, ""
    best = sorted(rows, key=lambda row: row.error.mean if row.error else math.inf)[:_ROWS_WITH_IMAGES]
    return [row for row in rows if row in best], (
        f"Of the {_ROWS_WITH_IMAGES} runs with the lowest error: each has to be evaluated. "
        "lmjax report --images-of NAME chooses others."
    )


def page(rows: list[Row], images: list[Row], without: str, data_dir: str | None = None) -> str:
    """The whole HTML file; `images` are the rows whose mistakes are shown, `without` says why not the others."""
    schemes = [row.scheme for row in rows]
    styles = plots.looks(schemes, [row.network for row in rows])
    if len({(row.data, row.scheme, row.network) for row in rows}) < len(rows):  # they do not tell the rows apart
        styles = plots.looks(rows)
    notes: list[str] = []
    cells = [_cells(row, notes) for row in rows]
    hidden = ({"data"} if len({row.data for row in rows}) == 1 else set()) | (set() if notes else {"published, %"})
    sections = []
    for number, data in enumerate(dict.fromkeys(folders.data_of(row.config) for row in rows)):
        mine = [i for i, row in enumerate(rows) if folders.data_of(row.config) == data]
        some, theirs = [rows[i] for i in mine], [styles[i] for i in mine]
        parts = (
            _curves(some, theirs, number),
            _sizes(some, list(dict.fromkeys(schemes)), number),
            _coefficients(some, theirs, number),
        )
        title = some[0].data if number or len(mine) < len(rows) else ""
        sections += [
            part | {"title": f"{part['title']}: {title}" if title else part["title"]} for part in parts if part
        ]
    jinja = optional_import("jinja2", package="jinja2", purpose="a report")
    environment = jinja.Environment(
        loader=jinja.PackageLoader("lmjax.results", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        title=few([row.name for row in rows], 3),
        version=lmjax.__version__, colors=plots.COLORS, head=_head(rows), settings=_settings(rows),
        columns={name: kind for name, kind in _COLUMNS.items() if name not in hidden}, cells=cells, notes=notes,
        looks=[_swatch(style) for style in styles], sections=sections, without=without,
        mistakes=_mistakes(images, data_dir),
    )  # fmt: skip


def _swatch(style: dict[str, Any]) -> tuple[int, str | None]:
    """The number of the color, and the dashes of a sample that is twice as wide as the line."""
    _, dashes = style["linestyle"] if style["linestyle"] != "-" else (0, ())
    return plots.COLORS.index(style["color"]), " ".join(f"{2 * x:g}" for x in dashes) or None


def _head(rows: list[Row]) -> dict[str, Sequence[str]]:
    runs = [run for row in rows for run in row.runs]
    paths = [path for run in runs for path in (run.record.summary_path, run.record.metrics_path) if path.exists()]
    days = sorted({datetime.date.fromtimestamp(path.stat().st_mtime).isoformat() for path in paths})
    unfinished = sum(run.summary is None for run in runs)
    told = f"{len(runs)}" + (f", {unfinished} of them unfinished" if unfinished else "")
    if len(rows) < len(runs):
        told += f"; in {len(rows)} rows, with those together that differ only in the seed"
    versions: dict[str, dict[str, None]] = {}
    for run in runs:
        for package, version in (run.summary or {}).get("versions", {}).items():
            versions.setdefault(str(package), {})[str(version)] = None
    entries = {
        "Runs": [told],
        "Last written": [" to ".join(dict.fromkeys((days[0], days[-1])))] if days else [],
        "Data": dict.fromkeys(map(_data, rows)),
        "Hardware": dict.fromkeys(run.summary["device"] for run in runs if run.summary and "device" in run.summary),
        "Versions": [", ".join(f"{package} {' and '.join(found)}" for package, found in versions.items())],
        "Report": [f"{datetime.datetime.now():%Y-%m-%d %H:%M}, lmjax {lmjax.__version__}"],
    }
    return {key: lines for key, value in entries.items() if (lines := list(filter(None, value)))}


def _data(row: Row) -> str:
    """'digits: 1,437 training and 360 test images of 8 × 8 × 1, 10 classes'."""
    about = row.about
    if "training_images" not in about:
        return row.data
    return (
        f"{row.data}: {about['training_images']:,} training and {about['test_images']:,} test images of "
        f"{' × '.join(map(str, about['shape']))}, {len(about['classes'])} classes"
    )


class Cell(NamedTuple):
    """The text of a cell, with a mark and a small line, and the value that its column is sorted by; None goes last."""

    text: Any
    value: Any
    small: str | None = None
    mark: int | None = None


def _cells(row: Row, notes: list[str]) -> dict[str, Cell]:
    """The cells of a row, by column; adds to the notes what is to be said below the table."""
    seeds, total, done = row.seeds, row.config.train.epochs, int(row.seeds.finished.sum())
    state = None if done == len(seeds) else f"{len(seeds) - done} of {len(seeds)} seeds unfinished"
    epochs = seeds.epochs.where(~seeds.finished, total)
    speed, time = ((seeds[key].astype(float)).mean() for key in ("images_per_second", "wall_seconds"))
    best = seeds.best_error.astype(float)
    error = Cell("–", None, "no epoch yet")
    if row.error:
        error = Cell(f"{row.error:.2f}", row.error.mean)
    elif best.notna().any():
        error = Cell(f"{best.min():.2f}", best.min(), f"best so far, epoch {seeds.best_epoch[best.idxmin()]:.0f}")
    return {
        "run": Cell(row.name, row.name, state if done else state and "unfinished"),
        "data": Cell(row.data, row.data),
        "network": Cell(row.network, row.network),
        "scheme": Cell(row.scheme, row.scheme),
        "parameters": _number(row.parameters, lambda count: f"{count:,}"),
        "MACs": _number(row.macs, lambda count: f"{count / 1e6:,.1f} M"),
        "seeds": Cell(len(seeds), len(seeds)),
        "epochs": Cell(f"{epochs.min()} of {total}" if state else total, epochs.mean()),
        "test error, %": error,
        "published, %": _published_cell(row, notes),
        "images/s": _number(speed, lambda count: f"{count:,.0f}"),
        "time": _number(time, duration),
    }


def _number(value: float | None, said: Callable[[Any], str]) -> Cell:
    return Cell("–", None) if value is None or np.isnan(value) else Cell(said(value), value)


def _published_cell(row: Row, notes: list[str]) -> Cell:
    if row.published is None:
        return Cell("–", None)
    key, theirs = row.known
    changed = differences(theirs.config, row.config, _RECIPE)
    different = [f"{name} {there} (here {here})" for name, (there, here) in changed.items() if name != "train.on_nan"]
    said = [f"{key}: {theirs.error:g}% ({theirs.source})", theirs.note]
    said.append("trained there with " + ", ".join(different) if different else "the recipe is the same")
    note = "; ".join(filter(None, said)) + "."
    if note not in notes:
        notes.append(note)
    return Cell(f"{theirs.error:.2f}", theirs.error, "another recipe" if different else None, notes.index(note) + 1)


def _curves(rows: list[Row], styles: list[dict[str, Any]], number: int) -> dict[str, Any] | None:
    """Test error and training loss against the epoch."""
    drawn = [(row, style) for row, style in zip(rows, styles, strict=True) if any(run.epochs for run in row.runs)]
    if not drawn:
        return None
    tables = {row.name: folders.metrics(row.runs) for row, _ in drawn}
    pandas = optional_import("pandas", package="pandas", purpose="a report")
    whole = pandas.concat(tables.values(), ignore_index=True)
    figures, columns = [], {}
    for i, (label, column) in enumerate(plots.MEASURES.items()):
        means = whole.groupby(["epoch", "run"])[column].mean().unstack()
        columns |= {f"{name}: {label}": means[name] for name in tables}
        figure = plots.figure(4.4, 3.0)
        plots.learning_curves(figure.subplots(), tables, column, label, [style for _, style in drawn])
        ends = ", ".join(f"{name} {end:.3g}" for name, end in means.ffill().iloc[-1][list(tables)].items())
        picture = plots.inline(figure, f"curves-{number}-{i}", f"{label} against the epoch, at the end: {ends}")
        figures.append((picture, "", label.partition(",")[0].capitalize() + " against the epoch", None))
    numbers = pandas.DataFrame(columns)
    epochs = [numbers.index[round(i)] for i in np.linspace(0, len(numbers) - 1, min(_SHOWN, len(numbers)))]
    body = [[epoch, *("" if np.isnan(x) else f"{x:.4g}" for x in numbers.loc[epoch])] for epoch in epochs]
    some = f", {len(epochs)} of {len(numbers)} epochs" if len(epochs) < len(numbers) else ""
    file = whole[["run", "seed", "epoch", "test_error", "train_loss"]]
    file = file.rename(columns={"test_error": "test error in percent", "train_loss": "training loss"})
    seeds = any(len(row.runs) > 1 for row, _ in drawn)
    return {
        "title": "Learning curves",
        "legend": [(_swatch(style), row.name) for row, style in drawn],
        "figures": figures,
        "note": _SEEDS if seeds else "One seed each.",
        "table": (["epoch", *columns], body, f"Means over the seeds{some}"),
        "file": "data:text/csv;charset=utf-8," + urllib.parse.quote(
            file.to_csv(index=False, float_format="%.6g", lineterminator="\n"), safe=","
        ),
    }  # fmt: skip


def _sizes(rows: list[Row], schemes: list[str], number: int) -> dict[str, Any] | None:
    """Error against parameters; None for fewer than two networks of known size and error."""
    points = [row for row in rows if row.error and row.parameters]
    if len({row.network for row in points}) < 2:
        return None
    caption = "Test error after the last epoch against the number of parameters"
    words = [f"{caption}, by scheme. Lines join networks of one scheme and one recipe."]
    if any(row.error.std is not None for row in points):
        words.append("Bars are one standard deviation over the seeds to either side, moved apart by a hair.")
    if any(row.published for row in points):
        words.append("Hollow: published, with the recipe of the publication.")
    figure = plots.figure(4.4, 3.4)
    plots.error_by_size(figure.subplots(), points, schemes)
    said = f"{caption}, by scheme; the numbers are in the table below"
    picture = plots.inline(figure, f"sizes-{number}", said)
    body = [
        [
            r.name,
            r.network,
            r.scheme,
            f"{r.parameters:,}",
            *("" if x is None else f"{x:.2f}" for x in (*r.error, r.published)),
        ]
        for r in points
    ]
    heads = ["run", "network", "scheme", "parameters", "test error, %", "standard deviation", "published, %"]
    return {
        "title": "Error against parameters",
        "figures": [(picture, "", " ".join(words), None)],
        "table": (heads, body, caption),
    }


def _coefficients(rows: list[Row], styles: list[dict[str, Any]], number: int) -> dict[str, Any] | None:
    """A picture for each row whose scheme has coefficients, all on one scale; None if there is none."""
    drawn = [(row, style, found) for row, style in zip(rows, styles, strict=True) if (found := _weights(row))]
    known = {row.scheme: row.config.model.scheme().known.zero_stable for row, *_ in drawn}
    reach = [x.ravel() for *_, found in drawn for stages in found.values() for x in stages.values()]
    reach = np.concatenate([*reach, [0.0], *(ends for ends in known.values() if ends)])
    room = 0.08 * np.ptp(reach[np.isfinite(reach)]) or 0.1
    limits = reach[np.isfinite(reach)].min() - room, reach[np.isfinite(reach)].max() + room
    figures = []
    for i, (row, style, found) in enumerate(drawn):
        figure = plots.figure(4.4, 2.5)
        stable = known[row.scheme]
        plots.coefficients(figure.subplots(), found, stable=stable, limits=limits, color=style["color"])
        said = f"learned coefficients of {row.name}; the numbers are in the table below"
        body = [
            [f"{stage}, {name}" if len(found) > 1 else stage, step, *(f"{f(x):.4f}" for f in (np.mean, np.min, np.max))]
            for name, stages in found.items() for stage, values in stages.items() for step, x in enumerate(values.T, 1)
        ]  # fmt: skip
        table = ["stage", "step", "mean", "least", "greatest"], body, f"Coefficients of {row.name} after the last epoch"
        picture = plots.inline(figure, f"coefficients-{number}-{i}", said)
        figures.append((picture, row.name, _caption(row, found, stable), table))
    return {"title": "Learned coefficients", "figures": figures} if figures else None


def _weights(row: Row) -> dict[str, dict[str, np.ndarray]]:
    """[values, steps] after the last epoch, by name and stage: the values are those of the seeds and the channels."""
    learned = [run for run in row.runs if run.epochs and run.epochs[-1].get("coefficients")]
    return last_weights([run.coefficients() for run in learned], channels=True)


def _caption(row: Row, found: dict[str, dict[str, np.ndarray]], stable: tuple[float, float] | None) -> str:
    words = [row.scheme]
    seeds = sum(bool(run.epochs) for run in row.runs)
    several = max(len(values) for stages in found.values() for values in stages.values()) > seeds
    spread_over = ["seeds"] * (seeds > 1) + ["the channels"] * several
    if spread_over:
        words.append(f"means, with the range over {' and '.join(spread_over)}")
    if stable:
        low, high = (f"{x:g}".replace("-", "−") for x in stable)
        words.append(f"zero-stable: k from {low} to {high}")
    stages = [stage for run in row.runs for stage in (run.summary or {}).get("zero_stability", {}).values()]
    margins = [float(np.min(margin)) for stage in stages for margin in stage]
    if margins:
        outside = sum(margin < 0 for margin in margins)
        words.append(f"{outside} of {len(margins)} learned steps are outside the zero-stable range")
    return "; ".join(words)


def _mistakes(rows: list[Row], data_dir: str | None) -> dict[str, Any]:
    """The mistakes of the best run of each row; and the rows without any to see, with the reason."""
    shown, reasons = [], {}
    for row in rows:
        try:
            shown.append(_mistakes_of(row, data_dir))
        except InputError as error:
            reasons.setdefault(str(error), []).append(row.name)
    return {"shown": shown, "reasons": [f"No images of {', '.join(x)}: {why}." for why, x in reasons.items()]}


def _mistakes_of(row: Row, data_dir: str | None) -> dict[str, Any]:
    run = row.best_run()
    if run is None:
        raise InputError("there is no epoch yet")
    directory = data_dir if "directory" in run.config.data.origin.takes else None
    found = predictions.predict(run, data_dir=directory, limit=TEST_IMAGES, keep=_KEEP)
    count, wrong = found.confusion.sum(), found.confusion.sum() - np.trace(found.confusion)
    seed = f"Seed {run.config.seed}, the one with the lowest test error. " if len(row.runs) > 1 else ""
    images = (
        f"{count:,} test images" if count == found.total else f"{count:,} of {found.total:,} test images, at random"
    )
    return {
        "name": row.name,
        "about": f"{seed}{wrong:,} of {images} are misclassified ({wrong / count:.2%}) at step {found.step:,}.",
        "classes": found.classes,
        "images": [(*mistake[:3], png(mistake.pixels)) for mistake in found.mistakes],
        **confusion(found),
    }


def confusion(found: predictions.Predictions) -> dict[str, Any]:
    """The confusion of classes: the whole matrix, or the most confused pairs where there are too many classes."""
    names = found.classes
    off = found.confusion - np.diag(np.diag(found.confusion))
    of_class = np.maximum(found.confusion.sum(1), 1)
    if len(names) < _MATRIX_BELOW:
        least = np.diag(of_class) + (1 - np.eye(len(names))) * max(off.max(), 1)
        return {"matrix": found.confusion.tolist(), "shares": (found.confusion / least).tolist()}
    order = [divmod(int(i), len(names)) for i in np.argsort(-off, axis=None, kind="stable")[:_PAIRS] if off.flat[i]]
    pairs = [[names[a], names[b], off[a, b], f"{off[a, b] / of_class[a]:.1%}"] for a, b in order]
    return {"pairs": (["class", "taken for", "images", "of the class"], pairs, "The most confused pairs of classes")}


def png(pixels: np.ndarray) -> str:
    """uint8 [H, W, C] -> a data URI, made smaller if it is large."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _settings(rows: list[Row]) -> list[tuple[str, tuple]]:
    """The settings in which the rows differ and agree, and their folders: tables, and the words that open them."""
    configs = [flatten(to_dict(row.config)) for row in rows]
    keys = [key for key in configs[0] if key not in ("seed", "workdir")]
    differ = [key for key in keys if any(config[key] != configs[0][key] for config in configs)]
    same = "In what all runs agree" if len(rows) > 1 else "All settings"
    places = [[row.name, run.config.seed, str(run.record.directory)] for row in rows for run in row.runs]
    names = [row.name for row in rows]
    if len(rows) <= len(differ):  # the longer side goes down the page
        heads, lines = ["setting", *names], [[key, *(config[key] for config in configs)] for key in differ]
    else:
        heads = ["run", *differ]
        lines = [[name, *map(config.get, differ)] for name, config in zip(names, configs, strict=True)]
    return [
        ("", (heads, lines if differ else [], "In what the runs differ")),
        (same, (["setting", "value"], [[key, configs[0][key]] for key in keys if key not in differ], same)),
        ("Folders", (["run", "seed", "folder"], places, "Where the runs are")),
    ]
