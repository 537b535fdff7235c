"""Stage one: the gradient equations of one channel, cut into independent blocks and factored.

A stride splits the taps and pixels of a layer into residue classes that never meet, and zeros in the output gradient
may split them further: each connected component of the constraint graph is a block of its own. One singular value
decomposition of a block serves all channels of its group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from constraint_algebra.equations import gradient_block
from constraint_algebra.layers import PlacedLayer

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]


@dataclass(frozen=True)
class Block:
    """The thin singular value decomposition `left · diag(singular) · right^T` of one independent block.

    Attributes:
        group: group of the layer.
        rows: its gradient rows (f, t) as flat indices within the group, shape `(rows,)`.
        columns: its input positions, shape `(columns,)`.
        left: shape `(rows, r)`.
        singular: descending, shape `(r,)`; zeros to rounding are left out.
        right: shape `(columns, r)`.
    """

    group: int
    rows: IntArray
    columns: IntArray
    left: FloatArray
    singular: FloatArray
    right: FloatArray

    def weak_count(self, strong: float) -> int:
        """Return the dimension of what singular values above `strong` leave open."""
        return len(self.columns) - int(np.count_nonzero(self.singular > strong))

    def weak_basis(self, strong: float) -> FloatArray:
        """Return an orthonormal basis of what is left open: weak right singular vectors first, then the null space."""
        return np.hstack([self.right[:, self.singular <= strong], self._null])

    @cached_property
    def _null(self) -> FloatArray:
        q, r = self.right.shape
        if q == r:
            return np.zeros((q, 0))
        if r == 0:
            return np.eye(q)
        return np.asarray(la.qr(self.right)[0][:, r:])


def gradient_blocks(layer: PlacedLayer, output_gradient: FloatArray, rows: BoolArray, scale: FloatArray) -> list[Block]:
    """Return the factored blocks of all groups; every input position lies in exactly one block of its group.

    Args:
        layer: the layer.
        output_gradient: k in the output shape.
        rows: which gradient rows count, shape `(filters, taps)`.
        scale: factor of each row, shape `(filters, taps)`.
    """
    blocks: list[Block] = []
    for group in range(layer.groups):
        pattern = gradient_block(layer, group)
        k = sp.csr_array((output_gradient.ravel()[pattern.data - 1], pattern.indices, pattern.indptr), pattern.shape)
        keep = rows.reshape(layer.groups, -1)[group]
        factors = np.where(keep, scale.reshape(layer.groups, -1)[group], 0.0)
        A = sp.csr_array(k * factors[:, None])
        A.eliminate_zeros()
        blocks += [_factor(group, A, part, columns) for part, columns in _components(A)]
    return blocks


def _components(A: sp.csr_array) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield rows and columns of each connected component, columns without any row together as one."""
    m, _ = A.shape
    _, labels = connected_components(sp.block_array([[None, A], [A.T, None]], format="csr"), directed=False)
    row_label, column_label = labels[:m], labels[m:]
    touched = np.isin(column_label, row_label)
    if not touched.all():
        yield np.zeros(0, dtype=np.intp), np.flatnonzero(~touched)
    order_rows, order_columns = np.argsort(row_label, kind="stable"), np.argsort(column_label, kind="stable")
    for label in np.unique(column_label[touched]):
        yield (
            order_rows[slice(*np.searchsorted(row_label[order_rows], (label, label + 1)))],
            order_columns[slice(*np.searchsorted(column_label[order_columns], (label, label + 1)))],
        )


def _factor(group: int, A: sp.csr_array, rows: IntArray, columns: IntArray) -> Block:
    if not len(rows):
        empty = np.zeros((len(columns), 0))
        return Block(group, rows, columns, np.zeros((0, 0)), np.zeros(0), empty)
    dense = A[rows][:, columns].toarray()
    Q = None
    if dense.shape[0] > 2 * dense.shape[1]:
        Q, dense = la.qr(dense, mode="economic")
    U, s, Vt = la.svd(dense, full_matrices=False)
    keep = s > s[0] * max(dense.shape) * np.finfo(float).eps
    left = U[:, keep] if Q is None else Q @ U[:, keep]
    return Block(group, rows, columns, left, s[keep], Vt[keep].T)
