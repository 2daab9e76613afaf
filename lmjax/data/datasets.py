"""Data sets by name: "digits", "folder(32)", "tfds(mnist)", "photographs(224)", ..., and your own.

A registered function takes the arguments of the call, and returns an `Origin`, which says how to load the images.
docs/api/datasets.md has an example.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lmjax.data import cifar, prepared
from lmjax.data.cifar import load_cifar
from lmjax.data.dataset import Dataset
from lmjax.data.digits import load_digits
from lmjax.data.folder import open_folder, require_directory
from lmjax.data.memory import into_memory
from lmjax.data.photographs import Photographs, imagenet_outline, load_photographs
from lmjax.errors import InputError
from lmjax.registry import Registry

_DEFAULTS = {"directory": None, "on_error": "stop", "workers": None, "threads": None}


@dataclasses.dataclass(frozen=True)
class Origin:
    """The origin of the images of a data set. Nothing is loaded before `load` is called.

    Attributes:
        load: `load(...) -> Dataset`, or `-> Photographs` where `streamed`. Its parameters are those of the following
            that it uses: `directory` (data.dir; required if it has no default, and then part of what the data set is),
            `on_error` ("stop", "skip"), `workers` and `threads`. A config that sets another one is refused.
        streamed: the images are read from disk while training, and not kept in memory.
        outline: `outline() -> Dataset | Photographs` without the images, where only their number and shape matter;
            None if these are not known before loading. Of photographs it is ImageNet's.
    """

    load: Callable[..., Dataset | Photographs]
    streamed: bool = False
    outline: Callable[[], Dataset | Photographs] | None = None

    @functools.cached_property
    def takes(self) -> dict[str, bool]:
        """The names of what `load` takes, each with whether it has to be given."""
        parameters = inspect.signature(self.load).parameters.values()
        return {parameter.name: parameter.default is parameter.empty for parameter in parameters}

    def options(self, call: str, **given: Any) -> dict[str, Any]:
        """The given values that `load` takes.

        Raises:
            InputError: if one that it does not take differs from its default.
        """
        for name, value in given.items():
            if name not in self.takes and value != _DEFAULTS[name]:
                raise InputError(f"data.{_key(name)}: must be left out for {call}, got {value!r}")
        return {name: value for name, value in given.items() if name in self.takes}


def _key(name: str) -> str:
    return "dir" if name == "directory" else name


registry: Registry[Origin] = Registry(
    "data set", Origin, returns="an lmjax.data.Origin", example="folder(32)", plural="datasets",
    hint='; what tensorflow-datasets has prepared is "tfds(NAME)"',
)  # fmt: skip
register, normalize = registry.register, registry.normalize


def get(call: str) -> Origin:
    """The origin of a name or a call. Nothing is loaded.

    Raises:
        InputError: if there is no such data set, or the registered function does not return a valid `Origin`.
    """
    made = registry.get(call)
    if others := [name for name in made.takes if name not in _DEFAULTS]:
        raise InputError(f"data set {call!r}: its load may take {', '.join(_DEFAULTS)}, and not {others[0]}")
    return made


def load(
    call: str,
    *,
    directory: str | Path | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    workers: int | None = None,
    threads: int | None = None,
) -> Dataset | Photographs:
    """Load a data set by a name or a call: "digits", "folder(32)", "tfds(mnist)", "photographs(224)", ...

    Args:
        call: see `lmjax list datasets`.
        directory: where it is; None: where the data set itself looks.
        on_error: what to do about images that cannot be decoded: "stop", or "skip" to leave them out.
        workers, threads: processes that decode while training, and threads in each; None: as many as the cores allow.

    Raises:
        InputError: if there is no such data set, an option is not one of it, or it cannot be read.
    """
    origin = get(call)
    if on_error not in ("stop", "skip"):
        raise InputError(f"data.on_error: must be one of stop, skip, got {on_error!r}")
    options = origin.options(call, directory=directory, on_error=on_error, workers=workers, threads=threads)
    if missing := [name for name, needed in origin.takes.items() if needed and options.get(name) is None]:
        raise InputError(f"data.{_key(missing[0])}: {call} needs it: give --data.{_key(missing[0])}")
    found, wanted = origin.load(**options), Photographs if origin.streamed else Dataset
    if not isinstance(found, wanted):
        raise InputError(f"data set {call!r}: must load an lmjax.data.{wanted.__name__}, not {type(found).__name__}")
    return found


@register
def digits() -> Origin:
    """Handwritten digits of 8 x 8 pixels, 1,437 to train and 360 to test (Alpaydin and Kaynak 1998).

    They come with scikit-learn: nothing is downloaded. The test images are drawn at random, a fifth of every class,
    always the same ones. (The file is sorted by writer, so that its last fifth would test on unseen writers, which is
    harder.)
    """
    return Origin(load_digits)


@register
def cifar10() -> Origin:
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 pixels in 10 classes (Krizhevsky 2009).

    `data.dir` may hold it as tensorflow-datasets has prepared it (`<dir>/cifar10/<version>/`), or the official binary
    archive (`cifar-10-binary.tar.gz`). If it holds neither, the archive is downloaded into it, once. None looks in, and
    downloads into, the user's cache folder. Channel means and standard deviations are those of the authors of
    LM-ResNet.
    """
    return Origin(functools.partial(load_cifar, "cifar10"), outline=functools.partial(cifar.outline, "cifar10"))


@register
def cifar100() -> Origin:
    """CIFAR-100: as `cifar10`, in 100 classes."""
    return Origin(functools.partial(load_cifar, "cifar100"), outline=functools.partial(cifar.outline, "cifar100"))


@register
def folder(size: int | None = None, *, val_split: float | None = None) -> Origin:
    """A folder of images in memory: `train/<class>/*.jpg`, and `test/<class>/*.jpg` or `val/<class>/*.jpg`.

    The classes are the folders below `train`, in alphabetical order. Files of formats that Pillow does not decode by
    itself are not used, and a note counts them; nor are hidden ones. Gray, palette and CMYK images become RGB, and
    transparency is dropped. Nothing is written to disk.

    Args:
        size: None takes the images as they are, all of one size. A number scales each image so that its shorter side
            has that many pixels (antialiased, bilinear), and cuts out the middle square.
        val_split: share of the training images that is held out for the test, where there is no folder of test images:
            always the same ones, spread over the classes.
    """
    _check("folder", size, val_split)

    def load(directory: str | Path, on_error: str = "stop") -> Dataset:
        root = require_directory(directory)
        classes, train, test = open_folder(root, ("test", "val"), val_split)
        return into_memory(root.resolve().name, train, test, classes, size=size, on_error=on_error)

    return Origin(load)


@register
def tfds(name: str, size: int | None = None, *, val_split: float | None = None) -> Origin:
    """A set of images with one label each that tensorflow-datasets (TFDS) has prepared, in memory.

    `data.dir` is what TFDS calls data_dir, or a folder below it that holds the set; None is TFDS's own default:
    TFDS_DATA_DIR, else ~/tensorflow_datasets. The split "train" is trained on, and "test" tested, or else "validation".
    TensorFlow is not needed to read it. Gray images become RGB, as in `folder`.

    Args:
        name: what TFDS calls it, as in tfds(mnist) or tfds('imagenet_resized/32x32').
        size: as in `folder`.
        val_split: as in `folder`, drawn from all classes alike.
    """
    _check("tfds", size, val_split)
    prepared.require_name("tfds", name)

    def load(directory: str | Path | None = None, on_error: str = "stop") -> Dataset:
        found = prepared.load(
            prepared.require(name, directory), name=name, tests=("test", "validation"), val_split=val_split
        )
        return into_memory(found.name, found.train, found.test, found.classes, size=size, on_error=on_error)

    return Origin(load)


@register
def photographs(
    size: int = 224,
    *,
    tfds: str | None = None,
    decoder: Literal["pillow", "turbo"] = "pillow",
    val_split: float | None = None,
) -> Origin:
    """Photographs of any sizes, such as ImageNet, read from disk and decoded while training.

    `data.dir` is a folder as for `folder` (`val` comes before `test`), or what TFDS has prepared, at any level
    (`<dir>/imagenet2012/<version>`); its split "validation" comes before "test".

    Args:
        size: pixels of a side to which the crops are scaled.
        tfds: what TFDS calls the set, where data.dir is a data_dir that holds several, or is left out; see `tfds`.
        decoder: of random crops: "pillow", whose pixels are those of the usual recipes; or "turbo", libjpeg-turbo with
            OpenCV, which is faster and not antialiased. An evaluation always uses Pillow.
        val_split: as in `folder`.
    """
    _check("photographs", size, val_split)
    place: Callable[[Any], Path] = require_directory
    if tfds is not None:
        prepared.require_name("photographs", tfds)
        place = functools.partial(prepared.require, tfds)

    def load(
        directory: str | Path | None, on_error: str = "stop", workers: int | None = None, threads: int | None = None
    ) -> Photographs:
        return load_photographs(
            place(directory), size, name=tfds, val_split=val_split, decoder=decoder, skip=on_error == "skip",
            workers=workers, threads=threads,
        )  # fmt: skip

    load = load if tfds is None else functools.partial(load, directory=None)
    outline = functools.partial(imagenet_outline, size) if tfds in (None, "imagenet2012") else None
    return Origin(load, streamed=True, outline=outline)


def _check(name: str, size: int | None, val_split: float | None) -> None:
    if size is not None and not 1 <= size <= 65_535:  # beyond, Pillow cannot count all of an image's pixels
        raise InputError(f"{name}: size must be from 1 to 65535 pixels, got {size}")
    if val_split is not None and not 0 < val_split < 1:
        raise InputError(f"{name}: val_split must be above 0 and below 1, got {val_split}")
