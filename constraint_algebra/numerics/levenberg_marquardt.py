"""Levenberg and Marquardt's search for the least sum of squares of functions of many unknowns.

SciPy's `least_squares` does the same, and factorises every Jacobian without blocks (method "lm") or takes its singular
values (method "trf"): of 2,000 x 300 entries in 0.39 s and 0.27 s an iteration where one blocked QR takes 0.09 s, of
4,000 x 784 in 5.2 s and 3.0 s where it takes 1.3 s (one thread, one machine). A search from several starts has seconds
in all, so that the QR decides whether it can be made. Residuals and Jacobian are never squared into a Gram matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray

Function = Callable[[FloatArray], FloatArray]

ITERATIONS = 80  # Jacobians at most
DAMPING = 1e-3  # to begin with, relative to the columns of the Jacobian
SMALLEST, LARGEST = 1e-20, 1e12  # damping: below it the step is Gauss and Newton's, beyond it none is left
ROUNDING = 2.0**-53  # of the largest unknown: a step that short is none
UNSEEN = 1e-100  # of the largest column: what is smaller does not move
STALLED = 8  # iterations over which the sum of squares must fall
FALL = 0.9  # to this share of itself


@dataclass(frozen=True)
class Found:
    """Where a search ended.

    Attributes:
        x: the point.
        cost: the sum of squares there.
        iterations: Jacobians taken.
    """

    x: FloatArray
    cost: float
    iterations: int


def minimise(
    residual: Function,
    jacobian: Function,
    x: FloatArray,
    *,
    damping: float = DAMPING,
    enough: float = 0.0,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Found:
    """Return where the sum of squares of the residuals no longer falls.

    The damping follows the ratio of the fall to that of the linear model (Nielsen 1999). A step to values that are not
    finite counts as a rise. The search also ends where the sum falls so slowly that it approaches no zero.

    Args:
        residual: the residuals at a point, shape `(rows,)`.
        jacobian: their derivatives there, shape `(rows, unknowns)`, with at least as many rows as unknowns.
        x: where to start, shape `(unknowns,)`.
        damping: to begin with, relative to the columns of the Jacobian; `SMALLEST` for functions that are linear.
        enough: a sum of squares below which falling slowly is no reason to end, as when only rounding is left.
        out_of_time: asked before each Jacobian; the search ends where it is when that says so.

    >>> r = lambda x: np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])     # Rosenbrock's valley
    >>> J = lambda x: np.array([[-20 * x[0], 10.0], [-1.0, 0.0]])
    >>> minimise(r, J, np.array([-1.2, 1.0])).x
    array([1., 1.])
    """
    r = residual(x)
    cost, growth = _sum(r), 2.0
    history = [cost]
    scale = np.zeros(len(x))
    done = 0
    while done < ITERATIONS and cost > 0 and np.isfinite(cost) and damping < LARGEST and not out_of_time():
        R, c, left = _reduced(jacobian(x), r)
        done += 1
        scale = np.maximum(scale, np.sqrt((R**2).sum(axis=0)))
        widest = scale.max() or 1.0
        moved = ended = False
        while damping < LARGEST and not (moved or ended):
            step = _step(R, c, np.sqrt(damping) * np.where(scale > UNSEEN * widest, scale, widest))
            tried = x - step
            ended = bool((np.abs(step) <= ROUNDING * np.abs(x).max()).all())
            there = residual(tried)
            gained, promised = cost - _sum(there), cost - left - _sum(c - R @ step)
            moved = gained > 0
            if moved:
                x, r, cost = tried, there, cost - gained
                ratio = gained / promised if promised > 0 else 0.0
                damping, growth = max(SMALLEST, damping * max(1 / 9, 1 - (2 * ratio - 1) ** 3)), 2.0
            else:
                damping, growth = max(SMALLEST, damping) * growth, 2 * growth
        history.append(cost)
        crept = len(history) > STALLED and cost > FALL * history[-STALLED - 1]
        if ended or (cost > enough and crept):
            break
    return Found(x, cost, done)


def _reduced(J: FloatArray, r: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Return R, c and the rest, such that the square of `|J s - r|` is that of `|R s - c|` and the rest."""
    n = J.shape[1]
    triangle = _triangle(np.column_stack([J, r]))
    return triangle[:n, :n], triangle[:n, n], _sum(triangle[n : n + 1, n])


def _step(R: FloatArray, c: FloatArray, damped: FloatArray) -> FloatArray:
    """Return s for which `|R s - c|² + |damped * s|²` is least."""
    n = len(c)
    stacked = np.zeros((2 * n, n + 1))
    stacked[:n, :n], stacked[:n, n] = R, c
    stacked[n:, :n] = np.diag(damped)
    triangle = _triangle(stacked)
    return np.asarray(la.solve_triangular(triangle[:n, :n], triangle[:n, n], check_finite=False))


def _triangle(matrix: FloatArray) -> FloatArray:
    return np.asarray(la.qr(matrix, mode="r", check_finite=False)[0], dtype=float)


def _sum(r: FloatArray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(r @ r)
    return squares if np.isfinite(squares) else np.inf
