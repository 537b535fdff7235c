"""Small problems of maxima with a known answer, and what HiGHS says of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import linprog

from constraint_algebra.beyond_rank.maxima import Maxima

Array = NDArray[np.float64]


def drawn(rng: np.random.Generator, *, integer: bool = False) -> tuple[Maxima, Array]:
    """A problem of up to five values with windows of one to three candidates, behind a ReLU, and the truth."""
    n, count, most = int(rng.integers(1, 6)), int(rng.integers(2, 14)), int(rng.integers(1, 4))
    A = rng.integers(-2, 3, (count * most, n)).astype(float) if integer else rng.standard_normal((count * most, n))
    c = rng.integers(-1, 2, len(A)).astype(float) if integer else rng.standard_normal(len(A)) / 2
    x = rng.integers(0, 3, n) / 2.0 if integer else rng.random(n)
    x[rng.random(n) < 0.4] = 0.0
    table = np.arange(len(A)).reshape(count, most)
    table[rng.random(table.shape) < 0.1] = -1
    table[:, 0] = np.arange(count) * most
    v = np.maximum(np.where(table >= 0, (A @ x + c)[table], -np.inf).max(axis=1), 0.0)
    bounds = np.zeros(n), np.full(n, 1.0 if rng.random() < 0.7 else np.inf)
    return Maxima(sp.csr_array(A), c, table, v, np.full(count, 1e-15), v > 0, v == 0, *bounds), x


def interval(problem: Maxima, value: int, *, equal: Array | None = None) -> tuple[float, float] | None:
    """Smallest and largest a value may be in the polytope, by HiGHS; rows in `equal` at their caps; None if empty."""
    kept = np.isfinite(problem.cap)
    ends = problem.cap - problem.c
    rows = np.zeros(len(ends), dtype=bool) if equal is None else equal
    found = []
    for sign in (1.0, -1.0):
        cost = np.zeros(problem.A.shape[1])
        cost[value] = sign
        A = problem.A.toarray()
        result = linprog(
            cost,
            A_ub=A[kept],
            b_ub=ends[kept] + 1e-12,
            A_eq=A[rows] if rows.any() else None,
            b_eq=ends[rows] if rows.any() else None,
            bounds=list(zip(problem.lower, np.where(np.isfinite(problem.upper), problem.upper, None), strict=True)),
            method="highs",
        )
        if result.status == 3:
            found.append(-np.inf)
        elif result.status != 0:
            return None
        else:
            found.append(result.fun)
    return float(found[0]), float(-found[1])


def inputs_interval(problem: Maxima, value: int) -> tuple[float, float]:
    """The same over all inputs that have these maxima, whichever candidates win: one programme for each choice."""
    live = np.flatnonzero(problem.live)
    choices = product(*(problem.windows[w][problem.windows[w] >= 0].tolist() for w in live))
    ends = []
    for chosen in choices:
        equal = np.zeros(problem.A.shape[0], dtype=bool)
        equal[list(chosen)] = True
        # Where a candidate lies in one window alone its cap is the maximum of that window.
        found = interval(problem, value, equal=equal)
        if found is not None:
            ends.append(found)
    return min(low for low, _ in ends), max(high for _, high in ends)


def with_maxima(problem: Maxima, v: Array) -> Maxima:
    """The problem with other maxima."""
    return replace(problem, v=v)
