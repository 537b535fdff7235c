"""The trilinear form of a layer, contracted without building a matrix.

    T(k, W, x) = sum over f, c and (tap, output, position) in S of  k[f, output] * W[f, c, tap] * x[c, position]

Leaving out one of the three factors gives the forward pass, the weight gradient and the input gradient. Each gathers
what meets through every tap and is then one matrix product, for any number of axes and groups. `equations` holds the
same algebra as explicit matrices; the two agree to rounding, and tests hold both against automatic differentiation.

`forward` and `input_gradient` also take several inputs at once, along a last axis: `(*shape, n)` for `shape`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from constraint_algebra.incidence import IntArray, incidence
from constraint_algebra.layers import PlacedLayer, Shape

FloatArray = NDArray[np.float64]


def forward(layer: PlacedLayer, weight: FloatArray, x: FloatArray) -> FloatArray:
    """Return `B(W) x`, the layer's output without its bias, in the layer's output shape."""
    W = _grouped_weight(layer, weight).transpose(0, 3, 2, 1)  # group, tap, channel, filter
    seen = _gather(x, layer.groups, layer.input_shape, incidence(layer).positions_seen)
    return _product(seen, W, layer.output_shape, x.shape[len(layer.input_shape) :])


def input_gradient(layer: PlacedLayer, weight: FloatArray, k: FloatArray) -> FloatArray:
    """Return `B(W)^T k`, the gradient with respect to the layer's input, in the layer's input shape."""
    W = _grouped_weight(layer, weight).transpose(0, 3, 1, 2)  # group, tap, filter, channel
    reached = _gather(k, layer.groups, layer.output_shape, incidence(layer).outputs_reached)
    return _product(reached, W, layer.input_shape, k.shape[len(layer.output_shape) :])


def weight_gradient(layer: PlacedLayer, k: FloatArray, x: FloatArray) -> FloatArray:
    """Return `A(k) x[c]` for all channels, the gradient with respect to the weight, in the weight's shape."""
    S = incidence(layer)
    seen = _gather(x, layer.groups, layer.input_shape, S.positions_seen)  # group, 1 * output, tap * channel
    gradient = k.reshape(layer.groups, -1, S.output_count) @ seen
    taps_last = gradient.reshape(layer.groups, layer.filters // layer.groups, S.tap_count, -1).swapaxes(2, 3)
    return taps_last.reshape(layer.weight_shape)


def bias_gradient(layer: PlacedLayer, k: FloatArray) -> FloatArray:
    """Return `sum over outputs of k[f, output]`, shape `(filters,)`."""
    return np.asarray(k.reshape(layer.filters, -1).sum(axis=1))


def row_sums(layer: PlacedLayer, k: FloatArray) -> FloatArray:
    """Return `A(k) 1`, the sum of each gradient row (f, tap) over the positions, shape `(filters, taps)`."""
    S = incidence(layer)
    return k.reshape(layer.filters, S.output_count) @ (S.positions_seen < S.position_count)


def touched(layer: PlacedLayer, outputs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which input values meet at least one of the `outputs` (a mask in the output shape), from shapes alone."""
    counts = input_gradient(layer, np.ones(layer.weight_shape), outputs.astype(float))
    return np.asarray(counts > 0)


def _grouped_weight(layer: PlacedLayer, weight: FloatArray) -> FloatArray:
    """Return the weight with axes (group, filter, channel, tap)."""
    return weight.reshape(layer.groups, layer.filters // layer.groups, layer.channels // layer.groups, -1)


def _gather(values: FloatArray, groups: int, shape: Shape, table: IntArray) -> FloatArray:
    """Return for each group the values at the places of `table`, as `(group, n * places, taps * channels)`.

    Channels go last, so that each place is one run of memory; a row of zeros stands for places outside.
    """
    channels = shape[0] // groups
    by_place = values.reshape(groups, channels, -1, *(values.shape[len(shape) :] or (1,))).transpose(0, 3, 2, 1)
    padded = np.concatenate([by_place, np.zeros((groups, by_place.shape[1], 1, channels))], axis=2)
    gathered = np.take(padded, table, axis=2)  # group, n, place, tap, channel
    return gathered.reshape(groups, -1, table.shape[1] * channels)


def _product(gathered: FloatArray, weight: FloatArray, shape: Shape, several: Shape) -> FloatArray:
    """Return the product over taps and channels, with channels first and the several inputs last again."""
    groups, taps, channels, filters = weight.shape
    product = gathered @ weight.reshape(groups, taps * channels, filters)
    by_place = product.reshape(groups, *(several or (1,)), -1, filters)
    return np.ascontiguousarray(by_place.transpose(0, 3, 2, 1)).reshape(shape + several)
