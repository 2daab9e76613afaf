"""The page: header, sections, one after another."""

import datetime
from collections.abc import Iterable, Sequence

import lmjax
from lmjax.config import flatten, to_dict
from lmjax.report import coefficients, columns, compression, curves, mistakes
from lmjax.report.markup import Markup, details, element, join, table
from lmjax.report.network import Facts, facts
from lmjax.report.runs import Row, data_title
from lmjax.report.script import SCRIPT
from lmjax.report.series import looks
from lmjax.report.style import STYLE

# Nothing from elsewhere, whatever a run's texts say.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(rows: Sequence[Row], *, images: Sequence[Row], without: str, data_dir: str | None = None) -> str:
    """The whole HTML file.

    Args:
        rows: the runs.
        images: those whose mistakes are shown.
        without: why not those of the others, in a sentence; "" if all are.
        data_dir: where the data is, if not where it was.
    """
    known = [facts(row) for row in rows]
    chosen = looks(rows, [fact.scheme for fact in known])
    theirs = [columns.published(row, fact) for row, fact in zip(rows, known, strict=True)]
    schemes = list(dict.fromkeys(fact.scheme for fact in known))
    sets = list(dict.fromkeys(row.data for row in rows))
    sections = [("Results", columns.section(rows, known, chosen))]
    for number, data in enumerate(sets):
        which = [i for i, row in enumerate(rows) if row.data == data]
        mine = [[values[i] for i in which] for values in (rows, known, chosen, theirs)]
        of = f": {data_title(mine[0][0].config)}" if len(sets) > 1 else ""
        published = [None if found is None else found[1] for found in mine[3]]
        sections += [
            (f"Learning curves{of}", curves.section(mine[0], mine[2], f"curves-{number}")),
            (
                f"Error against parameters{of}",
                compression.section(mine[0], mine[1], published, schemes, f"compression-{number}"),
            ),
            (f"Learned coefficients{of}", coefficients.section(*mine[:3], f"coefficients-{number}")),
        ]
    note = element("p", without, class_="note") if without else None
    sections += [("Mistakes", join([note, mistakes.section(images, data_dir)])), ("Settings", _settings(rows))]
    title = ", ".join(row.name for row in rows[:3]) + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
    body = join(
        [
            _header(rows, known, title),
            element("main", *(element("section", element("h2", head), part) for head, part in sections if part)),
            element("footer", element("p", f"Made by lmjax {lmjax.__version__}, lmjax report.")),
            element("script", Markup(SCRIPT)),
        ]
    )
    return _document(title, body)


def _document(title: str, body: Markup) -> str:
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            element("style", Markup(STYLE)),
        ],
        "\n",
    )
    return f"<!DOCTYPE html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


def _header(rows: Sequence[Row], known: Sequence[Facts], title: str) -> Markup:
    runs = [run for row in rows for run in row.runs]
    files = [path for run in runs for path in (run.record.summary_path, run.record.metrics_path) if path.exists()]
    days = sorted({datetime.date.fromtimestamp(path.stat().st_mtime).isoformat() for path in files})
    unfinished = sum(run.summary is None for run in runs)
    told = f"{len(runs)}" + (f", {unfinished} of them unfinished" if unfinished else "")
    if len(rows) < len(runs):
        told += f"; in {len(rows)} rows, with those together that differ only in the seed"
    entries = {
        "Runs": told,
        "Last written": " to ".join(dict.fromkeys((days[0], days[-1]))) if days else None,
        "Data": _each(_data(row, fact) for row, fact in zip(rows, known, strict=True)),
        "Hardware": _each(run.summary.get("device") for run in runs if run.summary),
        "Versions": _versions(rows),
        "Report": f"{datetime.datetime.now():%Y-%m-%d %H:%M}, lmjax {lmjax.__version__}",
    }
    listed = (join([element("dt", key), element("dd", value)]) for key, value in entries.items() if value)
    return element("header", element("h1", title), element("dl", *listed))


def _each(values: Iterable[str | None]) -> Markup:
    """Those that differ, a line each."""
    return join(element("div", value) for value in dict.fromkeys(values) if value)


def _data(row: Row, fact: Facts) -> str:
    """'digits: 1,437 training and 360 test images of 8 × 8 × 1, 10 classes'."""
    about, name = fact.data, data_title(row.config)
    if "training_images" not in about:
        return name
    size = " × ".join(map(str, about["shape"]))
    return (
        f"{name}: {about['training_images']:,} training and {about['test_images']:,} test images of {size}, "
        f"{len(about['classes'])} classes"
    )


def _versions(rows: Sequence[Row]) -> str:
    """Of each package, those that the runs were made with."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for run in row.finished:
            for package, version in run.summary.get("versions", {}).items():
                found.setdefault(str(package), {})[str(version)] = None
    return ", ".join(f"{package} {' and '.join(versions)}" for package, versions in found.items())


def _settings(rows: Sequence[Row]) -> Markup:
    """In what the rows differ, and where they are."""
    configs = [flatten(to_dict(row.config)) for row in rows]
    keys = [key for key in configs[0] if key not in ("seed", "workdir")]
    differ = [key for key in keys if any(config[key] != configs[0][key] for config in configs)]
    parts = []
    if differ:
        lines = ([key, *(str(config[key]) for config in configs)] for key in differ)
        parts.append(table(["setting", *(row.name for row in rows)], lines, "In what the runs differ", numbers=False))
    said = "In what all runs agree" if len(rows) > 1 else "All settings"
    same = [[key, str(configs[0][key])] for key in keys if key not in differ]
    parts.append(details(said, table(["setting", "value"], same, said, numbers=False)))
    places = [[row.name, run.config.seed, str(run.record.directory)] for row in rows for run in row.runs]
    parts.append(details("Folders", table(["run", "seed", "folder"], places, "Where the runs are", numbers=False)))
    return join(parts)
