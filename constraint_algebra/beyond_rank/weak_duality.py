"""How far values may move between bounds, from multipliers whoever proposed them.

Let all x = p + V y lie between bounds, and let m be a vector with `V^T m = 0`. Then

    S = sum over m_i > 0 of m_i (upper_i - x_i)  +  sum over m_i < 0 of |m_i| (x_i - lower_i)

is the same for all x of the family. No term is negative inside the bounds, so that none exceeds S: where S is zero,
each of these values lies at its bound in every point of the set. And a value j whose row of V is a combination of
theirs, `V_j = sum of c_i V_i`, moves within

    (a + b) S,    a = max of c_i / m_i,    b = max of -c_i / m_i    (at least 0),

since `c + b m` and `a m - c` are multipliers too (weak duality). Noise in p enters each sum as that of its terms, taken
as independent, and S as noise where it is negative; rounding of `V^T m` and of the combination comes on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.numerics.null_space import right_vectors
from constraint_algebra.numerics.rows import row_norms

SPREAD = 5.0  # standard deviations that noise may reach
RANK = 1e-9  # share of the largest singular value of rows of V up to which they count as dependent
ROUNDING = 1e-14  # of values of size one
FIXED = 1e-9  # row norm up to which a value does not move


@dataclass(frozen=True, eq=False)
class Proof:
    """What multipliers say of a family between bounds.

    Attributes:
        family: the family; V needs no orthonormal columns here.
        lower, upper: bounds, infinite where there is none, `(n,)`.
        multipliers: m, positive at upper and negative at lower bounds, `(n,)`.
    """

    family: Family
    lower: FloatArray
    upper: FloatArray
    multipliers: FloatArray

    @cached_property
    def on(self) -> BoolArray:
        """Which values the multipliers hold at a bound, or their two bounds at each other."""
        return np.asarray((self.multipliers != 0) | self._closed)

    @property
    def _closed(self) -> BoolArray:
        return np.asarray(self.lower == self.upper)

    @cached_property
    def noise(self) -> FloatArray:
        """Standard deviation of each value, rounding at least."""
        return np.maximum(self.family.noise, ROUNDING * scale(self.family, self.lower, self.upper))

    @cached_property
    def room(self) -> float:
        """S."""
        m, p = self.multipliers, self.family.p
        ends = np.where(m > 0, self.upper, self.lower)
        used = m != 0
        return float(m[used] @ (ends - p)[used])

    @cached_property
    def blur(self) -> float:
        """Standard deviation of S by noise."""
        return float(la.norm(self.multipliers * self.noise))

    @property
    def refuted(self) -> bool:
        """Whether the multipliers prove that there is no point within bounds and noise."""
        return self.room < -SPREAD * self._worst

    @property
    def explained(self) -> bool:
        """Whether noise explains all the room, and rounding what the multipliers leave."""
        return abs(self.room) <= SPREAD * self._worst and np.isfinite(self._left_over)

    @cached_property
    def _worst(self) -> float:
        """Standard deviation of S where the noise of all values is one and the same."""
        return float(np.abs(self.multipliers) @ self.noise)

    @cached_property
    def _factored(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The singular values of the rows held, with left and right vectors in columns, and what they leave open."""
        rows = self.family.V[self.on]
        sigma, vectors = right_vectors(rows)
        rank = int((sigma > RANK * sigma.max(initial=0.0)).sum())
        return sigma[:rank], vectors[:rank].T, vectors[rank:].T

    @property
    def null(self) -> FloatArray:
        """The directions of the family that move none of the values held, orthonormal columns, `(d, r)`."""
        return self._factored[2]

    @cached_property
    def _left_over(self) -> float:
        """How much what `V^T m` lacks to zero may add to S.

        It lies in the row space of the rows held, in which no point of the set is far: with `|dy| sigma <= |V dy|`
        and `|V_i dy| <= (S + |V^T m| |dy|) / |m_i|`, `|dy|` is bounded.
        """
        m, on, sigma = self.multipliers, (self.multipliers != 0) & ~self._closed, self._factored[0]
        if not on.any():
            return 0.0
        missed = float(la.norm(self.family.V.T @ m))
        spread = float(np.sqrt(on.sum())) / float(np.abs(m[on]).min())
        firm = float(sigma.min(initial=np.inf)) - spread * missed
        if firm <= 0:
            return np.inf
        return missed * spread * (abs(self.room) + SPREAD * self.blur) / firm

    @cached_property
    def widths(self) -> FloatArray:
        """An upper bound of how far each value may move, infinite where the multipliers prove none, `(n,)`."""
        V, null = self.family.V, self.null
        found = np.full(len(V), np.inf)
        still = row_norms(V) <= FIXED
        loose = row_norms(V @ null)
        held = (loose <= FIXED) & ~still
        if held.any():
            found[held] = np.minimum(*(self._of_combinations(V[held], c) for c in self._combinations(V[held])))
        return np.asarray(np.where(still, 0.0, found))

    def _combinations(self, targets: FloatArray) -> Iterator[FloatArray]:
        """Yield combinations c of the rows held that are rows of V: the smallest, and that of the smallest `c / m`."""
        B, sizes = self.family.V[self.on], np.abs(self.multipliers[self.on])
        sigma, right, _ = self._factored
        yield (targets @ (right / sigma)) @ (B @ (right / sigma)).T
        sizes = np.where(self._closed[self.on], sizes.max(initial=0.0) or 1.0, sizes)
        X = B * sizes[:, None]
        sigma, vectors = right_vectors(X)
        right = vectors[: self._factored[1].shape[1]].T / sigma[: self._factored[1].shape[1]]
        yield (targets @ right) @ (X @ right).T * sizes

    def _of_combinations(self, targets: FloatArray, c: FloatArray) -> FloatArray:
        """Return the widths of values that are combinations c of the rows held, one in each row."""
        on, m, noise = self.on, self.multipliers[self.on], self.noise[self.on]
        share = np.divide(c, m, out=np.zeros_like(c), where=m != 0)
        share[:, self._closed[on]] = 0.0  # both bounds hold it: its multiplier may have either sign
        a, b = np.maximum(share, 0.0).max(axis=1, initial=0.0), np.maximum(-share, 0.0).max(axis=1, initial=0.0)
        room = abs(self.room) + self._left_over  # where it is negative, that much of it is noise for certain
        blurred = [la.norm((sign * c + by[:, None] * m) * noise, axis=1) for sign, by in ((1, b), (-1, a))]
        widths = (a + b) * room + SPREAD * (blurred[0] + blurred[1])
        return np.asarray(np.where(row_norms(targets - c @ self.family.V[on]) <= FIXED, widths, np.inf))


def scale(family: Family, lower: FloatArray, upper: FloatArray) -> float:
    """Return the size of the values: that of the family's point and of the bounds."""
    ends = np.abs(np.concatenate([lower[np.isfinite(lower)], upper[np.isfinite(upper)]]))
    size = max(float(np.abs(family.p).max(initial=0.0)), float(ends.max(initial=0.0)))
    return size or 1.0
