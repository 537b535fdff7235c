"""The null space of one layer's equations for given values, and the multipliers that explain a vector by its rows.

Gradient equations are the same for every channel, weight equations tie the channels together, so both stages of the
elimination return: the blocks of the gradient equations are factored first, and the weight equations in what these
leave open. Unlike in `two_stage`, nothing here has noise: a row counts or it does not, and all rows have unit norm.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp
from numpy.typing import NDArray

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.equations.systems import gradient_equations
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.rows import row_norms
from constraint_algebra.solvers.gradient_blocks import gradient_blocks

RTOL = 1e-12  # singular values below this share of the largest count as zero
NEGLIGIBLE = 1e-14  # gradient rows below this share of the largest are rounding
TOLERANCE = 1e-8  # share of a null vector up to which an unknown counts as fixed


class NullSpace:
    """The null space of gradient rows and weight rows of one layer.

    Args:
        layer: the layer.
        output_gradients: one k or several, `(number, *output_shape)`; the rows of all of them count.
        weight_rows: weight equations that count, over the flat input, rows of unit norm.
        known: which output gradients are known, in their shape; a gradient row counts where all its k are.
        rtol: singular values below this share of the largest count as zero.
        tolerance: row norm of the basis up to which an unknown counts as fixed.

    Attributes:
        matrix: all rows that count, gradient rows first, each of unit norm.
        basis: orthonormal columns, `(unknowns, nullity)`.
        gradient_rows: which gradient rows (filter, tap) count.
        row_counts, row_scale: the same for each channel and the factors to unit norm, `(channels, rows of its group)`.
        gap: smallest singular value counted and largest not counted, relative to the size of their matrix.

    >>> from constraint_algebra.layers import Linear
    >>> null = NullSpace(Linear(1).place((3,)), np.zeros((1, 1)), sp.csr_array([[0.6, 0.8, 0.0]]))
    >>> null.nullity, null.fixed
    (2, array([False, False, False]))
    """

    def __init__(
        self,
        layer: PlacedLayer,
        output_gradients: FloatArray,
        weight_rows: sp.csr_array,
        known: BoolArray | None = None,
        *,
        rtol: float = RTOL,
        tolerance: float = TOLERANCE,
    ) -> None:
        """Factor both stages."""
        self.layer, self.tolerance, self.weight_rows = layer, tolerance, weight_rows
        wide, k = _side_by_side(layer, output_gradients)
        largest = np.abs(k).max() or 1.0
        size = np.sqrt(trilinear.row_sums(wide, (k / largest) ** 2))
        rows = size > NEGLIGIBLE * (size.max() or 1.0)
        if known is not None:
            unknown = _side_by_side(layer, (~known).astype(float))[1]
            rows &= trilinear.row_sums(wide, unknown) == 0
        scale = np.where(rows, 1 / np.where(rows, size * largest, 1.0), 0.0)
        self.gradient_rows = rows
        self.row_counts = np.repeat(rows.reshape(layer.groups, -1), layer.channels // layer.groups, axis=0)
        self.row_scale = np.repeat(scale.reshape(layer.groups, -1), layer.channels // layer.groups, axis=0)
        A = gradient_equations(wide, k).matrix[self.row_counts.ravel()] * self.row_scale[self.row_counts][:, None]
        self.matrix = sp.csr_array(sp.vstack([A, weight_rows], format="csr"))
        self._blocks = gradient_blocks(wide, k, rows, scale)
        strong = [rtol * block.singular.max(initial=0.0) for block in self._blocks]
        self._strong = [block.singular > cut for block, cut in zip(self._blocks, strong, strict=True)]
        self._open = [block.weak_basis(cut) for block, cut in zip(self._blocks, strong, strict=True)]
        self._second_stage(rtol)

    @property
    def nullity(self) -> int:
        """Dimension of the null space."""
        return int(self.basis.shape[1])

    @cached_property
    def norms(self) -> FloatArray:
        """Row norms of the basis, in the input shape: 0 for an unknown that the equations determine."""
        return row_norms(self.basis).reshape(self.layer.input_shape)

    @property
    def fixed(self) -> BoolArray:
        """Which unknowns the equations determine, in the input shape."""
        return np.asarray(self.norms <= self.tolerance)

    def project(self, vector: FloatArray) -> FloatArray:
        """Return the part of a flat vector inside the null space."""
        return np.asarray(self.basis @ (self.basis.T @ vector))

    def multipliers(self, vectors: FloatArray) -> FloatArray:
        """Return λ with `matrix^T λ = vectors` for flat vectors in columns, up to their part in the null space."""
        number, per_group = vectors.shape[1], self.layer.channels // self.layer.groups
        weight = self._u @ ((self._vt @ self._to_open(vectors)) / self._s[:, None])
        rest = (vectors - self.weight_rows.T @ weight).reshape(self.layer.channels, -1, number)
        gradient = np.zeros((self.layer.channels, self.gradient_rows.size // self.layer.groups, number))
        for block, strong in zip(self._blocks, self._strong, strict=True):
            for channel in range(block.group * per_group, (block.group + 1) * per_group):
                along = (block.right[:, strong].T @ rest[channel][block.columns]) / block.singular[strong][:, None]
                gradient[channel][block.rows] = block.left_singular[:, strong] @ along
        return np.concatenate([gradient[self.row_counts], weight])

    def _second_stage(self, rtol: float) -> None:
        reduced = np.asarray(self._from_rows(self.weight_rows))
        kept = [b.singular[s] / b.singular[0] for b, s in zip(self._blocks, self._strong, strict=True) if s.any()]
        opens = reduced.shape[1]
        u, s, vt = np.zeros((len(reduced), 0)), np.zeros(0), np.zeros((0, opens))
        if reduced.size:
            # A tall matrix first loses its length.
            Q, R = la.qr(reduced, mode="economic") if len(reduced) > opens else (None, reduced)
            u, s, vt = la.svd(R, full_matrices=False)
            u = u if Q is None else Q @ u
        B = abs(self.weight_rows)
        size = math.sqrt(B.sum(axis=0).max() * B.sum(axis=1).max()) if B.nnz else 1.0  # at least the largest of B
        counts = s > rtol * size
        self._u, self._s, self._vt = u[:, counts], s[counts], vt[counts]
        values = np.concatenate([*kept, self._s / size])
        self.gap = (float(values.min(initial=1.0)), float((s[~counts] / size).max(initial=0.0)))
        rank = len(self._s)
        null: FloatArray = np.eye(opens)
        if rank:
            null = np.asarray(la.qr(self._vt.T)[0][:, rank:])
        self.basis = self._from_open(null)

    def _pieces(self) -> list[tuple[int, FloatArray, NDArray[np.intp]]]:
        """Return channel, basis and columns of each open part, in the order of the coordinates."""
        C = self.layer.channels // self.layer.groups
        return [
            (channel, N, block.columns)
            for block, N in zip(self._blocks, self._open, strict=True)
            for channel in range(block.group * C, (block.group + 1) * C)
            if N.shape[1]
        ]

    def _from_rows(self, rows: sp.csr_array) -> FloatArray:
        """Return the rows in the coordinates that the gradient equations leave open."""
        Q, by_column = math.prod(self.layer.positions), rows.tocsc()
        parts = [by_column[:, channel * Q + columns] @ N for channel, N, columns in self._pieces()]
        return np.hstack([np.zeros((rows.shape[0], 0)), *parts])

    def _from_open(self, coordinates: FloatArray) -> FloatArray:
        x, start = np.zeros((self.layer.channels, math.prod(self.layer.positions), coordinates.shape[1])), 0
        for channel, N, columns in self._pieces():
            x[channel][columns] = N @ coordinates[start : start + N.shape[1]]
            start += N.shape[1]
        return x.reshape(self.layer.unknowns, -1)

    def _to_open(self, vectors: FloatArray) -> FloatArray:
        x = vectors.reshape(self.layer.channels, -1, vectors.shape[1])
        parts = [N.T @ x[channel][columns] for channel, N, columns in self._pieces()]
        return np.concatenate([np.zeros((0, vectors.shape[1])), *parts])


def _side_by_side(layer: PlacedLayer, several: FloatArray) -> tuple[PlacedLayer, FloatArray]:
    """Return a layer with the filters of all the output gradients, and these as one."""
    number = len(several)
    k = several.reshape(number, layer.groups, -1, *layer.outputs).swapaxes(0, 1)
    return layer.with_filters(number * layer.filters), k.reshape(-1, *layer.outputs)
