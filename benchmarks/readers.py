"""What benchmarks/input_pipeline.py measures: lmjax's readers of photographs and PyTorch's, and the memory they take.

A reader's name is "lmjax pillow", "lmjax turbo" (the decoders of lmjax.data), "torch float32" (the pipeline that nearly
every PyTorch program has) or "torch uint8" (the same without its conversion to normalized floats, which lmjax does on
the device). Here lmjax and PyTorch are imported only where they are used: each row of a table about memory comes from a
new process (`benchmarks.apart`) that has imported what its own reader needs and nothing else.
"""

import contextlib
import importlib
import io
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_SUFFIXES = (".jpg", ".jpeg", ".png")
_SHARED_MEMORY = Path("/dev/shm")


class Photos:
    """The photographs anywhere below a folder, undecoded, as a source of lmjax.data.

    They are given over and over, until there are as many as a real data set has: some costs depend on that, such as
    Grain's of shuffling, 0.1 ms an image for 240 images and 4 us for 100,000.

    Args:
        folder: where to look.
        limit: take at most this many of them, spread evenly.

    Attributes:
        paths: of the files, each once.
    """

    def __init__(self, folder: str, limit: int):
        found = sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        self.paths = found[:: -(-len(found) // limit) or 1]

    def __len__(self) -> int:
        return len(self.paths) * -(-100_000 // max(len(self.paths), 1))

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        return Path(self.place(i)).read_bytes(), 0

    def place(self, i: int) -> str:
        return self.paths[i % len(self.paths)]


class TorchPhotos(Photos):
    """The same as a data set of PyTorch's, which opens an image just as torchvision's ImageFolder does."""

    def __init__(self, folder: str, limit: int, transform):
        super().__init__(folder, limit)
        self.transform = transform

    def __getitem__(self, i: int):
        from torchvision.datasets.folder import default_loader

        return self.transform(default_loader(self.place(i))), 0


class TorchvisionImage:
    """What torchvision's transforms make of an image file, with the interface of lmjax's decoders."""

    def __init__(self, data: bytes):
        from PIL import Image

        self._image = Image.open(io.BytesIO(data)).convert("RGB")
        self.size = self._image.size

    def crop(self, box, size: int) -> np.ndarray:
        from torchvision.transforms import functional

        cut = functional.resized_crop(self._image, box.top, box.left, box.height, box.width, [size, size])
        return np.asarray(cut)

    def center(self, size: int, shorter: int) -> np.ndarray:
        from torchvision.transforms import functional

        return np.asarray(functional.center_crop(functional.resize(self._image, shorter), size))


def stream(name: str, folder: str, limit: int, *, size: int, batch: int, seed: int | None):
    """lmjax's batches: of random crops, or without a seed of the middles of the images."""
    from lmjax import data

    loader = data.Loader(Photos(folder, limit), size, decoder=name.split()[1], min_area=None if seed is None else 0.08)
    return data.Stream(loader, batch, seed=seed)


def torch_loader(name: str, folder: str, limit: int, *, size: int, batch: int, seed: int | None, workers: int = 0):
    """PyTorch's batches of the same, an epoch of them."""
    import torch
    from torchvision import transforms

    torch.set_num_threads(1)
    if seed is None:
        steps = [transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size)]
    else:
        torch.manual_seed(seed)
        steps = [transforms.RandomResizedCrop(size)]  # lmjax flips on the device
    if name == "torch uint8":
        steps.append(transforms.PILToTensor())
    else:
        steps += [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    photos = TorchPhotos(folder, limit, transforms.Compose(steps))
    # Epochs follow each other without a pause and without new workers, as in lmjax: the order of one never ends.
    order = None if seed is None else torch.utils.data.RandomSampler(photos, num_samples=len(photos) * 10**6)
    return torch.utils.data.DataLoader(photos, batch, sampler=order, num_workers=workers)


def here(name: str, *, seed: int | None, **options) -> Iterator[int]:
    """Makes batches in this thread, without end, and gives the number of images in each."""
    if name.startswith("lmjax"):
        batches = stream(name, seed=seed, **options)
        return (len(batches[step]["label"]) for step in itertools.count())
    loader = torch_loader(name, seed=seed, **options)
    return (len(labels) for _ in itertools.count() for _, labels in loader)


@contextlib.contextmanager
def background(name: str, *, workers: int, threads: int, **options):
    """An iterator over the number of images in batches of random crops, which are made in the background."""
    if name.startswith("lmjax"):
        with stream(name, seed=0, **options).read(workers=workers, threads=threads) as reader:
            yield (len(batch["label"]) for batch in reader)
    else:
        yield (len(labels) for _, labels in torch_loader(name, seed=0, workers=workers, **options))


def feed(name: str, *, seconds: float, **options) -> dict[str, float]:
    """Images a second that come out of a reader when it has started, and the memory it then takes."""
    importlib.import_module("lmjax.data" if name.startswith("lmjax") else "torchvision")  # the user has that anyway
    imported = memory()
    began = time.perf_counter()
    with background(name, **options) as counts:
        next(counts)
        first = time.perf_counter() - began
        for _ in range(4 * max(options["workers"], 1) * options["threads"]):  # what was made while others started
            next(counts)
        images, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            images += next(counts)
        found = {"images_per_second": images / elapsed, "first_batch_seconds": first}
        return found | memory() | {f"imported_{key}": value for key, value in imported.items()}


def growth(name: str, *, batches: int, **options) -> dict[str, object]:
    """The memory over many batches: as samples, and bytes a batch of a line through them after a tenth as warm-up."""
    entries, began = _shared(), time.perf_counter()
    steps, samples = [], []
    with background(name, **options) as counts:
        images = 0
        for step in range(1, batches + 1):
            images += next(counts)
            if step % max(batches // 100, 1) == 0:
                steps.append(step)
                samples.append(memory().get("rss_bytes"))
    elapsed = time.perf_counter() - began
    found = {"images_per_second": images / elapsed, "steps": steps, "left_in_shared_memory": _left(entries)}
    if None in samples:
        return found
    warm = len(steps) // 10
    slope = np.polyfit(steps[warm:], samples[warm:], 1)[0]
    return found | {"rss_bytes": samples, "first": samples[warm], "last": samples[-1], "bytes_per_batch": float(slope)}


def memory() -> dict[str, int]:
    """The resident memory of this process and all below it, where /proc tells; in `pss`, what is shared counts once."""
    total = {"rss_bytes": 0, "pss_bytes": 0}
    for pid in _family():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:  # it has ended since, or there is no such file
            continue
        kilobytes = {key: int(rest.split()[0]) for key, rest in (line.split(":") for line in lines)}
        total["rss_bytes"] += 1024 * kilobytes.get("Rss", 0)
        total["pss_bytes"] += 1024 * kilobytes.get("Pss", 0)
    return total if total["rss_bytes"] else {}


def _family() -> list[int]:
    """This process, its children, theirs, and so on."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    family = [os.getpid()]
    for pid in family:  # which grows meanwhile
        family += children.get(pid, [])
    return family


def _shared() -> set[str]:
    return {p.name for p in _SHARED_MEMORY.iterdir()} if _SHARED_MEMORY.is_dir() else set()


def _left(before: set[str]) -> list[str]:
    """What is new in shared memory and stays: other programs' may come and go."""
    new = _shared() - before
    for _ in range(20):
        if new:
            time.sleep(0.1)
            new &= _shared()
    return sorted(new)
