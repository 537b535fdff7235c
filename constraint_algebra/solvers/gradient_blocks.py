"""Stage one: the gradient equations of one channel, cut into independent blocks and factored.

A stride splits the taps and pixels of a layer into residue classes that never meet: each is a block of its own, and one
factorisation of it serves all channels of its group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.singular import svd


@dataclass(frozen=True, eq=False)
class Block:
    """One independent block `left · core`, with the singular value decomposition of its core where that is asked for.

    Attributes:
        group: group of the layer.
        rows: its gradient rows (f, t) as flat indices within the group, shape `(rows,)`.
        columns: its input positions, shape `(columns,)`.
        left: orthonormal columns that compress a tall block, shape `(rows, r)`; `None` where the core is the block.
        core: shape `(r, columns)`.
    """

    group: int
    rows: IntArray
    columns: IntArray
    left: FloatArray | None
    core: FloatArray

    def compress(self, rhs: FloatArray) -> FloatArray:
        """Return right-hand sides `(rows, n)` of the block as those of its core, `(r, n)`."""
        return rhs if self.left is None else np.asarray(self.left.T @ rhs)

    @cached_property
    def svd(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`U`, `s` and `V` of the core, singular values that are zeros to rounding left out."""
        if not len(self.core):
            return np.zeros((0, 0)), np.zeros(0), np.zeros((len(self.columns), 0))
        U, s, Vt = svd(self.core, full_matrices=False)
        keep = s > s[0] * max(len(self.rows), len(self.columns)) * np.finfo(float).eps
        return U[:, keep], s[keep], Vt[keep].T

    @property
    def singular(self) -> FloatArray:
        """The singular values, descending, shape `(rank,)`."""
        return self.svd[1]

    @property
    def right(self) -> FloatArray:
        """The right singular vectors, shape `(columns, rank)`."""
        return self.svd[2]

    @property
    def left_singular(self) -> FloatArray:
        """The left singular vectors of the block itself, shape `(rows, rank)`."""
        U = self.svd[0]
        return U if self.left is None else np.asarray(self.left @ U)

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


def gradient_blocks(
    layer: PlacedLayer, output_gradient: FloatArray, rows: BoolArray, scale: FloatArray, *, compress: bool = True
) -> list[Block]:
    """Return the blocks of all groups; every input position lies in exactly one block of its group.

    Args:
        layer: the layer.
        output_gradient: k in the output shape.
        rows: which gradient rows count, shape `(filters, taps)`.
        scale: factor of each row, shape `(filters, taps)`.
        compress: whether tall blocks are, which pays where they are used more than some ten times.
    """
    S, G = incidence(layer), layer.groups
    k = np.pad(output_gradient.reshape(G, -1, S.output_count), ((0, 0), (0, 0), (0, 1)))
    factors = np.where(rows, scale, 0.0).reshape(G, -1, S.tap_count)
    return [
        _factor(group, k[group], factors[group], taps, places, S.meeting[np.ix_(taps, places)], compress)
        for group in range(G)
        for taps, places in S.classes
    ]


def _factor(
    group: int,
    k: FloatArray,
    factors: FloatArray,
    taps: IntArray,
    places: IntArray,
    outputs: IntArray,
    compress: bool,
) -> Block:
    """Return one block: rows (f, t) with t among `taps`, in which the pixel at `places` meets k[f] at `outputs`."""
    A = (k[:, outputs] * factors[:, taps, None]).reshape(-1, len(places))
    numbers = (np.arange(len(k))[:, None] * factors.shape[1] + taps).ravel()
    counts = A.any(axis=1)
    A, numbers = A[counts], numbers[counts]
    if len(A) <= len(places) or not compress:
        return Block(group, numbers, places, None, A)
    Q, R = la.qr(A, mode="economic", overwrite_a=True, check_finite=False)
    return Block(group, numbers, places, np.asarray(Q), np.asarray(R))


def project(
    layer: PlacedLayer, blocks: Sequence[Block], whiten: FloatArray, weight_gradient: FloatArray
) -> list[FloatArray]:
    """Return dL/dW as right-hand sides of the blocks' cores, `(r, channels * n)` each.

    Args:
        layer: the layer.
        blocks: its blocks.
        whiten: factor of each gradient row, `(filters, taps)`.
        weight_gradient: n of them, `(*weight_shape, n)`.
    """
    F, C = layer.filters // layer.groups, layer.channels // layer.groups
    rhs = weight_gradient.reshape(layer.groups, F, C, -1, weight_gradient.shape[-1])
    by_row = rhs.transpose(0, 1, 3, 2, 4).reshape(layer.groups, -1, C * rhs.shape[-1])
    by_row = by_row * whiten.reshape(layer.groups, -1, 1)
    return [block.compress(by_row[block.group][block.rows]) for block in blocks]


def gather(x4: FloatArray, block: Block) -> FloatArray:
    """Return a block's values of x `(group, channel, position, n)` as `(columns, channels * n)`: one matrix product."""
    part = x4[block.group][:, block.columns].transpose(1, 0, 2)
    return np.asarray(part.reshape(len(block.columns), x4.shape[1] * x4.shape[3]))


def scatter(x4: FloatArray, block: Block, part: FloatArray) -> None:
    """Set a block's values of x from an array shaped as `gather` returns it."""
    values = part.reshape(len(block.columns), x4.shape[1], x4.shape[3])
    x4[block.group][:, block.columns] = values.transpose(1, 0, 2)
