"""The incidence `S` of a convolution: which input position meets which output position through which tap.

Along one axis, output `o` sees through tap `t` the input position

    q = o * stride + t * dilation - padding_before

where that lies inside the input: a position in the padding is a known zero and never becomes an unknown. In several
axes the incidence is the product of the axes; a linear layer has no axes and one triple.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from constraint_algebra.arrays import IntArray
from constraint_algebra.layers.kinds import Conv, PlacedLayer, Shape


@dataclass(frozen=True)
class Incidence:
    """The triples `(tap, output, position)` of a layer, as flat indices in C order, sorted by tap and output.

    Attributes:
        tap: flat tap index of each triple, shape `(n,)`.
        output: flat output position of each triple, shape `(n,)`.
        position: flat input position of each triple, shape `(n,)`.
        taps, outputs, positions: the spatial shapes that the flat indices refer to.
    """

    tap: IntArray
    output: IntArray
    position: IntArray
    taps: Shape
    outputs: Shape
    positions: Shape

    def __len__(self) -> int:
        """Return the number of triples."""
        return len(self.tap)

    @property
    def tap_count(self) -> int:
        """Number of taps."""
        return math.prod(self.taps)

    @property
    def output_count(self) -> int:
        """Number of output positions."""
        return math.prod(self.outputs)

    @property
    def position_count(self) -> int:
        """Number of input positions."""
        return math.prod(self.positions)

    @cached_property
    def positions_seen(self) -> IntArray:
        """Input position that each output sees through each tap, `(outputs, taps)`; one past the last for none."""
        table = np.full((self.output_count, self.tap_count), self.position_count)
        table[self.output, self.tap] = self.position
        return table

    @cached_property
    def inside(self) -> NDArray[np.float64]:
        """1 where an output sees an input position through a tap, 0 where it sees padding, `(outputs, taps)`."""
        return (self.positions_seen < self.position_count).astype(float)

    @cached_property
    def arrivals(self) -> IntArray:
        """Pairs `tap * outputs + output` that lead to each position, `(most, positions)`; past the last for none."""
        order = np.argsort(self.position, kind="stable")
        position = self.position[order]
        turn = np.arange(len(self)) - np.searchsorted(position, position)  # how many came before at the same position
        table = np.full((int(turn.max(initial=-1)) + 1, self.position_count), self.tap_count * self.output_count)
        table[turn, position] = self.tap[order] * self.output_count + self.output[order]
        return table

    @cached_property
    def meeting(self) -> IntArray:
        """The output in which each tap meets each position, `(taps, positions)`; one past the last for none."""
        table = np.full((self.tap_count, self.position_count), self.output_count)
        table[self.tap, self.position] = self.output
        return table

    @cached_property
    def classes(self) -> tuple[tuple[IntArray, IntArray], ...]:
        """The residue classes: sets of taps and of positions that meet only each other.

        The positions that no tap meets come last, together, with no taps.
        """
        meets = sp.csr_array(self.meeting < self.output_count)
        graph = sp.csr_array(sp.block_array([[None, meets], [meets.T, None]], format="csr", dtype=np.int8))
        labels = np.split(connected_components(graph, directed=False)[1], [self.tap_count])
        found = [tuple(np.flatnonzero(side == label) for side in labels) for label in np.unique(labels[1])]
        alone = [places for taps, places in found if not len(taps)]
        classes = [(taps, places) for taps, places in found if len(taps)]
        if alone:
            classes.append((np.zeros(0, dtype=np.intp), np.sort(np.concatenate(alone))))
        return tuple(classes)

    def of_tap(self, tap: int) -> slice:
        """Return the run of triples that belong to one tap."""
        start, stop = np.searchsorted(self.tap, (tap, tap + 1))
        return slice(int(start), int(stop))


def incidence(layer: PlacedLayer) -> Incidence:
    """Return the incidence of a bilinear layer at its place.

    >>> from constraint_algebra.layers import Conv1d
    >>> S = incidence(Conv1d(1, 3, stride=2, padding=1).place((1, 4)))
    >>> for triple in zip(S.tap, S.output, S.position): print(*triple)
    0 1 1
    1 0 0
    1 1 2
    2 0 1
    2 1 3
    """
    S: Incidence | None = layer.__dict__.get("_incidence")  # asked for in every product, and even a hash takes long
    if S is None:
        conv = layer.bilinear
        if isinstance(conv, Conv):
            before = tuple(side[0] for side in conv.paddings)
            S = _incidence(conv.taps, layer.outputs, layer.positions, conv.strides, before, conv.dilations)
        else:
            S = _incidence((), (), (), (), (), ())
        layer.__dict__["_incidence"] = S
    return S


@lru_cache(maxsize=64)
def _incidence(
    taps: Shape, outputs: Shape, positions: Shape, strides: Shape, before: Shape, dilations: Shape
) -> Incidence:
    tap, output, position = (np.zeros(1, dtype=np.intp) for _ in range(3))
    for a, axis in enumerate(zip(taps, outputs, positions, strides, before, dilations, strict=True)):
        t, o, q = axis_triples(*axis)
        tap = np.add.outer(tap * taps[a], t).ravel()
        output = np.add.outer(output * outputs[a], o).ravel()
        position = np.add.outer(position * positions[a], q).ravel()
    order = np.lexsort((output, tap))
    S = Incidence(tap[order], output[order], position[order], taps, outputs, positions)
    for index in (S.tap, S.output, S.position):
        index.flags.writeable = False  # shared through the cache
    return S


def axis_triples(
    taps: int, outputs: int, positions: int, stride: int, before: int, dilation: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Return tap, output and position of every triple along one axis."""
    tap, output = np.indices((taps, outputs))
    position = output * stride + tap * dilation - before
    inside = (position >= 0) & (position < positions)
    return tap[inside], output[inside], position[inside]
