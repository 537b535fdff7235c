"""What a layer below a selection reads and makes, solved for with some winners, and whether they are the ones.

They fit where all gradient equations hold to their noise, no entry lies above the largest of its window and the winners
lie on it. A filter counts where it has more equations than it takes to solve for the input, by so many that no other
winners would fit by accident; and winners that could all be moved together do not count. Of equal entries PyTorch takes
the first, and the gradient says nothing else where they see equal inputs; a window with two entries that its gradient
cannot tell apart stays open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.recursion import layer_step
from constraint_algebra.recursion.bit_equations import freedom
from constraint_algebra.recursion.contradictions import RESOLVED, SIDES
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept
from constraint_algebra.recursion.graph_solving import readers
from constraint_algebra.recursion.healing import healed
from constraint_algebra.recursion.noise import LONG_SUM
from constraint_algebra.recursion.normalised_winners import below_statistics
from constraint_algebra.recursion.pooled import Pooled
from constraint_algebra.recursion.result import CONTRADICTION
from constraint_algebra.recursion.value_equations import Reader, ValueEquations

FITS = RESOLVED * CONTRADICTION  # residual in units of noise up to which an equation fits
CHECKS, BITS = 3.0, 0.1  # equations that check a filter: so many and so many a bit; one rules 2^20 choices out
SHARP = 1e-4  # of the largest input: noise up to which inputs that seem equal are taken for equal
ROUNDED = 1e-13  # of the largest of all values, that no error bar covers


@dataclass(frozen=True)
class SolvedWindows:
    """The windows as some winners make them.

    Attributes:
        knows: what is known.
        view: the windows.
        winners: the place of the winner in each window that they were solved with, -1 where it does not matter.
        k: the gradient at the layer's outputs.
        input: what the layer reads.
        t: of each entry of each window, `(windows, most)`, NaN where unknown.
        slack: how far off it may lie by noise, that of v included.
        fits: whether all filters' gradient equations hold to their noise.
        rows: number of the layer's gradient equations.
    """

    knows: GraphKnowledge
    view: Pooled
    winners: IntArray
    k: Estimate
    input: Estimate
    t: FloatArray
    slack: FloatArray
    fits: bool
    rows: int

    @classmethod
    def of(
        cls,
        knows: GraphKnowledge,
        view: Pooled,
        winners: IntArray,
        value: Estimate | None = None,
        start: FloatArray | None = None,
    ) -> SolvedWindows:
        """Solve for what the layer reads with some winners; filters that contradict all others do not count.

        Args:
            knows: what is known.
            view: the windows.
            winners: the place of the winner in each, -1 where it does not matter.
            value: what is known of what the layer reads, with what follows from the winners.
            start: all that the layer reads, about; needed below a normalisation, where the winners leave some open.
        """
        observed, layer = knows.observed, view.layer
        k, z = _outputs(view, winners)
        number = layer.inputs[0]
        those = [reader for reader in readers(knows, number) if reader.layer is not layer]
        held, agrees = knows.values[number] if value is None else value, True
        if not view.direct:  # k depends on what the layer makes: that of the values alone, then judged by the gradient
            k, agrees = below_statistics(knows, view, winners, z, held, start)
        those.append(Reader(layer, k, z))
        system, found, out = healed(ValueEquations(observed, held, those, together=True), those)
        made = layer_step.output_of(observed, layer, found)
        at = np.where(view.real, view.windows, 0)
        there = view.real & made.known.ravel()[at]
        t = np.where(there, view.factor * made.filled().ravel()[at] + view.shift, np.nan)
        W = observed.parameters[layer.weight_name]
        products = math.sqrt(layer.channels // layer.groups * math.prod(layer.taps))
        rounding = LONG_SUM * products * observed.rounding.arithmetic
        size = rounding * np.sqrt(trilinear.forward(layer, W**2, found.filled() ** 2))
        noise = np.hypot(made.deviation, size).ravel()[at] * np.abs(view.factor)
        largest = float(np.abs(view.v.value[view.live]).max(initial=0.0)) or 1.0
        slack = SIDES * np.hypot(noise, view.v.deviation[:, None]) + ROUNDED * largest
        fits = agrees and not any(left.any() for left in out) and system.misfit(found.value) <= FITS
        rows = sum(part.equations.gradient_row_count for part in system.parts if part.reader.layer is layer)
        if not view.direct:  # the size of a filter does not matter: one of its equations always holds
            rows = max(0, rows - layer.filters)
        return cls(knows, view, winners, k, found, t, slack, fits, rows)

    def own_winners(self) -> IntArray:
        """Return the winners that this input has, -1 where none were asked for.

        Of several entries that may be the largest it is the given winner or else the first, and of several that see
        equal inputs the first of these. Where not all entries are known, one that is not may be the largest as well.
        """
        real, given, known = self.view.real, self.winners, ~np.isnan(self.t)
        largest = np.where(known, self.t, -np.inf).max(axis=1, keepdims=True)
        v = np.where(self.view.v.known, self.view.v.filled(), np.nan)[:, None]
        short = (known != real).any(axis=1, keepdims=True) & ~(largest >= v - self.slack)  # an open one is larger
        ties = real & np.where(known, (self.t >= largest - self.slack) & ~short, short)
        stays = (given < 0) | ~ties.any(axis=1) | ties[np.arange(len(ties)), np.maximum(given, 0)]
        own = np.where(stays, given, ties.argmax(axis=1))
        for row in np.flatnonzero((given >= 0) & (known | ~real).all(axis=1) & (ties.sum(axis=1) > 1)).tolist():
            before = np.flatnonzero(ties[row, : own[row]]).tolist()
            own[row] = next((place for place in before if self._alike(row, place, int(own[row]))), own[row])
        return own

    def earlier(self) -> IntArray:
        """Return the winners, in the place of one that comes later the first open entry that may see equal inputs.

        Over a constant background a winner that is not the first of equal ones may leave inputs unseen that the first
        one sees. If with that one all fits as well, and it is equal to the others, then that is no accident.
        """
        is_open, winners = self.view.real & np.isnan(self.t), self.winners.copy()
        for row in np.flatnonzero((winners >= 0) & is_open.any(axis=1)).tolist():
            before = np.flatnonzero(is_open[row, : winners[row]]).tolist()
            alike = (place for place in before if self._alike(row, place, int(winners[row])))
            winners[row] = next(alike, winners[row])
        return winners

    def sure(self, *, counted: bool = False) -> IntArray:
        """Return the winners that no others could replace, -1 elsewhere: everywhere, if anything contradicts them.

        Args:
            counted: whether equations of other kinds were counted, and are enough to rule other winners out; below a
                normalisation, where k depends on the input, nothing else is.
        """
        view, winners = self.view, self.winners
        v = np.where(view.v.known, view.v.filled(), np.nan)
        asked = np.flatnonzero(winners >= 0)
        own, slack = self.t[asked, winners[asked]], self.slack[asked, winners[asked]]
        over, short = self.t - v[:, None] > self.slack, np.abs(own - v[asked]) > slack
        found = np.full(len(winners), -1)
        if self.fits and not (over.any() or short.any() or np.isnan(own).any()):
            told = np.array([self._told(int(row), int(winners[row])) for row in asked], dtype=bool)
            checked = ~shiftable(view, winners)
            if not counted:
                checked &= view.direct & self._checked()
            found[asked] = np.where(told & checked[asked], winners[asked], -1)
        return found

    def _told(self, row: int, chosen: int) -> bool:
        """Whether no other entry of a window may be the largest and leave the gradient as it is, to its noise.

        Of equal ones that is the first; an open one that may be equal does not come before it.
        """
        t, slack = self.t[row], self.slack[row]
        others = np.flatnonzero(self.view.real[row] & ~(t < t[chosen] - slack)).tolist()
        equal = [place for place in others if self._alike(row, place, chosen)]
        return all(place >= chosen for place in equal) and all(
            self._shows(row, place, chosen) for place in others if place not in equal
        )

    def _alike(self, row: int, one: int, other: int) -> bool:
        """Whether two entries of a window see equal inputs, as far as known, where noise is small enough to tell.

        Args:
            row: the window.
            one: the place of the one.
            other: the place of the other.
        """
        if one == other:
            return True
        if self._filter(row, one) != self._filter(row, other):
            return False
        a, b = self._seen(row, one), self._seen(row, other)
        noise, unit = SIDES * np.hypot(a.deviation, b.deviation), float(np.abs(self.input.filled()).max(initial=0.0))
        alike = (np.abs(a.value - b.value) <= noise + ROUNDED * unit) & (noise <= SHARP * unit)
        return bool(alike[a.known & b.known].all())

    def _shows(self, row: int, one: int, other: int) -> bool:
        """Whether the gradient of a filter would differ by more than its noise with another winner."""
        layer, observed, filter_ = self.view.layer, self.knows.observed, self._filter(row, one)
        if filter_ != self._filter(row, other):
            return True
        own = observed.deviations[layer.weight_name].reshape(layer.filters, -1)[filter_]
        dW = observed.gradients[layer.weight_name].reshape(layer.filters, -1)[filter_]
        noise = np.sqrt((own**2).mean() + observed.rounding.arithmetic**2 * (dW**2).mean())
        a, b = self._seen(row, one), self._seen(row, other)
        moved = (
            self.view.k.value[row] * self.view.factor[row, one] * np.where(a.known & b.known, a.value - b.value, 0.0)
        )
        return bool(np.sqrt((moved**2).mean()) > 2 * FITS * noise)

    def _filter(self, row: int, place: int) -> int:
        """Return the filter of an entry of a window."""
        return int(self.view.windows[row, place]) // math.prod(self.view.layer.outputs)

    def _seen(self, row: int, place: int) -> Estimate:
        """Return the inputs that an entry of a window is made of, `(channels, taps)`; beyond the input are zeros."""
        layer = self.view.layer
        filter_, output = divmod(int(self.view.windows[row, place]), math.prod(layer.outputs))
        C = layer.channels // layer.groups
        first = filter_ // (layer.filters // layer.groups) * C
        at, own, padded = incidence(layer).positions_seen[output], slice(first, first + C), self._padded
        return Estimate(padded.value[own][:, at], padded.known[own][:, at], padded.perturbations[own][:, at])

    @cached_property
    def _padded(self) -> Estimate:
        """What the layer reads, `(channels, positions + 1)`: the last one is a zero, as beyond the input."""
        x, around, channels = self.input, ((0, 0), (0, 1)), self.view.layer.channels
        return Estimate(
            np.pad(x.filled().reshape(channels, -1), around),
            np.pad(x.known.reshape(channels, -1), around, constant_values=True),
            np.pad(kept(x).reshape(channels, -1, MEMBERS), (*around, (0, 0))),
        )

    def _checked(self) -> BoolArray:
        """Return the windows of filters with so many equations that other winners would not fit by accident."""
        view, layer, asked = self.view, self.view.layer, self.winners >= 0
        filters = np.where(view.real, view.windows, 0) // math.prod(layer.outputs)
        many = view.real.sum(axis=1, keepdims=True)
        bits = np.bincount(
            filters[asked].ravel(),
            (view.real * np.log2(np.maximum(many, 1)) / many)[asked].ravel(),
            layer.filters,
        )
        k, held = self.k.value.reshape(layer.filters, -1), np.ones(layer.filters, dtype=bool)
        while True:
            free = freedom(layer, np.where(held[:, None], k, 0.0), self.knows.observed.rounding.arithmetic)
            few = held & (bits > 0) & (free < CHECKS + BITS * bits)
            if not few.any():
                return np.asarray((held[filters] | ~view.real).all(axis=1))
            held &= ~few


def shiftable(view: Pooled, winners: IntArray) -> BoolArray:
    """Return the windows whose winners could all be moved by one step, and the input with them, `(windows,)`.

    A convolution does not tell a moved input from winners that are moved. Winners belong together that see a common
    input, directly or through others; those of a part are fixed only if one of them at least has no room in its window.

    Args:
        view: the windows.
        winners: the place of the winner in each, -1 where it does not matter.
    """
    layer, asked = view.layer, np.flatnonzero(winners >= 0)
    outputs, positions = math.prod(layer.outputs), math.prod(layer.positions)
    filters, at = np.divmod(np.where(view.real, view.windows, 0)[asked], outputs)
    chosen = np.arange(len(asked)), winners[asked]
    group = filters[chosen] // (layer.filters // layer.groups)
    seen = incidence(layer).positions_seen[at[chosen]]  # (windows, taps)
    rows, taps = np.nonzero(seen < positions)
    columns = len(asked) + group[rows] * positions + seen[rows, taps]
    size = len(asked) + layer.groups * positions
    graph = sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    part = connected_components(graph, directed=False)[1][: len(asked)]
    steps = np.stack(np.unravel_index(at, layer.outputs or (1,)), axis=-1)
    steps = steps - steps[chosen][:, None]  # (windows, places, axes)
    others = view.real[asked] & (filters == filters[chosen][:, None]) & steps.any(axis=2)
    row, place = np.nonzero(others)
    moves, counts = np.unique(np.column_stack([part[row], steps[row, place]]), axis=0, return_counts=True)
    free = np.zeros(part.max(initial=-1) + 1, dtype=bool)
    free[moves[counts == np.bincount(part)[moves[:, 0]], 0]] = True
    found = np.zeros(len(winners), dtype=bool)
    found[asked] = free[part]
    return found


def is_counted(view: Pooled) -> bool:
    """Return whether there are gradient equations enough to check any winners, by counting."""
    layer = view.layer
    asked = view.k.filled() != 0
    filters = np.unique(view.windows[asked][view.real[asked]] // math.prod(layer.outputs))
    C, taps = layer.channels // layer.groups, math.prod(layer.taps)
    bits = np.log2(view.real[asked].sum(axis=1)).sum()
    spare = C * (len(filters) * taps - layer.groups * math.prod(layer.positions))
    return bool(spare >= CHECKS * len(filters) + BITS * bits)


def _outputs(view: Pooled, winners: IntArray) -> tuple[Estimate, Estimate]:
    """Return the gradient at the layer's outputs, and the outputs that won, for the winner of each window."""
    layer, asked = view.layer, np.flatnonzero(winners >= 0)
    at = view.windows[asked, winners[asked]]
    factor, shift = view.factor[asked, winners[asked]], view.shift[asked, winners[asked]]
    size = math.prod(layer.output_shape)
    k, moved = np.zeros(size), np.zeros((size, MEMBERS))
    np.add.at(k, at, factor * view.k.value[asked])
    np.add.at(moved, at, factor[:, None] * kept(view.k)[asked])
    z = Estimate.unknown((size,), MEMBERS)
    told = view.v.known[asked] & (factor != 0)
    z.value[at[told]] = (view.v.value[asked] - shift)[told] / factor[told]
    z.known[at[told]] = True
    z.perturbations[at[told]] = kept(view.v)[asked][told] / factor[told][:, None]
    every = np.ones(size, dtype=bool)
    return Estimate(k, every, moved).reshape(layer.output_shape), z.reshape(layer.output_shape)
