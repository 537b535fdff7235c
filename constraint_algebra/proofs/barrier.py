"""Far into a set of differences without its vertices: Newton's method on a logarithmic barrier, by conjugate gradients.

A random ray stops at the first of thousands of inequalities, after a thousandth of the range. A linear program finds
the farthest point, at the price of dense matrices in the dimension of the set. Between the two: the sum of the
logarithms of all distances is largest in the middle of the set, and with an objective of growing weight its largest
point moves from there towards the farthest one (Fiacco and McCormick 1968). Each of Newton's steps is a few products
with sparse rows and a projection on the kernel. Every point on the way is strictly inside, so that the search may stop
at any time, and nothing about the result has to be believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra.arrays import FloatArray

INNER = 40  # conjugate gradients in one of Newton's steps
ENOUGH = 1e-2  # share of the first residual that ends them
CENTRING = 8  # steps towards the middle
ROUNDS = 24  # of a growing weight, towards the farthest point
REPEATS = 8  # steps at one weight, at most
STAGES = 6  # of a growing weight, towards the largest value
GROWTH = 1.5  # of the weight from one to the next, towards the farthest point
STEEPER = 4.0  # likewise towards the largest value
FIRST = 4.0  # the weight at first: so many times that of all distances
GAIN = 2e-3  # a round that gains less, as a share, is the last
SHARES = (0.95, 0.8, 0.5)  # of the way to the first inequality that a step may take
IMMOBILE = 1e-10  # inequalities with less room at a point that has room in all directions cannot move


class Limits(NamedTuple):
    """Differences n with `cut n <= slack` and `lower <= n <= upper`."""

    cut: sp.csr_array
    slack: FloatArray
    lower: FloatArray
    upper: FloatArray


class Barrier:
    """A point strictly inside some limits, and steps from there.

    Args:
        limits: those of a set; what has no room at the point is left out, since it cannot move.
        project: projects a flat vector on the directions in which the set has room.
        point: a point with room in all of them.

    Attributes:
        point: where the steps have come.
    """

    def __init__(self, limits: Limits, project: Callable[[FloatArray], FloatArray], point: FloatArray) -> None:
        """Keep the limits that can move."""
        self.point, self._project = point, project
        self._met = np.flatnonzero(limits.slack - limits.cut @ point > IMMOBILE)
        self._cut, self._turned = limits.cut[self._met], sp.csr_array(limits.cut[self._met].T)
        self._above = np.flatnonzero(limits.upper - point > IMMOBILE)
        self._below = np.flatnonzero(point - limits.lower > IMMOBILE)
        self._limits = np.concatenate([limits.slack[self._met], limits.upper[self._above], -limits.lower[self._below]])
        self.weight = FIRST * len(self._limits) / (float(la.norm(limits.upper - limits.lower)) or 1.0)

    @property
    def room(self) -> FloatArray:
        """How far the point is from each limit."""
        return np.asarray(self._limits - self._moves(self.point))

    def step(self, slope: FloatArray, curvature: float = 0.0) -> bool:
        """Take one step of Newton's method up `slope · n - curvature/2 n·n` and the logarithms of all distances.

        Returns:
            whether it was a whole one, as near the largest value.
        """
        room = self.room
        push = self._project(slope - curvature * self.point - self._back(1 / room))
        way = self._solve(push, 1 / room**2, curvature)
        rise = self._moves(way)
        ahead = rise > 0
        most = float((room[ahead] / rise[ahead]).min(initial=np.inf))

        def value(x: float) -> float:
            n = self.point + x * way
            return float(slope @ n - curvature / 2 * (n @ n) + np.log(room - x * rise).sum())

        tried = [share * most for share in SHARES if np.isfinite(most)] + [x for x in (1.0, 0.5, 0.25) if x < most]
        best = max(tried, key=value, default=0.0)
        if best and value(best) > value(0.0):
            self.point = self.point + best * way
        return best == 1.0

    def _steps(self, slope: FloatArray, curvature: float, deadline: float) -> None:
        """Take steps until one is whole."""
        for _ in range(REPEATS):
            if self.step(slope, curvature) or time.monotonic() > deadline:
                return

    def centre(self, deadline: float) -> None:
        """Go towards the middle of the set."""
        for _ in range(CENTRING):
            if time.monotonic() > deadline:
                return
            self.step(np.zeros(len(self.point)))

    def farthest(self, deadline: float) -> None:
        """Go to where all values differ as much as they can, on the average."""
        self.centre(deadline)
        weight, reached = self.weight, 0.0
        for _ in range(ROUNDS):
            if time.monotonic() > deadline:
                return
            self.step(weight * _unit(self._project(np.sign(self.point))))
            before, reached = reached, float(np.abs(self.point).mean())
            if reached - before < GAIN * reached:
                return
            weight *= GROWTH

    def largest(self, c: FloatArray, deadline: float, mu: FloatArray, bounds: FloatArray) -> None:
        """Go to about the largest `c · n`, and fill in multipliers of the inequalities and of the bounds."""
        self.centre(deadline)
        size, weight = float(la.norm(self._project(c))) or 1.0, self.weight
        for _ in range(STAGES):
            if time.monotonic() > deadline:
                break
            self._steps(weight / size * c, 0.0, deadline)
            weight *= STEEPER
        forces = size * STEEPER / weight / self.room
        mu[self._met], forces = forces[: len(self._met)], forces[len(self._met) :]
        bounds[self._above] += forces[: len(self._above)]
        bounds[self._below] -= forces[len(self._above) :]

    def nearest(self, target: FloatArray, deadline: float) -> None:
        """Go to about the nearest point to a target."""
        self.centre(deadline)
        weight = self.weight
        for _ in range(STAGES):
            if time.monotonic() > deadline:
                return
            self._steps(weight * target, weight, deadline)
            weight *= STEEPER

    def _solve(self, push: FloatArray, squares: FloatArray, curvature: float) -> FloatArray:
        """Return about the way whose curvature along all limits is the push, by conjugate gradients."""
        way, rest, ahead = np.zeros(len(push)), push, push
        size = first = float(push @ push)
        for _ in range(INNER):
            if size <= ENOUGH**2 * first:
                break
            bent = self._project(curvature * ahead + self._back(squares * self._moves(ahead)))
            along = float(ahead @ bent)
            if along <= 0:  # rounding has the last word
                break
            way, rest = way + size / along * ahead, rest - size / along * bent
            size, before = float(rest @ rest), size
            ahead = rest + size / before * ahead
        return way

    def _moves(self, way: FloatArray) -> FloatArray:
        return np.concatenate([self._cut @ way, way[self._above], -way[self._below]])

    def _back(self, forces: FloatArray) -> FloatArray:
        ends = np.cumsum([self._cut.shape[0], len(self._above)])
        of_cut, above, below = np.split(forces, ends)
        found = np.asarray(self._turned @ of_cut)
        found[self._above] += above
        found[self._below] -= below
        return found


def _unit(vector: FloatArray) -> FloatArray:
    return vector / (float(la.norm(vector)) or 1.0)
