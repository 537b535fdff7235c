"""What the largest outputs of windows say of the input of the layer below, by themselves: a polytope and its proof.

No output exceeds the largest of its window, one of each live window is equal to it, and the input lies in its range. A
point where all that holds is found by `beyond_rank.maxima`; `beyond_rank.no_room` proves which outputs are the largest
of their windows, and which inputs lie on a bound, in every input that obeys the inequalities, whoever won.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.beyond_rank.maxima import Maxima, point_of
from constraint_algebra.beyond_rank.no_room import NoRoom, no_room
from constraint_algebra.equations.systems import weight_equations
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.networks.spans import Span, span_of, traced
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept
from constraint_algebra.recursion.noise import LONG_SUM
from constraint_algebra.recursion.open_values import Beyond
from constraint_algebra.recursion.pooled import Pooled

EXACT, NOISY = 1e-6, 1e-3  # widths up to which a value has none, as shares of its range, without noise and with much
BLURRED = 1e4  # standard deviations up to which noise explains a width, between the two
SHARP = 10.0  # times the noise of the maxima: deviation of an entry up to which it counts as known
MARGINS = 12.0  # deviations in a proven width: six on either side


@dataclass(frozen=True, eq=False)
class PooledValues:
    """The windows of a selection as maxima of rows over the open entries of what the layer below reads.

    Attributes:
        knows: what is known.
        view: the windows.
        made: what the entries may be.
        problem: the maxima, of the open entries.
        outputs: the output of the layer that each of its rows stands for.
        is_open: which entries these are, flat: all that are not known as well as the maxima are.
    """

    knows: GraphKnowledge
    view: Pooled
    made: Span
    problem: Maxima
    outputs: IntArray
    is_open: BoolArray

    @classmethod
    def of(cls, knows: GraphKnowledge, view: Pooled, beyond: Beyond) -> PooledValues | None:
        """Write the maxima down; `None` where an output is made of differently in several windows."""
        observed, layer = knows.observed, view.layer
        says = view.live | view.dead
        outputs, rows = np.unique(view.windows[says][view.real[says]], return_inverse=True)
        table = np.full(view.windows.shape, -1)
        at = np.zeros(view.windows.shape, dtype=bool)
        at[says] = view.real[says]
        table[at] = rows
        factor, shift = np.zeros(len(outputs)), np.zeros(len(outputs))
        factor[rows], shift[rows] = view.factor[at], view.shift[at]
        if (factor[rows] != view.factor[at]).any() or (shift[rows] != view.shift[at]).any():
            return None
        W = sp.csr_array(weight_equations(layer, observed.parameters[layer.weight_name]).matrix[outputs])
        W = sp.csr_array(sp.diags_array(factor) @ W)
        W.eliminate_zeros()
        h = knows.values[layer.inputs[0]]
        # What is known worse than the maxima would only blur them.
        sharp = SHARP * float(np.median(_noise(knows, view, np.zeros((1, 1)))[view.live]))
        known = (h.known & (h.deviation <= sharp)).ravel()
        bias = np.repeat(observed.bias(layer), math.prod(layer.outputs))[outputs]
        A, c = (
            sp.csr_array(W[:, np.flatnonzero(~known)]),
            factor * bias + shift + W @ np.where(known, h.filled().ravel(), 0.0),
        )
        held = np.sqrt(W.multiply(W) @ np.where(known, h.deviation.ravel(), 0.0) ** 2)
        made = _span(knows, layer, beyond)
        noise = _noise(knows, view, np.where(table >= 0, np.append(held, 0.0)[table], 0.0))
        v = np.where(says, view.v.filled(), 0.0)
        n = int((~known).sum())
        lower, upper = np.full(n, made.low), np.full(n, made.high)
        problem = Maxima(A, c, table, v, noise, view.live, view.dead, lower, upper)
        return cls(knows, view, made, problem, outputs, ~known)

    def point(self, rng: np.random.Generator, deadline: float, *, anew: bool = False) -> FloatArray | None:
        """Return open entries with which all live windows are tight, `anew` others; `None` where none were found."""
        return point_of(self.problem, rng=rng, deadline=deadline, drawn=anew)

    def whole(self, x: FloatArray) -> FloatArray:
        """Return all entries from the open ones, flat."""
        found = self.knows.values[self.view.layer.inputs[0]].filled().ravel().copy()
        found[self.is_open] = x
        return found

    def proof(self, x: FloatArray, winners: IntArray | None = None) -> Proven:
        """Return what the inequalities that are tight at x prove for all that obey them.

        Args:
            x: a point of the polytope.
            winners: places of windows that count as equations, -1 elsewhere: proven for inputs with these winners.
        """
        P = self.problem
        tight = P.cap - (P.A @ x + P.c) <= P.row_tolerance
        equal = np.zeros(len(tight), dtype=bool)
        if winners is not None:
            chosen = np.flatnonzero(winners >= 0)
            equal[P.windows[chosen, winners[chosen]]] = True
        rows, same = np.flatnonzero(tight & ~equal), np.flatnonzero(equal)
        near = 1e-9 * self.range_of(x)
        low, high = np.flatnonzero(x <= P.lower + near), np.flatnonzero(x >= P.upper - near)
        one = sp.eye_array(len(x), format="csr")
        noise = self.row_noise
        proof, held = no_room(
            sp.csr_array(sp.vstack([P.A[rows], -one[low], one[high]], format="csr")),
            np.concatenate([(P.cap - P.c)[rows], -P.lower[low], P.upper[high]]),
            np.concatenate([noise[rows], np.zeros(len(low) + len(high))]),
            sp.csr_array(P.A[same]),
            (P.cap - P.c)[same],
            noise[same],
            x,
        )
        return Proven(self, proof, held, rows, low, high, same)

    @cached_property
    def row_noise(self) -> FloatArray:
        """Standard deviation of what caps each row."""
        real = self.problem.real
        found = np.zeros(self.problem.A.shape[0])
        np.maximum.at(found, self.problem.windows[real], np.broadcast_to(self.problem.noise[:, None], real.shape)[real])
        return found

    @cached_property
    def noise(self) -> float:
        """Standard deviation of a typical maximum."""
        return float(np.median(self.problem.noise[self.problem.live]))

    @property
    def is_noisy(self) -> bool:
        """Whether noise blurs the widths that prove a value to be unique."""
        return BLURRED * self.noise > EXACT * self.problem.size

    def range_of(self, x: FloatArray) -> float:
        """Return the size of the entries: of their range, or of those at hand."""
        size = self.made.high - self.made.low
        return float(size) if np.isfinite(size) else float(np.abs(x).max(initial=0.0)) or 1.0

    def winners(self, x: FloatArray, sure: FloatArray, tight: BoolArray | None = None) -> IntArray:
        """Return the place of the largest output of each live window at x, -1 where noise leaves that open.

        Of equal outputs that see equal entries it is the first, as PyTorch takes it; the gradient says nothing else.

        Args:
            x: the open entries.
            sure: how far each may lie off, infinite where nothing is known.
            tight: outputs that are surely the largest, `(windows, most)`: a window is theirs where there is any.
        """
        P = self.problem
        t = P.candidates(x)
        off = np.append(np.asarray(abs(P.A) @ np.minimum(sure, 1e300)), 0.0)[P.windows]
        ties = P.real & (t >= t.max(axis=1, keepdims=True) - P.tolerance[:, None] - off)
        if tight is not None:
            ties = np.where(tight.any(axis=1, keepdims=True), tight & P.real, ties)
        first = ties.argmax(axis=1)
        found = np.where(P.live, first, -1)
        seen = _Seen(self, x, sure)
        for row in np.flatnonzero(P.live & (ties.sum(axis=1) > 1)).tolist():
            places = self.outputs[P.windows[row, np.flatnonzero(ties[row])]]
            if not all(seen.alike(int(places[0]), int(other)) for other in places[1:]):
                found[row] = -1
        return found


class _Seen:
    """Whether two outputs are made of equal entries by equal weights."""

    def __init__(self, values: PooledValues, x: FloatArray, sure: FloatArray) -> None:
        layer = values.view.layer
        self.layer, self.places = layer, incidence(layer).positions_seen
        off = np.zeros(values.is_open.shape)
        off[values.is_open] = sure
        shape = layer.groups, layer.channels // layer.groups, -1
        self.x = np.pad(values.whole(x).reshape(shape), ((0, 0), (0, 0), (0, 1)))
        self.off = np.pad(off.reshape(shape), ((0, 0), (0, 0), (0, 1)))
        self.rounding = 1e-9 * values.range_of(x)

    def alike(self, one: int, other: int) -> bool:
        """Return it for two outputs, by their flat numbers."""
        (filter_, a), (same, b) = (divmod(number, math.prod(self.layer.outputs)) for number in (one, other))
        if filter_ != same:
            return False
        group = filter_ // (self.layer.filters // self.layer.groups)
        x, off = self.x[group][:, self.places], self.off[group][:, self.places]
        return bool((np.abs(x[:, a] - x[:, b]) + off[:, a] + off[:, b] <= self.rounding).all())


@dataclass(frozen=True, eq=False)
class Proven:
    """What holds of every input that obeys the inequalities.

    Attributes:
        values: the maxima.
        proof: rows with multipliers.
        held: which of the rows asked these are.
        rows: of the rows asked, the first ones: which of the maxima's.
        low, high: open entries at their lower and upper bounds, which follow in the rows asked.
        equations: rows that were taken for equations.
    """

    values: PooledValues
    proof: NoRoom
    held: IntArray
    rows: IntArray
    low: IntArray
    high: IntArray
    equations: IntArray

    @cached_property
    def pinned(self) -> BoolArray:
        """Which open entries have no width, to the noise."""
        size = self.values.range_of(self.proof.x)
        limit = np.clip(BLURRED * self.values.noise, EXACT * size, NOISY * size)
        return np.asarray(self.proof.widths <= limit)

    @cached_property
    def by_bounds(self) -> bool:
        """Whether bounds of the entries have a part in it."""
        return bool((self.held >= len(self.rows)).any())

    def entries(self) -> Estimate:
        """Return the entries that lie on a bound in every input, flat, of all that the layer reads."""
        values, bounds = self.values, np.concatenate([self.low, self.high])
        ends = np.append(values.problem.lower[self.low], values.problem.upper[self.high])
        chosen = self.held[self.held >= len(self.rows)] - len(self.rows)
        off = self.proof.slacks[self.held >= len(self.rows)]
        firm = self.pinned[bounds[chosen]]
        open_ones = np.flatnonzero(values.is_open)[bounds[chosen[firm]]]
        return self._estimate(len(values.is_open), open_ones, ends[chosen[firm]], off[firm] / MARGINS)

    @cached_property
    def tight(self) -> BoolArray:
        """Which rows are tight in every input: the largest of their windows, as sharply as these are known."""
        return np.asarray(self._slacks <= SHARP * self.values.problem.row_tolerance)

    @cached_property
    def _slacks(self) -> FloatArray:
        """How far from tight each row of the maxima is at most, infinite where nothing is proven."""
        found = np.full(self.values.problem.A.shape[0], np.inf)
        held = self.held < len(self.rows)
        found[self.rows[self.held[held]]] = self.proof.slacks[held]
        return found

    def winners(self) -> IntArray:
        """Return the places of the winners that every input has, but for ties, -1 elsewhere."""
        values = self.values
        sure = np.where(self.pinned, self.proof.widths, np.inf)
        P = values.problem
        # Where windows overlap, an output is tight at the least maximum of those that see it, and wins no other.
        least = P.v[:, None] <= np.append(P.cap, np.inf)[P.windows] + P.tolerance[:, None]
        return values.winners(self.proof.x, sure, np.append(self.tight, False)[P.windows] & least)

    def pinned_entries(self) -> Estimate:
        """Return all entries without width, flat, as far off as their widths allow."""
        values, at = self.values, np.flatnonzero(self.pinned)
        places = np.flatnonzero(values.is_open)[at]
        return self._estimate(len(values.is_open), places, self.proof.x[at], self.proof.widths[at] / MARGINS)

    def _estimate(self, size: int, at: IntArray, value: FloatArray, off: FloatArray) -> Estimate:
        found = Estimate.unknown((size,), MEMBERS)
        found.value[at], found.known[at] = value, True
        found.perturbations[at] = self.values.knows.observed.draw(off, off.shape)
        return found

    def outputs(self, winners: IntArray) -> Estimate:
        """Return the outputs z of the layer that are the largest of their windows in every input, flat.

        Args:
            winners: the place of the winner in each window, which is the largest but for noise; another that is tight
                may lie as far below as its slack allows.
        """
        values, view = self.values, self.values.view
        found = Estimate.unknown((math.prod(view.layer.output_shape),), MEMBERS)
        window, place = np.nonzero(values.problem.real & np.append(self.tight, False)[values.problem.windows])
        order = np.argsort(-values.problem.v[window], kind="stable")  # of several windows the lowest is the last
        window, place = window[order], place[order]
        at, factor = view.windows[window, place], view.factor[window, place]
        below = self._slacks[values.problem.windows[window, place]] / MARGINS
        below = np.where(place == winners[window], 0.0, below)
        moved = kept(view.v)[window] + values.knows.observed.draw(below, below.shape)
        found.value[at] = (view.v.filled()[window] - view.shift[window, place]) / factor
        found.known[at] = True
        found.perturbations[at] = moved / factor[:, None]
        return found


def _span(knows: GraphKnowledge, layer: PlacedLayer, beyond: Beyond) -> Span:
    """Return what a layer's input may be."""
    number = layer.inputs[0]
    first, _ = traced(knows.network, number)
    if first is None:
        return Span(*beyond.valid_range)
    return span_of(first.activation) if first.is_activation else Span(-np.inf, np.inf)


def _noise(knows: GraphKnowledge, view: Pooled, held: FloatArray) -> FloatArray:
    """Return the standard deviation of each window's largest output against the outputs of an exact input.

    Args:
        knows: what is known.
        view: the windows.
        held: deviation of each output by the entries that are known, `(windows, most)`.
    """
    layer = view.layer
    products = math.sqrt(layer.channels // layer.groups * math.prod(layer.taps))
    size = float(np.abs(view.v.value[view.live]).max(initial=0.0)) or 1.0
    rounding = knows.observed.rounding.arithmetic * (1 + LONG_SUM * products) * size
    known = np.where(view.v.known, view.v.deviation, 0.0)
    return np.asarray(np.sqrt(known**2 + held.max(axis=1, initial=0.0) ** 2 + rounding**2))
