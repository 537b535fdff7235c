"""Norms of rows, and the gap between singular values that count and those that do not."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import NonFiniteError

EPSILON = float(np.finfo(float).eps)


def row_norms(matrix: FloatArray) -> FloatArray:
    """Return the Euclidean norm of each row."""
    return np.asarray(np.sqrt((matrix**2).sum(axis=1)))


def unit_rows(rows: sp.csr_array) -> tuple[sp.csr_array, FloatArray]:
    """Return the rows scaled to unit norm, and the factors; a row of zeros stays one.

    Raises:
        NonFiniteError: NaN or infinity among the entries.
    """
    if not np.isfinite(rows.data).all():
        entry = int(np.argmin(np.isfinite(rows.data)))
        row, column = int(np.searchsorted(rows.indptr, entry, side="right")) - 1, int(rows.indices[entry])
        raise NonFiniteError(
            "values",
            (row, column),
            f"coefficients must be finite, got {rows.data[entry]} in equation {row} at unknown {column};"
            " give finite values, or leave such equations out with select(mask)",
        )
    norms = np.sqrt((rows.multiply(rows)).sum(axis=1))
    factors = 1 / np.where(norms > 0, norms, 1.0)
    return sp.csr_array(rows * factors[:, None]), factors


def gap_at(sigma: FloatArray, rank: int) -> tuple[float, float]:
    """Return the last singular value counted and the first not counted, NaN where there is none."""
    last, first = sigma[rank - 1 : rank], sigma[rank : rank + 1]
    return float(last[0]) if rank and len(last) else np.nan, float(first[0]) if len(first) else np.nan
