"""The tables in words and numbers, and where they stand in the documentation."""

import json
import re
from pathlib import Path
from typing import Any

from flax import nnx

from lmjax import networks, published
from lmjax.config import Config
from lmjax.errors import InputError
from lmjax.reproduce import results
from lmjax.reproduce.tables import Table


def markdown(table: Table, out: Path) -> str:
    """What the finished runs of a table have come to, as Markdown.

    Raises:
        InputError: if the folder holds no runs of a table, or those of another one.
    """
    try:
        about = json.loads((out / results.ABOUT).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{out}: holds no runs of a table ({results.ABOUT}: {error})") from error
    found = results.collect(table, out)
    lines = [
        "| run | network | parameters | multiplications | seeds | test error, % | published, % |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(row, config, found[row]) for row, config in table.rows.items()]
    lines += [
        "",
        "| difference of the test errors from the same seeds | seeds | percentage points | 95% interval |",
        "|---|---|---|---|",
    ]
    lines += [_pair(row, baseline, found) for row, baseline in table.pairs]
    lines += ["", f"{about['data']}. {_cost([s for seeds in found.values() for s in seeds.values()])}"]
    return "\n".join(lines)


def _row(row: str, config: Config, summaries: dict[int, dict[str, Any]]) -> str:
    model = nnx.eval_shape(lambda: config.model.build(classes=10, cin=3, rngs=nnx.Rngs(0)))
    side = config.data.size or 32
    network = f"{config.model.name}" + (f", width {config.model.width:g}" if config.model.width != 1 else "")
    cells = [
        f"`{row}`",
        network,
        f"{networks.parameter_count(model):,}",
        f"{networks.forward_macs(model, (side, side, 3)) / 1e6:.1f} M",
        str(len(summaries)),
        _spread(list(results.errors(summaries).values())),
        _published(config),
    ]
    return f"| {' | '.join(cells)} |"


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
    return f"| `{row}` minus `{baseline}` | {' | '.join(cells)} |"


def _cost(summaries: list[dict[str, Any]]) -> str:
    if not summaries:
        return "No run is finished yet."
    devices = sorted({summary["device"] for summary in summaries})
    versions = sorted({f"jax {s['versions']['jax']}, Python {s['versions']['python']}" for s in summaries})
    hours = sum(summary["wall_seconds"] for summary in summaries) / 3600
    return f"{len(summaries)} runs on {', '.join(devices)} ({'; '.join(versions)}), {hours:.1f} hours of runs in all."


def update(page: Path, name: str, text: str) -> bool:
    """Puts a table where a page has `<!-- table NAME -->`, up to `<!-- end -->`; returns whether that changed it.

    Raises:
        InputError: if the page has no such place.
    """
    before = page.read_text()
    place = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(before):
        raise InputError(f"{page}: has no place for this table: <!-- table {name} --> and <!-- end -->")
    after = place.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", before)
    page.write_text(after)
    return after != before
