"""The gradient rows of one layer that count, scaled to unit norm, and the independent blocks that they fall into.

The rows are the same for every channel of a group, so that one factored block serves all of them.
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
from constraint_algebra.solvers.gradient_blocks import Block, gradient_blocks

NEGLIGIBLE = 1e-14  # gradient rows below this share of the largest are rounding


class GradientRows:
    """The gradient rows of a layer for one output gradient or several, without noise: a row counts or it does not.

    Args:
        layer: the layer.
        output_gradients: one k or several, `(number, *output_shape)`; the rows of all of them count.
        known: which output gradients are known, in their shape; a gradient row counts where all its k are.
        moving: which inputs are ever other than zero where `compressed` is asked for, in the input shape.
        rtol: singular values below this share of the largest of their block count as zero.

    Attributes:
        counts: which gradient rows (filter, tap) count.
        row_counts, row_scale: the same for each channel and the factors to unit norm, `(channels, rows of its group)`.
        blocks: the independent blocks of one channel of each group.

    >>> from constraint_algebra.layers import Conv1d
    >>> rows = GradientRows(Conv1d(1, 2).place((1, 3)), np.array([[[3.0, 4.0]]]))
    >>> rows.matrix.toarray(), rows.open_count
    (array([[0.6, 0.8, 0. ],
           [0. , 0.6, 0.8]]), 1)
    """

    def __init__(
        self,
        layer: PlacedLayer,
        output_gradients: FloatArray,
        known: BoolArray | None = None,
        *,
        moving: BoolArray | None = None,
        rtol: float = 0.0,
    ) -> None:
        """Choose the rows and cut them into blocks; nothing is factored yet."""
        self.layer, self._moving, self._rtol = layer, moving, rtol
        self._wide, self._k = _side_by_side(layer, output_gradients)
        largest = np.abs(self._k).max() or 1.0
        size = np.sqrt(trilinear.row_sums(self._wide, (self._k / largest) ** 2))
        rows = size > NEGLIGIBLE * (size.max() or 1.0)
        if known is not None:
            unknown = _side_by_side(layer, (~known).astype(float))[1]
            rows &= trilinear.row_sums(self._wide, unknown) == 0
        scale = np.where(rows, 1 / np.where(rows, size * largest, 1.0), 0.0)
        self.counts = rows
        self.row_counts = np.repeat(rows.reshape(layer.groups, -1), self._per_group, axis=0)
        self.row_scale = np.repeat(scale.reshape(layer.groups, -1), self._per_group, axis=0)
        self.blocks = gradient_blocks(self._wide, self._k, rows, scale)

    @property
    def _per_group(self) -> int:
        return self.layer.channels // self.layer.groups

    @cached_property
    def matrix(self) -> sp.csr_array:
        """The rows that count, over the flat input, each of unit norm."""
        A = gradient_equations(self._wide, self._k).matrix[self.row_counts.ravel()]
        return sp.csr_array(A * self.row_scale[self.row_counts][:, None])

    @cached_property
    def _strong(self) -> list[BoolArray]:
        return [block.singular > self._rtol * block.singular.max(initial=0.0) for block in self.blocks]

    @cached_property
    def _open(self) -> list[FloatArray]:
        """An orthonormal basis of what each block leaves open."""
        return [block.weak_basis(self._rtol * block.singular.max(initial=0.0)) for block in self.blocks]

    @property
    def kept(self) -> FloatArray:
        """The singular values that count, relative to the largest of their block."""
        parts = [b.singular[s] / b.singular[0] for b, s in zip(self.blocks, self._strong, strict=True) if s.any()]
        return np.concatenate([np.zeros(0), *parts])

    @property
    def dropped(self) -> float:
        """The largest singular value that does not count, relative to the largest of its block."""
        pairs = zip(self.blocks, self._strong, strict=True)
        return max((float(b.singular[~s].max() / b.singular[0]) for b, s in pairs if not s.all()), default=0.0)

    @property
    def open_count(self) -> int:
        """Dimension of what the rows leave open."""
        return sum(N.shape[1] * self._per_group for N in self._open)

    def of_open(self, rows: sp.csr_array) -> FloatArray:
        """Return other rows over the flat input in the coordinates of what is left open."""
        Q, by_column = math.prod(self.layer.positions), rows.tocsc()
        parts = [by_column[:, channel * Q + columns] @ N for channel, N, columns in self._pieces()]
        return np.hstack([np.zeros((rows.shape[0], 0)), *parts])

    def from_open(self, coordinates: FloatArray) -> FloatArray:
        """Return flat vectors from their coordinates in what is left open, both in columns."""
        x, start = np.zeros((self.layer.channels, math.prod(self.layer.positions), coordinates.shape[1])), 0
        for channel, N, columns in self._pieces():
            x[channel][columns] = N @ coordinates[start : start + N.shape[1]]
            start += N.shape[1]
        return x.reshape(self.layer.unknowns, -1)

    def to_open(self, vectors: FloatArray) -> FloatArray:
        """Return the coordinates of flat vectors, up to their part that is not open."""
        x = vectors.reshape(self.layer.channels, -1, vectors.shape[1])
        parts = [N.T @ x[channel][columns] for channel, N, columns in self._pieces()]
        return np.concatenate([np.zeros((0, vectors.shape[1])), *parts])

    def multipliers(self, vectors: FloatArray) -> FloatArray:
        """Return λ with `matrix^T λ = vectors` for flat vectors in columns, up to their part that is left open."""
        number = vectors.shape[1]
        rest = vectors.reshape(self.layer.channels, -1, number)
        found = np.zeros((self.layer.channels, self.counts.size // self.layer.groups, number))
        for block, strong in zip(self.blocks, self._strong, strict=True):
            for channel in self._channels(block):
                along = (block.right[:, strong].T @ rest[channel][block.columns]) / block.singular[strong][:, None]
                found[channel][block.rows] = block.left_singular[:, strong] @ along
        return np.asarray(found[self.row_counts])

    def compressed(self, values: FloatArray) -> FloatArray:
        """Return the rows times several inputs `(*input_shape, n)`, tall blocks as their orthogonal factors."""
        x = values.reshape(self.layer.channels, -1, values.shape[-1])
        parts = [core @ x[channel][columns] for channel, core, columns in self._cores]
        return np.concatenate([np.zeros((0, values.shape[-1])), *parts])

    def combined(self, coefficients: FloatArray) -> FloatArray:
        """Return combinations of the rows as `compressed` has them, `(*input_shape, n)`: its adjoint."""
        x = np.zeros((self.layer.channels, math.prod(self.layer.positions), coefficients.shape[1]))
        start = 0
        for channel, core, columns in self._cores:
            x[channel][columns] = core.T @ coefficients[start : start + len(core)]
            start += len(core)
        return x.reshape(*self.layer.input_shape, -1)

    @cached_property
    def _cores(self) -> list[tuple[int, FloatArray, NDArray[np.intp]]]:
        """Return channel, core and columns of each block, those columns that move, its rows no more than these."""
        found = [(c, block.core, block.columns) for block in self.blocks for c in self._channels(block)]
        if self._moving is None:
            return found
        moving = self._moving.reshape(self.layer.channels, -1)
        moved = [(c, core[:, moving[c][columns]], columns[moving[c][columns]]) for c, core, columns in found]
        return [
            (c, core if len(core) <= len(columns) else np.asarray(la.qr(core, mode="economic")[1], float), columns)
            for c, core, columns in moved
            if len(columns)
        ]

    def _channels(self, block: Block) -> range:
        return range(block.group * self._per_group, (block.group + 1) * self._per_group)

    def _pieces(self) -> list[tuple[int, FloatArray, NDArray[np.intp]]]:
        """Return channel, basis and columns of each open part, in the order of the coordinates."""
        return [
            (channel, N, block.columns)
            for block, N in zip(self.blocks, self._open, strict=True)
            for channel in self._channels(block)
            if N.shape[1]
        ]


def _side_by_side(layer: PlacedLayer, several: FloatArray) -> tuple[PlacedLayer, FloatArray]:
    """Return a layer with the filters of all the output gradients, and these as one."""
    number = len(several)
    k = several.reshape(number, layer.groups, -1, *layer.outputs).swapaxes(0, 1)
    return layer.with_filters(number * layer.filters), k.reshape(-1, *layer.outputs)
