"""Generated photographs: JPEG files of several sizes in the layout of ImageNet."""

import numpy as np
from PIL import Image


def photograph(width, height, seed=0):
    """Smooth colors with edges and some noise: something that JPEG and resampling have to work on."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 80 * np.sin(x / rng.uniform(8, 30) + y / rng.uniform(8, 30)) for _ in range(3)]
    pixels = np.stack(waves, -1) + 60 * ((x // 37 + y // 23) % 2)[..., None] + rng.normal(0, 4, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_folder(root, *, train, val, classes=3):
    """<root>/{train,val}/<n0, n1, ...>/<i>.JPEG, so many images altogether, spread over the classes."""
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            folder = root / split / f"n{i % classes}"
            folder.mkdir(parents=True, exist_ok=True)
            width, height = [(60, 45), (45, 60), (50, 50), (90, 40)][i % 4]
            photograph(width, height, seed=i + 1000 * (split == "val")).save(folder / f"{i}.JPEG", quality=85)
    return root
