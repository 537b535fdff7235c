"""Which outputs of a layer must stay as they are for what follows to stay as it is, and how far the others may go.

What alone reads them is followed: ReLU, a factor for each channel, max-pool. An output that a ReLU cuts off, or that
loses in each of its windows, has a gradient of zero, and may move as long as it is cut off or loses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers import Layer, ReLU, Scale, Selection


class Freedom(NamedTuple):
    """Which values must be kept, and between which bounds the others have to lie; flat."""

    kept: BoolArray
    low: FloatArray
    high: FloatArray


def freedom(values: FloatArray, layers: Sequence[Layer]) -> Freedom:
    """Return the freedom of values that leaves the output of some layers after them as it is.

    Args:
        values: the values, in their shape.
        layers: ReLU, `Scale` or a selection, each reading what the one before made and nothing else doing so.

    >>> from constraint_algebra.layers import MaxPool1d
    >>> found = freedom(np.array([[-1.0, 2.0, 1.0, -3.0, -2.0, -1.0]]), [ReLU(), MaxPool1d(3)])
    >>> np.flatnonzero(found.kept), found.high[~found.kept]  # the second window stays cut off
    (array([1]), array([2., 2., 0., 0., 0.]))
    """
    if not layers:
        size = values.size
        return Freedom(np.ones(size, dtype=bool), np.full(size, -np.inf), np.full(size, np.inf))
    first, *rest = layers
    flat = values.ravel()
    if isinstance(first, ReLU):
        return _below_relu(flat, freedom(np.maximum(values, 0.0), rest))
    if isinstance(first, Scale):
        factor = first.maps(values.shape)[0].diagonal()
        shift = first.constant(values.shape)
        shift = np.zeros(values.size) if shift is None else shift
        return _below_scale(factor, shift, freedom((factor * flat + shift).reshape(values.shape), rest))
    assert isinstance(first, Selection)
    windows = first.windows(values.shape)
    winners = _winners(flat, windows)
    above = freedom(flat[winners].reshape(first.output_shape(values.shape)), rest)
    return _below_selection(flat, windows, winners, above)


def _below_relu(z: FloatArray, above: Freedom) -> Freedom:
    """Return the freedom below a ReLU; what it cuts off and is to be kept has to stay cut off."""
    on = z > 0
    return Freedom(
        kept=above.kept & on,
        low=np.where(~above.kept & (above.low > 0), above.low, -np.inf),
        high=np.where(above.kept & ~on, 0.0, np.maximum(above.high, 0.0)),
    )


def _below_scale(factor: FloatArray, shift: FloatArray, above: Freedom) -> Freedom:
    """Return the freedom below factors and shifts; where a factor is zero, what it hides still has a gradient."""
    safe = np.where(factor == 0, 1.0, factor)
    ends = (above.low - shift) / safe, (above.high - shift) / safe
    return Freedom(above.kept | (factor == 0), np.minimum(*ends), np.maximum(*ends))


def _winners(flat: FloatArray, windows: IntArray) -> IntArray:
    """Return the index of the largest entry of each window, of equal ones the first."""
    entries = np.where(windows >= 0, flat[windows], -np.inf)
    return np.asarray(windows[np.arange(len(windows)), entries.argmax(axis=1)])


def _below_selection(flat: FloatArray, windows: IntArray, winners: IntArray, above: Freedom) -> Freedom:
    """Return the freedom below a selection: a loser must lose in each of its windows."""
    kept, low, high = np.zeros(flat.size, dtype=bool), np.full(flat.size, -np.inf), np.full(flat.size, np.inf)
    kept[winners[above.kept]] = True
    np.maximum.at(low, winners[~above.kept], above.low[~above.kept])
    limit = np.where(above.kept, flat[winners], above.high)
    inside = windows >= 0
    np.minimum.at(high, windows[inside], np.broadcast_to(limit[:, None], windows.shape)[inside])
    return Freedom(kept, low, high)
