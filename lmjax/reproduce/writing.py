"""The tables in words and numbers, and where they stand in the documentation."""

import re
from pathlib import Path
from typing import Any

from lmjax import networks, published
from lmjax.config import Config
from lmjax.errors import InputError
from lmjax.reproduce import cost, results
from lmjax.reproduce.tables import TABLES, Images, Table, table


def tables() -> str:
    """What there is to run, and what that costs, as Markdown. The hours are estimates: see `lmjax.reproduce.cost`."""
    chips = [f"hours of {accelerator.name}, estimated" for accelerator in cost.ACCELERATORS]
    lines = [_line("table", "claim", "runs", "training steps", *chips), "|---|---|---|---|---|---|"]
    for name in TABLES:
        wanted = table(name)
        runs, steps, hours = cost.total(wanted)
        lines.append(_line(f"`{name}`", wanted.claim, str(runs), f"{steps:,}", *map(_hours, hours)))
    return "\n".join(lines)


def _hours(hours: float) -> str:
    return "under 0.1" if hours < 0.1 else f"{hours:.1f}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def markdown(wanted: Table, out: Path) -> str:
    """What the finished runs of a table have come to, as Markdown.

    Raises:
        InputError: if the folder holds no runs of a table, or those of another one.
    """
    about = results.about(out)
    found = results.collect(wanted, out)
    lines = [
        wanted.claim,
        "",
        f"{about['data']}; {wanted.protocol}. {_made([s for seeds in found.values() for s in seeds.values()])}",
        "",
        "| run | network | parameters | multiplications | seeds | test error, % | published, % |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(row, config, wanted.images, found[row]) for row, config in wanted.rows.items()]
    lines += [
        "",
        "| difference of the test errors from the same seeds | seeds | percentage points | 95% interval |",
        "|---|---|---|---|",
    ]
    lines += [_pair(row, baseline, found) for row, baseline in wanted.pairs]
    return "\n".join(lines)


def _row(row: str, config: Config, images: Images, summaries: dict[int, dict[str, Any]]) -> str:
    model = config.model.outline(classes=images.classes, cin=images.shape[-1])
    network = f"{config.model.name}" + (f", width {config.model.width:g}" if config.model.width != 1 else "")
    return _line(
        f"`{row}`",
        network,
        f"{networks.parameter_count(model):,}",
        f"{networks.forward_macs(model, images.shape) / 1e6:.1f} M",
        str(len(summaries)),
        _spread(list(results.errors(summaries).values())),
        _published(config),
    )


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    mean, std = results.mean_and_std(values)
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def _published(config: Config) -> str:
    found = published.find(config)
    same = found is not None and found[1].config.train.epochs == config.train.epochs  # else it is another experiment
    return f"{found[1].error:g}" if same and found[1].error is not None else ""


def _pair(row: str, baseline: str, found: dict[str, dict[int, dict[str, Any]]]) -> str:
    difference = results.difference(results.errors(found[row]), results.errors(found[baseline]))
    if difference is None:
        cells = ["0", "", ""]
    else:
        mean, half = difference.mean, difference.half_width
        interval = "" if half is None else f"{mean - half:+.2f} to {mean + half:+.2f}"
        cells = [str(difference.count), f"{mean:+.2f}", interval]
    return _line(f"`{row}` minus `{baseline}`", *cells)


def _made(summaries: list[dict[str, Any]]) -> str:
    if not summaries:
        return "No run is finished yet."
    devices = sorted({summary["device"] for summary in summaries})
    versions = sorted({f"jax {s['versions']['jax']}, Python {s['versions']['python']}" for s in summaries})
    hours = sum(summary["wall_seconds"] for summary in summaries) / 3600
    return f"{len(summaries)} runs on {', '.join(devices)} ({'; '.join(versions)}), {hours:.1f} hours of runs in all."


def update(page: Path, place: str, text: str) -> bool:
    """Puts a text where a page has `<!-- PLACE -->`, up to `<!-- end -->`; returns whether that changed the page.

    Raises:
        InputError: if the page has no such place.
    """
    before = page.read_text()
    found = re.compile(rf"(<!-- {re.escape(place)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not found.search(before):
        raise InputError(f"{page}: has no place for this: <!-- {place} --> and <!-- end -->")
    after = found.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", before)
    page.write_text(after)
    return after != before
