"""Points of a family that may have many values on plateaus: all vertices, or some that linear programmes return."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import combinations, product
from math import comb
from typing import Any

import numpy as np
from scipy.optimize import linprog

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.beyond_rank.evidence import Question
from constraint_algebra.numerics.rows import row_norms

MANY = 2_000_000  # values of all vertices together up to which all are computed: 20 ms
_SLACK = 4.0  # standard deviations by which the range may be missed
_FLAT = 1e-6  # smallest determinant of unit rows that counts as a vertex
_TINY = 1e-8  # coefficients of unit rows below this are left out: HiGHS drops some of them and fails
_HIGHS = {
    "primal_feasibility_tolerance": 1e-10,
    "dual_feasibility_tolerance": 1e-10,
    "presolve": False,
    "time_limit": 10.0,
}


def few(question: Question) -> bool:
    """Whether all vertices can be computed."""
    rows, d, levels = int(question.telling.sum()), question.V.shape[1], len(question.levels)
    return bool(d <= rows and comb(rows, d) * levels**d * len(question.p) <= MANY)


def all_vertices(question: Question, most: int = 100) -> Iterator[FloatArray]:
    """Yield the points where d rows lie on plateaus and at least one other seems to, the sparsest first."""
    d, rows = question.V.shape[1], np.flatnonzero(question.telling)
    chosen = np.array(list(combinations(rows, d)), dtype=np.intp).reshape(-1, d)
    unit = question.V[chosen] / row_norms(question.V)[chosen][..., None]
    chosen = chosen[np.abs(np.linalg.det(unit)) > _FLAT]
    found, counts = [np.empty((0, len(question.p)))], [np.empty(0, dtype=np.intp)]
    for level in product(question.levels, repeat=d):
        y = np.linalg.solve(question.V[chosen], (np.array(level) - question.p[chosen])[..., None])[..., 0]
        x = question.p + y @ question.V.T
        rough = 1e-6 * question.scale + 1e3 * question.noise
        inside = ((x > question.low - rough) & (x < question.high + rough)).all(axis=1)
        gap = np.min([np.abs(x - plateau) for plateau in question.levels], axis=0)
        count = ((gap <= rough) & question.telling).sum(axis=1)
        keep = inside & (count > d)
        found.append(x[keep])
        counts.append(count[keep])
    points, number = np.concatenate(found), np.concatenate(counts)
    seen: set[bytes] = set()
    for k in np.argsort(-number, kind="stable"):
        key = (np.round(points[k] / (1e-5 * question.scale)) + 0.0).tobytes()  # no -0
        if key not in seen:
            seen.add(key)
            yield points[k]
        if len(seen) >= most:
            return


class Programmes:
    """Linear programmes over a family within its range, by their duals: d equations, however many values there are."""

    def __init__(self, question: Question) -> None:
        """Take the rows that can be seen to move."""
        self.rows: BoolArray = question.telling
        self.unit, self.low, self.high = question.scale, question.low, question.high
        self.p, self.V = question.p[self.rows], question.V[self.rows]
        self.size = row_norms(self.V)
        normals = (self.V / self.size[:, None]).T
        tiny = np.abs(normals) < _TINY
        self.normals = np.where(tiny, 0.0, normals)
        left_out = question.scale * self.size * (np.abs(normals) * tiny).sum(axis=0)
        slack = _SLACK * (question.noise[self.rows] + left_out)
        sides, room = [np.empty((self.V.shape[1], 0))], [np.empty(0)]
        if np.isfinite(self.low):
            sides.append(self.normals)
            room.append((self.p - self.low + slack) / self.size)
        if np.isfinite(self.high):
            sides.append(-self.normals)
            room.append((self.high - self.p + slack) / self.size)
        self.sides, self.room = np.hstack(sides), np.concatenate(room)

    def minimise(
        self, weight: FloatArray, level: FloatArray, cut: tuple[FloatArray, float] | None = None
    ) -> FloatArray | None:
        """Return y for the least `weight · |x - level|` over the rows taken.

        With a `cut`, x has to lie in the half-space `a · x >= least`. `None` where HiGHS finds nothing.
        """
        slope = weight * ((level == self.low) * 1.0 - (level == self.high))  # a bound is not crossed: no kink there
        bend = np.where(slope == 0, weight, 0.0)
        kinks = bool(bend.any())
        columns, costs = [self.sides], [self.room]
        bounds = [np.tile([0.0, np.inf], (len(self.room), 1))]
        if kinks:
            columns.append(-self.normals)
            costs.append((level - self.p) / self.size)
            bounds.append(np.column_stack([-bend * self.size, bend * self.size]))
        if cut is not None:
            a, least = cut
            columns.append((self.V.T @ a)[:, None])
            costs.append(np.array([a @ self.p - least]))
            bounds.append(np.array([[0.0, np.inf]]))
        solved: Any = None
        solve: Any = linprog  # its stubs want bounds as tuples
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                solved = solve(
                    np.concatenate(costs) / self.unit,
                    A_eq=np.hstack(columns),
                    b_eq=self.V.T @ slope,
                    bounds=np.concatenate(bounds),
                    method="highs-ds",
                    options=_HIGHS,
                )
            except ValueError:  # coefficients that HiGHS does not take: the next objective
                return None
        if solved is None or solved.status != 0:
            return None
        y = -self.unit * np.asarray(solved.eqlin.marginals)
        return y if np.isfinite(y).all() else None
