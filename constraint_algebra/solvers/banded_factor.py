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
from collections.abc import Iterator

import numpy as np
import scipy.linalg as la
from numpy.typing import DTypeLike
from scipy.linalg import blas, lapack

from constraint_algebra.arrays import RealArray
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.triangular import cholesky_solve, divide
from constraint_algebra.solvers.normal_equations import banded_normal_equations, bandwidth, rows_as_stored
from constraint_algebra.solvers.operators import StackedEquations

ROWS = 192  # of the factor, used at a time for several vectors


def operations(layer: PlacedLayer, rank: int) -> float:
    """Return how many multiplications the factorisation takes, with `rank` gradient equations over all channels."""
    n, b = layer.unknowns, bandwidth(layer)
    return n * (b * b / 2 + b * rank + rank * rank / 2)


class BandedFactor:
    """A factor of `B^T B + V V^T + ridge · max(diagonal)`, as a preconditioner.

    Args:
        equations: all equations of the layer; the rows of the gradient equations' cores are the columns of V.
        ridge: relative to the largest diagonal entry of `B^T B`; it keeps the factor alive where the weight equations
            say nothing.
        dtype: of the arithmetic.

    Raises:
        numpy.linalg.LinAlgError: the factorisation broke down.
    """

    def __init__(self, equations: StackedEquations, ridge: float, dtype: DTypeLike) -> None:
        """Factor."""
        equations = equations.astype(dtype)
        self.layer, self.dtype = equations.layer, np.dtype(dtype)
        K = banded_normal_equations(self.layer, equations.weight, equations.whiten)
        K[:, -1] += ridge * K[:, -1].max()
        pbtrf = lapack.spbtrf if self.dtype == np.float32 else lapack.dpbtrf
        upper, info = pbtrf(K.T, overwrite_ab=1)
        if info:
            raise np.linalg.LinAlgError(f"row {info} of the normal equations is not positive definite")
        self.L = upper.T  # its diagonals, as those of K
        self.Y = self._gradient_columns(equations)
        self._forward(self.Y)
        core = self.Y.T @ self.Y
        core[np.diag_indices_from(core)] += 1
        self.core = la.cholesky(core.T, overwrite_a=True, check_finite=False)

    def __call__(self, x: RealArray) -> RealArray:
        """Return the inverse applied to x `(*input_shape, n)`."""
        C, n = self.layer.channels, x.shape[-1]
        size = float(np.abs(x).max()) or 1.0  # the type may not hold the range of what comes
        v = np.ascontiguousarray(x.reshape(C, -1, n).transpose(1, 0, 2).reshape(-1, n) / size, dtype=self.dtype)
        self._forward(v)
        v -= self.Y @ cholesky_solve(self.core, (v.T @ self.Y).T)
        self._backward(v)
        return v.reshape(-1, C, n).transpose(1, 0, 2).reshape(x.shape).astype(x.dtype) * size

    def _forward(self, v: RealArray) -> None:
        """Replace v `(unknowns, n)` by L^-1 v."""
        if v.shape[1] == 1:
            self._singly(v, transposed=1)
            return
        for own, diagonal, left in self._rows():
            for before, part in left:
                v[own] -= part @ v[before]
            divide(diagonal, v[own])

    def _backward(self, v: RealArray) -> None:
        """Replace v `(unknowns, n)` by L^-T v."""
        if v.shape[1] == 1:
            self._singly(v, transposed=0)
            return
        for own, diagonal, left in reversed(list(self._rows())):
            divide(diagonal, v[own], transposed=True)
            for before, part in left:
                v[before] -= part.T @ v[own]

    def _singly(self, v: RealArray, *, transposed: int) -> None:
        """Divide one vector by what LAPACK sees, the transpose of L, or by its transpose."""
        tbsv = blas.get_blas_funcs(("tbsv",), (self.L, v))[0]
        tbsv(self.L.shape[1] - 1, self.L.T, v[:, 0], trans=transposed, overwrite_x=1)

    def _rows(self) -> Iterator[tuple[slice, RealArray, list[tuple[slice, RealArray]]]]:
        """Yield some rows of L at a time: which, their diagonal block, and the parts to its left with their columns.

        All rows reach the columns next to the diagonal block, and fewer and fewer those further left.
        """
        n, reach = self.L.shape[0], self.L.shape[1] - 1
        count = min(ROWS, reach + 1)  # the diagonal block lies inside the band
        inside = np.triu(np.ones((count, count - 1), dtype=self.dtype))
        for first in range(0, n, count):
            own = slice(first, min(first + count, n))
            furthest = max(0, first - reach)
            common = min(max(furthest, own.stop - 1 - reach), first)
            left = [(slice(common, first), rows_as_stored(self.L, own, common, first))]
            if furthest < common:
                edge = rows_as_stored(self.L, own, furthest, common)
                start = furthest - (first - reach)
                edge = edge * inside[: len(edge), start : start + edge.shape[1]]
                left.append((slice(furthest, common), edge))
            yield own, rows_as_stored(self.L, own, first, own.stop), left

    def _gradient_columns(self, equations: StackedEquations) -> RealArray:
        """Return V: for every block and channel of its group the rows of the core."""
        layer, Q = self.layer, math.prod(self.layer.positions)
        C = layer.channels // layer.groups
        V = np.zeros((Q, layer.channels, C * sum(map(len, equations.cores))), dtype=self.dtype)
        start = 0
        for block, core in zip(equations.blocks, equations.cores, strict=True):
            vectors = core.T
            for c in range(C):
                V[block.columns, block.group * C + c, start : start + vectors.shape[1]] = vectors
                start += vectors.shape[1]
        return V.reshape(Q * layer.channels, -1)
