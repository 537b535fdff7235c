"""Iterations that begin anew from the true residual, which their own loses to rounding (Wilkinson 1963)."""

from __future__ import annotations

from functools import partial

import numpy as np

from constraint_algebra.arrays import RealArray
from constraint_algebra.numerics.conjugate_gradients import Operator, Preconditioner, conjugate_gradients

CYCLE = 1e-4  # of the residual: what single precision reaches with ease
STEPS = 400  # most steps of a cycle; where more are needed, rounding has its say
REFINEMENTS = 10
PROGRESS = 0.1  # of its residual: what a cycle leaves at most, where single precision is of use


def refined(
    equations: Operator,
    single: Operator,
    precondition: Preconditioner,
    rhs: RealArray,
    *,
    distance: float,
    iterations: int,
    delay: int = 4,
) -> tuple[RealArray, bool]:
    """Return what `conjugate_gradients` does for `equations`, at half of its price.

    A step is bound by memory, so that single precision halves its time. Every cycle solves for the residual that the
    last one left, computed in double precision (iterative refinement; Wilkinson 1963). Where a cycle does not get on,
    double precision takes over.

    Args:
        equations: the operator.
        single: the same in single precision.
        precondition: approximate inverse of its normal equations, for vectors of either precision.
        rhs: right-hand sides `(rows, n)`.
        distance: from the solution, in the norm of the equations, at which a column is done.
        iterations: most steps in double precision.
        delay: as for `conjugate_gradients`.
    """
    y, rest, before = np.zeros_like(equations.adjoint(rhs)), rhs, np.inf
    while True:
        size = np.linalg.norm(rest, axis=0)  # no solution is further away, in the norm of the equations
        largest = float(size.max(initial=0.0))
        if largest <= distance:
            return y, True
        if largest > PROGRESS * before:  # the equations contradict each other, or rounding has the upper hand
            break
        before, size = largest, np.where(size > 0, size, 1.0)
        asked = max(CYCLE, distance / largest)
        more, converged = conjugate_gradients(
            single, precondition, (rest / size).astype(np.float32), distance=asked, delay=delay, iterations=STEPS
        )
        y = y + more * size
        if converged and asked > CYCLE:
            return y, True
        rest = rhs - equations.forward(y)
        if not converged:
            break
    more, converged = conjugate_gradients(
        equations, precondition, rest, distance=distance, delay=delay, iterations=iterations
    )
    return y + more, converged


def restarted(
    equations: Operator,
    precondition: Preconditioner,
    rhs: RealArray,
    *,
    distance: float,
    iterations: int,
    delay: int,
    patience: int = 10,
) -> tuple[RealArray, bool]:
    """Return what `conjugate_gradients` does, begun anew after every so many `iterations`; for good preconditioners."""
    iterated = partial(conjugate_gradients, distance=distance, delay=delay, patience=patience, iterations=iterations)
    x, done = iterated(equations, precondition, rhs)
    for _ in range(REFINEMENTS - 1):
        if done:
            break
        more, done = iterated(equations, precondition, rhs - equations.forward(x))
        x += more
    return x, done
