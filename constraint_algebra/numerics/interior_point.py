"""A primal-dual interior-point method for few unknowns between many bounds (Mehrotra 1992).

    minimise  q/2 y·y + c·y    subject to  lower <= N y <= upper,  M y <= s

HiGHS takes its strength from sparsity, which coordinates of a null space do not have. Here every step is one dense
product `N^T D N` and one Cholesky factorisation, so that thousands of bounds in a thousand unknowns take seconds.
Nothing about the result is believed: callers repair the point and compute the bound from the multipliers themselves.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray

PATIENCE = 5  # steps without progress
REGULAR = 1e-15  # on a unit diagonal
STEP = 0.995  # share of the way to the nearest bound


@dataclass(frozen=True)
class Solution:
    """A point and its multipliers.

    Attributes:
        y: the point.
        at_upper, at_lower, at_rows: multipliers of `N y <= upper`, `-N y <= -lower` and `M y <= s`, not negative.
        converged: whether gap and residuals are as small as asked.
    """

    y: FloatArray
    at_upper: FloatArray
    at_lower: FloatArray
    at_rows: FloatArray
    converged: bool


def interior_point(
    c: FloatArray,
    N: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    M: FloatArray,
    s: FloatArray,
    *,
    q: float = 0.0,
    rtol: float = 1e-8,
    iterations: int = 80,
    deadline: float = np.inf,
) -> Solution:
    """Return a solution to the problem above, or the last iterate.

    Args:
        c: linear cost, shape `(d,)`.
        N: shape `(p, d)`, of full column rank.
        lower: shape `(p,)`.
        upper: shape `(p,)`.
        M: shape `(m, d)`.
        s: shape `(m,)`.
        q: curvature.
        rtol: gap and residuals, relative to the size of the values.
        iterations: most steps.
        deadline: `time.monotonic()` at which to stop.

    >>> box = interior_point(np.array([-1.0, 0.0]), np.eye(2), np.zeros(2), np.ones(2), np.zeros((0, 2)), np.zeros(0))
    >>> box.y.round(6)[0]
    np.float64(1.0)
    """
    size = la.norm(c) or 1.0
    problem = _Problem(c / size, q / size, N, M, np.concatenate([upper, -lower, s]))
    y, w = np.zeros(len(c)), np.maximum(problem.h, 1e-3)
    z = np.full(len(w), 1 / np.sqrt(len(N) + len(M)))
    converged, best, best_error, since = False, (y, z), np.inf, 0
    for _ in range(iterations):
        left = problem.residuals(y, w, z)
        dual, primal, value = float(la.norm(left.dual)), float(np.abs(left.primal).max()), problem.size(y)
        if left.gap <= rtol * value and dual <= rtol and primal <= rtol:
            converged, best = True, (y, z)
            break
        # Near the end rounding spoils what is left; the best iterate counts.
        error = left.gap / value + dual + primal
        best, best_error, since = ((y, z), error, 0) if error < best_error else (best, best_error, since + 1)
        if time.monotonic() > deadline or since == PATIENCE:
            break
        try:
            y, w, z = _next(problem, y, w, z, left)
        except la.LinAlgError:
            break
    p = len(N)
    y, z = best[0], best[1] * size
    return Solution(y, z[:p], z[p : 2 * p], z[2 * p :], converged)


class _Residuals(NamedTuple):
    """What the conditions of optimality lack: those of the multipliers, those of the point, and their products."""

    dual: FloatArray
    primal: FloatArray
    gap: float


@dataclass(frozen=True)
class _Problem:
    """Minimise `q/2 y·y + c·y` where `G y <= h`: all bounds in one, `G` being N, -N and M below each other."""

    c: FloatArray
    q: float
    N: FloatArray
    M: FloatArray
    h: FloatArray

    def rows(self, y: FloatArray) -> FloatArray:
        """Return `G y`."""
        n = self.N @ y
        return np.concatenate([n, -n, self.M @ y])

    def adjoint(self, z: FloatArray) -> FloatArray:
        """Return `G^T z`."""
        p = len(self.N)
        return np.asarray(self.N.T @ (z[:p] - z[p : 2 * p]) + self.M.T @ z[2 * p :])

    def normal(self, d: FloatArray) -> FloatArray:
        """Return `q + G^T D G`, symmetric."""
        p = len(self.N)
        X, Y = np.sqrt(d[:p] + d[p : 2 * p])[:, None] * self.N, np.sqrt(d[2 * p :])[:, None] * self.M
        H = X.T @ X + Y.T @ Y
        H[np.diag_indices_from(H)] += self.q
        return np.asarray(H)

    def size(self, y: FloatArray) -> float:
        """Return the size of the cost, which the gap is measured by; never nearly zero."""
        return max(abs(float(self.c @ y)) + self.q * float(y @ y), 1e-3)

    def residuals(self, y: FloatArray, w: FloatArray, z: FloatArray) -> _Residuals:
        """Return the residuals at a point y with distances w from its bounds and multipliers z."""
        return _Residuals(self.q * y + self.c + self.adjoint(z), self.rows(y) + w - self.h, float(w @ z))


class _Newton:
    """Newton's equations at one iterate, brought to the size of y and factored once for several right-hand sides."""

    def __init__(self, problem: _Problem, w: FloatArray, z: FloatArray, left: _Residuals) -> None:
        """Factor; `LinAlgError` where rounding has left a matrix that is not positive."""
        self.problem, self.w, self.z, self.left, self.weight = problem, w, z, left, z / w
        H = problem.normal(self.weight)
        # Scaled to a unit diagonal, bounds of very different weight leave a matrix that can be factored.
        self.scale = 1 / np.sqrt(np.diag(H))
        H *= self.scale[:, None] * self.scale
        H[np.diag_indices_from(H)] += REGULAR
        self.factor = la.cho_factor(H, overwrite_a=True, check_finite=False)

    def direction(self, rc: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the steps of y, w and z that take the residuals away, and the products `w z` by `rc`."""
        rd, rp, _ = self.left
        dy = self._solve(-rd - self.problem.adjoint((self.z * rp - rc) / self.w))
        dw = -rp - self.problem.rows(dy)
        return dy, dw, -(rc + self.z * dw) / self.w

    def _solve(self, rhs: FloatArray) -> FloatArray:
        P, scale = self.problem, self.scale
        dy = scale * la.cho_solve(self.factor, scale * rhs, check_finite=False)
        missed = rhs - P.q * dy - P.adjoint(self.weight * P.rows(dy))  # one step of refinement
        return np.asarray(dy + scale * la.cho_solve(self.factor, scale * missed, check_finite=False))


def _next(
    problem: _Problem, y: FloatArray, w: FloatArray, z: FloatArray, left: _Residuals
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the next iterate: a look straight ahead tells how much the step is to keep to the centre (Mehrotra)."""
    newton, mean = _Newton(problem, w, z, left), left.gap / len(w)
    _, dw, dz = newton.direction(w * z)
    ahead = (w + _step(w, dw) * dw) @ (z + _step(z, dz) * dz) / len(w)
    centre = (ahead / mean) ** 3
    dy, dw, dz = newton.direction(w * z + dw * dz - centre * mean)
    primal, dual = STEP * _step(w, dw), STEP * _step(z, dz)
    if problem.q:
        primal = dual = min(primal, dual)
    return y + primal * dy, w + primal * dw, z + dual * dz


def _step(values: FloatArray, direction: FloatArray) -> float:
    """Return the longest step up to 1 that keeps values positive."""
    falling = direction < 0
    return float((values[falling] / -direction[falling]).min(initial=1.0))
