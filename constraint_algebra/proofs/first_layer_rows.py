"""What the equations of a first layer leave open in the model's input, where an affine map lies between the two."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from constraint_algebra import memory
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.equations.systems import weight_equations
from constraint_algebra.layers.base import PlacedLayer, Shape
from constraint_algebra.numerics.rows import unit_rows
from constraint_algebra.proofs.patches import PatchKernel, patches
from constraint_algebra.solvers.gradient_rows import GradientRows
from constraint_algebra.solvers.null_space import RTOL, TOLERANCE, Kernel, NullSpace, rank_of

SAME = 1e-12  # relative difference of factors that are one


def kernel_of(
    layer: PlacedLayer,
    output_gradient: FloatArray,
    weight: FloatArray,
    kept: BoolArray,
    reads: sp.csr_array,
    shape: Shape,
    *,
    rtol: float = RTOL,
    tolerance: float = TOLERANCE,
) -> Kernel:
    """Return what a layer's gradient rows and some of its weight rows leave open in the input of the model.

    Args:
        layer: the layer.
        output_gradient: its k.
        weight: its weight.
        kept: which of its outputs are kept, flat.
        reads: the layer's flat input as a matrix over the model's.
        shape: of the model's input.
        rtol: singular values below this share of the largest count as zero.
        tolerance: row norm of the basis up to which an unknown counts as fixed.

    Raises:
        MemoryLimitError: what is left open is too much to be held.
    """
    order, windows = _order(layer, reads), patches(layer)
    if order is not None and windows is not None and kept.all():
        by_filter = weight.reshape(layer.filters, -1) * reads.data[windows[:, 0]]
        k = output_gradient.reshape(layer.filters, -1)
        return PatchKernel(order[windows], by_filter, k, shape, rtol=rtol, tolerance=tolerance)
    rows = GradientRows(layer, output_gradient[None], rtol=rtol)
    weight_rows = sp.csr_array((0, layer.unknowns))
    if kept.any():
        weight_rows = unit_rows(sp.csr_array(weight_equations(layer, weight).matrix[kept]))[0]
    if order is None:
        every = sp.csr_array(sp.vstack([rows.matrix, weight_rows]) @ reads)
        return DenseKernel(every, shape, rtol=rtol, tolerance=tolerance)
    _demand(len(order), rows.open_count, weight_rows.shape[0])
    factors = np.asarray(reads.sum(axis=1)).ravel()
    # One factor a channel: gradient rows of a channel stay what they are.
    scaled = unit_rows(sp.csr_array(weight_rows * factors[None]))[0]
    own = NullSpace(layer, output_gradient[None], scaled, rtol=rtol, tolerance=tolerance)
    return ReorderedKernel(own, order, shape)


def _order(layer: PlacedLayer, reads: sp.csr_array) -> NDArray[np.intp] | None:
    """Return which input value each value of the layer's input is, up to one factor a channel; `None` if it is more."""
    n = reads.shape[1]
    if reads.shape[0] != n or reads.nnz != n or (np.diff(reads.indptr) != 1).any() or not reads.data.all():
        return None
    if len(np.unique(reads.indices)) < n:
        return None
    factors = reads.data.reshape(layer.channels, -1)
    if (np.abs(factors - factors[:, :1]) > SAME * np.abs(factors[:, :1])).any():
        return None
    return np.asarray(reads.indices, dtype=np.intp)


def _demand(unknowns: int, opens: int, rows: int) -> None:
    """Refuse what the memory does not hold: what is open, and what the weight rows see of it, with its factors."""
    memory.demand(
        f"the twins of an input of {unknowns:,} values, of which the gradient of the first layer leaves"
        f" {opens:,} directions open,",
        8.0 * opens * (2 * unknowns + 3 * rows),
        "take a smaller input or model",
    )


class ReorderedKernel(Kernel):
    """The kernel of a layer's equations, its unknowns in another order.

    Args:
        own: the kernel in the order of the layer's flat input.
        order: which unknown each of those is.
        shape: shape of the unknowns.
    """

    def __init__(self, own: NullSpace, order: NDArray[np.intp], shape: Shape) -> None:
        """Bring the basis into order."""
        self._own, self._order, self.shape = own, order, shape
        self.tolerance, self.gap, self.blur, self.plain = own.tolerance, own.gap, own.blur, own.plain
        self._place = np.argsort(order)
        self.basis = own.basis[self._place]
        self._matrix = sp.csr_array(own.matrix[:, self._place])

    @property
    def matrix(self) -> sp.csr_array:
        """All rows that count, gradient rows first, each of unit norm."""
        return self._matrix

    def multipliers(self, vectors: FloatArray) -> FloatArray:
        """Return λ with `matrix^T λ = vectors` for flat vectors in columns, up to their part in the null space."""
        return self._own.multipliers(vectors[self._order])


class DenseKernel(Kernel):
    """The kernel of any rows, by the singular values of all of them at once.

    Args:
        rows: the rows, of any norm; rows of zeros are left out.
        shape: shape of the unknowns.
        rtol: singular values below this share of the largest count as zero.
        tolerance: row norm of the basis up to which an unknown counts as fixed.

    >>> DenseKernel(sp.csr_array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]), (3,)).nullity
    2
    """

    def __init__(self, rows: sp.csr_array, shape: Shape, *, rtol: float = RTOL, tolerance: float = TOLERANCE) -> None:
        """Factor the rows."""
        count, unknowns = rows.shape
        memory.demand(
            f"{count:,} equations in {unknowns:,} input values,", 32.0 * count * unknowns, "take a smaller input"
        )
        self.shape, self.tolerance = shape, tolerance
        some = np.diff(rows.indptr) > 0
        self._matrix = unit_rows(sp.csr_array(rows[some]))[0]
        dense = self._matrix.toarray()
        size = float(np.sqrt(abs(dense).sum(axis=0).max(initial=0.0) * abs(dense).sum(axis=1).max(initial=0.0))) or 1.0
        self._rank = rank_of(dense, rtol * size)
        self.basis, self.plain = self._rank.null, len(dense)
        self.blur = np.ones(len(dense))
        self.gap = (self._rank.least / size if self._rank.rank else 1.0, self._rank.dropped / size)

    @property
    def matrix(self) -> sp.csr_array:
        """All rows that count, each of unit norm."""
        return self._matrix

    def multipliers(self, vectors: FloatArray) -> FloatArray:
        """Return λ with `matrix^T λ = vectors` for flat vectors in columns, up to their part in the null space."""
        return self._rank.left @ self._rank.explained(self._rank.right @ vectors)
