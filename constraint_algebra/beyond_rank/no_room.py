"""Proof that inequalities leave a point no room: multipliers of tight rows, which need no solver to be checked.

Let `A x <= v` hold, and let `m > 0` on some rows with `A^T m = 0`. Then `sum of m_j (v_j - A_j x) = m·v` for every x,
and no term is negative: each of these rows is within `m·v / m_j` of tight, for all x that obey the inequalities. A
value `x_i = sum of c_j A_j x` made of these rows moves by no more than `(max of c_j / m_j - min of c_j / m_j) m·v`.
Where the inequalities leave one point, `m·v` is zero, multipliers exist on all rows that are tight there, and every
value follows. Equations `E x = e` count as rows with multipliers of either sign and no slack.

Multipliers are found at the analytic centre of `{d: A d <= 1}` over the rows tight at a point: `m = 1 / (1 - A d)`
there. It is bounded where the rows leave no room. If there is room, d runs off into it and the multipliers of all rows
that get slack vanish: what is left are the rows tight in every point.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.memory import demand
from constraint_algebra.numerics.banded_normal import BandedNormal, Factor

NEWTON = 60  # steps to the centre
LEAST, ENOUGH = 1e-9, 1e-4  # of a step, and of the fall that its gradient promises
CENTRED = 1e-16  # of the squared decrement, relative to the number of rows
AWAY, LOOSE = 1e9, 1e5  # slack of a row beside its distance from the start: one has run off, others with it
STIFF = 1e6  # weight of an equation beside rows
SPREAD = 6.0  # standard deviations that noise may reach
FOLLOWS = 1e-10  # part of a value that may be missing from a combination of rows
CHUNK = 256  # values looked at together


@dataclass(frozen=True, eq=False)
class NoRoom:
    """Rows with multipliers, and what they prove.

    Attributes:
        rows: inequalities `rows x <= ends`, those with multipliers, `(r, n)`.
        ends: right-hand sides, `(r,)`.
        noise: standard deviation of each of these, `(r,)`.
        multipliers: positive, `(r,)`.
        equations: `equations x = e`, `(q, n)`.
        values: e, `(q,)`.
        equation_noise: standard deviation of each, `(q,)`.
        equation_multipliers: of either sign, `(q,)`.
        x: a point near all of which this is said, `(n,)`.
    """

    rows: sp.csr_array
    ends: FloatArray
    noise: FloatArray
    multipliers: FloatArray
    equations: sp.csr_array
    values: FloatArray
    equation_noise: FloatArray
    equation_multipliers: FloatArray
    x: FloatArray

    @cached_property
    def room(self) -> float:
        """The sum of all slacks `m·v`: what the point has, what noise of all ends may add, what `A^T m` lacks to zero.

        What it lacks is a combination c of the rows as well, whose size beside m tells how much it adds to the sum.
        """
        at_x = self.multipliers @ (self.ends - self.rows @ self.x)
        at_x += self.equation_multipliers @ (self.values - self.equations @ self.x)
        blurred = np.concatenate([self.multipliers * self.noise, self.equation_multipliers * self.equation_noise])
        room = abs(float(at_x)) + SPREAD * float(la.norm(blurred))
        lacking = self.rows.T @ self.multipliers + self.equations.T @ self.equation_multipliers
        c = self._weights * (self.rows @ self._factor.solve(lacking))
        share = float(np.abs(c / self.multipliers).max(initial=0.0))
        return room * (1 + share) / (1 - share) if share < 1 else np.inf

    @cached_property
    def slacks(self) -> FloatArray:
        """How far from tight each row is at most, in all points that obey them, `(r,)`."""
        return np.asarray(self.room / self.multipliers)

    @cached_property
    def widths(self) -> FloatArray:
        """How far each value may move at most, infinite where it does not follow from these rows, `(n,)`."""
        spread, blur, follows = self._combined
        widths = np.full(len(spread), np.inf)
        widths[follows] = spread[follows] * self.room + 2 * SPREAD * blur[follows]
        return widths

    @cached_property
    def _weights(self) -> FloatArray:
        """Of the squares of a combination's coefficients: c is small beside m."""
        return self.multipliers**2

    @cached_property
    def _stiff(self) -> float:
        return STIFF * float(self._weights.max(initial=0.0)) or 1.0

    @cached_property
    def _factor(self) -> Factor:
        both = sp.csr_array(sp.vstack([self.rows, self.equations], format="csr"))
        weights = np.append(self._weights, np.full(self.equations.shape[0], self._stiff))
        return BandedNormal(both).factor(weights, np.zeros(both.shape[1]))

    @cached_property
    def _combined(self) -> tuple[FloatArray, FloatArray, BoolArray]:
        """For each value: the spread of `c / m`, the noise of c times the ends, and whether it is a combination."""
        n = self.rows.shape[1]
        spread, blur, follows = np.zeros(n), np.zeros(n), np.zeros(n, dtype=bool)
        factor, weights, stiff = self._factor, self._weights, self._stiff
        for start in range(0, n, CHUNK):
            some = np.arange(start, min(start + CHUNK, n))
            unit = np.zeros((n, len(some)))
            unit[some, np.arange(len(some))] = 1.0
            left, combination = unit, np.zeros((len(weights), len(some)))
            of_equations = np.zeros((self.equations.shape[0], len(some)))
            for _ in range(2):  # a step of refinement
                y = factor.solve(left)
                combination = combination + weights[:, None] * (self.rows @ y)
                of_equations = of_equations + stiff * (self.equations @ y)
                left = unit - self.rows.T @ combination - self.equations.T @ of_equations
            share = combination / self.multipliers[:, None]
            highest, lowest = share.max(axis=0, initial=0.0), share.min(axis=0, initial=0.0)
            spread[some] = highest - lowest
            noises = [(combination * self.noise[:, None]), of_equations * self.equation_noise[:, None]]
            blur[some] = np.sqrt(sum((part**2).sum(axis=0) for part in noises))
            follows[some] = np.abs(left).sum(axis=0) <= FOLLOWS
        return spread, blur, follows


def no_room(
    rows: sp.csr_array,
    ends: FloatArray,
    noise: FloatArray,
    equations: sp.csr_array,
    values: FloatArray,
    equation_noise: FloatArray,
    x: FloatArray,
) -> tuple[NoRoom, IntArray]:
    """Return what inequalities prove that are all about tight at x, and which of them have multipliers.

    Args:
        rows: inequalities `rows x <= ends`, about tight at x, `(r, n)`.
        ends: `(r,)`.
        noise: standard deviation of each, `(r,)`.
        equations: `equations x = values`, `(q, n)`.
        values: `(q,)`.
        equation_noise: standard deviation of each, `(q,)`.
        x: the point, `(n,)`.

    >>> rows = sp.csr_array(np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))  # x + y <= 0, both at least 0
    >>> nothing = sp.csr_array((0, 2)), np.zeros(0), np.zeros(0)
    >>> proof, held = no_room(rows, np.zeros(3), np.full(3, 1e-12), *nothing, np.zeros(2))
    >>> held, bool(proof.widths.max() < 1e-9)
    (array([0, 1, 2]), True)
    >>> proof, held = no_room(rows[1:], np.zeros(2), np.full(2, 1e-12), *nothing, np.zeros(2))
    >>> held, proof.widths
    (array([], dtype=int64), array([inf, inf]))
    """
    n = rows.shape[1]
    demand("the proof of a point", 8.0 * CHUNK * (rows.shape[0] + n), "take a smaller layer")
    sizes = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    held = np.flatnonzero(sizes > 0)
    m, free = np.zeros(0), np.zeros(equations.shape[0])
    while len(held):
        unit = sp.csr_array(sp.diags_array(1 / sizes[held]) @ rows[held])
        centre = _centre(unit, equations)
        if centre.bounded:
            m, free = centre.multipliers / sizes[held], centre.of_equations
            break
        stays = centre.slack < LOOSE
        held = held[stays] if not stays.all() else held[:0]
    proof = NoRoom(sp.csr_array(rows[held]), ends[held], noise[held], m, equations, values, equation_noise, free, x)
    return proof, held


class _Centre(NamedTuple):
    """Where Newton's method came to: multipliers, slacks `1 - A d`, and whether that is the centre."""

    multipliers: FloatArray
    of_equations: FloatArray
    slack: FloatArray
    bounded: bool


def _centre(A: sp.csr_array, E: sp.csr_array) -> _Centre:
    """Return the analytic centre of `{d: A d <= 1, E d = 0}` for rows of unit size, or that it runs off."""
    normal = BandedNormal(sp.csr_array(sp.vstack([A, E], format="csr")))
    d, equal = np.zeros(A.shape[1]), np.full(E.shape[0], STIFF)
    for _ in range(NEWTON):
        slack = 1 - A @ d
        m, free = 1 / slack, STIFF * (E @ d)
        gradient = A.T @ m + E.T @ free
        try:
            step = -normal.factor(np.append(m**2, equal), np.zeros(len(d))).solve(gradient)
        except la.LinAlgError:
            break
        decrement, along = -float(gradient @ step), A @ step
        if decrement <= CENTRED * len(m):
            # The step of the multipliers themselves leaves nothing but rounding.
            return _Centre(m * (1 + m * along), free + STIFF * (E @ step), slack, True)
        tilt, bend = float(free @ (E @ step)), STIFF * float(((E @ step) ** 2).sum()) / 2
        d = d + _length(along / slack, tilt, bend, decrement) * step
        if slack.max() > AWAY:
            break
    return _Centre(np.zeros(0), np.zeros(0), 1 - A @ d, False)


def _length(nearer: FloatArray, tilt: float, bend: float, decrement: float) -> float:
    """Return how much of a step to go: not beyond a row, and where the barrier falls as its gradient promises."""
    length = min(1.0, 0.99 / max(float(nearer.max(initial=0.0)), 1e-300))
    while length > LEAST:
        change = -np.log1p(-length * nearer).sum() + length * tilt + length**2 * bend
        if change <= -ENOUGH * length * decrement:
            break
        length /= 2
    return length
