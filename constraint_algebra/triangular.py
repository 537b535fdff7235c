"""Solving with triangular factors: for single right-hand sides BLAS has a function that is several times as fast."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

FloatArray = NDArray[Any]  # of either precision

SINGLY = 4  # right-hand sides up to which they are solved one by one


def cholesky_solve(U: FloatArray, v: FloatArray) -> FloatArray:
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
        v = _solved(U, v, lower=0, transposed=transposed)
    return v


def divide(L: FloatArray, v: FloatArray, *, transposed: bool = False) -> FloatArray:
    """Replace v, rows in one run of memory, by L^-1 v, or by L^-T v, and return it; L is lower triangular."""
    if not v.size:
        return v
    if v.shape[1] == 1:
        _solved(L, v, lower=1, transposed=int(transposed))
        return v
    # As v^T L^-T: the transpose is in BLAS's own order, and no copy is made.
    trsm = blas.get_blas_funcs(("trsm",), (L, v))[0]
    trsm(1.0, L, v.T, side=1, lower=1, trans_a=int(not transposed), overwrite_b=1)
    return v


def _solved(T: FloatArray, v: FloatArray, *, lower: int, transposed: int) -> FloatArray:
    """Return v, whose columns or whose rows lie in one run of memory, divided by T; v is overwritten."""
    if v.shape[1] <= SINGLY:
        trsv = blas.get_blas_funcs(("trsv",), (T, v))[0]
        for column in v.T:
            trsv(T, column, lower=lower, trans=transposed, overwrite_x=1)
        return v
    trsm = blas.get_blas_funcs(("trsm",), (T, v))[0]
    return np.asarray(trsm(1.0, T, v, lower=lower, trans_a=transposed, overwrite_b=1))
