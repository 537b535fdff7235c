"""A small dense least-squares problem: what the first stage of the elimination leaves to the second."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg as la
from numpy.typing import NDArray
from scipy.linalg import lapack

from constraint_algebra.arrays import FloatArray
from constraint_algebra.numerics.singular import svd


class Reduced:
    """A dense least-squares problem `M y = rhs`, factored by QR.

    A tall M is `Q R`; of a wide one the transpose is, and what lies across Q is surely open. Where R is singular, its
    singular values decide.

    Attributes:
        kept: estimates of the largest and smallest singular value that count, or all that do.
        rank: how many do.
        null: orthonormal basis of what the others leave open, as columns.
    """

    def __init__(self, matrix: FloatArray, cut: float) -> None:
        """Factor the matrix, which may be overwritten; singular values up to `cut` count as zero."""
        self._wide = matrix.shape[0] < matrix.shape[1]
        tall = matrix.T if self._wide else matrix
        self._qr, self._tau = la.qr(tall, mode="raw", overwrite_a=True, check_finite=False)[0]
        unknowns, n = matrix.shape[1], self._qr.shape[1]
        self._R = np.triu(self._qr[:n])
        self.rank, null = n, np.zeros((n, 0))
        self._svd: tuple[FloatArray, FloatArray, FloatArray] | None = None
        # The norm of R^-1 decides nearly always; singular values cost several times the factorisation.
        inverse, singular = lapack.dtrtri(self._R)
        with np.errstate(over="ignore", invalid="ignore"):  # many small pivots: beyond the range of numbers
            regular = not singular and np.linalg.norm(inverse) * cut < 1
        if regular:
            self.kept = np.array([_norm(self._R), 1 / _norm(inverse)])
        else:
            U, s, Vt = svd(self._R.T if self._wide else self._R)
            keep = s > cut
            self.kept, self.rank = s[keep], int(np.count_nonzero(keep))
            null = Vt[self.rank :].T
            self._svd = U[:, keep], s[keep], Vt[keep].T
        if self._wide:
            across = np.eye(unknowns, unknowns - n, k=-n)
            null = self._rotate("N", np.hstack([np.pad(null, ((0, unknowns - n), (0, 0))), across]))
        self.null = np.ascontiguousarray(null)

    def solve(self, rhs: FloatArray) -> FloatArray:
        """Return the solution of least norm for every column of `rhs`."""
        n = len(self._R)
        if not self._wide:
            rhs = self._rotate("T", rhs)[:n]
        if self._svd is not None:
            U, s, V = self._svd
            y = V @ ((U.T @ rhs) / s[:, None])
        else:
            y = la.solve_triangular(self._R, rhs, trans="T" if self._wide else "N", check_finite=False)
        return self._rotate("N", np.pad(y, ((0, len(self._qr) - n), (0, 0)))) if self._wide else np.asarray(y)

    def leverages(self, rows: FloatArray) -> FloatArray:
        """Return for each of some rows of M the share that it has in its own fit: 1 where nothing else speaks of it.

        >>> one, two = Reduced(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), 0.0), np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> one.leverages(two)
        array([1. , 0.5])
        """
        if self._wide:
            rows = self._rotate("T", np.asfortranarray(rows.T))[: len(self._R)].T
        if self._svd is not None:
            _, s, V = self._svd
            shares = (rows @ V) / s
        else:
            shares = la.solve_triangular(self._R, rows.T, trans="N" if self._wide else "T", check_finite=False).T
        return np.asarray((shares**2).sum(axis=1))

    def _rotate(self, transposed: str, columns: FloatArray) -> FloatArray:
        """Return Q or its transpose applied to columns."""
        if not columns.shape[1]:
            return columns
        work = lapack.dormqr("L", transposed, self._qr, self._tau, columns, -1)[1]
        return np.asarray(lapack.dormqr("L", transposed, self._qr, self._tau, columns, int(work[0]))[0])


def _norm(triangle: NDArray[np.floating[Any]], steps: int = 8) -> float:
    """Return an estimate of the largest singular value from below, by power iteration."""
    v = np.random.default_rng(0).standard_normal(len(triangle))
    size = float(np.linalg.norm(v))
    for _ in range(steps):
        v = triangle.T @ (triangle @ (v / size))
        size = float(np.linalg.norm(v))
    return float(np.sqrt(size))


def longest(rows: FloatArray) -> float:
    """Return the Euclidean size of the longest row; squares of noise-free rows may overflow."""
    largest = float(np.abs(rows).max(initial=0.0)) or 1.0
    return largest * float(np.sqrt(((rows / largest) ** 2).sum(axis=1)).max(initial=0.0))
