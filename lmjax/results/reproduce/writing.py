"""The tables in words and numbers, and where they stand in the documentation."""

import itertools
from pathlib import Path
from typing import Any

from lmjax import files, networks
from lmjax.config import Config
from lmjax.errors import InputError, reason
from lmjax.results import published
from lmjax.results.reproduce import cost, results
from lmjax.results.reproduce.tables import TABLES, Images, Table, table
from lmjax.results.statistics import difference, spread


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


def markdown(wanted: Table, out: Path) -> str:
    """The results of the finished runs of a table, as Markdown.

    Raises:
        InputError: if the folder holds no finished run of the table, or others in their place.
    """
    found = results.collect(wanted, out)
    summaries = [summary for seeds in found.values() for summary in seeds.values()]
    if not summaries:
        raise InputError(f"{out}: holds no finished run of this table")
    return "\n\n".join(
        (
            wanted.claim,
            f"{results.note(out) or wanted.images.name}; {wanted.protocol}. {_made(summaries)}",
            _lines(
                ["run", "network", "parameters", "multiplications", "seeds", "test error, %", "published, %"],
                [_row(row, config, wanted.images, found[row]) for row, config in wanted.rows.items()],
            ),
            _lines(
                ["difference of the test errors from the same seeds", "seeds", "percentage points", "95% interval"],
                [_pair(row, baseline, found) for row, baseline in wanted.pairs],
            ),
        )
    )


def _row(row: str, config: Config, images: Images, summaries: dict[int, dict[str, Any]]) -> list[str]:
    model = config.model.outline(classes=images.classes, cin=images.shape[-1])
    network = f"{config.model.name}" + (f", width {config.model.width:g}" if config.model.width != 1 else "")
    errors = results.errors(summaries).values()
    return [
        f"`{row}`",
        network,
        f"{networks.parameter_count(model):,}",
        f"{networks.forward_macs(model, images.shape) / 1e6:.1f} M",
        f"{len(summaries)}",
        f"{spread(errors):.2f}" if errors else "",
        _published(config),
    ]


def _published(config: Config) -> str:
    found = published.find(config)
    same = found is not None and found[1].config.train.epochs == config.train.epochs  # else it is another experiment
    return f"{found[1].error:g}" if same and found[1].error is not None else ""


def _pair(row: str, baseline: str, found: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    paired = difference(results.errors(found[row]), results.errors(found[baseline]))
    name = f"`{row}` minus `{baseline}`"
    if paired is None:
        return [name, "0", "", ""]
    count, mean, half = paired
    interval = "" if half is None else f"{mean - half:+.2f} to {mean + half:+.2f}"
    return [name, f"{count}", f"{mean:+.2f}", interval]


def _made(summaries: list[dict[str, Any]]) -> str:
    devices = sorted({summary["device"] for summary in summaries})
    versions = [summary["versions"] for summary in summaries]
    versions = sorted({f"jax {each.get('jax', '?')}, Python {each.get('python', '?')}" for each in versions})
    hours = sum(summary["wall_seconds"] for summary in summaries) / 3600
    count = f"{len(summaries)} run" + "s" * (len(summaries) > 1)
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
    for i, j in itertools.pairwise(marks):
        if (lines[i], lines[j]) == (mark, end):
            return "\n".join(lines[: i + 1]) + "\n", "\n".join(lines[j:])
    raise InputError(f"--page {page}: has no place for this: it needs the lines {mark} and {end}")
