"""Images in [0, 1], what of them is determined, and how far one is from another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.plotting.canvas import axes_or_new, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST = 1e-17  # errors below the rounding of values near 1 all look alike
UNKNOWN = 0.5  # grey, for values that are not numbers


def is_picture(shape: Sequence[int]) -> bool:
    """Whether arrays of this shape can be shown: one grey or three colour channels, height and width.

    >>> is_picture((3, 32, 32)), is_picture((1, 28, 28)), is_picture((2, 8, 8)), is_picture((3, 32))
    (True, True, False, False)
    """
    return len(shape) == 3 and shape[0] in {1, 3}


def pixels(image: FloatArray) -> NDArray[np.uint8]:
    """Return the bytes of an image in [0, 1]: `(height, width)` for grey, `(height, width, 3)` for colour.

    Values outside are cut off; what is not a number becomes mid-grey.

    Raises:
        ShapeError: the array is no picture.

    >>> pixels(np.array([[[0.0, 0.5, 1.0, 7.0]]]))
    array([[  0, 128, 255, 255]], dtype=uint8)
    """
    if not is_picture(image.shape):
        raise ShapeError(f"a picture has shape (1 or 3 channels, height, width), got {image.shape}")
    filled = np.where(np.isnan(image), UNKNOWN, image)
    rounded = np.round(255 * np.clip(filled, 0, 1)).astype(np.uint8)
    return rounded[0] if len(rounded) == 1 else np.moveaxis(rounded, 0, -1)


def picture(image: FloatArray, *, determined: BoolArray | None = None, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw an image `(channels, height, width)` in [0, 1]; pixels that are not fully determined are hatched."""
    ax = axes_or_new(ax)
    height, width = image.shape[1:]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    ax.imshow(pixels(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=extent)
    if determined is not None and not determined.all():
        ax.imshow(hatching(np.logical_not(determined.all(axis=0))), interpolation="nearest", extent=extent)
        title = f"{title}\n(hatched: not determined)"
    return plain(ax, title)


def hatching(mask: BoolArray) -> FloatArray:
    """Return an RGBA picture of about 512 dots a side: black stripes on a white veil where the mask is true.

    The stripes show on black and on white alike, and they end exactly where the pixels do.
    """
    detail = -(-512 // max(mask.shape))
    fine = np.kron(mask, np.ones((detail, detail), dtype=bool))
    stripe = np.add.outer(*map(np.arange, fine.shape)) % 16 < 4
    veil = np.where(stripe[..., None], (0, 0, 0, 1), (1, 1, 1, 0.5))
    return np.asarray(veil * fine[..., None])


def absolute_error(
    image: FloatArray, truth: FloatArray, *, title: str = "Absolute error", ax: Axes | None = None
) -> Axes:
    """Draw the largest absolute error over the channels of each pixel on a logarithmic scale with a colour bar.

    The scale spans whole decades, dark for small errors and bright for large ones, also when printed in grey. Exact
    pixels take the darkest colour.
    """
    from matplotlib.colors import LogNorm

    ax = axes_or_new(ax)
    error = np.abs(image - truth).max(axis=0)
    low, high = decades(error)
    shown = ax.imshow(np.maximum(error, low), cmap="inferno", norm=LogNorm(low, high), interpolation="nearest")
    bar = ax.figure.colorbar(shown, ax=ax, fraction=0.046, pad=0.04)
    bar.set_label("largest |error| over channels\n(values lie in [0, 1])")
    return plain(ax, title)


def comparison(
    truth: FloatArray, image: FloatArray, *, determined: BoolArray | None = None, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Draw original, reconstruction and absolute error side by side on three Axes."""
    if axes is None:
        import matplotlib.pyplot as plt

        axes = list(plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")[1])
    picture(truth, title="Original", ax=axes[0])
    picture(image, determined=determined, title="Reconstruction", ax=axes[1])
    absolute_error(image, truth, ax=axes[2])
    return axes


def difference(values: FloatArray, *, title: str = "Difference", ax: Axes | None = None) -> Axes:
    """Draw the largest absolute difference over the channels of each pixel, from 0 to 1, dark for small ones."""
    ax = axes_or_new(ax)
    shown = ax.imshow(np.abs(values).max(axis=0), cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    bar = ax.figure.colorbar(shown, ax=ax, fraction=0.046, pad=0.04)
    bar.set_label("largest difference\nover channels")
    return plain(ax, title)


def decades(error: FloatArray) -> tuple[float, float]:
    """Return the powers of ten around the positive finite errors, two different ones in any case.

    >>> decades(np.array([0.0, 3e-9, 2e-7, np.nan]))
    (1e-09, 1e-06)
    >>> decades(np.array([0.0]))
    (1e-17, 1e-16)
    """
    positive = error[np.isfinite(error) & (error > SMALLEST)]
    if not positive.size:
        return SMALLEST, 1e-16
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()))
    return float(f"1e{low:.0f}"), float(f"1e{max(high, low + 1):.0f}")
