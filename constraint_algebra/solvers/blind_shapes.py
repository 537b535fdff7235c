"""What shapes say about the blind start: whether it applies, and what a layer leaves open however many filters it has.

(K, H) and (K X, H Y^T) have the same products `K S_t H^T` if `X S_t = S_t Y^-1` for every tap. With K and H of full
column rank these are the only movements to first order, `X S_t = S_t Y`: equations between single entries, so that the
free directions are the components of a graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from constraint_algebra.arrays import BoolArray, IntArray
from constraint_algebra.layers.incidence import Incidence, incidence
from constraint_algebra.layers.kinds import PlacedLayer

MOST = 10**7  # equations between entries for which the free directions are counted


@dataclass(frozen=True)
class Anchor:
    """A tap that shows each output a position of its own, and the taps that shift by one there.

    Attributes:
        tap: the anchor.
        places: the position that it shows to each output, `(outputs,)`.
        forward, backward: for each axis of more than one output the tap that shows an output what the anchor shows to
            the next one along this axis, and to the one before.
        outputs: the spatial output shape.
    """

    tap: int
    places: IntArray
    forward: dict[int, int]
    backward: dict[int, int]
    outputs: tuple[int, ...]


def applies(layer: PlacedLayer) -> bool:
    """Return whether a weight gradient of the layer may be factorised; asked of every layer, so that it is quick."""
    return _too_few(layer) is None and not _unmet(layer) and anchor(layer) is not None


def obstacle(layer: PlacedLayer) -> str | None:
    """Return why no weight gradient of a layer can be factorised, from its shapes; `None` where one may be.

    >>> from constraint_algebra.layers import Conv2d
    >>> obstacle(Conv2d(64, 3, padding=1).place((48, 4, 4)))
    >>> obstacle(Conv2d(64, 3, padding=1, stride=2).place((48, 8, 8)))
    'its taps leave 16 directions of k and h free, not only their common factor (kernel 3x3, stride 2x2)'
    """
    few = _too_few(layer)
    if few is not None and math.prod(layer.outputs) * layer.unknowns > MOST:
        return few  # the largest layers have the most positions
    unmet = _unmet(layer)
    if unmet:
        return f"no tap meets {unmet:,} of its {math.prod(layer.positions):,} input positions, which stay free"
    return _open(layer) if anchor(layer) is None else few


def _too_few(layer: PlacedLayer) -> str | None:
    """Return the words where the filters or the channels of a group are fewer than the outputs."""
    O = math.prod(layer.outputs)
    for what, count, side in (("filters", layer.filters, "k"), ("channels", layer.channels, "h")):
        own = count // layer.groups
        if own < O:
            each = " of a group" if layer.groups > 1 else ""
            return f"its {own:,} {what}{each} are fewer than its {O:,} outputs: {side} has no full rank in space"
    return None


def _unmet(layer: PlacedLayer) -> int:
    return int(np.count_nonzero(~_met(incidence(layer))))


def anchor(layer: PlacedLayer) -> Anchor | None:
    """Return the tap to start from, `None` where no tap has its neighbours along every axis."""
    S = incidence(layer)
    O, Q, seen = S.output_count, S.position_count, S.positions_seen.T
    steps = _unit_steps(S.outputs)
    for tap in np.flatnonzero((seen < Q).all(axis=1)):
        number = np.full(Q + 1, -1)
        number[seen[tap]] = np.arange(O)
        inside = number[seen] >= 0
        closed = (inside | (seen == Q)).all(axis=1) & inside.any(axis=1)
        by_shift = {_shift(number[seen[t]], S.outputs): int(t) for t in np.flatnonzero(closed)}
        forward = {axis: by_shift[step] for axis, step in steps.items() if step in by_shift}
        backward = {axis: by_shift[back] for axis, step in steps.items() if (back := _opposite(step)) in by_shift}
        if len(forward) == len(backward) == len(steps):
            return Anchor(int(tap), seen[tap], forward, backward, S.outputs)
    return None


def free_directions(layer: PlacedLayer) -> int:
    """Return in how many directions k and h of full rank can move with the same gradient; 1 is their common factor.

    >>> from constraint_algebra.layers import Conv2d
    >>> [free_directions(Conv2d(9, 3, padding=1, stride=s).place((9, 3 * s, 3 * s))) for s in (1, 2)]
    [1, 9]
    >>> free_directions(Conv2d(4, 1).place((4, 2, 2)))
    16
    """
    S = incidence(layer)
    O, Q = S.output_count, S.position_count
    zero = O * O + Q * Q
    links = []
    for seen, met in zip(S.positions_seen.T, S.meeting, strict=True):
        of_X = np.where(met < O, np.arange(O)[:, None] * O + met, zero)
        of_Y = np.where(seen[:, None] < Q, O * O + seen[:, None] * Q + np.arange(Q), zero)
        links.append((of_X.ravel(), of_Y.ravel()))
    rows, columns = (np.concatenate(side) for side in zip(*links, strict=True))
    graph = sp.csr_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(zero + 1, zero + 1))
    count, labels = connected_components(graph, directed=False)
    unmet = ~_met(S)
    alone = labels[O * O : zero].reshape(Q, Q)[unmet[:, None] | unmet]  # in no equation: no movement of k
    return int(count - len(np.union1d(alone, labels[zero:])))


def _open(layer: PlacedLayer) -> str:
    """Return why there is no anchor."""
    S = incidence(layer)
    kernel = "x".join(map(str, S.taps))
    strides = "x".join(map(str, layer.bilinear.strides))  # a layer without axes has an anchor
    which = f"(kernel {kernel}, stride {strides})"
    free = free_directions(layer) if S.tap_count * S.output_count * S.position_count <= MOST else 0
    if free > 1:
        return f"its taps leave {free:,} directions of k and h free, not only their common factor {which}"
    return (
        "no tap shows every output a position of its own with its neighbours on both sides of every axis, as one does"
        f" where the output has the size of the input {which}"
    )


def _met(S: Incidence) -> BoolArray:
    """Return which positions any tap meets."""
    return np.asarray((S.meeting < S.output_count).any(axis=0))


def _unit_steps(outputs: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """Return the step of one along each axis of more than one output."""
    axes = range(len(outputs))
    return {axis: tuple(int(other == axis) for other in axes) for axis in axes if outputs[axis] > 1}


def _opposite(step: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-part for part in step)


def _shift(number: IntArray, outputs: tuple[int, ...]) -> tuple[int, ...]:
    """Return by how much a tap shifts, from the number of the output whose position it shows to each output."""
    o = int(np.argmax(number >= 0))
    here, there = (np.unravel_index(i, outputs) if math.prod(outputs) > 1 else () for i in (o, int(number[o])))
    return tuple(int(b) - int(a) for a, b in zip(here, there, strict=True)) or (0,) * len(outputs)
