"""Open bits of a ReLU, filter by filter, by the bias gradient and by what the layers above allow.

Where what arrives at the outputs of a filter is known, `sum over outputs of bit * arriving = dL/db` names the bits: in
float64 one sum tells some 40 bits. Which of them are likely off is known from the family of outputs `y = p + V w`: the
smaller a value typically is within its range, the likelier it is zero. Every output that turns out to be off is an
equation `y = 0` for the family, which shrinks, and the rest is looked at again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg as la
from scipy.optimize import linprog

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.numerics.cheapest_subsets import cheapest_subset

VERTICES = 4  # of the family within the range of y, whose mean says what is typical
PROGRAMME = 5.0  # seconds for each
SLACK = 8.0  # standard deviations by which a value may lie beyond its range
SUM = 4.0  # standard deviations within which a sum is met
FELT = 4.0  # so many times that, an output must weigh to be looked for
SMALL = 1e-7  # singular values of rows of V up to which they say nothing
DEARER, DEAREST = 3.0, 8.0  # what a typical value adds to the cost of being zero, and the most


@dataclass(frozen=True)
class Outputs:
    """What is known of the outputs of a layer and of their ReLU, each `(filters, outputs)`.

    Attributes:
        dy: the gradient that arrives at the ReLU's output, known everywhere.
        y: the ReLU's output; counts where its bit is known and it cannot move in the family.
        known: whether the bit is known, or does not matter.
        on: the bit where it is known.
        family: all y that the layers above leave possible, flat; `None` if nothing is known of the others.
    """

    dy: FloatArray
    y: FloatArray
    known: BoolArray
    on: BoolArray
    family: Family | None


@dataclass(frozen=True)
class Sums:
    """The bias equations: `(filters,)` each.

    Attributes:
        total: dL/db.
        noise: standard deviation of the sum of all that may arrive, as against that.
    """

    total: FloatArray
    noise: FloatArray


def typical(family: Family, entries: BoolArray) -> FloatArray:
    """Return typical values of some entries, flat: the mean of some vertices of the family within y >= 0."""
    p, V = family.p[entries], family.V[entries]
    if not V.any():
        return p
    rng, found = np.random.default_rng(0), []
    slack = SLACK * family.noise[entries] + 1e-9 * np.abs(p).max(initial=0.0)
    for number in range(VERTICES):
        goal = V.T @ (rng.random(len(p)) if number else np.ones(len(p)))
        bounds, limit = [(None, None)] * V.shape[1], {"time_limit": PROGRAMME}
        result = linprog(goal, A_ub=-V, b_ub=p + slack, bounds=bounds, options=limit)
        if result.x is not None:
            found.append(p + V @ result.x)
    return np.asarray(np.mean(found, axis=0)) if found else p


def decided(outputs: Outputs, sums: Sums, deadline: float) -> Outputs:
    """Return what is known with the bits that the sums name, as long as there are more of them and time."""
    while not outputs.known.all() and time.monotonic() < deadline:
        open_ones = np.flatnonzero(~outputs.known.all(axis=1))
        costs = _costs(outputs)
        before = outputs
        for f in open_ones:
            if time.monotonic() < deadline:
                outputs = _with_filter(outputs, sums, int(f), costs[f])
        if (outputs.known == before.known).all():
            break
    return outputs


def _costs(outputs: Outputs) -> FloatArray:
    """Return what it costs an output to be off, against being on: more, the larger it typically is."""
    costs = np.ones(outputs.dy.shape)
    if outputs.family is None:
        return costs
    entries = ~outputs.known
    values = np.maximum(typical(outputs.family, entries.ravel()), 0.0)
    unit = float(np.median(values)) or 1.0
    costs[entries] += np.minimum(DEARER * values / unit, DEAREST)
    return costs


def _with_filter(outputs: Outputs, sums: Sums, f: int, costs: FloatArray) -> Outputs:
    """Return what is known with the bits of one filter, if its sum names them and the family allows them."""
    entries, dy = ~outputs.known[f], outputs.dy[f]
    felt = np.abs(dy) > FELT * SUM * sums.noise[f]
    if not felt[entries].all():
        return outputs
    missing = sums.total[f] - dy[entries].sum() - dy[outputs.on[f] & outputs.known[f]].sum()
    off = cheapest_subset(-dy[entries], costs[entries], float(missing), SUM * float(sums.noise[f]))
    if off is None:
        return outputs
    known, on = outputs.known.copy(), outputs.on.copy()
    known[f], on[f, entries] = True, ~off
    family = outputs.family
    if family is not None:
        zero = np.zeros(outputs.dy.shape, dtype=bool)
        zero[f, np.flatnonzero(entries)[off]] = True
        family = _without(family, zero.ravel())
        if family is None:
            return outputs
    return replace(outputs, known=known, on=on, family=family)


def _without(family: Family, zero: BoolArray) -> Family | None:
    """Return the family of which some entries are zero, `None` if no point of it has these zeros."""
    V, p = family.V[zero], family.p[zero]
    if not zero.any() or not V.shape[1]:
        return family if (np.abs(p) <= SLACK * family.noise[zero]).all() else None
    U, s, Vt = la.svd(V, full_matrices=True, check_finite=False)
    rank = int(np.count_nonzero(s > SMALL))
    by_row = (U[:, :rank] / s[:rank]).T
    w = -Vt[:rank].T @ (by_row @ p)
    shown = Vt[:rank].T @ by_row  # what an error of p does to w
    moved = np.sqrt(((family.V @ shown) ** 2) @ family.noise[zero] ** 2)
    noise = np.hypot(family.noise, moved)
    at = family.p + family.V @ w
    if not (np.abs(at[zero]) <= SLACK * noise[zero]).all():
        return None
    return Family(np.where(zero, 0.0, at), family.V @ Vt[rank:].T, np.where(zero, np.finfo(float).tiny, noise))
