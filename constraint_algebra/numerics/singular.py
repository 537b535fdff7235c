"""Singular values and vectors, of every finite matrix.

LAPACK's fast driver, divide and conquer, gives up on a few finite matrices, most of them with many singular values at
the level of rounding. The slower one, by QR steps, does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg as la
from numpy.typing import NDArray

from constraint_algebra.arrays import FloatArray


def svd(matrix: NDArray[np.floating[Any]], *, full_matrices: bool = True) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return U, the singular values from the largest down, and the transpose of V, as `scipy.linalg.svd` does.

    Raises:
        scipy.linalg.LinAlgError: the matrix is not finite.

    >>> svd(np.diag([1.0, 2.0]))[1]
    array([2., 1.])
    """
    try:
        found = la.svd(matrix, full_matrices=full_matrices, check_finite=False)
    except la.LinAlgError:
        if not np.isfinite(matrix).all():
            raise
        found = la.svd(matrix, full_matrices=full_matrices, check_finite=False, lapack_driver="gesvd")
    U, s, Vt = found
    return U, s, Vt
