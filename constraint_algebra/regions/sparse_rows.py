"""Sparse matrices over the network's input: the map of the lowest layers at a pattern, and rows that see it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import FloatArray
from constraint_algebra.equations.systems import weight_equations
from constraint_algebra.layers.kinds import PlacedLayer, Shape
from constraint_algebra.layers.own_statistics import Statistics
from constraint_algebra.networks.operations import Pattern, affine_maps
from constraint_algebra.numerics.blocks import blocks
from constraint_algebra.numerics.rows import unit_rows
from constraint_algebra.solvers.gradient_blocks import Block

NEGLIGIBLE = 1e-14  # a row below this share of the largest is rounding


def sparse_map(layer: PlacedLayer, parameters: Mapping[str, FloatArray], at: Pattern) -> tuple[sp.csr_array, ...]:
    """Return the linear part of a layer at a pattern, over the flat entries of each of its inputs."""
    if layer.is_bilinear:
        return (weight_equations(layer, parameters[layer.weight_name]).matrix,)
    if layer.is_activation:
        return (sp.csr_array(sp.diags_array(np.asarray(at[layer.name], dtype=float).ravel())),)
    if layer.is_selection:
        best = np.asarray(at[layer.name], dtype=np.intp).ravel()
        shape = (len(best), math.prod(layer.input_shape))
        return (sp.csr_array((np.ones(len(best)), (np.arange(len(best)), best)), shape=shape),)
    fixed = at.get(layer.name)
    if isinstance(fixed, Statistics):
        n = math.prod(layer.input_shape)
        if np.isinf(fixed.scale).all():  # it is held still
            return (sp.csr_array((n, n)),)
        return (sp.csr_array(fixed.through(np.eye(n).reshape(*layer.input_shape, n)).reshape(n, n)),)
    return affine_maps(layer, parameters)[0]


def sparse_rise(
    layers: Iterable[PlacedLayer], parameters: Mapping[str, FloatArray], at: Pattern, unknowns: int
) -> dict[int, sp.csr_array]:
    """Return how every value moves with the flat input, by its number.

    >>> from constraint_algebra.layers import Add, Conv1d, Scale
    >>> from constraint_algebra.networks.network import Network
    >>> net = Network((1, 2), {"twice": Scale(2.0), "sum": (Add(), "twice", "input"), "out": Conv1d(1, 1, bias=False)})
    >>> sparse_rise(net.layers[:2], {}, {}, 2)[2].toarray()
    array([[3., 0.],
           [0., 3.]])
    """
    found = {0: sp.csr_array(sp.eye_array(unknowns, format="csr"))}
    for layer in layers:
        whole = sp.csr_array(sp.hstack(sparse_map(layer, parameters, at), format="csr"))
        below = sp.vstack([found[number] for number in layer.inputs], format="csr")
        found[layer.number] = sp.csr_array(whole @ below)
    return found


class SparseRows:
    """Rows over the input that fall into small blocks, cut at their singular values: the interface of `GradientRows`.

    Args:
        rows: over the flat input.
        shape: of the input.
        rtol: singular values below this share of the largest of their block count as zero.
    """

    def __init__(self, rows: sp.csr_array, shape: Shape, rtol: float) -> None:
        """Scale the rows to unit norm and cut them into blocks."""
        rows = sp.csr_array(rows, copy=True)
        rows.eliminate_zeros()
        sizes = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1), dtype=float))
        rows = rows[sizes > NEGLIGIBLE * sizes.max(initial=0.0)]
        self.matrix = unit_rows(sp.csr_array(rows))[0]
        self.shape, self._rtol = shape, rtol
        self.row_counts = np.ones(self.matrix.shape[0], dtype=bool)
        self._blocks = [
            Block(0, part.rows, part.columns, None, np.asarray(self.matrix[part.rows][:, part.columns].toarray()))
            for part in blocks(self.matrix)
        ]
        self._cuts = [rtol * block.singular.max(initial=0.0) for block in self._blocks]
        self._open = [block.weak_basis(cut) for block, cut in zip(self._blocks, self._cuts, strict=True)]

    @property
    def kept(self) -> FloatArray:
        """The singular values that count, relative to the largest of their block."""
        pairs = [(b.singular, cut) for b, cut in zip(self._blocks, self._cuts, strict=True) if len(b.singular)]
        return np.concatenate([np.zeros(0), *(s[s > cut] / s[0] for s, cut in pairs)])

    @property
    def dropped(self) -> float:
        """The largest singular value that does not count, relative to the largest of its block."""
        pairs = [(b.singular, cut) for b, cut in zip(self._blocks, self._cuts, strict=True) if len(b.singular)]
        return max((float((s[s <= cut] / s[0]).max(initial=0.0)) for s, cut in pairs), default=0.0)

    @property
    def open_count(self) -> int:
        """Dimension of what the rows leave open."""
        return sum(N.shape[1] for N in self._open)

    def from_open(self, coordinates: FloatArray) -> FloatArray:
        """Return flat vectors from their coordinates in what is left open, both in columns."""
        x, start = np.zeros((self.matrix.shape[1], coordinates.shape[1])), 0
        for block, N in zip(self._blocks, self._open, strict=True):
            x[block.columns] = N @ coordinates[start : start + N.shape[1]]
            start += N.shape[1]
        return x

    def multipliers(self, vectors: FloatArray) -> FloatArray:
        """Return λ with `matrix^T λ = vectors` for flat vectors in columns, up to their part that is left open."""
        found = np.zeros((self.matrix.shape[0], vectors.shape[1]))
        for block, cut in zip(self._blocks, self._cuts, strict=True):
            strong = block.singular > cut
            along = (block.right[:, strong].T @ vectors[block.columns]) / block.singular[strong][:, None]
            found[block.rows] = block.left_singular[:, strong] @ along
        return found

    def compressed(self, values: FloatArray) -> FloatArray:
        """Return the rows times several inputs `(*input_shape, n)`."""
        return np.asarray(self.matrix @ values.reshape(self.matrix.shape[1], -1))

    def combined(self, coefficients: FloatArray) -> FloatArray:
        """Return combinations of the rows, `(*input_shape, n)`."""
        return np.asarray(self.matrix.T @ coefficients).reshape(*self.shape, -1)
