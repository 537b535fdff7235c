"""Values whose interval has no width: inequalities that leave no room are equations.

Let all x = p + V y lie in a range. A bound at which a value lies in *every* such point is *implied*: it is one equation
more. In stages, each in the directions that the last one left open: the point deepest between all bounds (`depth`);
where no point is deeper than noise, multipliers show which bounds leave no room; these become equations, by which point
and multipliers are polished. What is said rests on the multipliers alone (`weak_duality`), whichever solver found them
and however far it came.

Other inequalities `cut x <= slack`, such as those of inactive outputs, are asked last: only one that is tight in every
point could imply anything, and those that the truth meets strictly never are.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.beyond_rank.depth import Deepest, deepest
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.beyond_rank.weak_duality import RANK, ROUNDING, SPREAD, Proof, scale
from constraint_algebra.numerics.null_space import right_vectors
from constraint_algebra.numerics.rows import row_norms

STAGES = 12
STEPS, EVEN = 40, 0.5  # of the way to even multipliers, and what is even enough
FACES = 1e-7  # row norm on a face below which a bound says nothing there
FAR = 1e3  # times the size of the values: bounds of a value without one, of which no proof makes use
ROOM = 1e-4  # share of the size of the values that is room for certain
GAP = 1e-12  # the same: a depth that is none
FAINT = 1e-9  # share of the largest multiplier up to which one counts as zero
OUTSIDE = 1e-7  # share of the size of the values by which the point found may lie outside
LOOSE = 1e-3  # the same for values that are not determined, which noise may carry far along faint directions
EXACT, NOISY = 1e-6, 1e-3  # widths up to which a value has none, as shares of its range, without noise and with much
BLURRED = 1e4  # standard deviations up to which noise explains a width, between the two


@dataclass(frozen=True, eq=False)
class Implied:
    """What equations and bounds fix together.

    Attributes:
        x: a point of the set, `(n,)`.
        at: bound (lower or upper) at which a value lies in every point of the set, NaN elsewhere, `(n,)`.
        determined: values without width: equations and implied bounds together fix them, `(n,)`.
        width: what is proven of the width of each value's interval, infinite where nothing is, `(n,)`.
        multipliers: numbers m with `V^T m = 0`, positive at upper and negative at lower bounds, that prove it, `(n,)`.
        cut_multipliers: the same for the other inequalities, `(rows,)`; not negative.
        null: directions still open, orthonormal columns of values, `(n, r)`.
    """

    x: FloatArray
    at: FloatArray
    determined: BoolArray
    width: FloatArray
    multipliers: FloatArray
    cut_multipliers: FloatArray
    null: FloatArray


def implied(
    family: Family,
    lower: FloatArray,
    upper: FloatArray,
    *,
    cut: sp.csr_array | None = None,
    slack: FloatArray | None = None,
    deadline: float = np.inf,
) -> Implied | None:
    """Return what the bounds imply about the set `{x of the family, lower <= x <= upper, cut x <= slack}`.

    Args:
        family: what the equations leave open.
        lower: bounds of each value, infinite where there is none, `(n,)`.
        upper: the same from above; where both are equal, they fix the value.
        cut: rows of other inequalities, `(rows, n)`.
        slack: their right-hand sides, `(rows,)`.
        deadline: `time.monotonic()` after which no point is looked for.

    Returns:
        What was found, or `None` where no point of the set was found in time.

    >>> two = Family(np.array([0.5, 0.5, 0.0]), np.array([[0.6], [-0.6], [np.sqrt(0.28)]]), np.zeros(3))
    >>> found = implied(two, np.zeros(3), np.ones(3))  # the last value cannot fall, the others move both ways
    >>> found.determined, found.null.shape
    (array([False, False, False]), (3, 1))
    >>> both = Family(np.zeros(2), np.sqrt([[0.5], [0.5]]), np.zeros(2))  # one at least 0, the other at most 0
    >>> found = implied(both, np.array([0.0, -1.0]), np.array([1.0, 0.0]))
    >>> found.at, found.multipliers.round(2) / found.multipliers[1].round(2)
    (array([0., 0.]), array([-1.,  1.]))
    """
    n = len(family.p)
    whole = family if cut is None else _extended(family, cut)
    below, above = lower, upper
    if cut is not None:
        assert slack is not None
        below, above = np.append(lower, np.full(len(slack), -np.inf)), np.append(upper, slack)
    search = _Search(whole, np.asarray(below, dtype=float), np.asarray(above, dtype=float), deadline)
    search.run(np.arange(len(below)) < n)
    if cut is not None and not search.stuck:
        search.run(np.ones(len(below), dtype=bool))
    return search.result(n)


def proves(
    found: Implied,
    family: Family,
    lower: FloatArray,
    upper: FloatArray,
    *,
    cut: sp.csr_array | None = None,
    slack: FloatArray | None = None,
) -> bool:
    """Whether the multipliers prove all that is said to be determined, to the noise, with no solver involved."""
    n = len(family.p)
    whole = family if cut is None else _extended(family, cut)
    below = lower if slack is None else np.append(lower, np.full(len(slack), -np.inf))
    above = upper if slack is None else np.append(upper, slack)
    proof = Proof(whole, below, above, np.append(found.multipliers, found.cut_multipliers))
    return proof.explained and bool((proof.widths <= _limits(proof))[:n][found.determined].all())


def _extended(family: Family, cut: sp.csr_array) -> Family:
    """Return a family of the values and of the left-hand sides of inequalities below them."""
    noise = np.sqrt(cut.multiply(cut) @ family.noise**2)
    return Family(
        np.append(family.p, cut @ family.p), np.vstack([family.V, cut @ family.V]), np.append(family.noise, noise)
    )


def _limits(proof: Proof) -> FloatArray:
    """Return the width up to which each value has none."""
    size = proof.upper - proof.lower
    size = np.where(np.isfinite(size) & (size > 0), size, scale(proof.family, proof.lower, proof.upper))
    return np.asarray(np.clip(BLURRED * proof.noise, EXACT * size, NOISY * size))


class _Search:
    """A point, the directions in which it may still move, and multipliers of the bounds that are found to be tight.

    Args:
        family: of all values that have bounds.
        lower, upper: the bounds.
        deadline: when to stop.

    Attributes:
        y, face: the point, and the directions.
        multipliers: of the bounds, without those of values whose bounds are equal.
        closed, rows: which values these are, and how all values move in the directions that they leave open.
        stuck: whether there is no point, or none was found in time.
    """

    def __init__(self, family: Family, lower: FloatArray, upper: FloatArray, deadline: float) -> None:
        """Begin at the family's point; values whose bounds are equal are equations from the start."""
        self.family, self.lower, self.upper, self.deadline = family, lower, upper, deadline
        self.size = scale(family, lower, upper)
        self.noise = np.maximum(family.noise, ROUNDING * self.size)
        self.y, self.face = np.zeros(family.dimension), np.eye(family.dimension)
        self.multipliers = np.zeros(len(lower))
        self.stuck = bool((lower > upper).any())
        self.closed = np.flatnonzero((lower == upper) & (row_norms(family.V) > FACES))
        if len(self.closed) and not self.stuck:
            self._to(self.closed, lower[self.closed])
            self._turn(self.closed)
        self.rows = family.V @ self.face

    def run(self, counted: BoolArray) -> None:
        """Look for implied bounds among those that count, until there is room or nothing more is found."""
        for _ in range(STAGES):
            if self.stuck or not self.face.shape[1]:
                return
            rows = self.family.V @ self.face
            sizes = row_norms(rows)
            here = np.flatnonzero(counted & (sizes > FACES) & (np.isfinite(self.lower) | np.isfinite(self.upper)))
            if not len(here) or not self._stage(here, rows[here] / sizes[here][:, None], sizes[here]):
                return

    def _stage(self, here: IntArray, rows: FloatArray, sizes: FloatArray) -> bool:
        """Go to the point deepest between bounds; whether some of them turned out to be equations."""
        x, far = self.family.at(self.y)[here], FAR * self.size
        below, above = np.maximum(self.lower[here], -far), np.minimum(self.upper[here], far)
        basis = _row_space(rows)
        found = deepest(
            rows @ basis,
            (below - x) / sizes,
            (above - x) / sizes,
            self.noise[here] / sizes,
            gap=GAP * self.size,
            enough=max(ROOM * self.size, 4 * SPREAD * float((self.noise[here] / sizes).max())),
            deadline=self.deadline,
        )
        self.y = self.y + self.face @ (basis @ found.y)
        if found.late:
            self.stuck = not self.multipliers.any() and found.depth < -OUTSIDE * self.size
            return False
        if found.depth >= ROOM * self.size:
            return False
        return self._learn(here, found, sizes, far)

    def _learn(self, here: IntArray, found: Deepest, sizes: FloatArray, far: float) -> bool:
        """Take the bounds that have multipliers for equations, where these prove it."""
        net, size = found.at_upper - found.at_lower, self.size
        tight = np.where(net > 0, found.at_upper > found.to_upper / size, found.at_lower > found.to_lower / size)
        ends = np.where(net > 0, self.upper[here], self.lower[here])
        tight &= (np.abs(ends) < far) & (np.abs(net) > FAINT * np.abs(net).max())
        place, m, before = here[tight], (net / sizes)[tight], self.y
        while len(place):
            ends = np.where(m > 0, self.upper[place], self.lower[place])
            self.y = before
            self._to(place, ends)
            x = self.family.at(self.y)
            away, rounding = np.sign(m) * (ends - x[place]), ROUNDING * float(np.abs(x).max())
            drop = away > np.maximum(SPREAD * (self.noise[place] + rounding), away.max() / 2)
            if not drop.any():
                break
            place, m = place[~drop], m[~drop]
        place, m = _polished(place, self.family.V[place] @ self.face, m)
        if not len(place):
            self.y = before
            return False
        candidate = self._balanced(self._with_earlier(place, m))
        proof = Proof(self.family, self.lower, self.upper, self._with_closed(candidate))
        if proof.refuted:
            self.stuck = True
            return False
        if not proof.explained:
            self.y = before
            return False
        self.multipliers = candidate
        self._turn(place)
        return True

    def _with_earlier(self, place: IntArray, m: FloatArray) -> FloatArray:
        """Return multipliers of all stages together: on a face, those of earlier stages make up for what is missing."""
        total, held = np.zeros(len(self.lower)), np.flatnonzero(self.multipliers)
        total[place] = m
        if len(held):
            earlier, missed = self.multipliers[held], -(self.rows[place].T @ m)
            # Least by those that are strong.
            more = earlier * la.lstsq((self.rows[held] * earlier[:, None]).T, missed, cond=RANK)[0]
            total[held] = more + (1 + 2 * max(float((-more / earlier).max()), 0.0)) * earlier
        return total

    def _with_closed(self, multipliers: FloatArray) -> FloatArray:
        """Return these with those of values whose bounds are equal, which may have either sign."""
        V, total = self.family.V, multipliers.copy()
        if len(self.closed):
            total[self.closed] = la.lstsq(V[self.closed].T, -(V.T @ total), cond=RANK)[0]
        return total

    def _balanced(self, multipliers: FloatArray) -> FloatArray:
        """Return multipliers of the same bounds that are as even as they can be: the fewer small ones, the more proven.

        They are the analytic centre, the largest product at a fixed sum, by Newton's method with long steps.
        """
        on = np.flatnonzero(multipliers)
        m, rows = multipliers[on], self.rows[on]
        rows = rows @ _row_space(rows)
        for _ in range(STEPS):
            X = np.column_stack([rows * m[:, None], np.abs(m)])
            Q = la.qr(X, mode="economic", check_finite=False)[0]
            way = 1 - Q @ Q.sum(axis=0)
            if np.abs(way).max() < EVEN or time.monotonic() > self.deadline:
                break
            lengths = 0.9 / max(-float(way.min()), 1e-3) * np.array([1.0, 0.5, 0.25, 0.1])
            m = m * (1 + lengths[np.argmax(np.log1p(lengths[:, None] * way).sum(axis=1))] * way)
        m /= np.abs(m).max()
        found = np.zeros(len(multipliers))
        found[on] = _corrected(rows, m)
        return found

    def _to(self, place: IntArray, ends: FloatArray) -> None:
        """Move the point by as little as it takes to bring values to their ends."""
        sigma = self.noise[place]
        weight = 1 / np.maximum(sigma, sigma.max() / FAR)
        rows = self.family.V[place] @ self.face
        missing = ends - self.family.at(self.y)[place]
        step = la.lstsq(rows * weight[:, None], missing * weight, cond=RANK)[0]
        self.y = self.y + self.face @ step

    def _turn(self, place: IntArray) -> None:
        """Keep the directions in which these values do not move."""
        sigma, vectors = right_vectors(self.family.V[place] @ self.face)
        rank = int((sigma > RANK).sum())
        self.face = self.face @ vectors[rank:].T

    def result(self, n: int) -> Implied | None:
        """Return what is proven, `None` where the point is none of the set."""
        x = self.family.at(self.y)
        multipliers = self._with_closed(self.multipliers)
        proof = Proof(self.family, self.lower, self.upper, multipliers)
        determined = proof.widths <= _limits(proof)
        # What is proven holds for every point of the set; a value that is free needs only to show that there is one.
        margin = np.maximum(np.where(determined, OUTSIDE, LOOSE) * self.size, 4 * SPREAD * self.noise)
        if self.stuck or (x < self.lower - margin).any() or (x > self.upper + margin).any():
            return None
        at = np.full(len(x), np.nan)
        for ends in (self.lower, self.upper):
            near = (
                determined
                & (np.abs(x - ends) <= SPREAD * self.noise)
                & (self.family.moving | (self.lower == self.upper))
            )
            at[near] = ends[near]
        x = np.where(np.isnan(at), np.clip(x, self.lower, self.upper), at)
        sigma, vectors = right_vectors(self.family.V[determined])
        null = self.family.V[:n] @ vectors[int((sigma > RANK).sum()) :].T
        return Implied(
            x=x[:n],
            at=at[:n],
            determined=determined[:n],
            width=proof.widths[:n],
            multipliers=multipliers[:n],
            cut_multipliers=multipliers[n:],
            null=null,
        )


def _row_space(rows: FloatArray) -> FloatArray:
    """Return orthonormal columns that span the space of the rows."""
    sigma, vectors = right_vectors(rows)
    return np.asarray(vectors[: int((sigma > RANK * sigma.max(initial=0.0)).sum())].T)


def _polished(place: IntArray, rows: FloatArray, m: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return multipliers near m with `rows^T m = 0`, of the same signs, and of which values they are."""
    while len(m):
        better = _corrected(rows, m)
        same = better * m > FAINT * np.abs(m) * max(np.abs(better).max(), np.abs(m).max())
        if same.all():
            return place, better
        place, rows, m = place[same], rows[same], m[same]
    return place, m


def _corrected(rows: FloatArray, m: FloatArray) -> FloatArray:
    """Return numbers as near to m as can be, relative to their size, with `rows^T m = 0`."""
    for _ in range(2):
        X = rows * m[:, None]
        m = m * (1 - la.lstsq(X.T, X.sum(axis=0), cond=RANK)[0])
    return m
