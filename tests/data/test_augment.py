"""The way from the data set to the network: order, augmentation by name, normalization."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from lmjax import InputError
from lmjax.data import Geometry, Pipeline, Pixels, augmentations, epoch_order, normalize, trivial
from lmjax.data.trivial import _SPACES, OPERATIONS, Space, operate

pytestmark = pytest.mark.versions
IMAGES = np.random.default_rng(0).integers(1, 256, (20, 7, 9, 3), np.uint8)
LABELS = np.arange(20, dtype=np.int32) % 4
MEAN = np.float32([100, 110, 120])


def augmented(texts, images=IMAGES, labels=None, index=None, *, seed=0, streamed=False, classes=4):
    images = jnp.asarray(images)
    labels = jnp.zeros(len(images), jnp.int32) if labels is None else jnp.asarray(labels)
    mean = np.resize(MEAN, images.shape[-1])
    pipeline = Pipeline(texts, shape=images.shape[1:], classes=classes, mean=mean, streamed=streamed)
    return jax.tree.map(np.asarray, jax.jit(pipeline)(jax.random.key(seed), images, labels, index))


def require_uniform(counts):
    assert stats.chisquare(counts).pvalue > 1e-3


def candidates(image, pad, padding, flip):
    """Every outcome that there may be for an image: pad, crop, mirror, in NumPy."""
    mode = {"zero": "constant", "reflect": "reflect"}[padding]
    height, width = image.shape[:2]
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode)
    crops = [padded[i : i + height, j : j + width] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
    return crops + [crop[:, ::-1] for crop in crops] if flip else crops


@pytest.mark.parametrize(
    ("pad", "padding", "flip"), [(2, "zero", False), (2, "reflect", True), (0, "zero", True), (4, "zero", True)]
)
def test_every_outcome_is_a_crop_and_all_occur(pad, padding, flip):
    texts = [f"crop({pad}, padding={padding})", *["flip"] * flip]
    out, _ = augmented(texts, index=jnp.arange(4000) % 2)
    assert out.dtype == np.uint8
    seen = set()
    for i in range(2):
        possible = {crop.tobytes(): n for n, crop in enumerate(candidates(IMAGES[i], pad, padding, flip))}
        found = [possible[x.tobytes()] for x in out[i::2]]  # a KeyError: not a crop of that image at all
        seen |= set(found)
    assert len(seen) == len(possible)


@pytest.mark.parametrize("padding", ["zero", "reflect"])
@pytest.mark.parametrize("flip", [True, False])
def test_published_recipes_draw_what_they_always_drew(padding, flip):
    """The halves of the step's key are those of the first two places: runs from before there were names repeat."""
    index = np.arange(64) % 20
    shift_key, flip_key = jax.random.split(jax.random.key(3))
    shifts = np.asarray(jax.random.randint(shift_key, (64, 2), -4, 5)) + 4
    mirrored = np.asarray(jax.random.bernoulli(flip_key, 0.5, (64, 1)))[:, 0] & flip
    padded = np.pad(IMAGES, ((0, 0), (4, 4), (4, 4), (0, 0)), {"zero": "constant"}.get(padding, padding))
    crops = [padded[i, y : y + 7, x : x + 9] for i, (y, x) in zip(index, shifts, strict=True)]
    expected = [crop[:, ::-1] if mirror else crop for crop, mirror in zip(crops, mirrored, strict=True)]
    texts = [f"crop(4, padding={padding})", *["flip"] * flip]
    np.testing.assert_array_equal(augmented(texts, index=jnp.asarray(index), seed=3)[0], expected)


def test_decisions_are_uniform_and_independent():
    ramp = np.broadcast_to(np.arange(100, 109, dtype=np.uint8)[None, None, :, None], (1, 9, 9, 1))
    out = augmented(["crop(1)", "flip"], ramp, index=jnp.zeros(9000, int))[0][:, 4, :, 0]
    flipped = out[:, 4] > out[:, 5]
    shifts = np.where(flipped, 104 - out[:, 4].astype(int), out[:, 4].astype(int) - 104)
    require_uniform([((shifts == shift) & (flipped == mirror)).sum() for shift in (-1, 0, 1) for mirror in (0, 1)])


def test_crop_and_flip_are_one_gather():
    pipeline = Pipeline(["crop(2)", "flip", "cutout(2)"], shape=(7, 9, 3), classes=4, mean=MEAN)
    program = jax.jit(pipeline).lower(jax.random.key(0), IMAGES.reshape(len(IMAGES), -1), LABELS, jnp.arange(8))
    assert program.compile().as_text().count(" gather(") == 2, "of the images, and of the labels"


ALL = ["crop(2)", "flip", "trivial", "cutout(3)", "erase(0.5)", "mixup(0.2)", "cutmix(1.0)"]


@pytest.mark.parametrize("text", ALL)
def test_draws_follow_from_the_key(text):
    first, again, other = (augmented([text], labels=LABELS, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not (first == other).all()


def test_what_comes_later_changes_no_draw():
    short, long = augmented(["erase(1)", "cutout(1)"])[0], augmented(["erase(1)", "cutout(1)", "flip"])[0]
    assert not (short == long).all()
    for a, b in zip(short, long, strict=True):
        assert (a == b).all() or (a == b[:, ::-1]).all()


@pytest.mark.parametrize("texts", [[], ["flip", "trivial", "flip", "erase(1)"], ["flip", "mixup(1)", "cutmix(1)"]])
def test_streamed_batch_becomes_what_a_resident_one_becomes(texts):
    index = jnp.array([5, 0, 7, 7])
    resident = augmented(texts, labels=LABELS, index=index)
    streamed = augmented(texts, IMAGES[index], LABELS[index], streamed=True)
    for ours, theirs in zip(resident, streamed, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if not texts:
        np.testing.assert_array_equal(resident[0], IMAGES[index])
        np.testing.assert_array_equal(resident[1], LABELS[index])


def test_own_devices_augment_their_own_images():
    devices = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(devices, jax.P("data"))
    texts = ["crop_area", "flip", "trivial", "cutout(2)", "erase", "mixup(1.0)"]
    pipeline = Pipeline(texts, shape=(7, 9, 3), classes=4, mean=MEAN, streamed=True)
    images, labels = jax.device_put((np.tile(IMAGES, (2, 1, 1, 1))[:32], np.tile(LABELS, 2)[:32]), split)
    program = jax.jit(pipeline, out_shardings=split)
    compiled = program.lower(jax.random.key(0), images, labels).compile().as_text()
    assert " all-gather(" not in compiled
    assert " collective-permute(" in compiled, "a mixture takes one image from the neighbor"
    alone, _ = jax.jit(pipeline)(jax.random.key(0), np.asarray(images), np.asarray(labels))
    np.testing.assert_allclose(program(jax.random.key(0), images, labels)[0], alone, rtol=1e-5)


def test_cutout():
    out, _ = augmented(["cutout(3)"], np.full((7000, 7, 9, 3), 5, np.uint8))
    hidden = (out == np.uint8(MEAN)).all(-1)
    assert ((out == 5).all(-1) ^ hidden).all()
    areas = hidden.sum((1, 2))
    assert set(areas) == {4, 6, 9}, "a square, or what of it is inside"
    assert areas.mean() == pytest.approx((3 * 7 - 2) / 7 * (3 * 9 - 2) / 9, rel=0.01)
    whole = hidden[areas == 9]
    places = [whole[:, i : i + 3, j : j + 3].all((1, 2)).sum() for i in range(5) for j in range(7)]
    assert sum(places) == len(whole)
    require_uniform(places)


def test_erase():
    images = np.full((4000, 32, 32, 1), 7, np.uint8)
    out, _ = augmented(["erase(0.25, fill=mean)"], images)
    erased = (out == np.uint8(MEAN[0]))[..., 0]
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    assert (erased.sum((1, 2)) == rows * columns).all(), "a rectangle"
    there = rows > 0
    assert there.mean() == pytest.approx(0.25, abs=0.03)
    rows, columns = rows[there], columns[there]
    share = rows * columns / 32**2
    assert 0.01 < share.min() < 0.03
    assert 0.28 < share.max() < 0.35
    assert share.mean() == pytest.approx(0.17, abs=0.02)
    assert np.log(rows / columns).mean() == pytest.approx(0, abs=0.1)
    assert np.log(rows / columns).std() == pytest.approx(math.log(3.3 / 0.3) / math.sqrt(12), rel=0.1)
    top = erased[there].any(2).argmax(1) / np.maximum(32 - rows, 1)
    assert top.mean() == pytest.approx(0.5, abs=0.05)


def test_erased_pixels_are_uniform():
    out, _ = augmented(["erase(1)"], np.zeros((500, 16, 16, 1), np.uint8))
    require_uniform(np.bincount(out[out > 0], minlength=256)[1:])
    assert augmented(["erase(0)"])[0].tobytes() == IMAGES.tobytes()


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup(alpha):
    out, targets = augmented([f"mixup({alpha})"], labels=jnp.arange(20), classes=20)
    assert out.dtype == targets.dtype == np.float32
    weight = targets[0, 0]
    np.testing.assert_allclose(targets, weight * np.eye(20) + (1 - weight) * np.roll(np.eye(20), 1, 0), atol=1e-6)
    np.testing.assert_allclose(out, weight * IMAGES + (1 - weight) * np.roll(IMAGES, 1, 0).astype(float), atol=1e-3)
    apply = augmentations.get(f"mixup({alpha})").apply
    pair, targets = jnp.zeros((2, 1, 1, 1)), jnp.eye(2)
    drawn = jax.vmap(lambda key: apply(key, pair, targets)[1][0, 0])(jax.random.split(jax.random.key(0), 3000))
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_cutmix():
    apply = augmentations.get("cutmix(1)").apply
    images = jnp.stack([jnp.zeros((16, 32, 1)), jnp.ones((16, 32, 1))])
    keys = jax.random.split(jax.random.key(0), 3000)
    out, targets = jax.vmap(lambda key: apply(key, images, jnp.eye(2)))(keys)
    other = np.asarray(out)[:, 0, :, :, 0]
    np.testing.assert_allclose(np.asarray(targets)[:, 0, 1], other.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(np.asarray(out).sum(1), 1, err_msg="both have the same rectangle")
    height, width = (other.any(axis).sum(1) for axis in (2, 1))
    np.testing.assert_array_equal(height * width, other.sum((1, 2)))
    assert (height == 0).mean() < 0.1
    # Sides are sqrt(1 - w) of the image with w uniform; a center at the border cuts off up to half of each.
    root = np.sqrt(1 - np.random.default_rng(0).random(100_000))
    expected = np.mean((root * (1 - root / 4)) ** 2)
    assert other.mean() == pytest.approx(expected, rel=0.05)
    assert other.mean((0, 2)).std() < 0.1


def test_one_of_several_mixtures_a_batch():
    # An image of one pixel is mixed by mixup, and replaced or kept by cutmix.
    pipeline = Pipeline(["mixup(1)", "cutmix(1)"], shape=(1, 1, 3), classes=20, mean=MEAN)
    images, labels = jnp.asarray(IMAGES[:, :1, :1]), jnp.arange(20)
    shares = jax.vmap(lambda key: pipeline(key, images, labels)[1][0, 0])(jax.random.split(jax.random.key(0), 2000))
    assert np.isin(shares, (0, 1)).mean() == pytest.approx(0.5, abs=0.04)


def by_pillow(image, name, strength, sign, space):
    """An operation of TrivialAugment as its authors have it."""
    height, width = image.shape[:2]
    amount, factor = sign * strength, 1 + sign * strength * space.enhance
    image = Image.fromarray(image)
    affine = {
        "shear_x": (1, amount * space.shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, amount * space.shear, 1, 0),
        "translate_x": (1, 0, int(amount * space.translate), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, int(amount * space.translate)),
    }
    if name in affine:
        return image.transform((width, height), Image.Transform.AFFINE, affine[name])
    return {
        "identity": lambda: image,
        "rotate": lambda: image.rotate(amount * space.rotate),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(strength * space.bits)),
        "solarize": lambda: ImageOps.solarize(image, 255 * (1 - strength)),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_pillow(name):
    rng = np.random.default_rng(1)
    smooth = [Image.fromarray(rng.integers(40, 200, (4, 5, 3), np.uint8)).resize((21, 18)) for _ in range(12)]
    images = np.stack([np.asarray(image) for image in smooth])
    for space in _SPACES.values():
        strength, sign = np.linspace(0, 30, 12).round() / 30, np.resize([1, -1], 12)
        number = jnp.full(12, OPERATIONS.index(name))
        ours = operate(jnp.asarray(images), number, jnp.asarray(strength), jnp.asarray(sign), space)
        theirs = [by_pillow(*args, space) for args in zip(images, [name] * 12, strength, sign, strict=True)]
        apart = np.abs(np.asarray(ours).astype(int) - np.stack(theirs))
        assert (apart > 1).mean() < 0.005, "a pixel between two may go either way"
        assert ours.dtype == np.uint8


def test_trivial_draws_every_operation_alike(monkeypatch):
    drawn = []
    monkeypatch.setattr(trivial, "operate", lambda images, *draws: drawn.append(draws))
    augmentations.get("trivial(standard)").apply(jax.random.key(0), jnp.zeros((30_000, 1, 1, 1)), MEAN)
    ((operation, strength, sign, space),) = drawn
    assert space == Space(0.3, 10, 30, 0.9, 4)
    operation, level, sign = (np.asarray(x).astype(int) for x in (operation, jnp.round(strength * 30), sign > 0))
    require_uniform(np.bincount((operation * 31 + level) * 2 + sign, minlength=14 * 31 * 2))


def test_trivial_takes_images_of_any_size_and_channels():
    for shape in ((1, 1, 1), (2, 9, 4)):
        out, _ = augmented(["trivial"], np.full((200, *shape), 9, np.uint8))
        assert (out.shape, out.dtype) == ((200, *shape), np.uint8)


def test_own_augmentation():
    @augmentations.register
    def invert(*, keep: bool = False) -> Pixels:
        return Pixels(lambda key, images, mean: images if keep else 255 - images)

    @augmentations.register
    def upside_down() -> Geometry:
        return Geometry(lambda key, rows, columns, shape: (shape[0] - 1 - rows, columns))

    np.testing.assert_array_equal(augmented(["invert", "upside-down"])[0], 255 - IMAGES[:, ::-1])
    np.testing.assert_array_equal(augmented(["invert(keep=True)"])[0], IMAGES)


@pytest.mark.parametrize("texts", [["mixup(1e-6)"], ["mixup(1e6)"], ["mixup(0.2)", "cutmix"]])
def test_mixtures_are_finite_and_float32_whatever_the_default_is(texts, x64):
    for out in augmented(texts):
        assert out.dtype == np.float32
        assert np.isfinite(out).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["cutout(8)"], r"data.augment: cutout\(8\) needs images of 8 pixels a side or more, got 7 x 9"),
        (["crop(7, padding=reflect)"], "needs images of 8 pixels a side or more"),
        (["cutout(0)"], "cutout: size must be at least 1 pixel, got 0"),
        (["mixup(0)"], "mixup: alpha must be from 1e-6 to 1e6, got 0"),
        (["cutmix(-1.0)"], "cutmix: alpha must be from 1e-6 to 1e6, got -1.0"),
        (["crop(2147483647)"], r"crop: pad must be 0 or more pixels, and below 2\^30, got 2147483647"),
        (["erase(2)"], "erase: probability must be from 0 to 1, got 2"),
        (["crop_area(0)"], "crop_area: min_area must be above 0 and at most 1, got 0"),
        (["cutuot(2)"], "unknown augmentation 'cutuot': did you mean 'cutout'"),
        (["trivial(narrow)"], "unknown augmentation 'narrow'"),
        (["no-part"], "'no-part': its function must return a Geometry, Pixels, Mixing or Area of .*, not str"),
        (["mixup('a')"], "mixup: alpha must be a finite number, got 'a'"),
    ],
)
def test_what_is_wrong_is_named(texts, message):
    augmentations.register(lambda: "flip", name="no_part")
    with pytest.raises(InputError, match=message):
        augmented(texts)


def test_order_is_a_permutation_a_function_of_key_and_epoch():
    orders = [np.asarray(epoch_order(jax.random.key(7), epoch, 103, 10)) for epoch in (0, 0, 1, 2, 3)]
    assert orders[0].shape == (10, 10)
    assert len(np.unique(orders[0])) == 100
    assert (orders[0] == orders[1]).all()
    assert not (orders[0] == orders[2]).all()
    assert len({frozenset(range(103)) - frozenset(order.ravel().tolist()) for order in orders}) > 1


def test_normalize():
    out = normalize(jnp.asarray(IMAGES), jnp.float32([10, 20, 30]), jnp.float32([1, 2, 4]))
    np.testing.assert_allclose(out, (IMAGES.astype(float) - [10, 20, 30]) / [1, 2, 4], rtol=1e-6)
    assert normalize(jnp.asarray(IMAGES), jnp.zeros(3), jnp.ones(3), jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.versions
def test_the_forms_for_a_tpu_are_the_same(monkeypatch):
    """Images first and their pixels by matrix products, instead of one gather."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 7, 9, 3)).astype(np.uint8), rng.integers(0, 5, 12)
    index, key = jnp.array([3, 1, 11, 3]), jax.random.key(0)
    pipeline = Pipeline(["crop(2)", "flip", "cutout(2)", "crop(1)"], shape=(7, 9, 3), classes=5, mean=MEAN)

    def augmented():
        return jax.jit(pipeline)(key, images.reshape(12, -1), labels, index)

    with monkeypatch.context() as patch:
        patch.setattr("lmjax.data.augment.lax.platform_dependent", lambda *arguments, tpu, default: tpu(*arguments))
        for_tpu = augmented()
    jax.tree.map(np.testing.assert_array_equal, for_tpu, augmented())
