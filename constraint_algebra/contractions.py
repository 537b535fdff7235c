"""The trilinear form of a layer, contracted without building a matrix.

    T(k, W, x) = sum over f, c and (tap, output, position) in S of  k[f, output] * W[f, c, tap] * x[c, position]

Leaving out one of the three factors gives the forward pass, the weight gradient and the input gradient, for any number
of axes and groups. The first two gather what every output sees through its taps and are then one matrix product; the
third is one product a tap, whose results are added where the tap leads. `equations` holds the
same algebra as explicit matrices; the two agree to rounding, and tests hold both against automatic differentiation.

`forward` and `input_gradient` also take several inputs at once, along a last axis: `(*shape, n)` for `shape`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from constraint_algebra.incidence import IntArray, incidence
from constraint_algebra.layers import PlacedLayer, Shape

FloatArray = NDArray[np.float64]

GATHERED = 2**22  # values gathered at a time: 32 MB


def forward(layer: PlacedLayer, weight: FloatArray, x: FloatArray) -> FloatArray:
    """Return `B(W) x`, the layer's output without its bias, in the layer's output shape."""
    W, several = _by_group(layer, weight), x.shape[len(layer.input_shape) :]
    by_place = x.reshape(layer.groups, layer.channels // layer.groups, -1, *(several or (1,)))
    table = incidence(layer).positions_seen.T
    step = max(1, GATHERED // (table.size * layer.channels))
    n = by_place.shape[-1]
    parts = [W @ _gather(by_place[..., i : i + step], table) for i in range(0, n, step)]
    if len(parts) > 1:
        parts = [np.concatenate([part.reshape(*W.shape[:2], table.shape[1], -1) for part in parts], axis=-1)]
    return parts[0].reshape(layer.output_shape + several)


def input_gradient(layer: PlacedLayer, weight: FloatArray, k: FloatArray) -> FloatArray:
    """Return `B(W)^T k`, the gradient with respect to the layer's input, in the layer's input shape."""
    W, S, several = _by_group(layer, weight), incidence(layer), k.shape[len(layer.output_shape) :]
    G, C = layer.groups, layer.channels // layer.groups
    sent = W.swapaxes(1, 2) @ k.reshape(G, layer.filters // G, -1)
    through = sent.reshape(G, C, S.tap_count, *layer.outputs, *(several or (1,)))
    x = np.zeros((G, C, *layer.positions, *(several or (1,))))
    both = (slice(None), slice(None))
    for tap, (outputs, positions) in enumerate(S.windows):
        x[both + positions] += through[(*both, tap, *outputs)]
    return x.reshape(layer.input_shape + several)


def weight_gradient(layer: PlacedLayer, k: FloatArray, x: FloatArray) -> FloatArray:
    """Return `A(k) x[c]` for all channels, the gradient with respect to the weight, in the weight's shape."""
    S = incidence(layer)
    seen = _gather(x.reshape(layer.groups, layer.channels // layer.groups, -1, 1), S.positions_seen.T)
    gradient = k.reshape(layer.groups, -1, S.output_count) @ seen.swapaxes(1, 2)
    return np.asarray(gradient.reshape(layer.weight_shape))


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


def _by_group(layer: PlacedLayer, weight: FloatArray) -> FloatArray:
    """Return the weight with axes (group, filter, channel * tap)."""
    return weight.reshape(layer.groups, layer.filters // layer.groups, -1)


def _gather(by_place: FloatArray, table: IntArray) -> FloatArray:
    """Return values `(group, channel, place, n)` at the places of `table` as `(group, channel * tap, output * n)`."""
    groups, channels, _, n = by_place.shape
    padded = np.concatenate([by_place, np.zeros((groups, channels, 1, n))], axis=2)
    return np.take(padded, table, axis=2).reshape(groups, channels * table.shape[0], -1)
