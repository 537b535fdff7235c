"""The trilinear form of a layer, contracted without building a matrix.

    T(k, W, x) = sum over f, c and (tap, output, position) in S of  k[f, output] * W[f, c, tap] * x[c, position]

Leaving out one of the three factors gives the forward pass, the weight gradient and the input gradient, for any number
of axes and groups. The first two gather what every output sees through its taps and are then one matrix product; the
third is the product first, whose results are gathered where the taps lead and added. `equations` holds the
same algebra as explicit matrices; the two agree to rounding, and tests hold both against automatic differentiation.

All also take several inputs (or output gradients) at once, along a last axis: `(*shape, n)` for `shape`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from constraint_algebra.arrays import BoolArray, IntArray, RealArray
from constraint_algebra.layers.incidence import incidence, tap_slices
from constraint_algebra.layers.kinds import PlacedLayer, Shape
from constraint_algebra.numerics.workspace import Scratch

GATHERED = 2**19  # values gathered at a time: more would leave the caches


def forward(layer: PlacedLayer, weight: RealArray, x: RealArray, scratch: Scratch | None = None) -> RealArray:
    """Return `B(W) x`, the layer's output without its bias, in the layer's output shape.

    `scratch` keeps the arrays to work in from one call to the next.
    """
    W, table, scratch = _by_group(layer, weight), incidence(layer).positions_seen.T, scratch or Scratch()

    def product(part: RealArray, out: RealArray) -> None:
        np.matmul(W, _gather(part, table, scratch), out=out.reshape(layer.groups, -1, out.shape[-2] * out.shape[-1]))

    return _few_at_a_time(product, x, layer, (layer.input_shape, layer.output_shape), table.size * layer.channels)


def input_gradient(layer: PlacedLayer, weight: RealArray, k: RealArray, scratch: Scratch | None = None) -> RealArray:
    """Return `B(W)^T k`, the gradient with respect to the layer's input, in the layer's input shape.

    `scratch` keeps the arrays to work in from one call to the next.
    """
    W, S, scratch = _by_group(layer, weight).swapaxes(1, 2), incidence(layer), scratch or Scratch()
    G, C = layer.groups, layer.channels // layer.groups

    def product(part: RealArray, out: RealArray) -> None:
        n = part.shape[-1]
        sent = scratch.array("sent", (G, C * S.tap_count, S.output_count * n), np.result_type(W, part))
        np.matmul(W, part.reshape(*part.shape[:2], -1), out=sent)
        arriving = _taken(sent.reshape(G, C, -1, n), S.arrivals, scratch)  # group, channel, tap, position, n
        np.sum(arriving, axis=2, out=out)

    return _few_at_a_time(product, k, layer, (layer.output_shape, layer.input_shape), S.arrivals.size * layer.channels)


def weight_gradient(layer: PlacedLayer, k: RealArray, x: RealArray) -> RealArray:
    """Return `A(k) x[c]` for all channels, the gradient with respect to the weight, in the weight's shape.

    Also for several k at once, `(*output_shape, n)`; then the result is `(*weight_shape, n)`.
    """
    S, G, several = incidence(layer), layer.groups, k.shape[len(layer.output_shape) :]
    by_place = x.reshape(G, layer.channels // G, -1, 1)
    seen = _gather(by_place, S.positions_seen.T, Scratch())
    if not several:
        return np.asarray((k.reshape(G, -1, S.output_count) @ seen.swapaxes(1, 2)).reshape(layer.weight_shape))
    outputs_last = k.reshape(G, layer.filters // G, S.output_count, -1).swapaxes(2, 3)
    gradient = np.ascontiguousarray(outputs_last).reshape(G, -1, S.output_count) @ seen.swapaxes(1, 2)
    members_last = gradient.reshape(layer.filters, several[0], -1).swapaxes(1, 2)
    return members_last.reshape(layer.weight_shape + several)


def weight_gradients(layer: PlacedLayer, k: RealArray, inputs: RealArray) -> RealArray:
    """Return `A(k) x` for several inputs x at once, shape `(*weight_shape, n)` for `(*input_shape, n)`."""
    S, G, n = incidence(layer), layer.groups, inputs.shape[-1]
    A = np.zeros((layer.filters, S.tap_count, S.position_count + 1))  # the last position stands for the padding
    A[:, np.arange(S.tap_count)[:, None], S.positions_seen.T] = k.reshape(layer.filters, 1, S.output_count)
    by_group = A[..., :-1].reshape(G, 1, -1, S.position_count)
    product = by_group @ inputs.reshape(G, layer.channels // G, S.position_count, n)
    ordered = product.reshape(G, layer.channels // G, layer.filters // G, S.tap_count, n).swapaxes(1, 2)
    return np.ascontiguousarray(ordered).reshape(*layer.weight_shape, n)


def bias_gradient(layer: PlacedLayer, k: RealArray) -> RealArray:
    """Return `sum over outputs of k[f, output]`, shape `(filters,)`."""
    return np.asarray(k.reshape(layer.filters, -1).sum(axis=1))


def row_sums(layer: PlacedLayer, k: RealArray) -> RealArray:
    """Return `A(k) 1`, the sum of each gradient row (f, tap) over the positions, shape `(filters, taps)`."""
    S = incidence(layer)
    return np.asarray(k.reshape(layer.filters, S.output_count) @ S.inside)


def touched(layer: PlacedLayer, outputs: BoolArray) -> BoolArray:
    """Return which input values meet at least one of the `outputs` (a mask in the output shape), from shapes alone."""
    if not outputs.any():
        return np.zeros(layer.input_shape, dtype=bool)
    some = np.logical_or.reduce(outputs.reshape(layer.groups, -1, *layer.outputs), axis=1)
    met = np.zeros((layer.groups, *layer.positions), dtype=bool)
    for seen, places in tap_slices(layer):
        met[:, *places] |= some[:, *seen]  # a tap meets no position twice
    return np.repeat(met, layer.channels // layer.groups, axis=0).reshape(layer.input_shape)


def _few_at_a_time(
    product: Callable[[RealArray, RealArray], None],
    values: RealArray,
    layer: PlacedLayer,
    shapes: tuple[Shape, Shape],
    gathered: int,
) -> RealArray:
    """Apply a product to values `(*shapes[0], n)` or `shapes[0]`, to so many of n at a time that the cache holds them.

    The product takes values with axes (group, channel, place, n), and where to put its result, with the same axes;
    `gathered` is what it gathers for each of n.
    """
    before, after = shapes
    several, G = values.shape[len(before) :], layer.groups
    grouped = values.reshape(G, before[0] // G, -1, *(several or (1,)))
    n, step = grouped.shape[-1], max(1, GATHERED // max(1, gathered))
    parts = []
    for i in range(0, n, step):
        part = grouped[..., i : i + step]
        parts.append(np.empty((G, after[0] // G, math.prod(after[1:]), part.shape[-1]), dtype=values.dtype))
        product(part, parts[-1])
    return (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)).reshape(after + several)


def _by_group(layer: PlacedLayer, weight: RealArray) -> RealArray:
    """Return the weight with axes (group, filter, channel * tap)."""
    return weight.reshape(layer.groups, layer.filters // layer.groups, -1)


def _gather(by_place: RealArray, table: IntArray, scratch: Scratch) -> RealArray:
    """Return values `(group, channel, place, n)` at the places of `table` as `(group, channel * tap, output * n)`."""
    groups, channels, _, n = by_place.shape
    return _taken(by_place, table, scratch).reshape(groups, channels * table.shape[0], table.shape[1] * n)


def _taken(by_place: RealArray, table: IntArray, scratch: Scratch) -> RealArray:
    """Return values `(group, channel, place, n)` at the places of `table`, zeros at the place one past the last."""
    groups, channels, places, n = by_place.shape
    padded = scratch.array("padded", (groups, channels, places + 1, n), by_place.dtype)
    padded[:, :, :places], padded[:, :, places] = by_place, 0
    taken = scratch.array("taken", (groups, channels, *table.shape, n), by_place.dtype)
    return np.take(padded, table, axis=2, out=taken, mode="clip")  # without a mode it would not write in place
