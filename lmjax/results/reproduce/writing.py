"""The tables in words and numbers, and where they stand in the documentation."""

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lmjax import files, networks
from lmjax.config import Config
from lmjax.console import printable
from lmjax.errors import InputError, reason
from lmjax.results import plots, published
from lmjax.results.reproduce import cost, results
from lmjax.results.reproduce.tables import TABLES, Table, table
from lmjax.results.runs import Run
from lmjax.results.statistics import Difference, difference, holm, spread


def tables() -> str:
    """The tables that can be run, their cost, and what was published of them, as Markdown.

    The hours are estimates: see `cost`.
    """
    chips = [f"hours of {accelerator.name}, at least" for accelerator in cost.ACCELERATORS]
    costs = [_cost(name, table(name)) for name in TABLES]
    claims = [_claim(name, *pair) for name in TABLES for pair in table(name).pairs]
    return "\n\n".join(
        (
            _lines(["table", "claim", "runs", "training steps", *chips], costs),
            _lines(
                ["table", "published", "test error, %", "against", "test error, %", "difference"],
                [claim for claim in claims if claim],
            ),
        )
    )


def _cost(name: str, wanted: Table) -> list[str]:
    runs, steps, hours = cost.total(wanted)
    return [
        f"`{name}`",
        wanted.claim,
        f"{runs}",
        f"{steps:,}",
        *("under 0.1" if x < 0.1 else f"{x:.1f}" for x in hours),
    ]


def _claim(name: str, row: str, baseline: str) -> list[str] | None:
    """The published result of a pair, if there is one.

    The paper compares with the published errors of the post-activated networks, where pre-activated ones have none.
    """
    ours = published.CIFAR10.get(row)
    known = [x for x in (baseline, f"{baseline}_post") if x in published.CIFAR10 and published.CIFAR10[x].error]
    if ours is None or ours.error is None or not known:
        return None
    theirs = published.CIFAR10[known[0]]
    difference = f"{ours.error - theirs.error:+.2f}"
    return [f"`{name}`", f"`{row}`", f"{ours.error:.2f}", f"`{known[0]}`", f"{theirs.error:.2f}", difference]


def _lines(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, without the columns that would be empty."""
    if rows:
        header, *rows = zip(*(column for column in zip(header, *rows, strict=True) if any(column[1:])), strict=True)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


class _Measure(NamedTuple):
    """A measure to compare: its name, the numbers of runs by seed, and the decimals to print."""

    name: str
    of: Callable[[dict[int, Run]], dict[int, float]]
    digits: int


def _measures(wanted: Table) -> list[_Measure]:
    """Those of a table, the test error first."""
    found = [_Measure("test error, %", results.errors, 2), _Measure("training loss", results.losses, 3)]
    if wanted.level is not None:
        name = f"epochs to {wanted.level:g}%"
        found.append(_Measure(name, functools.partial(results.epochs_to, wanted.level), 2))
    return found


def markdown(wanted: Table, out: Path) -> str:
    """The results of the finished runs of a table, as Markdown.

    Raises:
        InputError: if the folder holds no finished run of the table, or others in their place.
    """
    found, measures = results.finished(wanted, out), _measures(wanted)
    names, others = [measure.name for measure in measures], measures[1:]
    head = itertools.chain.from_iterable((measure.name, "95% interval") for measure in others)
    return "\n\n".join(
        (
            wanted.claim,
            f"{results.note(out) or wanted.images.name}; {wanted.protocol}. {_made(wanted, found)}",
            _lines(
                ["run", "network", "parameters", "multiplications", "seeds", *names, "published, %"],
                [_row(row, config, wanted, found[row]) for row, config in wanted.rows.items()],
            ),
            _lines(
                ["test error, same seeds", "seeds", "points", "95% interval", "p", "std", "lower in", "correlation"],
                [[_minus(pair), *_end(end, pair == wanted.primary)] for pair, end in _ends(wanted, found).items()],
            ),
            _lines(
                ["others, same seeds", *head],
                [
                    [
                        _minus(pair),
                        *itertools.chain.from_iterable(_difference(x, *(found[y] for y in pair)) for x in others),
                    ]
                    for pair in wanted.pairs
                ],
            ),
        )
    )


def picture(wanted: Table, out: Path) -> Any:
    """The paired differences of a table with their 95% intervals: after the last epoch, and by epoch.

    The curves are those of the pair that decides, or else of the pairs with the most seeds.

    Raises:
        InputError: as `markdown`, or if no pair has two seeds in common.
    """
    found = results.finished(wanted, out)
    ends = {pair: end for pair, end in _ends(wanted, found).items() if end is not None and end.interval is not None}
    if not ends:
        raise InputError(f"{out}: no pair of this table has two seeds in common yet: make more runs")
    most = max(end.count for end in ends.values())
    curves = {
        (row, baseline): {
            measure: list(map(difference, *(results.by_epoch(found[name], measure) for name in (row, baseline))))
            for measure in results.MEASURES
        }
        for (row, baseline), end in ends.items()
        if ((row, baseline) == wanted.primary if wanted.primary in ends else end.count == most)
    }
    return plots.paired_differences(ends, curves)


def _ends(wanted: Table, found: dict[str, dict[int, Run]]) -> dict[tuple[str, str], Difference | None]:
    """The difference of the test errors of each pair, with p corrected for all pairs of the table but the primary."""
    errors = {row: results.errors(runs) for row, runs in found.items()}
    ends = {pair: difference(*(errors[row] for row in pair)) for pair in wanted.pairs}
    family = {pair: end for pair, end in ends.items() if pair != wanted.primary}
    ps = [1.0 if end is None or end.p is None else end.p for end in family.values()]  # without runs they count, too
    for (pair, end), p in zip(family.items(), holm(ps), strict=True):
        if end is not None and end.p is not None:
            ends[pair] = end._replace(p=p)
    return ends


def _row(row: str, config: Config, wanted: Table, runs: dict[int, Run]) -> list[str]:
    model = cost.outline(config.model, wanted.images)
    network = f"{config.model.name}" + (f", width {config.model.width:g}" if config.model.width != 1 else "")
    return [
        f"`{row}`",
        network,
        f"{networks.parameter_count(model):,}",
        f"{networks.forward_macs(model, wanted.images.shape) / 1e6:.1f} M",
        f"{len(runs)}" + _of_planned(len(runs), wanted.seeds[row]),
        *(_mean(measure, runs) for measure in _measures(wanted)),
        _published(config),
    ]


def _of_planned(count: int, planned: int) -> str:
    return "" if count == planned else f" of {planned}" if count < planned else f" ({planned} planned)"


def _mean(measure: _Measure, runs: dict[int, Run]) -> str:
    values = measure.of(runs).values()
    if not all(map(math.isfinite, values)):
        return f"{sum(map(math.isfinite, values))} of {len(values)}"
    return f"{spread(values):.{measure.digits}f}" if values else ""


def _published(config: Config) -> str:
    found = published.find(config)
    same = found is not None and found[1].config.train.epochs == config.train.epochs  # else it is another experiment
    return f"{found[1].error:g}" if same and found[1].error is not None else ""


def _minus(pair: tuple[str, str]) -> str:
    return "`{}` minus `{}`".format(*pair)


def _signed(x: float, digits: int) -> str:
    return f"{round(x, digits) + 0.0:+.{digits}f}"  # + 0.0 makes -0.0 of rounding 0.0


def _end(end: Difference | None, decides: bool) -> list[str]:
    """The cells of a difference of test errors."""
    if end is None:
        return ["0", *[""] * 6]
    p = "" if end.p is None else "under 0.001" if end.p < 0.001 else f"{end.p:.3f}"
    std = "" if end.std is None else f"{end.std:.2f}"
    correlation = "" if end.correlation is None else f"{end.correlation:+.2f}"
    lower = f"{end.below} of {end.count}"
    p += " (primary, not corrected)" * decides
    return [f"{end.count}", _signed(end.mean, 2), end.ends(2), p, std, lower, correlation]


def _difference(measure: _Measure, ours: dict[int, Run], theirs: dict[int, Run]) -> tuple[str, str]:
    found = difference(measure.of(ours), measure.of(theirs))
    if found is None or not math.isfinite(found.mean):  # a run that does not reach the level takes infinitely long
        return "" if found is None else "not reached", ""
    return _signed(found.mean, measure.digits), found.ends(measure.digits)


def _made(wanted: Table, found: dict[str, dict[int, Run]]) -> str:
    summaries = [run.summary for runs in found.values() for run in runs.values()]
    devices = sorted({" ".join(printable(summary["device"]).split()) for summary in summaries})
    versions = [summary["versions"] for summary in summaries]
    versions = {f"jax {each.get('jax', '?')}, Python {each.get('python', '?')}" for each in versions}
    versions = sorted(" ".join(printable(each).split()) for each in versions)
    hours = sum(summary["wall_seconds"] for summary in summaries) / 3600
    count = f"{len(summaries)} run" + "s" * (len(summaries) > 1)
    planned = {(row, seed) for row, seeds in wanted.seeds.items() for seed in range(seeds)}
    there = {(row, seed) for row, runs in found.items() for seed in runs}
    if missing := len(planned - there):
        count += f" ({missing} of the {len(planned)} planned {'is' if missing == 1 else 'are'} missing)"
    if more := len(there - planned):
        count += f" ({more} more than planned)"
    return f"{count} on {', '.join(devices)} ({'; '.join(versions)}), whose times add up to {hours:.1f} hours."


def require_place(page: Path, place: str) -> None:
    """Check that a page has the two marks between which `update` puts its text.

    Raises:
        InputError: if there is no such page, or if it has no such place.
    """
    _parts(_read(page), page, place)


def update(page: Path, place: str, text: str) -> None:
    """Put a text between the lines `<!-- PLACE -->` and `<!-- end -->` of a page.

    Raises:
        InputError: if there is no such page, if it has no such place, or if it cannot be written.
    """
    raw = _read(page)
    before, after = _parts(raw, page, place)
    newline = "\r\n" if "\r\n" in raw else "\n"
    with files.writing(page, "--page"):
        files.write(page, f"{before}\n{text}\n\n{after}".replace("\n", newline))


def _read(page: Path) -> str:
    try:
        return files.read(page)
    except (OSError, ValueError) as error:
        raise InputError(f"--page {page}: cannot be read ({reason(error)})") from error


def _parts(raw: str, page: Path, place: str) -> tuple[str, str]:
    """The text before that of a place, and the text after it, with single newlines."""
    mark, end = f"<!-- {place} -->", "<!-- end -->"
    lines = raw.replace("\r\n", "\n").split("\n")
    marks = [i for i, line in enumerate(lines) if line.startswith("<!-- ")]
    places = [(i, j) for i, j in itertools.pairwise(marks) if (lines[i], lines[j]) == (mark, end)]
    if len(places) != 1:
        many = f"{len(places)} places" if places else "no place"
        raise InputError(f"--page {page}: has {many} for this: it needs the lines {mark} and {end} once")
    ((i, j),) = places
    return "\n".join(lines[: i + 1]) + "\n", "\n".join(lines[j:])
