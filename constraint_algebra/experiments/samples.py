"""Sample images by name, from packages that carry them: nothing is downloaded.

foolbox's wheel has 20 images each of CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST and ImageNet, and scikit-image's has
photographs. Images are float64 in [0, 1], channels first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import MissingPackageError, ShapeError, StorageError, UnknownNameError
from constraint_algebra.layers.kinds import Shape, check_shape

if TYPE_CHECKING:
    from PIL.Image import Image


DATASETS = ("cifar10", "cifar100", "mnist", "fashionmnist", "imagenet")
# Which shares of red, green and blue make grey (ITU-R BT.601, as in Pillow).
LUMINANCE = (0.299, 0.587, 0.114)
_SHORTCUT = "skimage:"
_ORIENTATION = 0x0112  # the tag of a camera's orientation


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with its name and label.

    Attributes:
        name: such as "cifar10:7".
        image: `(channels, height, width)`, values in [0, 1].
        label: the class in its data set, `None` for photographs.
    """

    name: str
    image: FloatArray
    label: int | None


def load(name: str) -> Sample:
    """Return a sample by its name.

    Args:
        name: `dataset:index`, such as "cifar10:7", or a photograph, such as "skimage:astronaut" or "astronaut".

    Raises:
        UnknownNameError: no such data set, index or photograph; the message says which there are.
        MissingPackageError: the package that carries the sample is not installed.

    >>> sample = load("cifar10:7")
    >>> sample.name, sample.image.shape, sample.label
    ('cifar10:7', (3, 32, 32), 6)
    """
    dataset, colon, index = name.partition(":")
    if dataset in DATASETS:
        files = _dataset(dataset)
        if not colon or not re.fullmatch("[0-9]{1,9}", index) or int(index) not in files:
            raise UnknownNameError(
                f"{dataset} has samples {dataset}:{min(files)} to {dataset}:{max(files)}, got {name!r}; choose one"
            )
        path, label = files[int(index)]
        return Sample(f"{dataset}:{int(index)}", read_image(path), label)
    pictures = _pictures()
    picture = name.removeprefix(_SHORTCUT)
    if picture not in pictures:
        known = [f"{d}:INDEX" for d in DATASETS] + sorted(pictures)
        close = get_close_matches(picture.lower(), [*DATASETS, *pictures], n=1)
        hint = f", did you mean {close[0]!r}?" if close else "."
        raise UnknownNameError(f"no sample is called {name!r}{hint} There are {', '.join(known)}")
    return Sample(_SHORTCUT + picture, read_image(pictures[picture]), None)


def names() -> tuple[str, ...]:
    """Return the names of all samples whose package is installed."""
    found: list[str] = []
    if find_spec("foolbox"):
        found += [f"{dataset}:{index}" for dataset in DATASETS for index in _dataset(dataset)]
    if find_spec("skimage"):
        found += [_SHORTCUT + picture for picture in sorted(_pictures())]
    return tuple(found)


def _dataset(dataset: str) -> dict[int, tuple[Path, int]]:
    """Return file and label of each sample of a data set by index; the file's name is `dataset_index_label`."""
    found = {}
    for path in _folder("foolbox").iterdir():
        match = re.fullmatch(r"([a-z0-9]+)_(\d+)_(\d+)", path.stem.lower())
        if match and match[1] == dataset:
            found[int(match[2])] = (path, int(match[3]))
    if not found:
        raise MissingPackageError(f"this version of foolbox carries no {dataset} samples; pip install 'foolbox>=3.3.3'")
    return dict(sorted(found.items()))


def _pictures() -> dict[str, Path]:
    return {path.stem: path for path in _folder("skimage").iterdir() if path.suffix in {".png", ".jpg"}}


def _folder(package: str) -> Path:
    """Return the data folder of a package, without importing the package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = {"skimage": "scikit-image"}.get(package, package)
        raise MissingPackageError(
            f'these samples come with {name}, which is not installed; pip install "constraint-algebra[images]"'
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def read_image(path: str | Path) -> FloatArray:
    """Return a picture file as `(channels, height, width)`, one channel for grey and three for colours, in [0, 1].

    The camera's orientation is applied, a palette becomes its colours, and what is transparent becomes white.

    Raises:
        StorageError: the file is missing, damaged, too large to be safe, or no picture.
        MissingPackageError: Pillow is not installed.
    """
    path = Path(path)
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingPackageError(
            'reading pictures needs Pillow, which is not installed; pip install "constraint-algebra[images]"'
        ) from error
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise StorageError(f"{path} {what}; give the path of a picture, or the name of a sample")
    try:
        with Image.open(path) as picture:
            return _values(ImageOps.exif_transpose(picture))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise StorageError(f"{path} is no picture, or is damaged ({error}); use a PNG or JPEG file") from error


def _values(picture: Image) -> FloatArray:
    """Return the values of a picture of any mode, channels first."""
    if picture.mode.startswith(("I", "F")):  # 16 bits of grey, or numbers of no stated range
        values = np.asarray(picture, dtype=float)
        if not picture.mode.startswith("I;16") and not (values.min() >= 0 and values.max() <= 65535):
            raise ValueError(f"its values run from {values.min():g} to {values.max():g}, not from 0 to 65535")
        return values[None] / 65535
    grey = picture.mode in {"1", "L", "LA", "La"}
    if "transparency" in picture.info or picture.mode in {"LA", "La", "PA", "RGBA", "RGBa"}:
        colours = np.asarray(picture.convert("RGBA"), dtype=float) / 255
        opacity = colours[..., 3:]
        values = colours[..., :3] * opacity + (1 - opacity)
    else:
        values = np.asarray(picture.convert("RGB"), dtype=float) / 255
    return np.ascontiguousarray(np.moveaxis(values, -1, 0)[: 1 if grey else 3])


def conversions(path: str | Path) -> str:
    """Return in words what `read_image` makes of the numbers in a picture file.

    >>> import tempfile; from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("LA", (2, 2)).save(f"{folder}/a.png")
    ...     conversions(f"{folder}/a.png")
    'a.png: 8-bit values are divided by 255, what is transparent is white'
    """
    from PIL import Image

    with Image.open(path) as picture:
        deep = picture.mode.startswith(("I", "F"))
        steps = [f"{'16' if deep else '8'}-bit values are divided by {65535 if deep else 255}"]
        if "transparency" in picture.info or picture.mode in {"LA", "La", "PA", "RGBA", "RGBa"}:
            steps.append("what is transparent is white")
        if picture.mode in {"P", "PA"}:
            steps.append("the palette is replaced by its colours")
        if picture.mode in {"CMYK", "YCbCr", "LAB", "HSV"}:
            steps.append(f"{picture.mode} is converted to RGB")
        if picture.getexif().get(_ORIENTATION, 1) != 1:
            steps.append("it is turned upright as the camera noted")
    return f"{Path(path).name}: {', '.join(steps)}"


def fitting(came: Shape, shape: Shape) -> str:
    """Return in words what `fit` does to an image of one shape for another, nothing where they are the same.

    >>> fitting((3, 400, 600), (1, 32, 32))
    'colours made grey, cropped around the centre to 400×400, resized to 32×32'
    >>> fitting((1, 28, 28), (3, 32, 32)), fitting((3, 8, 8), (3, 8, 8))
    ('grey repeated in three channels, padded with two zeros on every side to 32×32', '')
    """
    steps = []
    if came != shape and came[0] != shape[0]:
        steps.append("colours made grey" if shape[0] == 1 else "grey repeated in three channels")
    if _is_padded(came, shape):
        steps.append("padded with two zeros on every side to 32×32")
    elif came[1:] != shape[1:]:
        rows, columns = _crop_size(came, shape)
        if (rows, columns) != came[1:]:
            steps.append(f"cropped around the centre to {rows}×{columns}")
        if (rows, columns) != shape[1:]:
            steps.append(f"resized to {shape[1]}×{shape[2]}")
    return ", ".join(steps)


def fit(image: ArrayLike, shape: Shape) -> FloatArray:
    """Return an image in a network's input shape; `fitting` says in words what that does to it.

    An image that has the shape already passes through unchanged. Otherwise:

    1. Channels: grey becomes three equal channels, colours become grey by luminance (ITU-R BT.601).
    2. Size: a 28×28 image for 32×32 (MNIST) gets two zeros on every side. Any other is cropped around its centre to the
       aspect of the shape and resized with antialiasing (Pillow's bilinear filter, which keeps values in their range).

    Args:
        image: `(channels, height, width)`, 1 or 3 channels.
        shape: `(channels, height, width)`, 1 or 3 channels.

    Raises:
        ShapeError: one of the two is no such shape, or the image holds 8-bit integers.
        MissingPackageError: the size changes and Pillow is not installed.

    >>> fit(np.ones((1, 28, 28)), (3, 32, 32)).sum()
    np.float64(2352.0)
    """
    if getattr(image, "dtype", None) == np.uint8:
        raise ShapeError("fit: the image holds 8-bit integers, and values here run from 0 to 1; pass image / 255.0")
    values = np.asarray(image, dtype=float)
    shape = check_shape(shape)
    if values.shape == shape:
        return values
    for what, got in (("image", values.shape), ("shape", shape)):
        if len(got) != 3 or got[0] not in {1, 3} or 0 in got:
            raise ShapeError(
                f"fit: {what} must be (channels, height, width) with 1 or 3 channels, got {tuple(got)}; "
                "bring the image to the network's input shape by other means"
            )
    if shape[0] == 1 and values.shape[0] == 3:
        values = np.tensordot(LUMINANCE, values, 1)[None]
    if _is_padded(values.shape, shape):
        values = np.pad(values, ((0, 0), (2, 2), (2, 2)))
    elif values.shape[1:] != shape[1:]:
        values = np.stack([_resized(channel, shape[1], shape[2]) for channel in _cropped(values, shape)])
    return np.array(np.broadcast_to(values, shape))


def _is_padded(came: Shape, shape: Shape) -> bool:
    """Whether an image is that of MNIST and the network one for its padded form."""
    return came[1:] == (28, 28) and shape[1:] == (32, 32)


def _crop_size(came: Shape, shape: Shape) -> tuple[int, int]:
    """Return height and width of the largest part that has the aspect of the shape."""
    height, width = came[1:]
    rows = max(1, min(height, round(width * shape[1] / shape[2])))
    return rows, max(1, min(width, round(height * shape[2] / shape[1])))


def _cropped(values: FloatArray, shape: Shape) -> FloatArray:
    """Return the largest part around the centre that has the aspect of the shape."""
    height, width = values.shape[1:]
    rows, columns = _crop_size(values.shape, shape)
    top, left = (height - rows) // 2, (width - columns) // 2
    return values[:, top : top + rows, left : left + columns]


def _resized(channel: FloatArray, height: int, width: int) -> FloatArray:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError(
            'resizing needs Pillow, which is not installed; pip install "constraint-algebra[images]"'
        ) from error
    picture: Any = Image.fromarray(channel.astype(np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), dtype=float)
