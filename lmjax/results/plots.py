"""Pictures of runs, on matplotlib, in one style: learning curves, coefficients, error against parameters.

Most draw on axes of a `figure`, from numbers by name: a pandas table of `results.read`, or a dictionary of lists.
"""

import contextlib
import io
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmjax import files
from lmjax.console import printable
from lmjax.errors import InputError, optional_import, reason
from lmjax.results.coefficients import LARGEST, Coefficients, last_weights
from lmjax.results.statistics import Difference

# The palette of Okabe and Ito (2008), for color-blind readers, too, without its yellow, which is too pale for a line.
# Its black is not quite #000000, which a page replaces by the color of its own text.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#070809")
MARKERS = "osD^vP*"
INK, FAINT = "#000000", "#cccccc"  # of the axes, and of what is behind the curves
MEASURES = {"test error, %": "test_error", "training loss": "train_loss"}
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
_LOGARITHMIC_FROM = 4  # the ratio of the greatest to the smallest value from which a linear axis hides the end


def figure(width: float, height: float, *, purpose: str = "drawing") -> Any:
    """An empty figure, in inches. It needs no display, and leaves pyplot's global state alone.

    Raises:
        InputError: if matplotlib is not installed, which the purpose is said to need.
    """
    return _matplotlib(".figure", purpose).Figure(figsize=(width, height), layout="constrained")


def _matplotlib(module: str = "", purpose: str = "drawing") -> Any:
    try:
        return optional_import(f"matplotlib{module}", package="matplotlib", purpose=purpose)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{purpose}: matplotlib does not start ({reason(error)}): unset MPLBACKEND") from error


def require_place(path: Path, option: str) -> None:
    """Check, before the work, that a picture can be written there.

    Raises:
        InputError: if matplotlib is missing or knows no such format, or the folder does not exist or is read-only.
    """
    files.local(path, option)
    formats = [name for name in figure(1, 1).canvas.get_supported_filetypes() if name not in ("pgf", "raw", "rgba")]
    if path.suffix[1:].lower() not in formats:
        raise InputError(
            f"{option} {path}: is no picture: end it in one of {', '.join('.' + name for name in formats)}"
        )
    for each in (path, path.with_suffix(".json")):  # the numbers may be written beside it
        files.require_place(each, option)


def save(figure: Any, path: str | Path) -> None:
    """Write a picture in the format of its ending; a link of its name is replaced, not followed."""
    path, content = Path(path), io.BytesIO()
    with _without_warnings():
        figure.savefig(content, format=path.suffix[1:], dpi=150)
    files.write(path, content.getvalue())


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Inside it, nothing is said of letters that the font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")
        yield


def plain(text: str) -> str:
    """A name that comes from elsewhere, as matplotlib draws it: no formula, and nothing that is no text."""
    return printable(text).replace("$", r"\$")


def inline(figure: Any, key: str, label: str) -> Any:
    """A figure as an SVG element that takes its colors and its font from the page, as HTML.

    Args:
        figure: a matplotlib figure.
        key: unlike that of any other figure of the page, so that the ids are, too.
        label: the words for those who cannot see it.
    """
    markup = optional_import("markupsafe", package="jinja2", purpose="a report")
    content = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    # Letters stay letters, and the same figure is the same text.
    with _without_warnings(), _matplotlib().rc_context({"svg.fonttype": "none", "svg.hashsalt": "lmjax"}):
        figure.savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = content.getvalue()
    view = re.search(r'viewBox="([\d. ]+)"', text)[1]
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="|href="#|url\(#', lambda found: f"{found[0]}{key}-", body)
    body = re.sub(r"<[^>]*>", lambda tag: _rounded(tag[0]), body)
    for color, variable in {INK: "currentColor", FAINT: "var(--faint)"}.items():
        body = body.replace(color, variable)
    for i, color in enumerate(COLORS):
        body = body.replace(color, f"var(--series-{i})")
    head = markup.Markup('<svg class="plot" viewBox="{}" role="img" aria-label="{}">').format(view, label)
    return head + markup.Markup(re.sub(r"\s*\n\s*", "\n", body) + "</svg>")


def _rounded(tag: str) -> str:
    """A tag with two decimals in its coordinates; what is written beside tags keeps all of them."""
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)


def open_frame(axes: Any) -> None:
    """Leave only the two sides of the frame that carry numbers."""
    axes.spines[["top", "right"]].set_visible(False)


def look(i: int, dash: int | None = None) -> dict[str, Any]:
    """The color and the dash of line number i, for matplotlib; a dash of its own where one is given."""
    dashes = _DASHES[(i // len(COLORS) if dash is None else dash) % len(_DASHES)]
    return {"color": COLORS[i % len(COLORS)], "linestyle": (0, dashes) if dashes else "-"}


def marked(i: int) -> dict[str, Any]:
    """The color and the marker of points number i, for matplotlib: 49 pairs."""
    return {"color": COLORS[i % len(COLORS)], "marker": MARKERS[(i + i // len(COLORS)) % len(MARKERS)]}


def legend_above(figure: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend for all panels, above them."""
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)


def looks(kinds: Sequence[Any], groups: Sequence[Any] | None = None) -> list[dict[str, Any]]:
    """The looks of lines: a color for each kind and a dash for each group where there are few, else both in turn."""
    colors, dashes = list(dict.fromkeys(kinds)), list(dict.fromkeys(groups or ()))
    if groups and 1 < len(colors) <= len(COLORS) and len(dashes) <= len(_DASHES):
        return [look(colors.index(kind), dashes.index(group)) for kind, group in zip(kinds, groups, strict=True)]
    return [look(i) for i in range(len(kinds))]


def mean_and_range(axes: Any, x: Any, mean: Any, low: Any, high: Any, **style: Any) -> None:
    """A line with the band around it; a bar where the line is a point."""
    style = {"linewidth": 1.3} | style
    axes.plot(x, mean, **style)
    if np.array_equal(low, high):
        return
    if len(x) == 1:
        axes.vlines(x, low, high, color=style["color"], alpha=0.15, linewidth=8)
    else:
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def mean_and_std(axes: Any, x: Sequence[float], seeds: Sequence[Sequence[float]], **style: Any) -> None:
    """A line through the means over the seeds, with bars of their standard deviation, of values [seeds, x]."""
    values = np.asarray(seeds, float)
    values[~np.isfinite(values)] = np.nan
    std = np.std(values, axis=0, ddof=1) if len(values) > 1 else None
    axes.errorbar(x, values.mean(0), std, capsize=3, **style)


def learning_curves(
    axes: Any, runs: Mapping[str, Any], column: str, label: str, styles: Sequence[dict[str, Any]] | None = None
) -> None:
    """A measure against the epoch: a line for each name, the mean over its seeds that have come so far.

    Around it is one standard deviation to either side, as far as there are values: the range would grow with the seeds.

    Args:
        axes: to draw on.
        runs: by name, a table with the columns "epoch" and `column`: a row for each seed and epoch.
        column: of the measure.
        label: of its axis.
        styles: see `looks`.
    """
    found = []
    for (name, table), style in zip(runs.items(), styles or looks(list(runs)), strict=True):
        every = np.asarray(table[column], float)
        every = np.where(np.abs(every) <= LARGEST, every, np.nan)
        epochs, which = np.unique(np.asarray(table["epoch"]), return_inverse=True)
        values = [every[which == i] for i in range(len(epochs))]
        mean, std = np.array([[np.mean(each), np.std(each, ddof=len(each) > 1)] for each in values]).reshape(-1, 2).T
        low, high = np.maximum(mean - std, list(map(np.min, values))), np.minimum(mean + std, list(map(np.max, values)))
        marker = "o" if len(epochs) < 3 else None
        mean_and_range(axes, epochs, mean, low, high, label=plain(name), marker=marker, markersize=3, **style)
        found.append(every[np.isfinite(every)])
    values = np.concatenate([*found, []])
    if values.size and values.min() > 0 and values.max() > _LOGARITHMIC_FROM * values.min():
        axes.set_yscale("log")
        plain_logarithmic(axes.yaxis)
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color=FAINT, linewidth=0.6)
    open_frame(axes)


def run_curves(rows: Sequence[Mapping[str, Any]], title: str) -> Any:
    """Loss and error of a run by epoch, training and test, and the drops of the learning rate, from its metrics."""
    drawn = figure(9, 3.8)
    epochs = [row["epoch"] for row in rows]
    changes = [(a["epoch"], b["learning_rate"] - a["learning_rate"]) for a, b in itertools.pairwise(rows)]
    steady = any(change == 0 for _, change in changes)  # a cosine has no drops to mark
    drops = [epoch for epoch, change in changes if steady and change < 0]
    panels = drawn.subplots(1, 2)
    for axes, label in zip(panels, ("loss", "error, %"), strict=True):
        found = {split: _measure(rows, split, label) for split in ("train", "test")}
        learning_curves(axes, {split: {"epoch": epochs, label: x} for split, x in found.items()}, label, label)
        for epoch in drops:
            name = "drop of the learning rate" if epoch == drops[0] else None
            axes.axvline(epoch, color="0.4", linewidth=0.9, linestyle=":", zorder=0, label=name)
    last = found["test"][-1]
    place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "color": COLORS[1]}
    panels[1].annotate(f"{last:.2f}%", (epochs[-1], last), **place)
    drawn.legend(*panels[1].get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower center")
    drawn.suptitle(plain(title))
    return drawn


def run_coefficients(found: Coefficients, title: str) -> Any:
    """The learned coefficients of a run after its last epoch, against depth."""
    drawn = figure(7, 3.6)
    axes = drawn.subplots()
    coefficients(axes, last_weights([found]), stable=found.stepper.known.zero_stable)
    axes.set_title(plain(title), pad=18)
    return drawn


def paired_differences(
    ends: Mapping[tuple[str, str], Difference], curves: Mapping[tuple[str, str], Mapping[str, Sequence[Difference]]]
) -> Any:
    """Differences of paired runs with their intervals: of the test errors after the last epoch, and by epoch.

    Args:
        ends: by pair, from top to bottom.
        curves: by pair and measure, a difference for each epoch.
    """
    measures = list(next(iter(curves.values())))
    drawn = figure(10, 2.2 + 0.25 * len(ends))
    first, *others = drawn.subplots(1, 1 + len(measures))
    for i, end in enumerate(ends.values()):
        first.errorbar(end.mean, -i, xerr=end.half_width, capsize=3, fmt="o", markersize=4, color=COLORS[0])
        first.annotate(f"{end.count} seeds", (1, -i), xycoords=("axes fraction", "data"), fontsize=7, va="center")
    first.set_yticks([-i for i in range(len(ends))], list(map(_minus, ends)))
    first.axvline(0, color="0.4", linewidth=0.9, linestyle=":", zorder=0)
    first.set(ylim=(0.5 - len(ends), 0.5), xlabel="points, 95% intervals")
    first.set_title("difference of the last test errors", fontsize=9)
    for axes, measure in zip(others, measures, strict=True):
        for i, (pair, found) in enumerate(curves.items()):
            means, ranges = [x.mean for x in found[measure]], [x.interval for x in found[measure]]
            lows, highs = zip(*ranges, strict=True)
            mean_and_range(axes, range(1, len(means) + 1), means, lows, highs, label=_minus(pair), **look(i))
        axes.axhline(0, color="0.4", linewidth=0.9, linestyle=":", zorder=0)
        axes.set(xlabel="epoch")
        axes.set_title(f"difference of the {measure}", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in (first, *others):
        open_frame(axes)
    legend_above(drawn, *others[0].get_legend_handles_labels())
    return drawn


def _minus(pair: tuple[str, str]) -> str:
    return plain(" - ".join(pair))


def _measure(rows: Sequence[Mapping[str, Any]], split: str, label: str) -> np.ndarray:
    key = f"{split}_loss" if label == "loss" else f"{split}_accuracy"
    values = np.array([row[key] for row in rows], float)  # None, of an epoch without an update, is NaN
    return values if label == "loss" else 100 * (1 - values)


def by_depth(axes: Any, stages: Mapping[str, Any], *, label: str | None = None, **style: Any) -> None:
    """A number a learned step against its place in the network, a line a stage: the mean and the range.

    Args:
        axes: to draw on.
        stages: [values, steps] by stage; the values are those of the seeds, say.
        label: for the legend.
        style: of the line, as matplotlib takes it.
    """
    first = 1
    for values in map(np.asarray, stages.values()):
        at = np.arange(first, first + values.shape[1])
        ends = values.min(0), values.max(0)
        mean_and_range(axes, at, values.mean(0), *ends, marker="o", markersize=3, label=label, **style)
        first, label = first + len(at), None


def mark_stages(axes: Any, lengths: Mapping[str, int], *, names: bool = True) -> None:
    """The boundaries of stages with so many learned steps, and their names above."""
    first = 1
    for stage, length in lengths.items():
        axes.axvline(first - 0.5, color=FAINT, linewidth=0.8, zorder=0)
        if names:
            axes.annotate(
                stage, (first - 0.4, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        first += length
    axes.set(xlabel="learned step", xlim=(0.5, first - 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
    open_frame(axes)


def coefficients(
    axes: Any,
    weights: Mapping[str, Mapping[str, Any]],
    *,
    stable: tuple[float, float] | None = None,
    limits: tuple[float, float] | None = None,
    color: str = COLORS[0],
) -> None:
    """The learned coefficients against depth.

    Args:
        axes: to draw on.
        weights: [values, steps] by name and stage, see `results.coefficients`. Too many for a line each are one.
        stable: where a scheme with one coefficient is zero-stable: the rest is shaded.
        limits: of the axis.
        color: of the line, if it is one.
    """
    if len(weights) > len(COLORS):
        stages = list(dict.fromkeys(stage for found in weights.values() for stage in found))
        every = {stage: [found[stage] for found in weights.values() if stage in found] for stage in stages}
        weights = {f"{len(weights)} coefficients": {stage: np.concatenate(x) for stage, x in every.items()}}
    lengths = {stage: np.shape(x)[1] for found in weights.values() for stage, x in found.items()}
    for i, (name, stages) in enumerate(weights.items()):  # not every stage may have all of them, as with dense
        every = {stage: stages.get(stage, np.full((1, length), np.nan)) for stage, length in lengths.items()}
        by_depth(axes, every, label=name, color=color if len(weights) == 1 else COLORS[i])
    mark_stages(axes, lengths)
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
    axes.set(ylabel=name if len(weights) == 1 else "coefficient", ylim=limits)
    if len(weights) > 1:
        handles = axes.get_legend_handles_labels()
        axes.figure.legend(*handles, frameon=False, fontsize=8, ncols=4, loc="outside lower center")
    if stable is not None:
        shade(axes, "not zero-stable", *stable)


def shade(axes: Any, text: str, bottom: float, top: float = np.inf) -> None:
    """Shade what is on the axes below the bottom and above the top, and say what it is."""
    low, high = axes.get_ylim()
    for start, end in ((low, min(bottom, high)), (max(top, low), high)):
        if start < end:
            axes.axhspan(start, end, color=FAINT, alpha=0.5, zorder=-1, linewidth=0)
            if end - start > 0.1 * (high - low):  # else it has no room for the text
                place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
                axes.annotate(text, (0.01, (start + end) / 2), **place)
    axes.set_ylim(low, high)


def depth_colors(figure: Any, axes: Any, count: int) -> list[Any]:
    """A color for each of the steps 1 to `count`, dark for early ones and bright for late ones, and a bar of them.

    Raises:
        InputError: if matplotlib is not installed.
    """
    colors, cm = _matplotlib(".colors"), _matplotlib(".cm")
    found = [cm.viridis(0.9 * i / max(count - 1, 1)) for i in range(count)]  # no pale yellow
    norm = colors.BoundaryNorm([n + 0.5 for n in range(count + 1)], count) if count > 1 else None
    mappable, every = cm.ScalarMappable(norm, colors.ListedColormap(found)), max(1, -(-count // 8))
    ticks = list(range(1, count + 1, every))
    bar = figure.colorbar(mappable, ax=axes, label="learned step", ticks=ticks, aspect=30)
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=8, length=0)
    return found


def coefficients_by_epoch(figure: Any, axes: Any, epochs: Sequence[int], values: Any, label: str) -> None:
    """A line a learned step through the epochs, of values [epochs, steps], colored by depth."""
    marker = "o" if len(epochs) < 3 else None
    for color, column in zip(depth_colors(figure, axes, values.shape[1]), values.T, strict=True):
        axes.plot(epochs, column, color=color, linewidth=1.1, marker=marker, markersize=3)
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    open_frame(axes)


def error_by_size(axes: Any, points: Iterable[Any], schemes: Sequence[str] | None = None) -> None:
    """Test error against parameters, the comparison of Lu et al. (2018): how large a network need be for an error.

    Lines join networks of one scheme and one recipe; bars are one standard deviation to either side; what was published
    is hollow.

    Args:
        axes: to draw on.
        points: with the attributes scheme, network, parameters, error (a `Spread`), published (an error, or None) and
            recipe, which is the same for what was trained alike.
        schemes: all that there are, in the order of their colors.
    """
    points = list(points)
    schemes = list(schemes or dict.fromkeys(point.scheme for point in points))
    curves = _curves(sorted(points, key=lambda point: (schemes.index(point.scheme), point.parameters)))
    sizes = [point.parameters for point in points]
    # Networks of different schemes are of nearly one size: side by side, their bars can be told apart.
    apart = (max(sizes) / min(sizes)) ** min(0.008, 0.04 / len(curves))
    handles, known = {}, {}
    for place, curve in enumerate(curves):
        aside, scheme = apart ** (place - (len(curves) - 1) / 2), curve[0].scheme
        i = schemes.index(scheme)
        style = marked(i) | {"markersize": 5}
        bars = [np.nan if point.error.std is None else point.error.std for point in curve]
        bars = None if np.isnan(bars).all() else bars
        line = {"linestyle": "-" if len(curve) > 1 else "none", "linewidth": 1.2, "elinewidth": 1, "capsize": 2.5}
        x = [aside * point.parameters for point in curve]
        handles.setdefault(scheme, axes.errorbar(x, [point.error.mean for point in curve], bars, **line, **style))
        known |= {(scheme, p.network): (aside * p.parameters, p.published, style) for p in curve if p.published}
    for x, y, style in known.values():
        axes.plot([x], [y], linestyle="none", markerfacecolor="none", **style)
    axes.set_xscale("log")
    axes.margins(x=0.1)
    plain_logarithmic(axes.xaxis)
    axes.set(xlabel="parameters", ylabel="test error, %")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if axes.get_ylim()[0] < 1 else None)
    axes.legend(list(handles.values()), list(handles), frameon=False)
    axes.grid(color=FAINT, linewidth=0.6)
    open_frame(axes)
    _name_networks(axes, points)


def _curves(points: Iterable[Any]) -> list[list[Any]]:
    """The points that lines join, by size: of different networks of one scheme, trained alike."""
    curves: list[list[Any]] = []
    for point in points:
        alike = [curve for curve in curves if (curve[0].scheme, curve[0].recipe) == (point.scheme, point.recipe)]
        home = next((curve for curve in alike if point.network not in {other.network for other in curve}), None)
        curves.append([point]) if home is None else home.append(point)
    return curves


def _name_networks(axes: Any, points: Iterable[Any]) -> None:
    """Name the networks along the top."""
    sizes: dict[str, list[int]] = {}
    for point in points:
        sizes.setdefault(point.network, []).append(point.parameters)
    names: dict[float, str] = {}
    for network, found in sorted(sizes.items(), key=lambda item: np.mean(item[1])):
        mean = np.mean(found)
        if names and mean < 1.1 * (last := max(names)):  # side by side they could not be read
            names[last] += f", {network}"
        else:
            names[mean] = network
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(names), list(names.values()), rotation=30, ha="left", rotation_mode="anchor", fontsize=8)
    top.minorticks_off()
    top.spines["top"].set_visible(False)


def plain_logarithmic(axis: Any) -> None:
    """Numbers as they are, not as powers, on an axis that is logarithmic already."""
    ticker = _matplotlib(".ticker")
    low, high = np.log10(axis.get_view_interval())
    decades = abs(high - low)
    if decades < 0.5:
        locator = ticker.MaxNLocator(5, steps=[1, 2, 5, 10])
    else:
        locator = ticker.LogLocator(subs=(1, 2, 3, 5) if decades < 1.2 else (1, 2, 5) if decades < 3 else (1,))
    axis.set_major_locator(locator)
    axis.set_minor_locator(ticker.NullLocator())
    shown = axis.get_majorticklocs()
    # As many digits as tell them apart.
    digits = next((n for n in range(3, 9) if len({_short(x, n) for x in shown}) == len(shown)), 9)
    axis.set_major_formatter(lambda value, _: _short(value, digits))


def _short(value: float, digits: int) -> str:
    """272384 -> "272k", 0.05 -> "0.05"."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.{digits}g}{letter}"
    return f"{value:.{digits}g}"
