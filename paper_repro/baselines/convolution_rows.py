"""The rows of a two-dimensional convolution's equations, one by one with array slices, for the baselines.

Nothing here uses the library's own equations.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import Conv2d, PlacedLayer


def gradient_rows(layer: PlacedLayer, k: FloatArray) -> Iterator[tuple[int, int, int, FloatArray]]:
    """Yield (filter, i, j, row over the pixels of one channel) for every gradient equation of one channel."""
    for f in range(layer.filters):
        for i, j in np.ndindex(*layer.taps):
            padded = _padded(layer, 1)
            padded[0][_window(layer, i, j)] = k[f]
            yield f, i, j, _cropped(layer, padded).ravel()


def weight_rows(layer: PlacedLayer, W: FloatArray) -> Iterator[FloatArray]:
    """Yield the row over all unknowns of every weight equation, in the order of the outputs."""
    conv = layer.layer
    assert isinstance(conv, Conv2d)
    (si, sj), (di, dj), (ki, kj) = conv.strides, conv.dilations, conv.taps
    for f, y, x in np.ndindex(*layer.output_shape):
        padded = _padded(layer, layer.channels)
        padded[:, y * si : y * si + di * (ki - 1) + 1 : di, x * sj : x * sj + dj * (kj - 1) + 1 : dj] = W[f]
        yield _cropped(layer, padded).ravel()


def arrive(layer: PlacedLayer, W: FloatArray, k: FloatArray) -> FloatArray:
    """Return the gradient with respect to the layer's input."""
    padded = _padded(layer, layer.channels)
    for i, j in np.ndindex(*layer.taps):
        padded[:, *_window(layer, i, j)] += np.tensordot(W[:, :, i, j], k, axes=(0, 0))
    return _cropped(layer, padded)


def _window(layer: PlacedLayer, i: int, j: int) -> tuple[slice, slice]:
    """Return which pixels of the padded picture tap (i, j) meets."""
    conv = layer.layer
    assert isinstance(conv, Conv2d)
    first, second = (
        slice(tap * d, tap * d + s * (n - 1) + 1, s)
        for tap, d, s, n in zip((i, j), conv.dilations, conv.strides, layer.outputs, strict=True)
    )
    return first, second


def _padded(layer: PlacedLayer, channels: int) -> FloatArray:
    assert isinstance(layer.layer, Conv2d)
    sizes = [n + before + after for n, (before, after) in zip(layer.positions, layer.layer.paddings, strict=True)]
    return np.zeros((channels, *sizes))


def _cropped(layer: PlacedLayer, padded: FloatArray) -> FloatArray:
    assert isinstance(layer.layer, Conv2d)
    (top, _), (left, _) = layer.layer.paddings
    height, width = layer.positions
    return padded[:, top : top + height, left : left + width]
