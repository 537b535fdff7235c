"""Names of rows, unknowns and coefficients, written out only where somebody looks."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import SupportsIndex, overload

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.kinds import Shape


class Names(Sequence[str]):
    """Names of rows, unknowns or coefficients, formatted only when asked for.

    >>> names = Names("x", (3, 32, 32))
    >>> len(names), names[39]
    (3072, 'x[0,1,7]')
    >>> names[-2:]
    <2 names: x[2,31,30], x[2,31,31]>
    """

    def __init__(self, label: str, shape: Shape, flat: IntArray | None = None) -> None:
        """Name the entries `flat` (by default all) of an array called `label` with the given shape."""
        self.label = label
        self.shape = shape
        self.flat = np.arange(math.prod(shape)) if flat is None else flat
        self._pieces: tuple[Names, ...] = (self,)

    def __len__(self) -> int:
        """Return the number of names."""
        return sum(len(piece.flat) for piece in self._pieces)

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Names: ...

    def __getitem__(self, index: SupportsIndex | slice) -> str | Names:
        """Return one name, or the names of a slice."""
        if isinstance(index, slice):
            return self._slice(index)
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        index %= len(self)
        for piece in self._pieces:
            if index < len(piece.flat):
                place = np.unravel_index(int(piece.flat[index]), piece.shape)
                return f"{piece.label}[{','.join(map(str, place))}]"
            index -= len(piece.flat)
        raise IndexError(index)

    def _slice(self, index: slice) -> Names:
        places = np.arange(len(self))[index]
        ends = np.cumsum([len(piece.flat) for piece in self._pieces])
        of_piece = np.searchsorted(ends, places, side="right")
        runs = np.split(places, np.flatnonzero(np.diff(of_piece)) + 1) if len(places) else []
        pieces = []
        for run in runs:
            piece = int(np.searchsorted(ends, run[0], side="right"))
            source = self._pieces[piece]
            pieces.append(Names(source.label, source.shape, source.flat[run - ends[piece] + len(source.flat)]))
        return Names.joined(pieces)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        """Return the first names and their number."""
        shown = ", ".join(self[i] for i in range(min(3, len(self))))
        return f"<{len(self)} names: {shown}{', …' if len(self) > 3 else ''}>"

    def select(self, keep: BoolArray) -> Names:
        """Return the names where `keep` is true."""
        ends = np.cumsum([len(piece.flat) for piece in self._pieces])[:-1]
        parts = np.split(keep, ends)
        pieces = [Names(p.label, p.shape, p.flat[part]) for p, part in zip(self._pieces, parts, strict=True)]
        return Names.joined(pieces)

    def drawn(self, seed: int) -> FloatArray:
        """Return a standard normal value for each name, from a generator of its own for every label.

        Two labels never share values, and a label that comes twice gets others the second time.
        """
        seen: dict[str, int] = {}
        values = []
        for piece in self._pieces:
            seen[piece.label] = seen.get(piece.label, 0) + 1
            rng = np.random.default_rng([seed, seen[piece.label], *piece.label.encode()])
            values.append(rng.standard_normal(len(piece.flat)))
        return np.concatenate(values)

    @staticmethod
    def joined(pieces: Sequence[Names]) -> Names:
        """Return the names of `pieces` one after the other."""
        if not pieces:
            return Names("", (0,))
        joined = Names(pieces[0].label, pieces[0].shape, pieces[0].flat)
        joined._pieces = tuple(leaf for piece in pieces for leaf in piece._pieces)
        return joined
