"""Sample images: against the files themselves, against pictures made on purpose, against hand-made resizing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data as skimage_data

import constraint_algebra as ca
from constraint_algebra import samples

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("dataset", "shape", "classes"),
    [
        ("cifar10", (3, 32, 32), 10),
        ("cifar100", (3, 32, 32), 100),
        ("mnist", (1, 28, 28), 10),
        ("fashionmnist", (1, 28, 28), 10),
        ("imagenet", (3, 512, 512), 1000),
    ],
)
def test_twenty_samples_of_each_data_set(dataset, shape, classes) -> None:
    found = [samples.load(f"{dataset}:{index}") for index in range(20)]
    for index, sample in enumerate(found):
        assert sample.name == f"{dataset}:{index}"
        assert sample.image.shape == shape or (dataset == "imagenet" and sample.image.shape[0] == 3)
        assert sample.image.dtype == np.float64
        assert 0 <= sample.image.min() < 0.5 < sample.image.max() <= 1
        assert 0 <= sample.label < classes
    assert len({sample.image.tobytes() for sample in found}) == 20


def test_labels_and_pixels_are_those_of_the_file() -> None:
    sample = samples.load("cifar10:7")
    (path,) = (Path(sys.prefix) / "lib").rglob("foolbox/data/cifar10_07_*.png")
    assert sample.label == int(path.stem[-1])
    pixels = np.asarray(Image.open(path))
    assert sample.image[2, 5, 9] == pixels[5, 9, 2] / 255


# Photographs, in the mode in which they are read.
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket", "camera", "moon"])
def test_photographs_are_those_of_scikit_image(name) -> None:
    expected = getattr(skimage_data, name)() / 255
    expected = expected[None] if expected.ndim == 2 else np.moveaxis(expected, -1, 0)
    for alias in (name, f"skimage:{name}"):
        sample = samples.load(alias)
        assert sample.name == f"skimage:{name}"
        assert sample.label is None
        np.testing.assert_array_equal(sample.image, expected)


def test_every_listed_name_loads() -> None:
    listed = samples.names()
    assert len(set(listed)) == len(listed)
    assert sum(name.startswith("mnist:") for name in listed) == 20
    assert "skimage:astronaut" in listed
    for name in listed:
        if name.startswith("skimage"):
            image = samples.load(name).image
            assert image.shape[0] in {1, 3}
            assert image.min() >= 0
            assert image.max() <= 1


UNKNOWN = {
    "index too large": ("cifar10:20", "cifar10:0 to cifar10:19, got 'cifar10:20'"),
    "negative": ("cifar10:-1", "cifar10:0 to cifar10:19"),
    "no index": ("mnist", "mnist:0 to mnist:19"),
    "no number": ("mnist:one", "mnist:0 to mnist:19"),
    "misspelt": ("cifar:3", "did you mean 'cifar"),
    "a misspelt photograph": ("astronout", "did you mean 'astronaut'"),
    "nothing like it": ("qqqqqq", "There are cifar10:INDEX, .*astronaut"),
    "a photograph with an index": ("astronaut:1", "no sample is called"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_names_say_what_there_is(case) -> None:
    name, words = UNKNOWN[case]
    with pytest.raises(ca.UnknownNameError, match=words):
        samples.load(name)


@pytest.mark.parametrize(("package", "name"), [("foolbox", "mnist:0"), ("skimage", "astronaut")])
def test_a_missing_package_says_what_to_install(package, name, monkeypatch) -> None:
    monkeypatch.setattr(samples, "find_spec", lambda asked: None if asked == package else object())
    with pytest.raises(ca.MissingPackageError, match=r"constraint-algebra\[images\]"):
        samples.load(name)


def test_a_missing_pillow_says_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    for call in (lambda: samples.read_image(tmp_path / "a.png"), lambda: samples.fit(np.ones((1, 8, 8)), (1, 4, 4))):
        with pytest.raises(ca.MissingPackageError, match=r"Pillow.*constraint-algebra\[images\]"):
            call()


def test_loading_a_sample_imports_neither_package() -> None:
    code = "import sys, constraint_algebra as ca; ca.samples.load('cifar10:0'); ca.samples.load('moon')\n"
    code += "sys.exit(bool({'foolbox', 'skimage', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


RGB = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (4, 6), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (4, 6), dtype=np.uint16)
ALPHA = RNG.integers(0, 256, (4, 6, 1), dtype=np.uint8)


def first(array: np.ndarray) -> np.ndarray:
    """Channels first, in [0, 1]."""
    return np.moveaxis(array, -1, 0) / 255


def on_white(array: np.ndarray) -> np.ndarray:
    return first(array) * first(ALPHA) + (1 - first(ALPHA))


# (picture, expected values): every mode that a user's file may have
PICTURES = {
    "RGB": (lambda: Image.fromarray(RGB), first(RGB)),
    "grey": (lambda: Image.fromarray(GREY), GREY[None] / 255),
    "grey of 16 bits": (lambda: Image.fromarray(DEEP), DEEP[None] / 65535),
    "black and white": (lambda: Image.fromarray(GREY > 100), (GREY > 100)[None].astype(float)),
    "palette": (
        lambda: Image.fromarray(np.repeat(RGB // 128 * 255, 2, 1)).convert("P", palette=Image.Palette.ADAPTIVE),
        first(np.repeat(RGB // 128 * 255, 2, 1)),
    ),
    "RGB with alpha": (lambda: Image.fromarray(np.concatenate([RGB, ALPHA], 2)), on_white(RGB)),
    "grey with alpha": (
        lambda: Image.fromarray(np.concatenate([GREY[..., None], ALPHA], 2)),
        on_white(GREY[..., None]),
    ),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures_of_every_mode(case, tmp_path) -> None:
    make, expected = PICTURES[case]
    make().save(tmp_path / "a.png")
    found = samples.read_image(tmp_path / "a.png")
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_transparent_colour_of_a_palette_becomes_white(tmp_path) -> None:
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    picture.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(samples.read_image(tmp_path / "a.png")[:, 0].T, [[1, 1, 1], [0, 0, 1]])


def test_a_jpeg_in_print_colours_has_three_channels(tmp_path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(samples.read_image(tmp_path / "a.jpg").mean((1, 2)), [1, 0, 0], atol=0.02)


def test_the_orientation_of_the_camera_is_applied(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(samples.read_image(tmp_path / "a.png"), first(np.rot90(RGB, -1)))


def truncated(path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])


BAD_FILES = {
    "missing": (lambda path: None, "does not exist"),  # noqa: ARG005
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "no picture"),
    "text": (lambda path: path.write_text("hello"), "no picture"),
    "truncated": (truncated, "damaged"),
    "numbers of no range": (
        lambda path: Image.fromarray(np.full((2, 2), -1.0, np.float32)).save(path, format="TIFF"),
        "from -1 to -1",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_picture_files(case, tmp_path) -> None:
    write, words = BAD_FILES[case]
    write(tmp_path / "a.png")
    with pytest.raises(ca.StorageError, match=words) as caught:
        samples.read_image(tmp_path / "a.png")
    assert "a.png" in str(caught.value)


def test_a_picture_too_large_to_be_safe(tmp_path, monkeypatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ca.StorageError, match="exceeds limit"):
        samples.read_image(tmp_path / "a.png")


def test_an_image_that_fits_passes_through_whatever_its_axes() -> None:
    for shape in [(3, 5, 7), (2, 4), (6,), (4, 2, 2, 2)]:
        image = RNG.normal(size=shape)
        np.testing.assert_array_equal(samples.fit(image, shape), image)


def test_mnist_gets_two_zeros_on_every_side() -> None:
    image = samples.load("mnist:3").image
    padded = samples.fit(image, (1, 32, 32))
    np.testing.assert_array_equal(padded[:, 2:-2, 2:-2], image)
    assert np.count_nonzero(padded) == np.count_nonzero(image)
    colours = samples.fit(image, (3, 32, 32))
    assert all(np.array_equal(channel, padded[0]) for channel in colours)


def test_grey_and_colours() -> None:
    image = RNG.uniform(size=(3, 4, 4))
    grey = samples.fit(image, (1, 4, 4))
    np.testing.assert_allclose(grey[0], 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(samples.fit(grey, (3, 4, 4)), np.repeat(grey, 3, axis=0))
    np.testing.assert_allclose(samples.fit(samples.fit(grey, (3, 4, 4)), (1, 4, 4)), grey, rtol=0, atol=1e-15)


def test_the_crop_is_around_the_centre() -> None:
    image = np.zeros((1, 8, 16))
    image[..., 4:12] = 1  # a square in the middle, which is all that remains
    np.testing.assert_allclose(samples.fit(image, (1, 4, 4)), 1, rtol=0, atol=1e-6)
    tall = np.zeros((1, 16, 4))
    tall[:, 6:8], tall[:, 8:10] = 0.25, 0.75  # the two middle bands, with aspect 1:1 between rows 6 and 10
    np.testing.assert_allclose(samples.fit(tall, (1, 4, 4))[0, :, 0], [0.25, 0.25, 0.75, 0.75], rtol=0, atol=1e-6)


def test_resizing_is_antialiased() -> None:
    """A checkerboard of single pixels becomes grey; taking every fourth pixel would leave it black or white."""
    board = np.indices((32, 32)).sum(0)[None] % 2
    small = samples.fit(board, (1, 8, 8))
    np.testing.assert_allclose(small[:, 1:-1, 1:-1], 0.5, rtol=0, atol=1e-6)


@given(
    st.sampled_from([1, 3]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 3]),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_any_size_to_any_size_stays_in_range(c, h, w, channels, height, width) -> None:
    image = np.random.default_rng(h * w).uniform(size=(c, h, w))
    fitted = samples.fit(image, (channels, height, width))
    assert fitted.shape == (channels, height, width)
    assert fitted.flags.writeable
    assert fitted.min() >= image.min() - 1e-6
    assert fitted.max() <= image.max() + 1e-6


@pytest.mark.parametrize(
    ("image", "shape", "words"),
    [
        ((3, 8, 8), (784,), "shape must be"),
        ((8, 8), (1, 8, 8), "image must be"),
        ((4, 8, 8), (3, 8, 8), "image must be"),
        ((3, 8, 8), (2, 8, 8), "1 or 3 channels"),
        ((3, 0, 8), (3, 8, 8), "image must be"),
        ((3, 8, 8), (3, 0, 8), "at least 1"),
    ],
)
def test_shapes_that_no_picture_has(image, shape, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        samples.fit(np.ones(image), shape)
