"""An input x from the largest of several outputs each: maxima of windows, not which entry they are.

Every candidate obeys `A x + c <= v` of its window, and one candidate of a live window is tight: x lies in a polytope,
and is found as a point of it where all live windows are tight. In turns: a linear programme pushes towards the likely
winners, all candidates at first; from its point, least squares of the largest candidates, reweighted by their
residuals, with those that lie above their maximum and what lies outside its bounds put back (`Fit`). A few wrong
winners have residuals of their own and lose their weight. Where that stands still, the next programme pushes towards
its winners.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.numerics.banded_normal import BandedNormal
from constraint_algebra.numerics.sparse_programme import Programme

PROGRAMMES = 12
STEPS, GAP = 12, 1e-2  # of a programme: the least squares need no more than a point on the way
ROUNDS, PATIENCE = 80, 12  # of least squares; those in which the misfit halves, or they stand still
POLISHED = 3  # rounds more, once all windows are tight
SPREAD = 6.0  # standard deviations that noise may reach
ROUNDED = 1e-9  # of the size of the values, that no noise covers
FEW = 0.3  # quantile of the residuals below which they all weigh the same
NEAR = 1e-9  # weight with which x stays where no row says anything
SHAKEN = 0.3  # of the windows whose winner is drawn anew where a programme brings nothing


@dataclass(frozen=True, eq=False)
class Maxima:
    """Windows of candidates, of which the largest is known.

    Attributes:
        A: rows of the candidates, `(m, n)`.
        c: what is added to each, `(m,)`.
        windows: the candidates of each window, -1 where a window has fewer, `(windows, most)`.
        v: largest candidate of a live window, what none exceeds in a dead one, `(windows,)`.
        noise: standard deviation of v, and of the candidates' own rounding, `(windows,)`.
        live: windows with a tight candidate, `(windows,)`.
        dead: windows without, `(windows,)`; those that are neither say nothing.
        lower: bounds of x, infinite where there is none, `(n,)`.
        upper: the same from above.
    """

    A: sp.csr_array
    c: FloatArray
    windows: IntArray
    v: FloatArray
    noise: FloatArray
    live: BoolArray
    dead: BoolArray
    lower: FloatArray
    upper: FloatArray

    @cached_property
    def real(self) -> BoolArray:
        """Which places of a window stand for a candidate."""
        return np.asarray(self.windows >= 0)

    @cached_property
    def cap(self) -> FloatArray:
        """What no candidate exceeds, infinite where nothing is known, `(m,)`."""
        return self._least(np.where(self.live | self.dead, self.v, np.inf))

    @cached_property
    def tolerance(self) -> FloatArray:
        """How far a window's largest candidate may lie off v, `(windows,)`."""
        return np.asarray(SPREAD * self.noise + ROUNDED * self.size)

    @cached_property
    def row_tolerance(self) -> FloatArray:
        """How far a candidate may lie above its cap, `(m,)`."""
        capped = self._least(np.where(self.live | self.dead, self.v + self.tolerance, np.inf))
        return np.where(np.isfinite(self.cap), capped - np.where(np.isfinite(self.cap), self.cap, 0.0), 0.0)

    @cached_property
    def size(self) -> float:
        """The size of the maxima."""
        return float(np.abs(self.v[self.live]).max(initial=0.0)) or 1.0

    def _least(self, of_windows: FloatArray) -> FloatArray:
        found = np.full(self.A.shape[0], np.inf)
        np.minimum.at(found, self.windows[self.real], np.broadcast_to(of_windows[:, None], self.real.shape)[self.real])
        return found

    def candidates(self, x: FloatArray) -> FloatArray:
        """Return all candidates, window by window, -inf where there is none, `(windows, most)`."""
        return np.where(self.real, (self.A @ x + self.c)[self.windows], -np.inf)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A point, and how well it fits.

    Attributes:
        x: the point, within its bounds, `(n,)`.
        candidates: of each window there, `(windows, most)`.
        slack: of the largest of each live window below v, zero elsewhere, `(windows,)`.
        above: of each candidate above its cap, `(m,)`.
        tight: whether all live windows are tight and no candidate lies above its cap, to the noise.
    """

    x: FloatArray
    candidates: FloatArray
    slack: FloatArray
    above: FloatArray
    tight: bool

    @property
    def misfit(self) -> float:
        """The sum of all that does not fit."""
        return float(np.abs(self.slack).sum() + self.above.sum())

    @classmethod
    def of(cls, problem: Maxima, x: FloatArray) -> Fitted:
        """Look at a point."""
        x = np.clip(x, problem.lower, problem.upper)
        t = problem.candidates(x)
        slack = np.where(problem.live, problem.v - t.max(axis=1, initial=-np.inf), 0.0)
        above = np.maximum(problem.A @ x + problem.c - problem.cap, 0.0)
        tight = bool((np.abs(slack) <= problem.tolerance).all() and (above <= problem.row_tolerance).all())
        return cls(x, t, slack, above, tight)


def point_of(
    problem: Maxima, *, rng: np.random.Generator, deadline: float = np.inf, drawn: bool = False
) -> FloatArray | None:
    """Return a point at which all live windows are tight, `(n,)`; `None` where none was found in time.

    Args:
        problem: the windows.
        rng: of winners drawn anew where a programme brings nothing.
        deadline: `time.monotonic()` at which to stop.
        drawn: whether to begin with winners drawn at random, for another point, instead of with all candidates.

    >>> two = Maxima(  # max(x, y) = 2 and max(x + y, x - y) = 3, both at least 0
    ...     sp.csr_array(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]])), np.zeros(4),
    ...     np.array([[0, 1], [2, 3]]), np.array([2.0, 3.0]), np.zeros(2), np.ones(2, bool), np.zeros(2, bool),
    ...     np.zeros(2), np.full(2, np.inf))
    >>> sorted(point_of(two, rng=np.random.default_rng(0)).round(9).tolist())
    [1.0, 2.0]
    """
    kept = np.flatnonzero(np.isfinite(problem.cap))
    normal, rows = BandedNormal(problem.A), sp.csr_array(problem.A[kept])
    programme = Programme(
        rows,
        BandedNormal(rows),
        (problem.cap - problem.c + problem.row_tolerance)[kept],
        problem.lower,
        problem.upper,
    )
    middle = _middle(problem)
    shares = np.where(
        problem.live[:, None] & problem.real, rng.exponential(size=problem.real.shape) if drawn else 1.0, 0.0
    )
    shares /= np.where(problem.live, shares.sum(axis=1), 1.0)[:, None]
    best: Fitted | None = None
    for _ in range(PROGRAMMES):
        objective = problem.A.T @ np.bincount(problem.windows[problem.real], shares[problem.real], problem.A.shape[0])
        x = programme.maximised(np.asarray(objective), middle, steps=STEPS, gap=GAP, deadline=deadline)
        pushed = Fitted.of(problem, x)
        fitted = _squares(problem, normal, pushed, deadline)
        if fitted.tight:
            return fitted.x
        if time.monotonic() > deadline:
            break
        found = min(pushed, fitted, key=lambda point: point.misfit)
        chosen = found.candidates.argmax(axis=1)
        if best is not None and found.misfit >= best.misfit:
            chosen = _shaken(problem, best.candidates.argmax(axis=1), rng)
        else:
            best = found
        shares = np.where(np.arange(problem.windows.shape[1]) == chosen[:, None], problem.live[:, None], 0.0)
    return None


def _middle(problem: Maxima) -> FloatArray:
    """Return a point between the bounds: in the middle, or a little inside of the only one there is."""
    low, high = problem.lower, problem.upper
    both, one = np.isfinite(low) & np.isfinite(high), np.isfinite(low) | np.isfinite(high)
    inside = np.where(np.isfinite(low), low + 1.0, high - 1.0)
    middle = (np.where(both, low, 0.0) + np.where(both, high, 0.0)) / 2
    return np.where(both, middle, np.where(one, np.where(one, inside, 0.0), 0.0))


def _shaken(problem: Maxima, chosen: IntArray, rng: np.random.Generator) -> IntArray:
    """Return winners of which some are drawn anew."""
    drawn = rng.integers(0, np.maximum(problem.real.sum(axis=1), 1))
    return np.where(rng.random(len(chosen)) < SHAKEN, drawn, chosen)


def _squares(problem: Maxima, normal: BandedNormal, start: Fitted, deadline: float) -> Fitted:
    """Return the point to which reweighted least squares lead."""
    fit = _Squares(problem, normal)
    best = here = start
    misfits = list[float]()
    left = ROUNDS
    while left and time.monotonic() < deadline:
        left -= 1
        try:
            here = Fitted.of(problem, fit.solved(here))
        except la.LinAlgError:
            break
        if here.misfit < best.misfit:
            best = here
        if here.tight and left > POLISHED:
            left = POLISHED
        misfits.append(here.misfit)
        if not best.tight and len(misfits) > PATIENCE and min(misfits) > misfits[-1 - PATIENCE] / 2:
            break
    return best


class Weighed(NamedTuple):
    """Rows that count in a round of least squares: which, with what weight of the square, and what they should be."""

    rows: IntArray
    weights: FloatArray
    goals: FloatArray


class Fit:
    """What counts in a round of reweighted least squares: rows of the winners, and of what lies above its cap.

    Args:
        problem: the windows.
    """

    def __init__(self, problem: Maxima) -> None:
        """Find the noise below which residuals are alike."""
        self.problem = problem
        says = problem.noise[problem.live]
        self.floor = max(float(np.median(says)) if len(says) else 0.0, 1e-10 * problem.size)

    def weighed(self, here: Fitted) -> Weighed:
        """Return the rows for the winners at a point."""
        P = self.problem
        live, over = np.flatnonzero(P.live), np.flatnonzero(here.above > 0)
        won = P.windows[live, here.candidates[live].argmax(axis=1)]
        rows = np.concatenate([won, over])
        goals = np.concatenate([P.v[live] - P.c[won], P.cap[over] - P.c[over]])
        residuals = np.concatenate([np.abs(here.slack[live]), here.above[over]])
        if not len(rows):
            return Weighed(rows, residuals, goals)
        weights = 1 / (residuals + max(float(np.quantile(residuals, FEW)), self.floor))
        return Weighed(rows, weights / weights.max(), goals)


class _Squares:
    """One round by the factor of a band, with what lies outside its bounds put back."""

    def __init__(self, problem: Maxima, normal: BandedNormal) -> None:
        self.problem, self.normal, self.fit = problem, normal, Fit(problem)
        squares = np.asarray(problem.A.multiply(problem.A).sum(axis=1)).ravel()
        self.unit = float(squares.mean()) or 1.0

    def solved(self, here: Fitted) -> FloatArray:
        """Return the least-squares point for the winners here."""
        P, m = self.problem, self.problem.A.shape[0]
        rows, weights, goals = self.fit.weighed(here)
        if not len(rows):
            return here.x
        pulled = self.unit * np.where((here.x <= P.lower) | (here.x >= P.upper), 1.0, NEAR)
        factor = self.normal.factor(np.asarray(np.bincount(rows, weights, m), dtype=float), pulled)
        return factor.solve(P.A.T @ np.bincount(rows, weights * goals, m) + pulled * here.x)
