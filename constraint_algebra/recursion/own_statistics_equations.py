"""The equations of a value below a normalisation whose statistics are not known: mean and scale are unknowns as well.

A layer with a weight makes `z = W x + b`, and a normalisation makes `x̂ = (z - mean) / s` of it, group by group. With K
the gradient that arrives at x̂, and `m1 = mean(K)`, `m2 = mean(K x̂)` of each group, the gradient at z is `k = κ / s`
with `κ = K - m1 - x̂ m2`, so that

    W x - mean - s x̂ = -b        where x̂ is known,
    κ x - s dL/dW    = 0         where all x̂ of a filter are known,

are linear in x, the means and the scales together, and so is `sum of κ = s dL/db`. The few unknowns of the statistics
are a border of the equations of x alone (`ValueEquations`): around a guess of them, what is left is `A x + B u = r`
for u the changes of means and scales, in units of s. A is eliminated first, `x = A⁺ (r - B u)`, and u is solved from
what that leaves of the rows. What the border leaves open moves x by `-A⁺ B u`, what A leaves open moves x alone; there
is nothing else. Rows are weighed by their noise.

Where a filter meets several groups, as with a layer norm at each position, its gradient rows are quadratic: they hold
near a guess of x too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.layers import trilinear
from constraint_algebra.numerics.dense_least_squares import Reduced, longest
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import kept
from constraint_algebra.recursion.normalised_reader import Guess, Normalised
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.value_equations import ENTRIES, Reader, ValueEquations
from constraint_algebra.solvers.noisy_equations import USABLE

ROUNDED_BORDER = 1e2 * 2.0**-52  # of the border's longest row: what eliminating x leaves of a direction that is open
APART = 1e-10  # share of the largest, below which what is open of the border moves no value


class Sides(NamedTuple):
    """Right-hand sides of all rows, n at a time: of the readers' weights and outputs, of entries, of the border."""

    gradients: list[FloatArray]
    outputs: list[FloatArray]
    entries: FloatArray
    border: FloatArray

    def minus(self, other: Sides) -> Sides:
        """Return the difference."""
        pairs = [zip(mine, others, strict=True) for mine, others in zip(self[:2], other[:2], strict=True)]
        first, second = ([a - b for a, b in pair] for pair in pairs)
        return Sides(first, second, self.entries - other.entries, self.border - other.border)


class Found(NamedTuple):
    """A solution: x `(*shape, n)`, and the changes of the statistics in units of the scale, `(border, n)`."""

    x: FloatArray
    u: FloatArray


class BorderRows(NamedTuple):
    """Equations of the border alone, in units of their noise.

    Attributes:
        matrix: `(rows, border)`.
        rhs: `(rows,)`.
        moved: draws of the noise of `rhs`.
        noise: standard deviations, `(rows,)`.
        filter: the filter whose bias equation it is, counted over all normalisations; -1 for others.
    """

    matrix: FloatArray
    rhs: FloatArray
    moved: FloatArray
    noise: FloatArray
    filter: IntArray

    def weighed(self, of_filters: FloatArray) -> FloatArray:
        """Return right-hand sides of the bias equations of all filters, `(filters, n)`, as those of these rows."""
        rows = np.where((self.filter >= 0)[:, None], of_filters[self.filter], 0.0)
        return np.asarray(rows / self.noise[:, None])


class Bordered:
    """The equations around a guess, eliminated.

    Args:
        observed: parameters and gradients.
        value: what is known of the value.
        plain: other layers that read the value, with what is known at their outputs.
        normed: the layers with a normalisation behind them.
        guesses: what is guessed of each.
        guessed: whether x̂ that are not known are guessed, or their gradient rows left out.
        near: a guess of the value, for filters that meet several groups; without one their gradient rows are left out.
        by_eps: whether scales follow from eps as well.
        stronger: as in `ValueEquations`.
    """

    def __init__(
        self,
        observed: Observation,
        value: Estimate,
        plain: Sequence[Reader],
        normed: Sequence[Normalised],
        guesses: Sequence[Guess],
        *,
        guessed: bool = False,
        near: FloatArray | None = None,
        by_eps: bool = False,
        stronger: float = 1.0,
    ) -> None:
        """Eliminate the value, then the border."""
        self.observed, self.normed, self.guesses, self.near = observed, normed, guesses, near
        own = [n.reader(at, guessed=guessed) for n, at in zip(normed, guesses, strict=True)]
        if near is None:
            none = [np.zeros(n.layer.output_shape, dtype=bool) for n in normed]
            own = [
                r if n.whole else Reader(r.layer, Estimate(r.k.value, no, r.k.perturbations), r.z)
                for r, n, no in zip(own, normed, none, strict=True)
            ]
        self.readers = [*plain, *own]
        self.value_equations = ValueEquations(observed, value, self.readers, stronger=stronger)
        self.by_eps = [n.scale_by_eps(observed.rounding.arithmetic) if by_eps else None for n in normed]

    @property
    def size(self) -> int:
        """Number of unknowns in the border: of each group the mean, then the scale."""
        return 2 * sum(n.groups for n in self.normed)

    @property
    def is_small(self) -> bool:
        """Whether both stages can be held."""
        rows = sum(math.prod(r.layer.weight_shape) + math.prod(r.layer.output_shape) for r in self.readers)
        whole = self.value_equations
        return (rows + math.prod(whole.shape)) * self.size <= ENTRIES and (not whole.opens or whole.is_small)

    @property
    def is_closed(self) -> bool:
        """Whether nothing is open, of the value or of the statistics."""
        return not self.value_equations.null.shape[1] and not self.reduced.null.shape[1]

    @cached_property
    def columns(self) -> Sides:
        """B: how the rows depend on the border."""
        p, plain = self.size, len(self.readers) - len(self.normed)
        gradients = [np.zeros((*r.layer.weight_shape, p)) for r in self.readers]
        outputs = [np.zeros((*r.layer.output_shape, p)) for r in self.readers]
        start = 0
        for i, (n, at) in enumerate(zip(self.normed, self.guesses, strict=True), start=plain):
            reader, G = self.readers[i], n.groups
            s, places = (at.scale[n.group] / n.factor).ravel(), np.arange(n.group.size)
            flat = outputs[i].reshape(-1, p)
            flat[places, start + n.group.ravel()] = -s if n.operation.centred else 0.0
            flat[places, start + G + n.group.ravel()] = -s * n.filled(at).ravel()
            dW = self.observed.gradients[n.layer.weight_name]
            if n.whole:
                of_filter = n.group.reshape(n.layer.filters, -1)[:, 0]
                gradients[i][np.arange(n.layer.filters), ..., start + G + of_filter] = -dW
            elif self.near is not None:
                for g in range(G):
                    alone = np.where(n.group == g, reader.k.filled(), 0.0)
                    gradients[i][..., start + G + g] = -trilinear.weight_gradient(n.layer, alone, self.near)
            start += 2 * G
        entries = np.zeros((*self.value_equations.shape, p))
        return Sides(gradients, outputs, entries, self.border.matrix)

    @cached_property
    def border(self) -> BorderRows:
        """The rows of the border alone."""
        start, before, parts = 0, 0, [_no_rows(self.size)]
        readers = self.readers[len(self.readers) - len(self.normed) :]
        for n, at, reader, by_eps in zip(self.normed, self.guesses, readers, self.by_eps, strict=True):
            parts.append(_bias_rows(self, n, reader, start, before))
            if not n.operation.centred:
                parts.append(_no_mean(n, start, self.size))
            if by_eps is not None:
                parts.append(_eps_rows(at, by_eps, start + n.groups, self.size))
            start, before = start + 2 * n.groups, before + n.layer.filters
        return BorderRows(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def applied(self, found: Found) -> Sides:
        """Return what all rows make of a solution."""
        B, n = self.columns, found.u.shape[1]
        gradients = [
            trilinear.weight_gradients(r.layer, r.k.filled(), found.x) + column @ found.u
            for r, column in zip(self.readers, B.gradients, strict=True)
        ]
        outputs = [
            trilinear.forward(r.layer, self.observed.parameters[r.layer.weight_name], found.x) + column @ found.u
            for r, column in zip(self.readers, B.outputs, strict=True)
        ]
        return Sides(gradients, outputs, found.x.reshape(*self.value_equations.shape, n), B.border @ found.u)

    def _whitened(self, sides: Sides) -> FloatArray:
        """Return the rows that count, in units of their noise, `(rows, n)`."""
        rows = []
        for part, gradient, output in zip(self.value_equations.parts, sides.gradients, sides.outputs, strict=True):
            eq, n = part.equations, gradient.shape[-1]
            by_tap = gradient.reshape(eq.layer.filters, -1, eq.gradient_rows.shape[1], n).swapaxes(1, 2)
            rows.append((by_tap * part.whiten[..., None, None])[eq.gradient_rows].reshape(-1, n))
            rows.append(output[eq.weight_rows] / eq.output_noise[eq.weight_rows][:, None])
        known = self.value_equations.value.known
        rows.append(sides.entries[known] / self.value_equations.entry_noise[known][:, None])
        return np.concatenate([*rows, sides.border])

    @cached_property
    def by_border(self) -> FloatArray:
        """A⁺ B: what x makes up for of the border, `(*shape, border)`."""
        B = self.columns
        return self.value_equations.solve(B.gradients, B.outputs, B.entries)

    @cached_property
    def reduced(self) -> Reduced:
        """What is left for the border."""
        x = self.by_border
        rows = self._whitened(self.columns.minus(self.applied(Found(x, np.zeros((self.size, self.size))))))
        if len(rows) < self.size:
            rows = np.concatenate([rows, np.zeros((self.size - len(rows), self.size))])
        self.unit = 1 / (longest(self._whitened(self.columns)) or 1.0)
        reach = max(1.0, float(np.sqrt((x**2).mean(axis=tuple(range(x.ndim - 1)))).max()) / self.value_equations.scale)
        own = float(np.finfo(float).eps) / self.observed.rounding.arithmetic
        cut = max(USABLE, 2 * reach * np.hypot(self._shares(), own * math.sqrt(len(rows))))
        return Reduced(rows * self.unit, max(self.unit * cut, ROUNDED_BORDER * self.size))

    def _shares(self) -> float:
        """Return the share of noise in the coefficients in that of each row, as the root of the sum of squares."""
        total = 0.0
        for part in self.value_equations.parts:
            eq, z = part.equations, part.reader.z
            of_k = eq.gradient_noise if eq.coefficient_noise is None else eq.coefficient_noise
            share = (of_k / eq.gradient_noise)[eq.gradient_rows]
            total += float((share**2).sum()) * eq.layer.channels / eq.layer.groups
            total += float(((z.deviation / eq.output_noise)[eq.weight_rows] ** 2).sum())
        return math.sqrt(total)

    def solve(self, sides: Sides) -> Found:
        """Return the least-squares solution, of what is open the part of least norm."""
        x = self.value_equations.solve(sides.gradients, sides.outputs, sides.entries)
        lacking = sides.minus(self.applied(Found(x, np.zeros((self.size, x.shape[-1])))))
        rows = self._whitened(lacking)
        short = max(0, self.size - len(rows))
        u = self.reduced.solve(self.unit * np.pad(rows, ((0, short), (0, 0))))
        return Found(x - self.by_border @ u, u)

    def given(self) -> Sides:
        """Return the right-hand sides."""
        parts = self.value_equations.parts
        return Sides(
            [part.equations.weight_gradient[..., None] for part in parts],
            [np.nan_to_num(part.equations.output)[..., None] for part in parts],
            self.value_equations.value.filled()[..., None],
            self.border.rhs[:, None],
        )

    def solution(self) -> Found:
        """Return the solution; a step of refinement frees it of rounding."""
        given = self.given()
        found = self.solve(given)
        more = self.solve(given.minus(self.applied(found)))
        return Found(found.x + more.x, found.u + more.u)


def _no_rows(size: int) -> BorderRows:
    return BorderRows(np.zeros((0, size)), np.zeros(0), np.zeros((0, MEMBERS)), np.ones(0), np.zeros(0, dtype=int))


def _no_mean(n: Normalised, start: int, size: int) -> BorderRows:
    """Return the rows that keep means at zero where none are taken away."""
    G = n.groups
    noise = np.full(G, float(np.finfo(float).eps))
    return BorderRows(
        np.eye(G, size, start) / noise[:, None], np.zeros(G), np.zeros((G, MEMBERS)), noise, np.full(G, -1)
    )


def _bias_rows(system: Bordered, n: Normalised, reader: Reader, start: int, before: int) -> BorderRows:
    """Return `sum of κ = s dL/db` of every filter whose κ are known.

    Args:
        system: the equations.
        n: the normalisation.
        reader: what is known at its layer's output.
        start: the first of its unknowns.
        before: number of the first of its filters.
    """
    name, F, observed = n.layer.bias_name, n.layer.filters, system.observed
    known = reader.k.known.reshape(F, -1).all(axis=1)
    if name is None or not known.any():
        return _no_rows(system.size)
    k, group = reader.k.filled().reshape(F, -1), n.group.reshape(F, -1)
    db, matrix = observed.gradients[name], np.zeros((F, system.size))
    if n.whole:  # right at any scale
        matrix[np.arange(F), start + n.groups + group[:, 0]] = -db
    else:
        np.add.at(matrix, (np.arange(F)[:, None], start + n.groups + group), -k)
    own = np.hypot(observed.deviations[name], observed.rounding.arithmetic * np.sqrt((k**2).sum(axis=1)))
    of_k = kept(reader.k).reshape(F, -1, MEMBERS).sum(axis=1)
    noise = np.maximum(own + np.sqrt((of_k**2).mean(axis=1)), np.finfo(float).tiny * 1e16)
    moved = observed.draw(own, (F,)) - of_k
    rhs, filters = (db - k.sum(axis=1)) / noise, before + np.flatnonzero(known)
    weighed = (matrix / noise[:, None])[known], rhs[known], (moved / noise[:, None])[known], noise[known]
    return BorderRows(*weighed, filters)


def _eps_rows(at: Guess, by_eps: Estimate, start: int, size: int) -> BorderRows:
    """Return the rows that say what eps makes of the scale of each group."""
    groups = np.flatnonzero(by_eps.known)
    s = at.scale[groups]
    noise = np.maximum(by_eps.deviation[groups] / s, np.finfo(float).eps)
    matrix = np.zeros((len(groups), size))
    matrix[np.arange(len(groups)), start + groups] = 1 / noise
    moved = by_eps.perturbations[groups] / (s * noise)[:, None]
    return BorderRows(matrix, (by_eps.value[groups] / s - 1) / noise, moved, noise, np.full(len(groups), -1))
