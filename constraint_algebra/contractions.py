"""The trilinear form of a layer, contracted without building a matrix.

    T(k, W, x) = sum over f, c and (tap, output, position) in S of  k[f, output] * W[f, c, tap] * x[c, position]

Leaving out one of the three factors gives the forward pass, the weight gradient and the input gradient. Each is a loop
over the taps with one matrix product inside, for any number of axes and groups. `equations` holds the same algebra as
explicit matrices; the two agree to rounding, and tests hold both against automatic differentiation.

`forward` and `input_gradient` also take several inputs at once, along a last axis: `(*shape, n)` for `shape`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from constraint_algebra.incidence import Incidence, incidence
from constraint_algebra.layers import PlacedLayer, Shape

FloatArray = NDArray[np.float64]


def forward(layer: PlacedLayer, weight: FloatArray, x: FloatArray) -> FloatArray:
    """Return `B(W) x`, the layer's output without its bias, in the layer's output shape."""
    S = incidence(layer)
    W, x4 = _by_group(layer, weight, S.tap_count), _by_position(layer.groups, x, S.position_count)
    z = np.zeros((layer.groups, W.shape[1], S.output_count, x4.shape[-1]))
    for tap, run in _runs(S):
        z[:, :, S.output[run]] += _product(W[..., tap], x4[:, :, S.position[run]])
    return z.reshape(layer.output_shape + _several(x, layer.input_shape))


def input_gradient(layer: PlacedLayer, weight: FloatArray, k: FloatArray) -> FloatArray:
    """Return `B(W)^T k`, the gradient with respect to the layer's input, in the layer's input shape."""
    S = incidence(layer)
    W, k4 = _by_group(layer, weight, S.tap_count), _by_position(layer.groups, k, S.output_count)
    x = np.zeros((layer.groups, W.shape[2], S.position_count, k4.shape[-1]))
    for tap, run in _runs(S):
        x[:, :, S.position[run]] += _product(W[..., tap].transpose(0, 2, 1), k4[:, :, S.output[run]])
    return x.reshape(layer.input_shape + _several(k, layer.output_shape))


def weight_gradient(layer: PlacedLayer, k: FloatArray, x: FloatArray) -> FloatArray:
    """Return `A(k) x[c]` for all channels, the gradient with respect to the weight, in the weight's shape."""
    S = incidence(layer)
    k3, x3 = k.reshape(layer.groups, -1, S.output_count), x.reshape(layer.groups, -1, S.position_count)
    gradient = np.zeros((layer.groups, k3.shape[1], x3.shape[1], S.tap_count))
    for tap, run in _runs(S):
        gradient[..., tap] = k3[:, :, S.output[run]] @ x3[:, :, S.position[run]].transpose(0, 2, 1)
    return gradient.reshape(layer.weight_shape)


def bias_gradient(layer: PlacedLayer, k: FloatArray) -> FloatArray:
    """Return `sum over outputs of k[f, output]`, shape `(filters,)`."""
    return np.asarray(k.reshape(layer.filters, -1).sum(axis=1))


def row_sums(layer: PlacedLayer, k: FloatArray) -> FloatArray:
    """Return `A(k) 1`, the sum of each gradient row (f, tap) over the positions, shape `(filters, taps)`."""
    S = incidence(layer)
    k2 = k.reshape(layer.filters, S.output_count)
    return np.stack([k2[:, S.output[run]].sum(axis=1) for _, run in _runs(S)], axis=1)


def touched(layer: PlacedLayer, outputs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which input values meet at least one of the `outputs` (a mask in the output shape), from shapes alone."""
    counts = input_gradient(layer, np.ones(layer.weight_shape), outputs.astype(float))
    return np.asarray(counts > 0)


def _runs(S: Incidence) -> Iterator[tuple[int, slice]]:
    return ((tap, S.of_tap(tap)) for tap in range(S.tap_count))


def _by_group(layer: PlacedLayer, weight: FloatArray, taps: int) -> FloatArray:
    """Return the weight with axes (group, filter, channel, tap)."""
    return weight.reshape(layer.groups, layer.filters // layer.groups, layer.channels // layer.groups, taps)


def _by_position(groups: int, values: FloatArray, positions: int) -> FloatArray:
    """Return values with axes (group, channel or filter, position, which of several)."""
    channels = values.shape[0] // groups
    return values.reshape(groups, channels, positions, -1)


def _product(matrix: FloatArray, values: FloatArray) -> FloatArray:
    """Return the product over channels for all positions and all inputs at once: one large matrix product a group."""
    groups, channels, *rest = values.shape
    return (matrix @ values.reshape(groups, channels, -1)).reshape(groups, matrix.shape[1], *rest)


def _several(values: FloatArray, shape: Shape) -> Shape:
    """Return `(n,)` where `values` holds n arrays of `shape`, `()` where it is one such array."""
    return values.shape[len(shape) :]
