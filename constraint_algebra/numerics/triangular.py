"""Solving with triangular factors: for single right-hand sides BLAS has a function that is several times as fast."""

from __future__ import annotations

import numpy as np
from scipy.linalg import blas

from constraint_algebra.arrays import RealArray

SINGLY = 4  # right-hand sides up to which they are solved one by one


def cholesky_solve(U: RealArray, v: RealArray) -> RealArray:
    """Return `(U^T U)^-1 v` for an upper triangular U in LAPACK's order and v `(rows, n)`; what lies below is ignored.

    >>> U = np.asfortranarray([[2.0, 1.0], [0.0, 1.0]])
    >>> cholesky_solve(U, U.T @ U @ [[1.0], [3.0]])
    array([[1.],
           [3.]])
    """
    v = np.array(v, order="F")
    if not v.size:
        return v
    for transposed in (1, 0):
        v = _solved(U, v, transposed)
    return v


def divide(L: RealArray, v: RealArray, *, transposed: bool = False) -> RealArray:
    """Replace v, rows in one run of memory, by L^-1 v, or by L^-T v, and return it; L is lower triangular."""
    if not v.size:
        return v
    # As v^T L^-T: the transpose is in BLAS's own order, and no copy is made.
    trsm = blas.get_blas_funcs(("trsm",), (L, v))[0]
    trsm(1.0, L, v.T, side=1, lower=1, trans_a=int(not transposed), overwrite_b=1)
    return v


def _solved(U: RealArray, v: RealArray, transposed: int) -> RealArray:
    """Return v, in LAPACK's order, divided by U or by its transpose; v is overwritten."""
    if v.shape[1] <= SINGLY:
        trsv = blas.get_blas_funcs(("trsv",), (U, v))[0]
        for column in v.T:
            trsv(U, column, trans=transposed, overwrite_x=1)
        return v
    trsm = blas.get_blas_funcs(("trsm",), (U, v))[0]
    return np.asarray(trsm(1.0, U, v, trans_a=transposed, overwrite_b=1))
