"""From the bytes of an image file to a square of pixels.

`PillowImage` is the reference, antialiased: its crops have the pixels of torchvision's transforms on Pillow images.
`TurboImage` makes random crops faster, whose pixels differ (benchmarks/input_pipeline.py measures both); the middle of
an image, for an evaluation, is Pillow's always.
Gray, palette and CMYK images become RGB, transparency is dropped, and the orientation that a camera may have noted is
left alone, as the usual recipes do (Pillow applies that of a TIFF file).
"""

import functools
import io
import math

import numpy as np
from PIL import Image, UnidentifiedImageError

from lmjax.data.crops import Box, middle
from lmjax.errors import optional_import, reason


class BrokenImage(ValueError):
    """The bytes cannot be decoded; the message says why."""


class PillowImage:
    """An image file, decoded and scaled by Pillow.

    Args:
        data: the content of the file, of which only the header is read at first; or an image of Pillow.

    Attributes:
        size: width and height in pixels.

    Raises:
        BrokenImage: here or when it is decoded, for what is no image, is cut short, or is gray of more than 8 bits.
    """

    def __init__(self, data: bytes | Image.Image):
        if not data:
            raise BrokenImage("it is empty")
        try:
            self._image = data if isinstance(data, Image.Image) else Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:  # whose message has the address of the BytesIO in it
            raise BrokenImage("it is no image that Pillow knows") from error
        except Exception as error:  # Pillow's readers raise whatever a broken file made them stumble over
            raise BrokenImage(reason(error)) from error
        if self._image.format == "EPS":
            raise BrokenImage("it is PostScript, a program, which is not run here")  # Pillow has Ghostscript run it
        self.size: tuple[int, int] = self._image.size

    def _rgb(self) -> Image.Image:
        image = self._image
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            raise BrokenImage("it has more than 8 bits a channel; convert it to 8")  # Pillow would clip it to white
        try:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
        except Exception as error:
            raise BrokenImage(reason(error)) from error

    def whole(self) -> np.ndarray:
        """All of it, uint8 [height, width, 3]."""
        return np.asarray(self._rgb())

    def crop(self, box: Box, size: int) -> np.ndarray:
        """A box scaled to uint8 [size, size, 3]. Nothing outside of it counts."""
        left, top, width, height = box
        cut = self._rgb().crop((left, top, left + width, top + height))
        return np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))

    def center(self, size: int, shorter: int) -> np.ndarray:
        """Scaled so that the shorter side is `shorter`, and the middle cut out: uint8 [size, size, 3]."""
        return np.asarray(center(self._rgb(), size, shorter))


def center(image: Image.Image, size: int, shorter: int) -> Image.Image:
    """An image of one mode, 8 bits or float32 a channel, scaled and cut as by `PillowImage.center`."""
    (width, height), (left, top, _, _) = middle(*image.size, size, shorter)
    x, y = image.size[0] / width, image.size[1] / height
    box = (left * x, top * y, (left + size) * x, (top + size) * y)  # only what is cut out needs to be scaled
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


class TurboImage:
    """A JPEG file decoded by libjpeg-turbo through simplejpeg, scaled by OpenCV; other files are decoded by Pillow.

    Where twice as many pixels a side as are needed would be decoded, or more, the inverse cosine transform makes only a
    half, three, two or one eighth of them. Arguments, attributes, errors and `crop` are those of `PillowImage`, which
    also decides what is broken: it decodes the files that libjpeg warns of.
    """

    def __init__(self, data: bytes):
        self._jpeg, self._cv2 = _turbo()
        self._data, self._other = data, None
        try:
            height, width, colors, _ = self._jpeg.decode_jpeg_header(data)
        except ValueError:  # no JPEG, or broken already in its header, which Pillow will say
            height, width, colors = 0, 0, None
        if colors in ("YCbCr", "RGB", "Gray") and width * height <= (Image.MAX_IMAGE_PIXELS or math.inf):
            self.size = (width, height)
        else:
            self._other = PillowImage(data)
            self.size = self._other.size

    def _pixels(self, scale: float) -> np.ndarray:
        """All of it, in at least 1 / scale of its pixels a side."""
        if self._other is not None:
            return self._other.whole()
        width, height = (math.ceil(side / max(scale, 1)) for side in self.size)
        try:
            return self._jpeg.decode_jpeg(self._data, "RGB", min_height=height, min_width=width, min_factor=2)
        except ValueError:  # a mere warning, or broken, which Pillow will say
            self._other = PillowImage(self._data)
            return self._other.whole()

    def crop(self, box: Box, size: int) -> np.ndarray:
        pixels = self._pixels(min(box.width, box.height) / size)
        x, y = pixels.shape[1] / self.size[0], pixels.shape[0] / self.size[1]
        left, top = int(box.left * x), int(box.top * y)
        right, bottom = math.ceil((box.left + box.width) * x), math.ceil((box.top + box.height) * y)
        # Not antialiased, which the half-size decoding keeps within bounds: averaging would take half of the gain.
        return self._cv2.resize(pixels[top:bottom, left:right], (size, size), interpolation=self._cv2.INTER_LINEAR)


@functools.cache
def _turbo():
    purpose = "photographs(decoder=turbo)"
    jpeg = optional_import("simplejpeg", package="simplejpeg", purpose=purpose)
    cv2 = optional_import("cv2", package="opencv-python-headless", purpose=purpose)
    cv2.setNumThreads(0)  # the images are what is spread over threads
    return jpeg, cv2


DECODERS = {"pillow": PillowImage, "turbo": TurboImage}
