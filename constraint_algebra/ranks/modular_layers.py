"""The trilinear form of a layer over residues: what `trilinear` does with numbers, exactly modulo the prime.

Values come several at once, along a last axis: `(*shape, n)` for `shape`. Products are taken over at most `BLOCK` inner
terms at a time, so that every sum stays exact in float64 (see `modular`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray, RealArray
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.modular import BLOCK, PRIME, multiply, residues

GATHERED = 2**22  # values gathered at a time


def forward(layer: PlacedLayer, weight: RealArray, x: RealArray) -> FloatArray:
    """Return `B(W) x`, shape `(*output_shape, n)`."""
    if _is_diagonal(layer):
        return _scaled(layer, weight, x)
    G, table = layer.groups, incidence(layer).positions_seen.T
    W = weight.reshape(G, layer.filters // G, layer.channels // G, -1)
    grouped = x.reshape(G, layer.channels // G, -1, x.shape[-1])
    parts = [_contract(W[g], grouped[g], table) for g in range(G)]
    return np.concatenate(parts).reshape(layer.output_shape + x.shape[-1:])


def input_gradient(layer: PlacedLayer, weight: RealArray, k: RealArray) -> FloatArray:
    """Return `B(W)^T k`, shape `(*input_shape, n)`."""
    if _is_diagonal(layer):
        return _scaled(layer, weight, k)
    G, table = layer.groups, incidence(layer).meeting
    W = weight.reshape(G, layer.filters // G, layer.channels // G, -1).swapaxes(1, 2)
    grouped = k.reshape(G, layer.filters // G, -1, k.shape[-1])
    parts = [_contract(W[g], grouped[g], table) for g in range(G)]
    return np.concatenate(parts).reshape(layer.input_shape + k.shape[-1:])


def gradient_row_blocks(layer: PlacedLayer, k: FloatArray, usable: BoolArray, x: FloatArray) -> Iterator[FloatArray]:
    """Yield the rows `A(k) x[c]` that are usable, about `BLOCK` at a time, each block of shape `(rows, n)`.

    Args:
        layer: the layer.
        k: its output gradient, shape `(filters, outputs)`.
        usable: which rows (filter, tap) count.
        x: values at its input, `(*input_shape, n)`.
    """
    S, G = incidence(layer), layer.groups
    F, C = layer.filters // G, layer.channels // G
    by_channel = x.reshape(G, C, S.position_count, -1)
    for g in range(G):
        mine = np.flatnonzero(usable[g * F : (g + 1) * F].any(axis=1)) + g * F
        for some in filters_at_a_time(layer, mine):
            A = np.zeros((len(some), S.tap_count, S.position_count))
            A[:, S.tap, S.position] = k[some][:, S.output]
            rows = A[usable[some]]
            for c in range(C):
                yield multiply(rows, by_channel[g, c])


def spanning_row_blocks(
    layer: PlacedLayer, k: FloatArray, usable: BoolArray, x: RealArray, rng: np.random.Generator
) -> Iterator[FloatArray]:
    """Yield rows that span those of `gradient_row_blocks`, no more of a channel than it has positions.

    Where there are more, that many random combinations of them span the same rows, but for a chance of about one in the
    prime.

    Args:
        layer: the layer.
        k: its output gradient, shape `(filters, outputs)`.
        usable: which rows (filter, tap) count.
        x: values at its input, `(*input_shape, n)`.
        rng: of the combinations.
    """
    S, G = incidence(layer), layer.groups
    F, C, Q = layer.filters // G, layer.channels // G, S.position_count
    by_channel = x.reshape(G, C, Q, -1)
    waiting: list[FloatArray] = []
    for g in range(G):
        mine = slice(g * F, (g + 1) * F)
        A = np.zeros((F, S.tap_count, Q))
        A[:, S.tap, S.position] = k[mine][:, S.output]
        rows = A[usable[mine]]
        if len(rows) > Q:
            rows = multiply(residues((Q, len(rows)), rng), rows)
        for c in range(C if len(rows) else 0):
            waiting.append(multiply(rows, by_channel[g, c]))
            if sum(map(len, waiting)) >= BLOCK:
                yield np.concatenate(waiting)
                waiting = []
    if waiting:
        yield np.concatenate(waiting)


def filters_at_a_time(layer: PlacedLayer, filters: IntArray) -> list[IntArray]:
    """Return filters in so many parts that the gradient rows of one channel in each are about `BLOCK`."""
    rows = len(filters) * math.prod(layer.taps)
    return np.array_split(filters, -(-rows // BLOCK)) if rows else []


def _is_diagonal(layer: PlacedLayer) -> bool:
    """Whether a layer has one factor for each channel and nothing else, as in batch norm."""
    return isinstance(layer.layer, ChannelScale)


def _scaled(layer: PlacedLayer, weight: RealArray, values: RealArray) -> FloatArray:
    factors = weight.reshape(layer.channels, *(1,) * (values.ndim - 1)).astype(float)
    return np.asarray(np.remainder(values * factors, PRIME))


def _contract(weight: RealArray, values: RealArray, table: IntArray) -> FloatArray:
    """Return the sum over (inner, tap) of `weight[outer, inner, tap] * values[inner, table[tap, place]]`.

    Args:
        weight: shape `(outer, inner, taps)`.
        values: shape `(inner, places, n)`; a zero stands at the place one past the last.
        table: the place that each tap leads to, shape `(taps, results)`.
    """
    inner, _, n = values.shape
    padded = np.concatenate([values, np.zeros((inner, 1, n))], axis=1)
    pairs = np.divmod(np.arange(inner * len(table)), len(table))
    flat = weight.reshape(len(weight), -1)
    results = np.zeros((len(weight), table.shape[1], n))
    few = max(1, GATHERED // (BLOCK * max(1, n)))
    for start in range(0, table.shape[1], few):
        some = slice(start, start + few)
        total = results[:, some]
        for first in range(0, flat.shape[1], BLOCK):
            c, t = (index[first : first + BLOCK] for index in pairs)
            seen = padded[c[:, None], table[t, some]].reshape(len(c), -1)
            total += multiply(flat[:, first : first + BLOCK], seen).reshape(total.shape)
        np.remainder(total, PRIME, out=total)
    return results
