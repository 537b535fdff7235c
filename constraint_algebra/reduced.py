"""A small dense least-squares problem: what the first stage of the elimination leaves to the second."""

from __future__ import annotations

import numpy as np
import scipy.linalg as la
from numpy.typing import NDArray
from scipy.linalg import lapack

FloatArray = NDArray[np.float64]


class Reduced:
    """A dense least-squares problem, factored by QR; by a singular value decomposition of R where that is singular.

    Attributes:
        kept: largest and smallest singular value that count, or all that do.
        rank: how many do.
        null: orthonormal basis of what the others leave open, as columns.
    """

    def __init__(self, matrix: FloatArray, cut: float) -> None:
        """Factor the matrix; singular values up to `cut` count as zero."""
        missing = max(0, matrix.shape[1] - matrix.shape[0])
        self._padding = ((0, missing), (0, 0))  # LAPACK applies a wide factor to no right-hand side
        matrix = np.pad(matrix, self._padding) if missing else matrix
        self._qr, self._tau = la.qr(matrix, mode="raw", overwrite_a=True, check_finite=False)[0]
        n = self._qr.shape[1]
        self._R = np.triu(self._qr[:n])
        self.rank, self.null = n, np.zeros((n, 0))
        self._U: FloatArray | None = None
        # The norm of R^-1 decides nearly always; singular values cost several times the factorisation.
        inverse, singular = lapack.dtrtri(self._R)
        if not singular and np.linalg.norm(inverse) * cut < 1:
            self.kept = np.array([np.linalg.norm(self._R), 1 / np.linalg.norm(inverse)])
            return
        U, s, Vt = la.svd(self._R, full_matrices=True)
        keep = s > cut
        self.kept, self.rank = s[keep], int(np.count_nonzero(keep))
        self.null = np.ascontiguousarray(Vt[self.rank :].T)
        self._U, self._V = U[:, : len(s)][:, keep], Vt[: len(s)][keep].T

    def solve(self, rhs: FloatArray) -> FloatArray:
        """Return the solution of least norm for every column of `rhs`."""
        rhs = np.pad(rhs, self._padding)
        work = lapack.dormqr("L", "T", self._qr, self._tau, rhs, -1)[1]
        rotated = lapack.dormqr("L", "T", self._qr, self._tau, rhs, int(work[0]))[0][: len(self._R)]
        if self._U is None:
            return np.asarray(la.solve_triangular(self._R, rotated, check_finite=False))
        return np.asarray(self._V @ ((self._U.T @ rotated) / self.kept[:, None]))
