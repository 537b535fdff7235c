"""The incidence `S` of a convolution: which input position meets which output position through which tap.

Along one axis, output `o` sees through tap `t` the input position

    q = o * stride + t * dilation - padding_before

where that lies inside the input: a position in the padding is a known zero and never becomes an unknown. In several
axes the incidence is the product of the axes; a linear layer has no axes and one triple.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from constraint_algebra import memory
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import IntArray
from constraint_algebra.layers.kinds import Conv, PlacedLayer, Shape

TRIPLE = 64.0  # bytes for each: three indices, their order, and one more copy of each while they are sorted


@checked
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


@checked
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
    size = TRIPLE * math.prod(taps) * math.prod(outputs)
    memory.demand(
        f"the incidence of {math.prod(taps):,} taps and {math.prod(outputs):,} outputs", size, "take a smaller layer"
    )
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


def axis_ranges(layer: PlacedLayer) -> list[list[tuple[range, range]]]:
    """Return for each axis and tap the outputs that see the input through the tap, and the positions that they see.

    The incidence without its triples: both ranges have the same length.

    >>> from constraint_algebra.layers import Conv1d
    >>> axis_ranges(Conv1d(1, 3, stride=2, padding=1).place((1, 4)))
    [[(range(1, 2), range(1, 3, 2)), (range(0, 2), range(0, 4, 2)), (range(0, 2), range(1, 5, 2))]]
    """
    conv = layer.bilinear
    if not isinstance(conv, Conv):
        return []
    axes = zip(conv.taps, layer.outputs, layer.positions, conv.strides, conv.paddings, conv.dilations, strict=True)
    return [
        [_range(tap * dilation - before, outputs, positions, stride) for tap in range(taps)]
        for taps, outputs, positions, stride, (before, _), dilation in axes
    ]


def _range(shift: int, outputs: int, positions: int, stride: int) -> tuple[range, range]:
    """Return the outputs o with `0 <= o * stride + shift < positions`, and these values."""
    first = max(0, -(shift // stride))
    last = max(first, min(outputs, -(-(positions - shift) // stride)))
    return range(first, last), range(first * stride + shift, last * stride + shift, stride)


def tap_slices(layer: PlacedLayer) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield for each tap in C order where it meets the input: slices of the output axes, and of the position axes."""
    for pairs in itertools.product(*axis_ranges(layer)):
        outputs = tuple(slice(o.start, o.stop) for o, _ in pairs)
        positions = tuple(slice(q.start, q.stop, q.step) if len(q) else slice(0, 0) for _, q in pairs)
        yield outputs, positions


def axis_triples(
    taps: int, outputs: int, positions: int, stride: int, before: int, dilation: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Return tap, output and position of every triple along one axis."""
    tap, output = np.indices((taps, outputs))
    position = output * stride + tap * dilation - before
    inside = (position >= 0) & (position < positions)
    return tap[inside], output[inside], position[inside]
