"""The point deepest between many bounds, and the multipliers that say why it is no deeper.

    maximise  depth    subject to  lower + depth <= A y <= upper - depth

A primal-dual interior-point method (Mehrotra 1992) that starts at a point and at multipliers which both fit, so that it
never meets a set without an interior: a depth of zero is where it ends, not where it fails. It stops early in two ways.
At a point that is deep enough, no bound is implied, and the multipliers are of no interest. At a gap that noise would
hide anyway, the multipliers are still spread over all bounds that are tight to the noise; at the exact optimum they
would rest on as few as there are unknowns, which noise has picked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray
from constraint_algebra.numerics.rows import row_norms

ITERATIONS = 100
PATIENCE = 4  # steps in which the gap does not fall
REGULAR = 1e-15  # on a unit diagonal
REFINED = (1, 2)  # times that a solution is corrected by what it misses, by Cholesky's method and firmly
STEP = 0.995  # share of the way to the nearest bound


@dataclass(frozen=True, eq=False)
class Deepest:
    """A point and multipliers, both fit.

    Attributes:
        y: the point.
        depth: its distance from the nearest bound, negative outside.
        gap: no point is deeper than `depth + gap`.
        at_upper, at_lower: multipliers of the bounds, not negative; they add up to one and `A^T at_upper` is
            `A^T at_lower`, up to rounding.
        to_upper, to_lower: distances from the bounds moved out to where the point touches the nearest.
        late: whether the time was up before the gap was as small as asked.
    """

    y: FloatArray
    depth: float
    gap: float
    at_upper: FloatArray
    at_lower: FloatArray
    to_upper: FloatArray
    to_lower: FloatArray
    late: bool


def deepest(
    A: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    noise: FloatArray,
    *,
    gap: float,
    enough: float,
    deadline: float = np.inf,
) -> Deepest:
    """Return a point about as deep as there is, or one that is deep enough.

    Args:
        A: rows of unit norm, shape `(m, d)`, of full column rank.
        lower: finite bounds, `(m,)`.
        upper: the same from above.
        noise: of each row, `(m,)`: below a gap of this size nothing more is to be learnt.
        gap: the largest distance from the deepest point that is good enough.
        enough: a depth at which to stop.
        deadline: `time.monotonic()` at which to stop.

    >>> found = deepest(np.eye(2), np.zeros(2), np.array([1.0, 0.0]), np.zeros(2), gap=1e-9, enough=0.1)
    >>> abs(found.depth) < 1e-8, found.at_upper.round(3), found.at_lower.round(3)
    (True, array([0. , 0.5]), array([0. , 0.5]))
    """
    state = _start(A, lower, upper)
    best, least, since, late, firm = state, np.inf, 0, False, False
    for _ in range(ITERATIONS):
        left = state.gap
        best, least, since = (state, left, 0) if left < 0.9 * least else (best, least, since + 1)
        if state.depth >= enough or left <= max(gap, float((state.z * np.tile(noise, 2)).sum())):
            best = state
            break
        late = time.monotonic() > deadline
        if late:
            break
        try:
            following = None if since == PATIENCE else _next(A, state, firm=firm)
        except la.LinAlgError:
            following = None
        if following is None and firm:
            break
        # The squares of weights so far apart are lost in rounding: the matrix itself from here on.
        state, since, firm = (best, 0, True) if following is None else (following, since, firm)
    m = len(A)
    z, w = best.z, best.w
    return Deepest(best.y, best.depth, best.gap, z[:m], z[m:], w[:m], w[m:], late)


@dataclass(frozen=True, eq=False)
class _State:
    """A point, its depth, its distances w from all bounds moved out by `-depth`, and the multipliers z of these."""

    y: FloatArray
    depth: float
    w: FloatArray
    z: FloatArray

    @property
    def gap(self) -> float:
        return float(self.w @ self.z)


def _start(A: FloatArray, lower: FloatArray, upper: FloatArray) -> _State:
    """Return y = 0, as much outside as it takes, and multipliers that cancel in pairs."""
    w = np.concatenate([upper, -lower])
    depth = float(w.min()) - float(np.median(upper - lower)) - 1e-3
    w = w - depth
    pair = 1 / (w[: len(A)] + w[len(A) :])
    return _State(np.zeros(A.shape[1]), depth, w, np.tile(pair / (2 * pair.sum()), 2))


class _Newton:
    """Newton's equations at one state, factored once for several right-hand sides.

    By Cholesky's method, or, at four times the cost, by an orthogonal factorisation, which squares nothing.
    """

    def __init__(self, A: FloatArray, state: _State, *, firm: bool) -> None:
        """Factor; `LinAlgError` where rounding has left a matrix that is not positive."""
        self.A, self.state, self.firm = A, state, firm
        self.weight = state.z / state.w
        self.scale, self.factor = (self._orthogonal if firm else self._cholesky)()

    def _cholesky(self) -> tuple[FloatArray, tuple[FloatArray, bool]]:
        A, m = self.A, len(self.A)
        up, down = self.weight[:m], self.weight[m:]
        X = np.sqrt(up + down)[:, None] * A
        H = np.empty((A.shape[1] + 1,) * 2)
        H[:-1, :-1] = X.T @ X
        H[-1, :-1] = H[:-1, -1] = A.T @ (up - down)
        H[-1, -1] = self.weight.sum()
        scale = 1 / np.sqrt(np.diag(H))
        H *= scale[:, None] * scale
        H[np.diag_indices_from(H)] += REGULAR
        return scale, la.cho_factor(H, overwrite_a=True, check_finite=False)

    def _orthogonal(self) -> tuple[FloatArray, tuple[FloatArray, bool]]:
        order = np.argsort(-self.weight)  # rows of great weight first, or rounding spoils the small ones
        signs, weight = np.where(order < len(self.A), 1.0, -1.0), np.sqrt(self.weight[order])
        X = np.hstack([self.A[order % len(self.A)] * (signs * weight)[:, None], weight[:, None]])
        scale = 1 / row_norms(X.T)
        R = la.qr(X * scale, mode="r", overwrite_a=True, check_finite=False)[0][: X.shape[1]]
        if not np.diag(R).all():
            raise la.LinAlgError
        return scale, (np.asarray(R), False)

    def rows(self, step: FloatArray) -> FloatArray:
        """Return how fast the bounds come nearer."""
        along = self.A @ step[:-1]
        return np.asarray(np.concatenate([along, -along]) + step[-1])

    def adjoint(self, z: FloatArray) -> FloatArray:
        """Return the transposed rows times multipliers."""
        m = len(self.A)
        return np.asarray(np.append(self.A.T @ (z[:m] - z[m:]), z.sum()))

    def direction(self, products: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the steps of (y, depth), w and z that take `products` from the products `w z`, and misfits away."""
        state = self.state
        missed = self.adjoint(state.z)
        missed[-1] -= 1.0
        step = self._solve(-missed + self.adjoint(products / state.w))
        dw = -self.rows(step)
        return step, dw, -(products + state.z * dw) / state.w

    def _solve(self, rhs: FloatArray) -> FloatArray:
        scale = self.scale
        step = scale * la.cho_solve(self.factor, scale * rhs, check_finite=False)
        for _ in range(REFINED[self.firm]):
            missed = rhs - self.adjoint(self.weight * self.rows(step))
            step = step + scale * la.cho_solve(self.factor, scale * missed, check_finite=False)
        return np.asarray(step)


def _next(A: FloatArray, state: _State, *, firm: bool) -> _State:
    """Return the next state: a look straight ahead tells how much the step is to keep to the centre (Mehrotra)."""
    newton, w, z = _Newton(A, state, firm=firm), state.w, state.z
    mean = state.gap / len(w)
    _, dw, dz = newton.direction(w * z)
    ahead = float((w + _step(w, dw) * dw) @ (z + _step(z, dz) * dz)) / len(w)
    centre = (ahead / mean) ** 3
    step, dw, dz = newton.direction(w * z + dw * dz - centre * mean)
    primal, dual = STEP * _step(w, dw), STEP * _step(z, dz)
    return _State(state.y + primal * step[:-1], state.depth + primal * float(step[-1]), w + primal * dw, z + dual * dz)


def _step(values: FloatArray, direction: FloatArray) -> float:
    """Return the longest step up to 1 that keeps values positive."""
    falling = direction < 0
    return float((values[falling] / -direction[falling]).min(initial=1.0))
