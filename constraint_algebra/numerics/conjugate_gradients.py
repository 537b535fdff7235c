"""Conjugate gradients for the least-squares problem of any operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from constraint_algebra.arrays import FloatArray, IntArray

Preconditioner = Callable[[FloatArray], FloatArray]

FAST = 0.01  # share of what the step before took off the squared distance, below which the next step can be foretold


class Operator(Protocol):
    """Equations that the iteration can work with."""

    def forward(self, x: FloatArray) -> FloatArray:
        """Return the left-hand sides at x."""

    def adjoint(self, r: FloatArray) -> FloatArray:
        """Return the transpose of `forward` applied to r."""


def conjugate_gradients(
    equations: Operator,
    precondition: Preconditioner,
    rhs: FloatArray,
    *,
    distance: float,
    delay: int = 4,
    iterations: int = 2000,
    patience: int = 50,
) -> tuple[FloatArray, bool]:
    """Minimise the sum of squares of `equations.forward(x) - rhs` for every column of `rhs` at once.

    Conjugate gradients on the normal equations in the form that never squares the matrix (CGLS; Hestenes and Stiefel
    1952), preconditioned, from zero. The squared distance from the solution in the norm of the equations is the sum of
    what all steps to come will take off it; what the last few took off estimates it as it was before them (Strakoš and
    Tichý 2002). A column stops where that falls below `distance`², or where its gradient falls no more.

    Args:
        equations: the operator.
        precondition: approximate inverse of its normal equations, symmetric and positive.
        rhs: right-hand sides `(rows, n)`.
        distance: from the solution, in the norm of the equations, at which a column is done.
        delay: number of steps that count as the last few; one will do where the preconditioner is nearly exact.
        iterations: most steps.
        patience: steps without progress after which rounding, not the iteration, sets the error.

    Returns:
        The solutions, `(*input_shape, n)`, and whether every column is done.
    """
    n = rhs.shape[-1]
    r = rhs.copy()
    s = equations.adjoint(r)
    x, p = np.zeros_like(s), np.zeros_like(s)
    gamma, best = np.full(n, np.inf), np.full(n, np.inf)
    waiting, done = np.zeros(n, dtype=int), np.zeros(n, dtype=bool)
    taken = np.full((max(delay, 3), n), np.inf)  # off the squared distance, by each of the last steps
    blind = (10 * float(np.finfo(rhs.dtype).eps)) ** 2  # what the equations do not see is rounding, its step endless
    for _ in range(iterations):
        z = precondition(s)
        new = _products(s, z)
        best, waiting = _progress(new, best, waiting)
        done |= new <= np.finfo(rhs.dtype).tiny
        going = ~done & (waiting < patience)
        if not going.any():
            break
        p = z + _ratio(new, gamma, going) * p
        gamma = new
        q = equations.forward(p)
        size = _products(q, q)
        waiting[size <= blind * gamma] = patience
        going &= waiting < patience
        step = _ratio(gamma, size, going)
        x += step * p
        r -= step * q
        taken = np.vstack([taken[1:], np.where(going, step * gamma, np.inf)])
        done |= _squared_distance(taken, delay) <= distance**2
        if done.all():
            break
        s = equations.adjoint(r)
    return x, bool(done.all())


def _progress(new: FloatArray, best: FloatArray, waiting: IntArray) -> tuple[FloatArray, IntArray]:
    """Return the smallest squared gradient of every column so far, and for how many steps it has hardly fallen."""
    better = new < 0.9 * best
    return np.where(better, new, best), np.where(better, 0, waiting + 1)


def _squared_distance(taken: FloatArray, delay: int) -> FloatArray:
    """Return the squared distance from the solution as what the last `delay` steps took off it: as it was before them.

    Where the steps shrink fast, as with a preconditioner that is nearly exact, the next one tells the distance as it is
    now. It is smaller by about the ratio of the last two, and `1 / FAST` times that is on the safe side. The first step
    does not count among them: it takes off all directions, the later ones what the preconditioner is wrong about.
    """
    first, before, last = taken[-3:]
    known = np.isfinite(first) & np.isfinite(before) & np.isfinite(last)
    ratio = _ratio(last, before, known)
    next_one = np.multiply(last, ratio / FAST, out=np.zeros_like(last), where=known)
    return np.asarray(np.where(known & (ratio < FAST), next_one, taken[-delay:].sum(axis=0)))


def _ratio(a: FloatArray, b: FloatArray, where: NDArray[np.bool_]) -> FloatArray:
    """Return a / b, zero where it is not wanted or b vanishes."""
    return np.divide(a, b, out=np.zeros_like(a), where=where & (b > np.finfo(b.dtype).tiny))


def _products(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the inner product of every column."""
    return np.asarray(np.einsum("ij,ij->j", a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])))
