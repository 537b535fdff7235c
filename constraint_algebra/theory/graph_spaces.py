"""What the gradient equations of all layers that read a value leave open of it, channel by channel.

The gradient rows `A(k)` of a layer are the same for every channel of a group, so they are eliminated once for all
channels that lie in the same groups of all readers: a null space N, `x[c] = N y[c]`. The entries known already are
further rows, other ones for each channel. The weight rows of known outputs then tie the channels: they are rows in the
coordinates y of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.modular import BLOCK, PROBES, Echelon, multiply, residues
from constraint_algebra.ranks.knowledge import usable_rows
from constraint_algebra.theory.graph_state import GraphState

PIXELS = 2100  # positions of a channel up to which gradient equations are eliminated
OPEN = 3600  # unknowns that the gradient equations may leave for the weight equations, about 10 s
EFFORT = 3e10  # products of two residues to spend on one stage
ROWS = 2**25  # residues of weight rows that are built at a time


@dataclass(frozen=True, eq=False)
class ValueEquations:
    """The equations of a value that several layers read.

    Attributes:
        state: what is known.
        number: the value.
        readers: the layers with a weight that read it.
    """

    state: GraphState
    number: int
    readers: tuple[PlacedLayer, ...]

    @property
    def channels(self) -> int:
        """Number of channels of the value."""
        return self.readers[0].channels

    @property
    def pixels(self) -> int:
        """Number of positions in each."""
        return math.prod(self.readers[0].positions)

    @cached_property
    def usable(self) -> dict[str, BoolArray]:
        """Which gradient rows (filter, tap) of each reader count: all k known, not all of them zero."""
        found = {}
        for layer in self.readers:
            S = incidence(layer)
            known, support = (
                mask[layer.number].reshape(layer.filters, -1)
                for mask in (self.state.gradients, self.state.drawn.support)
            )
            found[layer.name] = usable_rows(S, known) & ~usable_rows(S, ~support)
        return found

    @property
    def gradient_rows(self) -> int:
        """Number of gradient equations."""
        return sum(int(self.usable[x.name].sum()) * (x.channels // x.groups) for x in self.readers)

    @property
    def weight_rows(self) -> int:
        """Number of weight equations: the known outputs of the readers."""
        return sum(int(self.state.values[layer.number].sum()) for layer in self.readers)

    @cached_property
    def known(self) -> BoolArray:
        """Which entries are known, `(channels, pixels)`."""
        return self.state.values[self.number].reshape(self.channels, self.pixels)

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """For each channel the group of every reader that it lies in."""
        sizes = [layer.channels // layer.groups for layer in self.readers]
        return [tuple(channel // size for size in sizes) for channel in range(self.channels)]

    def _rows(self, groups: tuple[int, ...]) -> Iterator[FloatArray]:
        """Yield the gradient rows of a channel, about `BLOCK` at a time."""
        for layer, g in zip(self.readers, groups, strict=True):
            S, F = incidence(layer), layer.filters // layer.groups
            mine, k = self.usable[layer.name], self.state.drawn.gradient(layer)
            some = [f for f in range(g * F, (g + 1) * F) if mine[f].any()]
            step = max(1, BLOCK // S.tap_count)
            for first in range(0, len(some), step):
                filters = some[first : first + step]
                A = np.zeros((len(filters), S.tap_count, S.position_count))
                A[:, S.tap, S.position] = k[filters][:, S.output]
                yield A[mine[filters]]

    @cached_property
    def forms(self) -> dict[tuple[int, ...], Echelon] | None:
        """The gradient rows, eliminated, by the groups of a channel; `None` where that would take too long."""
        keys = list(dict.fromkeys(self.groups))
        rows = self.gradient_rows / self.channels
        if self.pixels > PIXELS or len(keys) * min(rows, 2 * self.pixels) * self.pixels**2 > EFFORT:
            return None
        found = {}
        for key in keys:
            form = Echelon(self.pixels)
            for rows_of_some in self._rows(key):
                form.absorb(rows_of_some)
                if form.rank == form.columns:
                    break
            found[key] = form
        return found

    @cached_property
    def gradient_rank(self) -> int:
        """Rank of the gradient rows over all channels."""
        assert self.forms is not None
        return sum(self.forms[key].rank for key in self.groups)

    @cached_property
    def spaces(self) -> list[FloatArray] | None:
        """For every channel a basis of what gradient rows and known entries leave open; `None` where it is too much."""
        assert self.forms is not None
        left = {key: self.pixels - form.rank for key, form in self.forms.items()}
        counts = self.known.sum(axis=1).tolist()
        effort = sum(
            float(min(count, left[key]) + BLOCK + (self.pixels if count else 0)) * left[key] ** 2
            for key, count in zip(self.groups, counts, strict=True)
        )
        if effort > EFFORT:
            return None
        bases = {key: form.null_space() for key, form in self.forms.items()}
        return [_less(bases[key], known) for key, known in zip(self.groups, self.known, strict=True)]

    def weight_rows_in(self, spaces: list[FloatArray]) -> Iterator[FloatArray]:
        """Yield the weight rows of known outputs in the coordinates of the channels' bases."""
        ends = np.cumsum([0, *(N.shape[1] for N in spaces)])
        padded = [np.concatenate([N, np.zeros((1, N.shape[1]))]) for N in spaces]
        for layer in self.readers:
            S, G = incidence(layer), layer.groups
            F, C = layer.filters // G, layer.channels // G
            known = self.state.values[layer.number].reshape(layer.filters, -1)
            W = self.state.drawn.weight(layer).reshape(layer.filters, C, -1)
            step = max(1, ROWS // max(1, layer.filters * int(ends[-1])))
            for first in range(0, S.output_count, step):
                seen = S.positions_seen[first : first + step]
                mine = known[:, first : first + step]
                if not mine.any():
                    continue
                rows = np.zeros((layer.filters, len(seen), int(ends[-1])))
                for channel in range(layer.channels):
                    n, g = spaces[channel].shape[1], channel // C
                    if not n:
                        continue
                    filters = slice(g * F, (g + 1) * F)
                    through = padded[channel][seen].swapaxes(0, 1).reshape(S.tap_count, -1)
                    part = multiply(W[filters, channel % C], through).reshape(F, len(seen), n)
                    rows[filters, :, ends[channel] : ends[channel + 1]] = part
                yield rows[mine]


def _less(N: FloatArray, known: BoolArray) -> FloatArray:
    """Return a basis of the vectors that vanish on the known entries."""
    if not N.shape[1] or not known.any():
        return N
    form = Echelon(N.shape[1]).absorb(N[known])
    return N[:, :0] if form.rank == form.columns else multiply(N, form.null_space())


def settled_entries(spaces: list[FloatArray], form: Echelon | None, rng: np.random.Generator) -> BoolArray:
    """Return which entries, `(channels, pixels)`, vanish on what bases, and rows in their coordinates, leave open."""
    ends = np.cumsum([0, *(N.shape[1] for N in spaces)])
    y = (
        residues((int(ends[-1]), PROBES), rng)
        if form is None
        else form.null(residues((form.columns - form.rank, PROBES), rng))
    )
    moves = [multiply(N, y[a:b]).any(axis=1) for N, a, b in zip(spaces, ends, ends[1:], strict=False)]
    return ~np.array(moves).reshape(len(spaces), -1)
