"""How close a reconstruction is to the truth: MSE, PSNR and SSIM, with the range of the values stated.

Arrays are those of one sample: `(channels, *spatial)` or `(features,)`. None of these figures says whether a person
would recognise the picture; a single determined pixel can be private.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import MissingPackageError, ShapeError

WINDOW = 7  # scikit-image's own default side of the SSIM window


@checked
def mse(a: ArrayLike, b: ArrayLike) -> float:
    """Return the mean squared error of two arrays of the same shape.

    Raises:
        ShapeError: the shapes differ, or the arrays are empty.

    >>> mse([0.0, 1.0], [0.0, 0.5])
    0.125
    """
    first, second = _pair(a, b)
    return float(np.mean((first - second) ** 2))


@checked
def psnr(a: ArrayLike, b: ArrayLike, *, data_range: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio `10 log10(data_range² / mse)` in decibels, infinite for equal arrays.

    Args:
        a: the one array.
        b: the other, of the same shape.
        data_range: largest minus smallest possible value; images here live in [0, 1].

    Raises:
        ShapeError: the shapes differ, or `data_range` is not positive.

    >>> psnr([0.0, 1.0], [0.1, 0.9])
    20.0
    >>> round(psnr([0.0, 255.0], [25.5, 229.5], data_range=255), 9)
    20.0
    """
    error = mse(a, b)
    span = _positive(data_range)
    return math.inf if error == 0 else float(20 * np.log10(span) - 10 * np.log10(error))


@checked
def ssim(a: ArrayLike, b: ArrayLike, *, data_range: float = 1.0) -> float:
    """Return the structural similarity (Wang et al. 2004) by scikit-image, 1 for equal arrays.

    The window is a cube of side 7 in as many axes as the sample has spatial ones, so 1-D and 3-D samples work as
    pictures do; where an axis is shorter the side is the largest odd number that fits. Channels are averaged. A sample
    without spatial axes, or with one shorter than 3, has no structure to compare: the result is NaN.

    Raises:
        MissingPackageError: scikit-image is not installed.
        ShapeError: the shapes differ, or `data_range` is not positive.

    >>> picture = np.linspace(0, 1, 192).reshape(3, 8, 8)
    >>> ssim(picture, picture)
    1.0
    """
    first, second = _pair(a, b)
    span = _positive(data_range)
    side = min((*first.shape[1:], WINDOW)) if first.ndim > 1 else 0
    if side < 3:
        return math.nan
    try:
        from skimage import metrics as skimage_metrics
    except ImportError as error:
        raise MissingPackageError('the SSIM needs scikit-image: pip install "constraint-algebra[images]"') from error
    odd = side - 1 + side % 2
    similarity: Any = skimage_metrics.structural_similarity  # untyped
    return float(similarity(first, second, data_range=span, channel_axis=0, win_size=odd))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[FloatArray, FloatArray]:
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape or not first.size:
        raise ShapeError(f"a and b: two arrays of the same shape are compared, got {first.shape} and {second.shape}")
    return first, second


def _positive(data_range: float) -> float:
    if not (data_range > 0 and math.isfinite(data_range)):
        raise ShapeError(f"data_range is the largest minus the smallest possible value, above 0; got {data_range}")
    return float(data_range)
