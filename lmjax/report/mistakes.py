"""Which classes are confused, and which images the network is most wrong about."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lmjax.errors import InputError
from lmjax.report.markup import Markup, element, join, scrolling, table
from lmjax.report.predictions import Mistake, Predictions, predict
from lmjax.report.runs import Row, Run

_MATRIX_BELOW = 40  # classes; from there on, the most confused pairs
_PAIRS, _KEEP, _SIDE = 20, 18, 64
_SHORT = 3  # letters that the head of a narrow column has room for
TEST_IMAGES = 10_000  # of which data set ever, at most so many are looked at


def section(rows: Sequence[Row], data_dir: str | None) -> Markup:
    """Of the best run of each row; at the end, of which rows there is nothing to see, and why."""
    shown, reasons = [], {}
    for row in rows:
        try:
            shown.append(_of(row, data_dir))
        except InputError as error:
            reasons.setdefault(str(error), []).append(row.name)
    notes = (f"No images of {', '.join(names)}: {reason}." for reason, names in reasons.items())
    return join([*shown, *(element("p", note, class_="note") for note in notes)])


def _of(row: Row, data_dir: str | None) -> Markup:
    run = row.best_run()
    if run is None:
        raise InputError("there is no epoch yet")
    directory = data_dir if "directory" in run.config.data.origin.takes else None
    found = predict(run, data_dir=directory, limit=TEST_IMAGES, keep=_KEEP)
    pair = element("div", element("div", _matrix(found)), _grid(found), class_="pair")
    return join([element("h3", row.name), element("p", _about(row, run, found), class_="note"), pair])


def _about(row: Row, run: Run, found: Predictions) -> str:
    count, wrong = found.confusion.sum(), found.confusion.sum() - np.trace(found.confusion)
    seed = f"Seed {run.config.seed}, the one with the lowest test error. " if len(row.runs) > 1 else ""
    images = (
        f"{count:,} test images" if count == found.total else f"{count:,} of {found.total:,} test images, at random"
    )
    return f"{seed}{wrong:,} of {images} are misclassified ({wrong / count:.2%}) at step {found.step:,}."


def _matrix(found: Predictions) -> Markup:
    """Who is taken for whom: all of it, or the most confused pairs where there are too many classes."""
    off = found.confusion - np.diag(np.diag(found.confusion))
    of_class = np.maximum(found.confusion.sum(1), 1)
    if len(found.classes) >= _MATRIX_BELOW:
        order = [i for i in np.argsort(-off, axis=None, kind="stable")[:_PAIRS] if off.flat[i]]
        pairs = [divmod(int(i), len(found.classes)) for i in order]
        lines = ([found.classes[a], found.classes[b], off[a, b], f"{off[a, b] / of_class[a]:.1%}"] for a, b in pairs)
        return table(["class", "taken for", "images", "of the class"], lines, "The most confused pairs of classes")
    most = max(off.max(), 1)
    lines = []
    for label, name in enumerate(found.classes):
        shares = [
            (count, "right" if label == guess else "wrong", count / (of_class[label] if label == guess else most))
            for guess, count in enumerate(found.confusion[label])
        ]
        boxes = (
            element("td", count or "·", class_=kind if count else "none", style=f"--share:{share:.2f}")
            for count, kind, share in shares
        )
        lines.append(element("tr", element("th", name, scope="row"), *boxes))
    kind = "short" if max(map(len, found.classes)) <= _SHORT else "long"
    heads = (element("th", element("span", name), scope="col", class_=kind) for name in found.classes)
    said = "Lines: the class of an image; columns: what it is taken for"
    whole = element(
        "table",
        element("thead", element("tr", element("td"), *heads)),
        element("tbody", *lines),
        class_="confusion",
        aria_label=said,
    )
    return join([element("p", said, class_="note"), scrolling(whole, "Confusion matrix")])


def _grid(found: Predictions) -> Markup | None:
    if not found.mistakes:
        return element("p", "No image is misclassified.", class_="note")
    caption = element("figcaption", "The most confident mistakes: true class → predicted class, and its probability")
    return element(
        "figure", caption, element("ul", *(_mistake(x, found.classes) for x in found.mistakes)), class_="mistakes"
    )


def _mistake(mistake: Mistake, classes: Sequence[str]) -> Markup:
    truth, guess = classes[mistake.truth], classes[mistake.guess]
    said = f"{truth}, taken for {guess} with probability {mistake.confidence:.2f}"
    image = element("img", src=png(mistake.pixels), alt=said, width=_SIDE, height=_SIDE)
    label = join([truth, element("span", " → ", aria_hidden="true"), guess])
    return element("li", image, element("span", label), element("small", f"{mistake.confidence:.1%}"))


def png(pixels: np.ndarray) -> str:
    """uint8 [H, W, C] -> a data URI, made smaller if it is large."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
