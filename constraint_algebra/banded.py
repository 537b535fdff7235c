"""The normal equations of a layer as a banded matrix plus one of low rank, factored.

Two input values meet in a weight equation only where one kernel window covers both: in the order (*position, channel)
`B^T B` is banded, as wide as the kernel is high. Gradient equations have no such order, but the first layers of most
networks have few of them. With a Cholesky factor `L L^T = B^T B + ridge` and the gradient equations as
columns of V,

    (L L^T + V V^T)^-1 = L^-T (I - Y (I + Y^T Y)^-1 Y^T) L^-1,    Y = L^-1 V

(Woodbury 1950). That costs `n b² + 2 n b r + n r²` operations for n unknowns, bandwidth b and r gradient equations,
where a dense factor costs `n³ / 3`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.linalg as la
from numpy.typing import DTypeLike, NDArray
from scipy.linalg import lapack

from constraint_algebra.blocks import Block
from constraint_algebra.incidence import Window, incidence
from constraint_algebra.layers import Conv, PlacedLayer
from constraint_algebra.triangular import cholesky_solve, divide

FloatArray = NDArray[Any]  # of either precision

SMALLEST_BLOCK = 96  # unknowns: smaller products do not fill the arithmetic units


@dataclass(frozen=True)
class Bands:
    """How the unknowns of a layer fall into blocks of whole lines along the first spatial axis.

    Attributes:
        lines: number of lines.
        width: unknowns of a line.
        per_block: lines of a block.
        reach: blocks below the diagonal block that a window can touch.
    """

    lines: int
    width: int
    per_block: int
    reach: int

    @property
    def edges(self) -> list[int]:
        """First line of every block, and the number of lines."""
        return [*range(0, self.lines, self.per_block), self.lines]

    @property
    def bandwidth(self) -> int:
        """Unknowns that a block row holds left of its diagonal block, and that block."""
        return (self.reach + 1) * self.per_block * self.width


def bands(layer: PlacedLayer) -> Bands:
    """Return blocks as small as products allow.

    >>> from constraint_algebra.layers import Conv2d
    >>> bands(Conv2d(12, 5, stride=2, padding=2).place((3, 32, 32)))
    Bands(lines=32, width=96, per_block=2, reach=2)
    """
    conv = layer.bilinear
    if not isinstance(conv, Conv):
        raise TypeError(f"layer {layer.name!r} is no convolution and has no lines")
    lines, height = layer.positions[0], conv.dilations[0] * (conv.taps[0] - 1)
    width = layer.unknowns // lines
    per_block = min(lines, max(-(-height // 2), -(-SMALLEST_BLOCK // width), 1))
    return Bands(lines, width, per_block, -(-height // per_block))


def operations(layer: PlacedLayer, rank: int) -> float:
    """Return how many multiplications the factorisation takes, with `rank` gradient equations over all channels."""
    n, b = layer.unknowns, bands(layer).bandwidth
    return n * (b * b / 2 + b * rank + rank * rank / 2)


class BandedFactor:
    """A factor of `B^T B + V V^T + ridge · max(diagonal)`, as a preconditioner.

    Args:
        layer: the layer.
        weight: W.
        blocks: the gradient equations; the rows of their cores are the columns of V.
        whiten: factor of each weight row in the output shape, 0 for those that do not count.
        ridge: relative to the largest diagonal entry of `B^T B`; it keeps the factor alive where the weight equations
            say nothing.
        dtype: of the arithmetic.

    Raises:
        numpy.linalg.LinAlgError: the factorisation broke down.
    """

    def __init__(
        self,
        layer: PlacedLayer,
        weight: FloatArray,
        blocks: Sequence[Block],
        whiten: FloatArray,
        ridge: float,
        dtype: DTypeLike,
    ) -> None:
        """Factor."""
        self.layer, self.bands, self.dtype = layer, bands(layer), np.dtype(dtype)
        self.edges = [line * self.bands.width for line in self.bands.edges]
        rows = normal_blocks(layer, weight.astype(dtype), whiten.astype(dtype), self.bands)
        size = max(float(np.diagonal(row, row.shape[1] - row.shape[0]).max()) for row in rows)
        self.diagonal: list[FloatArray] = []
        self.left: list[FloatArray] = []
        rows.reverse()
        for i in range(len(rows)):  # each is given back as soon as it is factored
            self._factor_row(i, rows.pop(), ridge * size)
        self.Y = self._gradient_columns(blocks)
        self._forward(self.Y)
        core = self.Y.T @ self.Y
        core[np.diag_indices_from(core)] += 1
        self.core = la.cholesky(core.T, overwrite_a=True, check_finite=False)

    def __call__(self, x: FloatArray) -> FloatArray:
        """Return the inverse applied to x `(*input_shape, n)`."""
        C, n = self.layer.channels, x.shape[-1]
        size = float(np.abs(x).max()) or 1.0  # the type may not hold the range of what comes
        v = np.ascontiguousarray(x.reshape(C, -1, n).transpose(1, 0, 2).reshape(-1, n) / size, dtype=self.dtype)
        self._forward(v)
        v -= self.Y @ cholesky_solve(self.core, self.Y.T @ v)
        self._backward(v)
        return v.reshape(-1, C, n).transpose(1, 0, 2).reshape(x.shape).astype(x.dtype) * size

    def _span(self, i: int) -> tuple[slice, slice]:
        """Return the unknowns of block i, and those to the left of it that its row of the factor holds."""
        first = max(0, i - self.bands.reach)
        return slice(self.edges[i], self.edges[i + 1]), slice(self.edges[first], self.edges[i])

    def _factor_row(self, i: int, row: FloatArray, ridge: float) -> None:
        """Append row i of L: for every earlier block j, L_ij = (K_ij - sum over m < j of L_im L_jm^T) L_jj^-T."""
        own, before = self._span(i)
        L = row[:, row.shape[1] - (own.stop - before.start) :]
        for j in range(max(0, i - self.bands.reach), i):
            columns, earlier = self._span(j)
            start = max(earlier.start, before.start)
            target = L[:, columns.start - before.start : columns.stop - before.start]
            if start < columns.start:
                done = L[:, start - before.start : columns.start - before.start]
                target -= done @ self.left[j][:, start - earlier.start :].T
            target[:] = divide(self.diagonal[j], np.ascontiguousarray(target.T)).T
        left, diagonal = L[:, : own.start - before.start], L[:, own.start - before.start :]
        diagonal = diagonal - left @ left.T
        diagonal[np.diag_indices_from(diagonal)] += ridge
        potrf = lapack.spotrf if self.dtype == np.float32 else lapack.dpotrf
        factor, info = potrf(diagonal.T, lower=1, clean=1)
        if info:
            raise np.linalg.LinAlgError(f"block {i} of the normal equations is not positive definite")
        self.diagonal.append(factor)
        self.left.append(np.ascontiguousarray(left))

    def _forward(self, v: FloatArray) -> None:
        """Replace v `(unknowns, n)` by L^-1 v."""
        for i, L in enumerate(self.diagonal):
            own, before = self._span(i)
            if before.start < before.stop:
                v[own] -= self.left[i] @ v[before]
            divide(L, v[own])

    def _backward(self, v: FloatArray) -> None:
        """Replace v `(unknowns, n)` by L^-T v."""
        for i in reversed(range(len(self.diagonal))):
            own, before = self._span(i)
            divide(self.diagonal[i], v[own], transposed=True)
            v[before] -= self.left[i].T @ v[own]

    def _gradient_columns(self, blocks: Sequence[Block]) -> FloatArray:
        """Return V: for every block and channel of its group the rows of the core."""
        layer, Q = self.layer, math.prod(self.layer.positions)
        C = layer.channels // layer.groups
        V = np.zeros((Q, layer.channels, C * sum(len(block.core) for block in blocks)), dtype=self.dtype)
        start = 0
        for block in blocks:
            vectors = block.core.T
            for c in range(C):
                V[block.columns, block.group * C + c, start : start + vectors.shape[1]] = vectors
                start += vectors.shape[1]
        return V.reshape(Q * layer.channels, -1)


def normal_blocks(layer: PlacedLayer, weight: FloatArray, whiten: FloatArray, b: Bands) -> list[FloatArray]:
    """Return the block rows of `B^T B`: block i with the `b.reach` blocks to its left, zeros beyond the first line.

    Args:
        layer: the layer.
        weight: W.
        whiten: factor of each weight row in the output shape.
        b: the blocks.
    """
    G, C, S = layer.groups, layer.channels // layer.groups, incidence(layer)
    W = weight.reshape(G, -1, C, *S.taps)
    W = np.moveaxis(W, 2, -1)  # group, filter, *tap, channel
    w = whiten.reshape(G, -1, S.output_count)
    starts = [max(0, first - b.reach * b.per_block) for first in b.edges[:-1]]
    rest = (*layer.positions[1:], layer.channels)
    rows = [
        np.zeros((last - first, *rest, last - start, *rest), dtype=weight.dtype)
        for (first, last), start in zip(pairwise(b.edges), starts, strict=True)
    ]
    for o, (taps, parts) in enumerate(_places(layer, b)):
        for g in range(G):
            seen = W[g][(slice(None), *taps)]  # the rows of B for output o of all filters, without their zeros
            flat = (seen * w[g, :, o].reshape(-1, *(1,) * (seen.ndim - 1))).reshape(len(seen), -1)
            product = (flat.T @ flat).reshape(seen.shape[1:] * 2)
            channels = slice(g * C, (g + 1) * C)
            for block, down, across, rest, part in parts:
                rows[block][(down, *rest, channels, across, *rest, channels)] += product[part]
    return [
        row.reshape((last - first) * b.width, -1) for row, (first, last) in zip(rows, pairwise(b.edges), strict=True)
    ]


def all_normal_equations(layer: PlacedLayer, weight: FloatArray, whiten: FloatArray) -> FloatArray:
    """Return `B^T B` whole, in the order (*position, channel); what lies above the diagonal may be missing."""
    if not layer.positions:
        B = weight * whiten[:, None]
        return np.asarray(B.T @ B)
    lines = layer.positions[0]
    (whole,) = normal_blocks(layer, weight, whiten, Bands(lines, layer.unknowns // lines, lines, 0))
    return whole


@lru_cache(maxsize=16)
def _places(layer: PlacedLayer, b: Bands) -> list[tuple[Window, list[tuple[Any, ...]]]]:
    """Return for each output its taps, and where the products of its window's coefficients belong.

    For every block that the window touches: the block, its lines down and across, the places along the other axes, and
    which part of the products `(*window, channel, *window, channel)` that is.
    """
    found = []
    for taps, (lines, *others) in incidence(layer).fields:
        window = range(lines.start or 0, lines.stop, lines.step or 1)
        rest, parts = (slice(None),) * (len(others) + 1), []
        for block in sorted({line // b.per_block for line in window}):
            first = block * b.per_block
            start = max(0, first - b.reach * b.per_block)
            inside = [n for n, line in enumerate(window) if first <= line < first + b.per_block]
            n, m = inside[0], inside[-1] + 1
            down = slice(window[n] - first, window[m - 1] + 1 - first, window.step)
            across = slice(window[0] - start, window[m - 1] + 1 - start, window.step)
            parts.append((block, down, across, tuple(others), (slice(n, m), *rest, slice(0, m))))
        found.append((taps, parts))
    return found
