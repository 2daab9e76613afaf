"""Decoders: what they make of every kind of file, against resampling written out in NumPy."""

import io

import numpy as np
import pytest
from PIL import Image

from lmjax.data.crops import Box
from lmjax.data.decode import DECODERS, BrokenImage, PillowImage
from tests.data.photos import photograph

pytestmark = pytest.mark.versions


def encode(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 90} if kind == "JPEG" else {}) | options)
    return file.getvalue()


def triangle(length, start, stop, size):
    """[size, length]: how the pixels between start and stop are averaged, antialiased and bilinear (a triangle)."""
    scale = (stop - start) / size
    width = max(scale, 1)
    centers = start + (np.arange(size) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs((np.arange(length) + 0.5)[None] - centers[:, None]) / width)
    return weights / weights.sum(1, keepdims=True)


def scaled(pixels, size):
    rows = triangle(pixels.shape[0], 0, pixels.shape[0], size[1])
    columns = triangle(pixels.shape[1], 0, pixels.shape[1], size[0])
    return np.einsum("ah,hwc,bw->abc", rows, pixels.astype(float), columns, optimize=True)


@pytest.fixture(params=DECODERS)
def decoder(request):
    if request.param == "turbo":
        pytest.importorskip("simplejpeg")
        pytest.importorskip("cv2")
    return DECODERS[request.param]


@pytest.mark.parametrize("box", [Box(10, 20, 200, 150), Box(0, 0, 300, 240), Box(100, 100, 30, 40)])
def test_a_crop_is_cut_out_and_then_scaled(box):
    data = encode(photograph(300, 240))
    pixels = PillowImage(data).whole()
    expected = scaled(pixels[box.top : box.top + box.height, box.left : box.left + box.width], (64, 64))
    crop = PillowImage(data).crop(box, 64)
    assert crop.dtype == np.uint8
    assert np.abs(crop - expected).max() <= 1  # Pillow rounds twice


@pytest.mark.parametrize("size", [(300, 240), (240, 300), (256, 256), (50, 40)])
def test_the_middle_is_scaled_and_then_cut_out(size):
    data = encode(photograph(*size))
    side = min(size)
    width, height = 64 * size[0] // side, 64 * size[1] // side
    whole = scaled(PillowImage(data).whole(), (width, height))
    left, top = round((width - 56) / 2), round((height - 56) / 2)
    assert np.abs(PillowImage(data).center(56, 64) - whole[top : top + 56, left : left + 56]).max() <= 1


@pytest.mark.parametrize(("size", "out"), [((500, 375), 128), ((1800, 1300), 224), ((120, 90), 64)])
def test_turbo_is_close_to_pillow(size, out):
    pytest.importorskip("simplejpeg")
    pytest.importorskip("cv2")
    data = encode(photograph(*size))
    turbo, pillow = DECODERS["turbo"](data), DECODERS["pillow"](data)
    for box in (Box(3, 5, size[0] // 2, size[1] // 2), Box(0, 0, *size)):
        ours, theirs = turbo.crop(box, out).astype(float), pillow.crop(box, out)
        assert ours.shape == (out, out, 3)
        # Where half-size decoding does not help, bilinear interpolation takes some pixels instead of their mean.
        assert np.abs(ours - theirs).mean() < 12
        assert np.abs(ours.mean((0, 1)) - theirs.mean((0, 1))).max() < 2


def test_turbo_decodes_fewer_pixels_where_that_is_enough():
    pytest.importorskip("simplejpeg")
    pytest.importorskip("cv2")
    image = DECODERS["turbo"](encode(photograph(1600, 1200)))
    assert image.size == (1600, 1200)
    shapes = {scale: image._pixels(scale).shape[:2] for scale in (0.5, 1, 1.9, 2, 3.9, 4, 20)}
    assert shapes[0.5] == shapes[1] == shapes[1.9] == (1200, 1600)
    assert shapes[2] == (600, 800)
    assert shapes[3.9] == (450, 600)  # three eighths: a quarter would be too few
    assert shapes[4] == (300, 400)
    assert shapes[20] == (150, 200)  # it goes no further than an eighth


def test_every_kind_of_image_becomes_rgb(decoder):
    image = Image.new("RGB", (60, 50), (255, 0, 0))
    for kind, mode, options in (
        ("JPEG", "RGB", {}), ("JPEG", "L", {}), ("JPEG", "CMYK", {}), ("PNG", "RGB", {}), ("PNG", "RGBA", {}),
        ("PNG", "P", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "RGB", {"subsampling": 0}),
    ):  # fmt: skip
        data = encode(image.convert(mode), kind, **options)
        assert decoder(data).size == (60, 50)
        crop = decoder(data).crop(Box(5, 5, 40, 40), 32)
        assert (crop.shape, crop.dtype) == ((32, 32, 3), np.uint8)
        assert crop.flags.c_contiguous
        assert np.abs(crop.astype(int) - ([76] * 3 if mode == "L" else [255, 0, 0])).max() < 12, mode
        assert PillowImage(data).whole().shape == (50, 60, 3)
        assert PillowImage(data).center(28, 32).shape == (28, 28, 3)


def test_the_orientation_that_a_camera_noted_is_left_alone(decoder):
    image = photograph(60, 40)
    exif = image.getexif()
    exif[274] = 6  # turn by 90 degrees
    assert decoder(encode(image, exif=exif)).size == (60, 40)
    top = decoder(encode(image, exif=exif)).crop(Box(0, 0, 40, 40), 40)
    assert np.abs(top.astype(int) - np.asarray(image)[:, :40]).mean() < 10


def test_what_is_cut_short_or_no_image_is_broken(decoder):
    jpeg, png = (encode(photograph(200, 150), kind) for kind in ("JPEG", "PNG"))
    deep = encode(Image.fromarray(np.full((20, 20), 40_000, np.uint16)), "PNG")
    for data, message in (
        (b"", "it is empty"), (b"no image at all", "it is no image that Pillow knows"), (b"\xff\xd8", "Pillow"),
        (jpeg[:20], None), (jpeg[: len(jpeg) // 2], "truncated"), (jpeg[:-40], "truncated"),
        (png[: len(png) // 2], None), (deep, "more than 8 bits"),
    ):  # fmt: skip
        with pytest.raises(BrokenImage, match=message):
            decoder(data).crop(Box(0, 0, 20, 20), 32)


def test_turbo_decodes_what_libjpeg_only_warns_of():
    simplejpeg = pytest.importorskip("simplejpeg")
    pytest.importorskip("cv2")
    data = encode(photograph(200, 150))
    spoilt = {"extraneous bytes": data[:-2] + b"extraneous" + data[-2:], "premature end": data[:-300] + data[-2:]}
    for warning, data in spoilt.items():
        with pytest.raises(ValueError, match=warning):
            simplejpeg.decode_jpeg(data)
        for box in (Box(0, 0, 200, 150), Box(20, 30, 40, 40)):
            ours, theirs = (DECODERS[name](data).crop(box, 64).astype(float) for name in ("turbo", "pillow"))
            assert np.abs(ours - theirs).mean() < 12
