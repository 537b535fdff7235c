"""Bounds of the generic rank of a layer too large for its incidence, from its shapes alone.

Nothing here is longer than an axis of the layer, but for a mask of what is determined. From below: the polyphase law
gives the rank of the gradient equations, class by class; and a filter whose weights are zero but for one tap and one
channel reads off the pixels that this tap meets. With one such tap for a class the rank in that class is at least the
number of its pixels read, and at least that of its gradient equations. From above: equations are counted. Where both
meet, the rank is settled; else it stays open.
"""

from __future__ import annotations

import math

import numpy as np

from constraint_algebra.arrays import BoolArray
from constraint_algebra.layers.incidence import axis_ranges
from constraint_algebra.layers.kinds import Conv, PlacedLayer
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.ranks.polyphase import ResidueClass, polyphase_law

LARGE = 2**25  # triples, or output values, above which nothing of that size is built


def is_large(layer: PlacedLayer) -> bool:
    """Return whether a layer's incidence or outputs are too many to work with one by one.

    >>> from constraint_algebra.layers import Conv2d
    >>> is_large(Conv2d(64, 3, padding=1).place((64, 224, 224)))
    False
    >>> is_large(Conv2d(64, 3, padding=1).place((64, 1250, 1250)))
    True
    """
    outputs = math.prod(layer.outputs)
    return outputs > 1 and max(math.prod(layer.taps), layer.filters) * outputs > LARGE


def pixels_read(layer: PlacedLayer) -> dict[tuple[int, ...], int]:
    """Return, for each residue class by name, the most of its pixels that a single tap meets.

    >>> from constraint_algebra.layers import Conv1d
    >>> pixels_read(Conv1d(1, 3, padding=1).place((1, 5)))
    {(0,): 5}
    """
    conv, best = layer.bilinear, dict[tuple[int, ...], int]()
    if not isinstance(conv, Conv):
        return {(): 1}
    ranges = axis_ranges(layer)
    for tap in np.ndindex(*conv.taps):
        residue = tuple(t * d % s for t, d, s in zip(tap, conv.dilations, conv.strides, strict=True))
        met = math.prod(len(axis[t][0]) for axis, t in zip(ranges, tap, strict=True))
        best[residue] = max(best.get(residue, 0), met)
    return best


def outputs_meeting(layer: PlacedLayer) -> int:
    """Return how many output positions see a value of the input at all, and not padding alone."""
    count = 1
    for axis in axis_ranges(layer):
        seen = sorted((r.start, r.stop) for r, _ in axis if len(r))
        count *= _union(seen)
    return count


def _union(intervals: list[tuple[int, int]]) -> int:
    total, end = 0, -1
    for start, stop in intervals:
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def rank_bounds(layer: PlacedLayer, known: Knowledge, kinds: tuple[str, ...]) -> tuple[int, int, tuple[int, int]]:
    """Return bounds of the rank of a layer without groups, and those of its gradient equations alone.

    Args:
        layer: the layer; its groups must be one.
        known: what is known at its outputs; where that is not everything, the lower bound is zero.
        kinds: "weight", "gradient" or both.
    """
    C, F = layer.channels, layer.filters
    law = polyphase_law(layer, limit=0).classes
    complete = known.is_complete
    counted = C * F * math.prod(layer.taps) if known.gradient.any() and known.support.any() else 0
    alone = (C * sum(c.low for c in law) if complete else 0, min(counted, C * sum(c.high for c in law)))
    if "gradient" not in kinds:
        alone = (0, 0)
    if "weight" not in kinds:
        return *alone, alone
    weight = F * outputs_meeting(layer) if complete else int(known.output.sum())
    high = min(layer.unknowns, alone[1] + weight)
    if not complete:
        return alone[0], high, alone
    fewer, rest = divmod(F, C)  # filters of a channel; the first so many channels have one more
    low = (C - rest) * _with_deltas(layer, law, fewer, kinds) + rest * _with_deltas(layer, law, fewer + 1, kinds)
    return low, high, alone


def _with_deltas(layer: PlacedLayer, law: tuple[ResidueClass, ...], filters: int, kinds: tuple[str, ...]) -> int:
    """Return a lower bound of the rank of one channel that so many filters see, each through one tap."""
    read = pixels_read(layer)
    alone = [c.low if "gradient" in kinds else 0 for c in law]
    gains = [max(0, read.get(part.residue, 0) - low) for part, low in zip(law, alone, strict=True)]
    return sum(alone) + sum(sorted(gains, reverse=True)[:filters])


def settled(low: int, high: int, unknowns: int) -> BoolArray | None:
    """Return which unknowns are determined where the rank says it: all, or none."""
    if low == unknowns:
        return np.ones(unknowns, dtype=bool)
    return np.zeros(unknowns, dtype=bool) if high == 0 else None
