"""All differences n that equations and inequalities allow, with bounds that need no trust in a solver.

    |E n| <= margin,   C n <= slack,   lower <= n <= upper

E are the equations (rows of unit norm), C what keeps activations on their sides. The margins hold rounding, and for an
observer the noise. Two facts make every statement about this set checkable:

- *Inner.* The set is convex: a point that is not quite feasible is drawn towards one that is.
- *Outer.* For any multipliers λ and any μ >= 0, with `r = c - E^T λ - C^T μ`,

      c·n = λ·(E n) + μ·(C n) + r·n <= |λ|·margin + μ·slack + sum over j of max(r_j lower_j, r_j upper_j)

  This is weak duality. It holds whichever solver proposed λ and μ and however early it was stopped; the rounding of the
  evaluation is added on top.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import linprog

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.errors import UnknownNameError
from constraint_algebra.numerics.interior_point import Solution, interior_point
from constraint_algebra.numerics.rows import row_norms
from constraint_algebra.proofs.barrier import Barrier, Limits
from constraint_algebra.solvers.null_space import Kernel

EPSILON = 2.0**-52
CHUNK = 256  # objectives at a time
SAFETY = 1e-9  # distance that points keep from a cut-off, so that rounding cannot carry them across
ROUNDING = 1e-13  # rows of the basis below this size are zeros
ROOM = 1e-10  # inequalities that leave less room than this everywhere count as equations
RELAXED = 1e-11  # by which a set without an interior is widened for the solver
SOLVERS = ("interior-point", "highs")


@dataclass(frozen=True)
class Optimum:
    """What is known about the largest `c·n` over the set.

    Attributes:
        difference: a feasible n, flat.
        inner: `c·n` there: the maximum is at least this.
        outer: the maximum is at most this, by weak duality.
    """

    difference: FloatArray
    inner: float
    outer: float


@dataclass(frozen=True, eq=False)
class Rows:
    """Bounds and inequalities in null-space coordinates, each row of unit norm.

    Attributes:
        moving, met: which values move at all, and which inequalities can be met.
        sizes, cut_sizes: the norms that their rows had.
        N, lower, upper: the bounds `lower <= N y <= upper` of the values that move.
        M, slack: the inequalities `M y <= slack`.
    """

    moving: BoolArray
    met: BoolArray
    sizes: FloatArray
    cut_sizes: FloatArray
    N: FloatArray
    M: FloatArray
    lower: FloatArray
    upper: FloatArray
    slack: FloatArray


@dataclass(frozen=True, eq=False)
class Polytope:
    """The set of all differences from an anchor.

    Attributes:
        null: what the equations leave open, with their matrix E.
        margin: how far each equation may be off, shape `(rows,)`.
        cut: the inequalities C, rows of unit norm.
        slack: their right-hand sides.
        lower, upper: bounds of each difference, flat.
        reduced: the inequalities in null-space coordinates, where they are at hand.
        blur: relative error of the coefficients of the inequalities.
    """

    null: Kernel
    margin: FloatArray
    cut: sp.csr_array
    slack: FloatArray
    lower: FloatArray
    upper: FloatArray
    reduced: FloatArray | None = None
    blur: float = 0.0

    @cached_property
    def _rows(self) -> Rows:
        """The bounds and inequalities in null-space coordinates, scaled to unit norm, without those never violated."""
        N = self.null.basis
        M = np.asarray(self.cut @ N) if self.reduced is None else self.reduced
        sizes, cut_sizes = row_norms(N), row_norms(M)
        moving, met = np.asarray(sizes > ROUNDING), np.asarray(cut_sizes > ROUNDING)
        far = 2 * la.norm(np.maximum(np.abs(self.lower), np.abs(self.upper)))  # no coordinate reaches this
        slack = self._safe_slack
        return Rows(
            moving=moving,
            met=met,
            sizes=sizes[moving],
            cut_sizes=cut_sizes[met],
            N=N[moving] / sizes[moving][:, None],
            M=M[met] / cut_sizes[met][:, None],
            lower=np.maximum(self.lower[moving] / sizes[moving], -far),
            upper=np.minimum(self.upper[moving] / sizes[moving], far),
            slack=np.minimum(slack[met] / cut_sizes[met], far),
        )

    def prepare(self) -> None:
        """Compute what every call needs, before copies go to other processes."""
        _ = self._inside

    @property
    def dimension(self) -> int:
        """Dimension of the set: the nullity, less the inequalities that leave no room on either side."""
        return int(self._inside[1].shape[1])

    @cached_property
    def _tight(self) -> FloatArray:
        """The rows of bounds and cut-offs that the anchor itself lies on: nothing can be drawn in towards it."""
        rows = self._rows
        return np.vstack(
            [rows.N[rows.upper <= ROOM], -rows.N[rows.lower >= -ROOM], rows.M[rows.slack <= ROOM]],
        )

    @cached_property
    def _inside(self) -> tuple[FloatArray, FloatArray]:
        """Return a point inside the set and an orthonormal basis of the directions in which the set has room there."""
        basis, rows, tight = self.null.basis, self._rows, self._tight
        face = np.eye(basis.shape[1])
        while face.shape[1] and len(tight):
            y, room, binding = _deepest(tight @ face)
            if room > ROOM:
                y = face @ y  # away from all bounds that the anchor lies on: half the way to the next one
                limits = np.concatenate([rows.upper, -rows.lower, rows.slack])
                rise = np.concatenate([rows.N @ y, -rows.N @ y, rows.M @ y])
                ahead = (limits > ROOM) & (rise > 0)
                step = (limits[ahead] / rise[ahead]).min(initial=1.0) / 2
                return basis @ (step * y), basis @ face
            if not binding.any():
                return np.zeros(len(basis)), basis[:, :0]
            # Multipliers prove that these inequalities leave no room to any point of the set: they are equations.
            face = face @ la.null_space((tight @ face)[binding], rcond=self.null.tolerance)
            tight = tight[row_norms(tight @ face) > self.null.tolerance]
        return np.zeros(len(basis)), basis @ face

    @property
    def interior(self) -> tuple[FloatArray, Callable[[FloatArray], FloatArray]]:
        """A point inside the set, and the projection on the directions in which the set has room there."""
        centre, basis = self._inside
        return centre, lambda vector: np.asarray(basis @ (basis.T @ vector))

    def drawn(self, rng: np.random.Generator) -> FloatArray:
        """Return a random direction in which the set has room."""
        basis = self._inside[1]
        return np.asarray(basis @ rng.standard_normal(basis.shape[1]))

    def farthest(self, *, time_limit: float | None = None) -> FloatArray:
        """Return a feasible n whose values are far from zero, as many and as far as a search finds."""
        if not self.dimension:
            return np.zeros(len(self.lower))
        barrier = self._barrier()
        barrier.farthest(np.inf if time_limit is None else time.monotonic() + time_limit)
        return self.draw_in(barrier.point)

    def _barrier(self) -> Barrier:
        centre, project = self.interior
        return Barrier(self._limits, project, centre)

    @property
    def _limits(self) -> Limits:
        return Limits(self.cut, self._safe_slack, self.lower, self.upper)

    @property
    def _safe_slack(self) -> FloatArray:
        """The slack, less what rounding could carry a point across."""
        return np.asarray(self.slack - np.minimum(SAFETY, np.maximum(self.slack, 0.0) / 2))

    def maximise(self, c: FloatArray, *, time_limit: float | None = None, solver: str | None = None) -> Optimum:
        """Return a feasible point and both bounds of the largest `c·n`; stopped early, both still hold.

        Args:
            c: the objective, flat.
            time_limit: seconds after which the solver stops; by default it finishes.
            solver: "interior-point", or "highs" for HiGHS on the sparse equations; by default the first, and HiGHS
                where inequalities leave the set no interior, as values at the edge of the range can do.

        Raises:
            UnknownNameError: another solver.
        """
        if solver is None:
            solver = SOLVERS[self.dimension < self.null.nullity]
        if solver not in SOLVERS:
            raise UnknownNameError(f"solver must be {' or '.join(map(repr, SOLVERS))}, got {solver!r}")
        if la.norm(self.null.basis.T @ c) <= ROUNDING * la.norm(c):  # the equations alone decide
            return self._optimum(c, np.zeros(len(c)), np.zeros(len(self.slack)), np.zeros(len(c)))
        return (self._by_highs if solver == "highs" else self._by_interior_point)(c, time_limit)

    def nearest(self, target: FloatArray, *, time_limit: float | None = None) -> FloatArray:
        """Return the feasible n nearest to a flat target, in the Euclidean norm."""
        if self.null.nullity == 0:
            return np.zeros(len(target))
        return self.draw_in(self.null.basis @ self._solve(target, 1.0, time_limit).y)

    def draw_in(self, difference: FloatArray) -> FloatArray:
        """Return the last point on the way to `difference`, from one inside the set, that is inside itself."""
        centre, project = self.interior
        way = project(difference - centre)
        start = np.concatenate([centre, -centre, self.cut @ centre])
        rise = np.concatenate([way, -way, self.cut @ way])
        slack = self._safe_slack
        room = np.maximum(np.concatenate([self.upper, -self.lower, slack]) - start, 0.0)
        over = rise > np.maximum(room, 4 * EPSILON)
        share = float((room[over] / rise[over]).min(initial=1.0))
        return np.clip(centre + share * way, np.minimum(self.lower, 0.0), np.maximum(self.upper, 0.0))

    def outer(self, c: FloatArray, equations: FloatArray, cut: FloatArray) -> FloatArray:
        """Return an upper bound of `c·n` over the set from any multipliers, rounding included.

        Args:
            c: objectives in columns, `(unknowns, number)`.
            equations: λ, one row for each row of E.
            cut: μ, one row for each inequality; negative ones count as zero.
        """
        mu = np.maximum(cut, 0.0)
        r = c - self.null.combined(equations)
        size = np.abs(c) + self.null.sizes(equations)
        lower, upper = self.lower[:, None], self.upper[:, None]
        farthest = np.maximum(np.abs(lower), np.abs(upper))
        blurred = np.zeros(size.shape)
        if mu.any():
            by_cut = abs(self.cut).T @ mu
            r, size, blurred = r - self.cut.T @ mu, size + by_cut, self.blur * by_cut * farthest
        terms = [
            np.abs(equations) * self.margin[:, None],
            mu * self.slack[:, None],
            np.maximum(r * lower, r * upper),
            blurred,
            (len(self.margin) + len(self.slack) + 3) * EPSILON * size * farthest,
        ]
        total, absolute = (sum(part.sum(axis=0) for part in f) for f in (terms, map(np.abs, terms)))
        return np.asarray(total + 2 * sum(map(len, terms)) * EPSILON * absolute)

    def reach(self, flat: NDArray[np.intp]) -> FloatArray:
        """Return how far values may move at most, by the equations and bounds alone: rounding where they are fixed."""
        found = []
        for some in np.split(flat, range(CHUNK, len(flat), CHUNK)):
            c = np.zeros((len(self.lower), len(some)))
            c[some, np.arange(len(some))] = 1.0
            equations, none = self.null.multipliers(c), np.zeros((len(self.slack), len(some)))
            found.append(np.maximum(self.outer(c, equations, none), self.outer(-c, -equations, none)))
        return np.concatenate(found)

    def _optimum(self, c: FloatArray, difference: FloatArray, mu: FloatArray, bounds: FloatArray) -> Optimum:
        """Return what a candidate and its multipliers (of inequalities and of bounds) prove."""
        feasible = self.draw_in(difference)
        inner = float(c @ feasible)
        if inner < 0:  # the anchor itself is better
            feasible, inner = np.zeros(len(c)), 0.0
        return Optimum(feasible, inner, max(self._least_outer(c, mu, bounds), inner))

    def _least_outer(self, c: FloatArray, mu: FloatArray, bounds: FloatArray) -> float:
        """Return the best outer bound of three: with the solver's multipliers, from the equations, from the bounds."""
        several = np.zeros((len(mu), 3))
        several[:, 0] = mu
        explained = np.column_stack([c - self.cut.T @ mu - bounds, c, np.zeros(len(c))])
        return float(self.outer(np.column_stack([c] * 3), self.null.multipliers(explained), several).min())

    def bound(self, c: FloatArray, *, widen: float, time_limit: float | None = None) -> float:
        """Return an upper bound of `c·n` alone, where the anchor need not belong to the set.

        Args:
            c: the objective, flat.
            widen: by how much noise may keep the anchor outside; only the solver sees it, the bound needs no such help.
            time_limit: seconds after which the solver stops.
        """
        nothing = np.zeros(len(self.slack)), np.zeros(len(c))
        if self.null.nullity == 0:
            return self._least_outer(c, *nothing)
        return self._least_outer(c, *self._multipliers(self._solve(c, 0.0, time_limit, widen)))

    def _multipliers(self, found: Solution) -> tuple[FloatArray, FloatArray]:
        """Return the multipliers of all inequalities and of all bounds."""
        rows, mu, bounds = self._rows, np.zeros(len(self.slack)), np.zeros(len(self.lower))
        mu[rows.met] = found.at_rows / rows.cut_sizes
        bounds[rows.moving] = (found.at_upper - found.at_lower) / rows.sizes
        return mu, bounds

    def _solve(self, c: FloatArray, q: float, time_limit: float | None, widen: float | None = None) -> Solution:
        """Minimise `q/2 n·n - c·n`; a set without an interior is widened a little, which inner and outer put right."""
        rows = self._rows
        wider = widen if widen is not None else RELAXED if len(self._tight) else 0.0
        deadline = np.inf if time_limit is None else time.monotonic() + time_limit
        bounds = rows.lower - wider, rows.upper + wider, rows.M, rows.slack + wider
        return interior_point(-self.null.basis.T @ c, rows.N, *bounds, q=q, deadline=deadline)

    def _by_interior_point(self, c: FloatArray, time_limit: float | None) -> Optimum:
        found = self._solve(c, 0.0, time_limit)
        return self._optimum(c, self.null.basis @ found.y, *self._multipliers(found))

    def _by_highs(self, c: FloatArray, time_limit: float | None) -> Optimum:
        E, moving, met = self.null.well_conditioned, self._rows.moving, self._rows.met
        options: Any = {} if time_limit is None else {"time_limit": time_limit}
        problem: Any = linprog  # its stubs know no sparse arrays
        found = problem(
            -c[moving],
            A_ub=self.cut[met][:, moving],
            b_ub=self.slack[met],
            A_eq=E[:, moving],
            b_eq=np.zeros(E.shape[0]),
            bounds=[*zip(self.lower[moving], self.upper[moving], strict=True)],
            method="highs",
            options=options,
        )
        difference, mu, bounds = np.zeros(len(c)), np.zeros(len(self.slack)), np.zeros(len(c))
        if found.x is not None:
            difference[moving] = found.x
            if found.status == 0:
                mu[met] = -found.ineqlin.marginals
                bounds[moving] = -found.lower.marginals - found.upper.marginals
        return self._optimum(c, self.null.project(difference), mu, bounds)


def _deepest(normals: FloatArray) -> tuple[FloatArray, float, BoolArray]:
    """Return the direction within `[-1, 1]` deepest below all `normals y <= 0`, its depth, and which rows hold it."""
    d = normals.shape[1]
    rows, depth = np.hstack([normals, np.ones((len(normals), 1))]), np.append(np.zeros(d), 1.0)
    found = interior_point(-depth, np.eye(d + 1), -np.ones(d + 1), np.ones(d + 1), rows, np.zeros(len(rows)))
    return found.y[:d], float(found.y[d]), found.at_rows > 1e-3 * found.at_rows.max()
