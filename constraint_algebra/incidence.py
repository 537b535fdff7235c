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
from numpy.typing import NDArray

from constraint_algebra.layers import Conv, PlacedLayer, Shape

IntArray = NDArray[np.intp]
Window = tuple[slice, ...]


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
    def windows(self) -> tuple[tuple[Window, Window], ...]:
        """For each tap the outputs that see through it and the positions that they see, as slices of their axes."""
        return tuple(
            (_window(self.output[run], self.outputs), _window(self.position[run], self.positions))
            for run in map(self.of_tap, range(self.tap_count))
        )

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
    conv = layer.bilinear
    if not isinstance(conv, Conv):
        return _incidence((), (), (), (), (), ())
    before = tuple(side[0] for side in conv.paddings)
    return _incidence(conv.taps, layer.outputs, layer.positions, conv.strides, before, conv.dilations)


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


def _window(flat: IntArray, shape: Shape) -> Window:
    """Return the slices that select the places `flat`, which are the product of one arithmetic sequence per axis."""
    if not len(flat):
        return tuple(slice(0) for _ in shape)
    places = (np.unique(axis) for axis in np.unravel_index(flat, shape)) if shape else ()
    return tuple(slice(int(p[0]), int(p[-1]) + 1, int(p[1] - p[0]) if len(p) > 1 else 1) for p in places)
