"""A factor of the normal equations in what the gradient equations of one layer leave open.

In the coordinates of stage one, `x[c] = N y[c]` with the same basis N for every channel, the normal equations of the
weight equations are `N^T K[c, c'] N` for each pair of channels, K = B^T B. That is dense, and thousands of unknowns
smaller than the layer. In single precision 32,832 of them, a convolution of 64 channels on 32×32, take 4.3 GB; it is
for layers whose equations the iteration alone does not get through.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg as la
from numpy.typing import NDArray

from constraint_algebra.arrays import RealArray
from constraint_algebra.layers.kinds import Conv
from constraint_algebra.numerics.blas_threads import all_blas_threads
from constraint_algebra.numerics.triangular import cholesky_solve
from constraint_algebra.solvers.normal_equations import bands, normal_blocks
from constraint_algebra.solvers.operators import Coordinates

LARGEST = 36_000  # coordinates up to which the factor is worth its memory
RIDGE = 3e-7  # relative to the largest diagonal entry: less than rounding makes of the smallest eigenvalue


class NullSpaceFactor:
    """A Cholesky factor in single precision, as a preconditioner for `Coordinates`.

    Args:
        coordinates: the equations of a convolution without groups.

    Raises:
        numpy.linalg.LinAlgError: the factorisation broke down.
        MemoryError: there is not enough.
    """

    def __init__(self, coordinates: Coordinates) -> None:
        """Build the normal equations channel by channel, and factor them."""
        layer, equations = coordinates.stacked.layer, coordinates.stacked
        positions, C = math.prod(layer.positions), layer.channels
        N = np.zeros((positions, sum(U.shape[1] for U in coordinates.bases)), dtype=np.float32)
        start = 0
        for block, U in zip(equations.blocks, coordinates.bases, strict=True):
            N[block.columns, start : start + U.shape[1]] = U
            start += U.shape[1]
        self.channels, self.open = C, N.shape[1]
        self.order = self._by_channel(coordinates)
        H = np.empty((C * self.open, C * self.open), dtype=np.float32)
        weight, whiten = equations.weight.astype(np.float32), equations.whiten.astype(np.float32)
        b = bands(layer)
        edges = [first * positions // b.lines for first in b.edges]
        rows = [
            row.reshape(stop - first, C, -1, C)
            for row, first, stop in zip(normal_blocks(layer, weight, whiten, b), edges[:-1], edges[1:], strict=True)
        ]
        for c in range(C):
            done = slice(0, c + 1)  # what lies above the diagonal is not needed
            right = np.concatenate([_row(rows, edges, b.reach, i, c, done, N) for i in range(len(rows))])
            with all_blas_threads():
                H[c * self.open : (c + 1) * self.open, : (c + 1) * self.open] = N.T @ right.reshape(positions, -1)
        del rows, right
        H[np.diag_indices_from(H)] += coordinates.sizes.ravel()[self.order] ** 2
        H[np.diag_indices_from(H)] += RIDGE * H.diagonal().max()
        with all_blas_threads():
            self.factor = la.cholesky(H.T, lower=False, overwrite_a=True, check_finite=False)

    def __call__(self, y: RealArray) -> RealArray:
        """Return the inverse applied to y `(coordinates, n)`."""
        size = float(np.abs(y).max()) or 1.0  # the type may not hold the range of what comes
        found = cholesky_solve(self.factor, (y[self.order] / size).astype(np.float32))
        out = np.empty_like(y)
        out[self.order] = found
        return out * size

    @staticmethod
    def _by_channel(coordinates: Coordinates) -> NDArray[np.intp]:
        """Return where the coordinates, which come by block, direction and channel, go by channel and direction."""
        C = coordinates.stacked.layer.channels
        directions = np.arange(len(coordinates.sizes) // C) * C
        return (np.arange(C)[:, None] + directions).ravel()


def worthwhile(coordinates: Coordinates) -> bool:
    """Return whether the factor can be had for these equations, and is worth its memory."""
    layer = coordinates.stacked.layer
    return isinstance(layer.layer, Conv) and layer.groups == 1 and len(coordinates.sizes) <= LARGEST


def _row(rows: list[RealArray], edges: list[int], reach: int, i: int, c: int, done: slice, N: RealArray) -> RealArray:
    """Return `K[c, done] N` at the positions of block i, `(position, channel, direction)`."""
    own, before = slice(edges[i], edges[i + 1]), slice(edges[max(0, i - reach)], edges[i + 1])
    here = rows[i][:, c, -(before.stop - before.start) :, done].swapaxes(1, 2)  # position, channel, position before
    total = np.ascontiguousarray(here) @ N[before]
    for j in range(i + 1, min(i + reach + 1, len(rows))):  # what lies right of the diagonal, from below it
        first = edges[max(0, j - reach)]
        there = rows[j][:, done, own.start - first : own.stop - first, c].transpose(2, 1, 0)
        total += np.ascontiguousarray(there) @ N[edges[j] : edges[j + 1]]
    return total
