"""A primal-dual interior-point method for few unknowns between many bounds (Mehrotra 1992).

    minimise  q/2 y·y + c·y    subject to  lower <= N y <= upper,  M y <= s

HiGHS takes its strength from sparsity, which coordinates of a null space do not have. Here every step is one dense
product `N^T D N` and one Cholesky factorisation, so that thousands of bounds in a thousand unknowns take seconds.
Nothing about the result is believed: callers repair the point and compute the bound from the multipliers themselves.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

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
    p, m = len(N), len(M)
    size = la.norm(c) or 1.0
    c, q = c / size, q / size
    h = np.concatenate([upper, -lower, s])

    def G(y: FloatArray) -> FloatArray:
        n = N @ y
        return np.concatenate([n, -n, M @ y])

    def Gt(z: FloatArray) -> FloatArray:
        return np.asarray(N.T @ (z[:p] - z[p : 2 * p]) + M.T @ z[2 * p :])

    y = np.zeros(len(c))
    w = np.maximum(h, 1e-3)
    z = np.full(2 * p + m, 1 / np.sqrt(p + m))
    converged, best, best_error, since = False, (y, z), np.inf, 0
    for _ in range(iterations):
        rd, rp, gap = q * y + c + Gt(z), G(y) + w - h, float(w @ z)
        objective = abs(float(c @ y)) + q * float(y @ y)
        if gap <= rtol * max(objective, 1e-3) and la.norm(rd) <= rtol and np.abs(rp).max() <= rtol:
            converged, best = True, (y, z)
            break
        # Near the end rounding spoils what is left; the best iterate counts.
        error = gap / max(objective, 1e-3) + float(la.norm(rd)) + float(np.abs(rp).max())
        best, best_error, since = ((y, z), error, 0) if error < best_error else (best, best_error, since + 1)
        if time.monotonic() > deadline or since == PATIENCE:
            break
        d = z / w
        X, Y = np.sqrt(d[:p] + d[p : 2 * p])[:, None] * N, np.sqrt(d[2 * p :])[:, None] * M
        H = X.T @ X + Y.T @ Y
        H[np.diag_indices_from(H)] += q
        # Scaled to a unit diagonal, bounds of very different weight leave a matrix that can be factored.
        scale = 1 / np.sqrt(np.diag(H))
        H *= scale[:, None] * scale
        H[np.diag_indices_from(H)] += REGULAR
        try:
            factor = la.cho_factor(H, overwrite_a=True, check_finite=False)
        except la.LinAlgError:
            break
        mean = gap / len(w)

        def solve(rhs: FloatArray) -> FloatArray:
            dy = scale * la.cho_solve(factor, scale * rhs, check_finite=False)  # noqa: B023
            missed = rhs - q * dy - Gt(z / w * G(dy))  # noqa: B023 -- one step of refinement
            return np.asarray(dy + scale * la.cho_solve(factor, scale * missed, check_finite=False))  # noqa: B023

        def newton(rc: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
            dy = solve(-rd - Gt((z * rp - rc) / w))  # noqa: B023
            dw = -rp - G(dy)  # noqa: B023
            return dy, dw, -(rc + z * dw) / w  # noqa: B023

        _, dw, dz = newton(w * z)
        ahead = (w + _step(w, dw) * dw) @ (z + _step(z, dz) * dz) / len(w)
        centre = (ahead / mean) ** 3
        dy, dw, dz = newton(w * z + dw * dz - centre * mean)
        primal, dual = STEP * _step(w, dw), STEP * _step(z, dz)
        if q:
            primal = dual = min(primal, dual)
        y, w, z = y + primal * dy, w + primal * dw, z + dual * dz
    y, z = best[0], best[1] * size
    return Solution(y, z[:p], z[p : 2 * p], z[2 * p :], converged)


def _step(values: FloatArray, direction: FloatArray) -> float:
    """Return the longest step up to 1 that keeps values positive."""
    falling = direction < 0
    return float((values[falling] / -direction[falling]).min(initial=1.0))
