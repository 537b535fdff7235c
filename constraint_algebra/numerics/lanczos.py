"""The extreme singular values of well-conditioned equations, from a few products with them."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

from constraint_algebra.arrays import RealArray
from constraint_algebra.numerics.conjugate_gradients import Operator

STEPS = 40  # after which the equations do not count as well-conditioned
LOOK = 5  # steps between two looks at the eigenvalues
ENOUGH = 5.0  # steps for each unit of the condition number: they amplify a null vector 10,000 times


def extreme_singular_values(
    equations: Operator, diagonal: RealArray, unknowns: tuple[int, ...], *, seed: int = 0
) -> tuple[float, float] | None:
    """Return a bound of the smallest singular value and an estimate of the largest; `None` where that takes long.

    Lanczos' process (1950) on the normal equations, scaled by their diagonal, from a random vector. k steps amplify
    what lies outside the interval of the other eigenvalues, of condition κ², by `cosh(2 k / κ)`: a null vector, of
    which a random vector has its share, has come up by the time that `k >= 5 κ` with κ as the process itself sees it.

    Args:
        equations: the operator, of either precision.
        diagonal: of its normal equations, in the input shape with an axis of one, positive.
        unknowns: the input shape.
        seed: of the random vector.
    """
    scale = (1 / np.sqrt(diagonal)).astype(diagonal.dtype)
    v = np.random.default_rng(seed).standard_normal((*unknowns, 1)).astype(diagonal.dtype)
    v /= np.linalg.norm(v)
    before, beta = np.zeros_like(v), 0.0
    alphas: list[float] = []
    betas: list[float] = []
    for k in range(1, STEPS + 1):
        w = scale * equations.adjoint(equations.forward(scale * v)) - beta * before
        alphas.append(float(np.vdot(v, w)))
        w -= alphas[-1] * v
        beta = float(np.linalg.norm(w))
        if k % LOOK == 0 or beta == 0:
            ritz = eigvalsh_tridiagonal(np.array(alphas), np.array(betas))
            condition = np.sqrt(ritz[-1] / ritz[0]) if ritz[0] > 0 else np.inf
            if beta == 0 or ENOUGH * condition <= k:
                return float(np.sqrt(max(ritz[0], 0) * diagonal.min())), float(np.sqrt(ritz[-1] * diagonal.max()))
            if ENOUGH * condition > 2 * STEPS:  # the condition that it sees only grows
                break
        betas.append(beta)
        before, v = v, w / beta
    return None
