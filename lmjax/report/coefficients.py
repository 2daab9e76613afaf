"""The learned coefficients of a scheme, k of LM, step by step."""

from collections.abc import Sequence

import numpy as np

from lmjax.report import svg
from lmjax.report.markup import Markup, details, element, join, table
from lmjax.report.network import Facts
from lmjax.report.runs import Row
from lmjax.report.series import Look

_APART = 4  # weights of a step that are told apart; of more, and of channels, the mean and the range are drawn


def section(rows: Sequence[Row], facts: Sequence[Facts], looks: Sequence[Look], key: str) -> Markup | None:
    """A picture for each row whose scheme has coefficients, all on one scale; None if there is none."""
    drawn = [(row, fact, look, lines(row)) for row, fact, look in zip(rows, facts, looks, strict=True)]
    drawn = [entry for entry in drawn if entry[3]]
    if not drawn:
        return None
    values = [value for *_, found in drawn for stages in found.values() for x in stages.values() for value in x.flat]
    ends = [end for _, fact, *_ in drawn for end in fact.stable or ()]
    reach = [x for x in [*values, *ends, 0.0] if np.isfinite(x)]
    room = 0.08 * (max(reach) - min(reach)) or 0.1
    limits = (min(reach) - room, max(reach) + room)
    figures = [_figure(*entry, limits, f"{key}-{i}") for i, entry in enumerate(drawn)]
    return element("div", element("div", *figures, class_="figures"))


def lines(row: Row) -> dict[str, dict[str, np.ndarray]]:
    """The coefficients after the last epoch, {line: {stage: [values, steps]}}; {} where there are none.

    A scheme with one coefficient a step has the line "", with a value for each seed. One with several has a line for
    each, if they are few; else their values are those of the line, as are those of channels.
    """
    runs = [run.epochs[-1]["coefficients"] for run in row.runs if run.epochs and run.epochs[-1].get("coefficients")]
    kinds: dict[str, dict[str, np.ndarray]] = {}
    for name in runs[0] if runs else ():
        stage, _, kind = name.partition(".")
        values = [np.asarray(run[name], np.float64) for run in runs if name in run]
        if values[0].size:
            same = [x.reshape(len(x), -1) for x in values if x.shape == values[0].shape]
            kinds.setdefault(kind, {})[stage] = np.stack(same)
    found = {}
    for kind, stages in kinds.items():
        counts = {values.shape[2] for values in stages.values()}
        apart = len(counts) == 1 and max(counts) <= _APART  # channels are more from stage to stage
        for weight in range(max(counts) if apart else 1):
            words = [f"kind {kind}"] * (len(kinds) > 1) + [f"weight {weight + 1}"] * (apart and max(counts) > 1)
            found[", ".join(words)] = {
                stage: x[:, :, weight] if apart else x.transpose(0, 2, 1).reshape(-1, x.shape[1])
                for stage, x in stages.items()
            }
    return found


def _figure(row: Row, fact: Facts, look: Look, found, limits: tuple[float, float], key: str) -> Markup:
    several = len(found) > 1
    with svg.drawing():
        figure, axes = svg.figure(3.1 if several else 2.5)
        axes.grid(False)
        if fact.stable:
            axes.axhspan(*fact.stable, color=svg.FAINT, alpha=0.5, linewidth=0)
        axes.axhline(0, color=svg.FAINT, linewidth=0.8)
        for number, (name, stages) in enumerate(found.items()):
            _draw(axes, name, stages, svg.SERIES[number % len(svg.SERIES)] if several else look.line["color"])
        _mark_stages(axes, {stage: values.shape[1] for stage, values in next(iter(found.values())).items()})
        axes.set(xlabel="step with a coefficient", ylabel="coefficient" if several else "coefficient k", ylim=limits)
        if several:
            figure.legend(frameon=False, ncols=2, fontsize=8, loc="outside lower center")
        picture = svg.inline(figure, key, f"learned coefficients of {row.name}; the numbers are in the table below")
    caption = element("figcaption", element("strong", row.name), ": ", _caption(row, fact, found))
    return element("figure", picture, caption, details("The numbers", _table(row, found)))


def _draw(axes, name: str, stages: dict[str, np.ndarray], colour: str) -> None:
    first, label = 1, name or None
    for values in stages.values():
        at = np.arange(first, first + values.shape[1])
        axes.plot(at, values.mean(0), color=colour, marker="o", markersize=2.5, linewidth=1.2, label=label)
        if len(values) > 1:
            axes.vlines(at, values.min(0), values.max(0), color=colour, alpha=0.45, linewidth=1)
        first, label = first + values.shape[1] + 1, None


def _mark_stages(axes, lengths: dict[str, int]) -> None:
    """Names the stages, between which a place is left free, and numbers the steps through them."""
    at: list[int] = []
    for number, (stage, length) in enumerate(lengths.items()):
        first = len(at) + number + 1
        at += range(first, first + length)
        axes.annotate(
            stage, (first + (length - 1) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", fontsize=8, ha="center",
        )  # fmt: skip
        if number:
            axes.axvline(first - 1, color=svg.FAINT, linewidth=0.8)
    shown = range(0, len(at), -(-len(at) // 10))
    axes.set_xticks([at[i] for i in shown], [str(i + 1) for i in shown])
    axes.set_xlim(at[0] - 0.7, at[-1] + 0.7)


def _caption(row: Row, fact: Facts, found) -> Markup:
    words = [fact.scheme]
    count = max(len(values) for stages in found.values() for values in stages.values())
    seeds = sum(bool(run.epochs) for run in row.runs)
    spread = ["seeds"] * (seeds > 1) + ["the coefficients of a step"] * (count > seeds)
    if spread:
        words.append(f"means, with the range over {' and '.join(spread)}")
    if fact.stable:
        words.append(f"shaded: zero-stable, k from {_plain(fact.stable[0])} to {_plain(fact.stable[1])}")
    margins = [
        float(np.min(margin))
        for run in row.finished
        for stage in run.summary.get("zero_stability", {}).values()
        for margin in stage
    ]
    if margins:
        outside = sum(margin < 0 for margin in margins)
        words.append(f"{outside} of {len(margins)} learned steps are outside the zero-stable range")
    return join(words, "; ")


def _plain(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _table(row: Row, found) -> Markup:
    heads = ["stage", "step", "mean", "least", "greatest"]
    body = [
        [f"{stage}, {name}" if name else stage, step + 1, *(f"{f(x):.4f}" for f in (np.mean, np.min, np.max))]
        for name, stages in found.items()
        for stage, values in stages.items()
        for step, x in enumerate(values.T)
    ]
    return table(heads, body, f"Learned coefficients of {row.name} after the last epoch")
