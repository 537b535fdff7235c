"""The blocks into which a sparse matrix falls apart: the connected components of its rows and columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

from constraint_algebra.arrays import IntArray


class Component(NamedTuple):
    """A connected component: its rows and columns, ascending."""

    rows: IntArray
    columns: IntArray


def blocks(matrix: sp.csr_array) -> list[Component]:
    """Return the connected components of the stored entries, in the order of their first column.

    A column without an entry is a component without rows. Rows without an entry belong to no component.
    """
    m, n = matrix.shape
    if n == 0:
        return []
    row, column = matrix.tocoo().coords
    both = sp.csr_array((np.ones(matrix.nnz, dtype=np.int32), (row, m + column)), shape=(m + n, m + n))
    label = csgraph.connected_components(both, directed=False)[1][m:]
    names, first, of_column = np.unique(label, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[of_column]  # components counted by their first column
    filled = np.flatnonzero(np.diff(matrix.indptr))
    of_row = number[matrix.indices[matrix.indptr[filled]]]
    columns = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number, minlength=len(names)))[:-1])
    rows = np.split(
        filled[np.argsort(of_row, kind="stable")], np.cumsum(np.bincount(of_row, minlength=len(names)))[:-1]
    )
    return [Component(r, c) for r, c in zip(rows, columns, strict=True)]
