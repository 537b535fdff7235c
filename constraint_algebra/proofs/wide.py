"""Sets whose kernel is too wide for a basis: points and bounds by sparse products alone.

What a linear program would need is dense and as wide as the kernel. Points come from a logarithmic barrier instead, and
bounds from its multipliers by weak duality: both hold, and need not meet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import UnknownNameError
from constraint_algebra.proofs.barrier import Barrier, Limits
from constraint_algebra.proofs.polytope import ROOM, ROUNDING, Optimum, Polytope
from constraint_algebra.regions.sparse_kernel import SparseKernel

SHIFT = 1e-3  # by which limits that the anchor lies on are widened at first, in the range
PUSHES = 12  # steps away from these
AWAY = 1e-7  # as far as which counts
TRIES = 4  # at most, the last of which leaves no such limit


@dataclass(frozen=True, eq=False)
class WidePolytope(Polytope):
    """A set of differences with a kernel of sparse rows; see `Polytope`.

    Attributes:
        null: what the equations leave open.
    """

    null: SparseKernel

    @property
    def dimension(self) -> int:
        """Dimension of the set, or less where the anchor lies on limits that a search found no way from."""
        return self._face.nullity

    @property
    def interior(self) -> tuple[FloatArray, Callable[[FloatArray], FloatArray]]:
        """A point inside the set, and the projection on the directions in which the set has room there."""
        return self._start[0], self._face.project

    @property
    def _face(self) -> SparseKernel:
        return self._start[1]

    def prepare(self) -> None:
        """Compute what every call needs, before copies go to other processes."""
        _ = self._start

    def drawn(self, rng: np.random.Generator) -> FloatArray:
        """Return a random direction in which the set has room."""
        return self._face.project(rng.standard_normal(len(self.lower)))

    @cached_property
    def _start(self) -> tuple[FloatArray, SparseKernel]:
        """Return a point with room to all limits, and the kernel in which it has."""
        anchor, free = np.zeros(len(self.lower)), self._tight_rows(self._limits)
        face, rows = self.null, [self.null.matrix]
        for tries in range(TRIES + 1):
            if not free.shape[0] or not face.nullity:
                return anchor, face  # with room to all that can still move
            point = self._pushed(face, free)
            stuck = np.asarray(free @ point > -AWAY)
            if not stuck.any():
                return point, face
            # No way was found from these: they are taken for equations, which leaves a part of the set.
            stuck |= tries == TRIES - 1
            rows.append(free[stuck])
            free = free[~stuck]
            face = SparseKernel(sp.csr_array(sp.vstack(rows, format="csr")), face.shape, tolerance=face.tolerance)
        raise AssertionError("the last try leaves nothing free")

    def _pushed(self, kernel: SparseKernel, tight: sp.csr_array) -> FloatArray:
        """Return a point with room to limits that the anchor lies on, where a few steps find one."""
        L, most = self._limits, SHIFT * float((self.upper - self.lower).max())
        wide = Limits(
            L.cut,
            np.where(L.slack <= ROOM, L.slack + most, L.slack),
            np.where(L.lower >= -ROOM, L.lower - most, L.lower),
            np.where(L.upper <= ROOM, L.upper + most, L.upper),
        )
        barrier = Barrier(wide, kernel.roughly, np.zeros(len(self.lower)))
        weight = barrier.weight
        for _ in range(PUSHES):
            missing = tight @ barrier.point > -AWAY
            if not missing.any():
                break
            away = kernel.roughly(-(tight.T @ missing.astype(float)))
            size = float(la.norm(away))
            if size <= ROUNDING:
                break
            barrier.step(weight / size * away)
            weight *= 2
        return kernel.project(barrier.point)

    def _tight_rows(self, limits: Limits) -> sp.csr_array:
        """Return the rows of all limits that the anchor lies on."""
        one = sp.csr_array(sp.eye_array(len(limits.lower), format="csr"))
        rows = [limits.cut[limits.slack <= ROOM], one[limits.upper <= ROOM], -one[limits.lower >= -ROOM]]
        return sp.csr_array(sp.vstack(rows, format="csr"))

    def _barrier(self) -> Barrier:
        return Barrier(self._limits, self._face.roughly, self._start[0])

    def maximise(self, c: FloatArray, *, time_limit: float | None = None, solver: str | None = None) -> Optimum:
        """Return a feasible point and both bounds of the largest `c·n`; they hold, and need not meet.

        Args:
            c: the objective, flat.
            time_limit: seconds after which no step is begun.
            solver: there is one alone; `None`.

        Raises:
            UnknownNameError: a solver of another set.
        """
        if solver is not None:
            raise UnknownNameError(f"a set that keeps the first layers has one way to its points; leave out {solver!r}")
        mu, bounds, point = np.zeros(len(self.slack)), np.zeros(len(c)), np.zeros(len(c))
        if self.dimension and la.norm(self._face.project(c)) > ROUNDING * la.norm(c):
            barrier = self._barrier()
            barrier.largest(c, _deadline(time_limit), mu, bounds)
            point = barrier.point
        return self._optimum(c, point, mu, bounds)

    def nearest(self, target: FloatArray, *, time_limit: float | None = None) -> FloatArray:
        """Return about the feasible n nearest to a flat target, in the Euclidean norm."""
        if not self.dimension:
            return np.zeros(len(target))
        barrier = self._barrier()
        barrier.nearest(target, _deadline(time_limit))
        return self.draw_in(barrier.point)

    def bound(self, c: FloatArray, *, widen: float, time_limit: float | None = None) -> float:
        """Return an upper bound of `c·n`, as for `Polytope`."""
        del widen  # nothing is solved for a point
        return self.maximise(c, time_limit=time_limit).outer


def _deadline(time_limit: float | None) -> float:
    return np.inf if time_limit is None else time.monotonic() + time_limit
