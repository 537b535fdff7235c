"""Linear programmes with many sparse rows: a primal-dual interior-point method (Mehrotra 1992) on a banded factor.

    maximise  c·x    subject to  A x <= r,  lower <= x <= upper

HiGHS takes several times as long where thousands of rows meet few unknowns each, and always goes to the end. Callers
here need a point on the way: it stops at a gap, however coarse. Nothing about the result is believed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra.arrays import FloatArray
from constraint_algebra.numerics.banded_normal import BandedNormal

STEP = 0.995  # share of the way to the nearest bound
START = 0.1  # distance from all bounds, and multipliers, in the sizes of x and c
FREE = 1e-12  # on the diagonal of an unknown without bounds, as a share of the largest entry


@dataclass(frozen=True, eq=False)
class Programme:
    """The rows and bounds, for several objectives.

    Attributes:
        A: sparse rows, `(m, n)`.
        normal: of the same rows.
        r: right-hand sides, `(m,)`.
        lower: bounds of each unknown, infinite where there is none, `(n,)`.
        upper: the same from above.
    """

    A: sp.csr_array
    normal: BandedNormal
    r: FloatArray
    lower: FloatArray
    upper: FloatArray

    def maximised(
        self, c: FloatArray, start: FloatArray, *, steps: int, gap: float, deadline: float = np.inf
    ) -> FloatArray:
        """Return a point near the optimum, `(n,)`; rows and bounds hold about as well as the gap is small.

        Args:
            c: objective, `(n,)`.
            start: where to begin, between the bounds if need be, `(n,)`.
            steps: most steps.
            gap: between the objective and its bound, relative to the objective, at which to stop.
            deadline: `time.monotonic()` at which to stop.

        >>> A = sp.csr_array(np.array([[1.0, 1.0]]))
        >>> square = Programme(A, BandedNormal(A), np.array([1.5]), np.zeros(2), np.ones(2))
        >>> square.maximised(np.array([2.0, 1.0]), np.full(2, 0.5), steps=30, gap=1e-9).round(6)
        array([1. , 0.5])
        """
        search = _Search(self, c / (np.abs(c).max() or 1.0), start)
        for _ in range(steps):
            try:
                left = search.step()
            except la.LinAlgError:
                break
            if left <= gap or time.monotonic() > deadline:
                break
        return search.x


class _Search:
    """One programme on its way: the point x, distances w from all bounds, multipliers z of these."""

    def __init__(self, programme: Programme, c: FloatArray, start: FloatArray) -> None:
        self.P, self.c, self.x = programme, c, start
        self.m = len(programme.r)
        self.high, self.low = np.flatnonzero(np.isfinite(programme.upper)), np.flatnonzero(np.isfinite(programme.lower))
        self.h = np.concatenate([programme.r, programme.upper[self.high], -programme.lower[self.low]])
        self.w = np.maximum(self.h - self.rows(start), START * (float(np.abs(start).max()) or 1.0))
        self.z = START / self.w

    def rows(self, x: FloatArray) -> FloatArray:
        """Return the left-hand sides of all bounds."""
        return np.concatenate([self.P.A @ x, x[self.high], -x[self.low]])

    def adjoint(self, z: FloatArray) -> FloatArray:
        """Return the transposed rows times multipliers."""
        found = self.P.A.T @ z[: self.m]
        found[self.high] += z[self.m : self.m + len(self.high)]
        found[self.low] -= z[self.m + len(self.high) :]
        return np.asarray(found)

    def step(self) -> float:
        """Go a step, a look straight ahead telling how much it keeps to the centre; return the relative gap before."""
        w, z = self.w, self.z
        dual, primal, gap = self.adjoint(z) - self.c, self.rows(self.x) + w - self.h, float(w @ z)
        weights = z / w
        diagonal = np.zeros(len(self.x))
        diagonal[self.high] += weights[self.m : self.m + len(self.high)]
        diagonal[self.low] += weights[self.m + len(self.high) :]
        factor = self.P.normal.factor(weights[: self.m], diagonal + FREE * weights.max())

        def direction(products: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
            dx = factor.solve(-dual - self.adjoint((z * primal - products) / w))
            dw = -primal - self.rows(dx)
            return dx, dw, -(products + z * dw) / w

        _, dw, dz = direction(w * z)
        mean = gap / len(w)
        ahead = float((w + _longest(w, dw) * dw) @ (z + _longest(z, dz) * dz)) / len(w)
        dx, dw, dz = direction(w * z + dw * dz - (ahead / mean) ** 3 * mean)
        there, back = STEP * _longest(w, dw), STEP * _longest(z, dz)
        self.x, self.w, self.z = self.x + there * dx, w + there * dw, z + back * dz
        return gap / max(abs(float(self.c @ self.x)), 1.0)


def _longest(values: FloatArray, direction: FloatArray) -> float:
    """Return the longest step up to 1 that keeps values positive."""
    falling = direction < 0
    return min(1.0, float((values[falling] / -direction[falling]).min(initial=np.inf)))
