"""A factor of the normal equations of a layer whose gradient equations determine all: few weight equations correct it.

Where `A` alone determines x, `M = (A^T A + ridge)^-1` is at hand block by block, the same for all channels, and the
weight equations are a correction of low rank (Woodbury 1950):

    (A^T A + ridge + B^T B)^-1 = M - M B^T G^-1 B M,    G = I + B M B^T

`G`, the capacitance matrix, has a row for each weight equation. Its entry for the outputs (f, o) and (f', o') is

    sum over taps t, t' of  (sum over c of W[f, c, t] W[f', c, t']) * M[q(o, t), q(o', t')]

with q(o, t) the position that output o sees through tap t: one matrix product for each residue class, since M joins no
two of them. `banded_factor` holds the opposite case, many weight equations and few gradient equations.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike
from scipy.linalg import cholesky

from constraint_algebra.arrays import IntArray, RealArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.triangular import cholesky_solve
from constraint_algebra.numerics.workspace import Scratch
from constraint_algebra.solvers.gradient_blocks import gather, scatter
from constraint_algebra.solvers.operators import StackedEquations

GATHERED = 2**22  # entries of M gathered at a time: more costs memory and gains nothing
STRIPES = 8  # of a symmetric matrix, each computed up to its diagonal


def operations(layer: PlacedLayer, rows: int) -> float:
    """Return how many multiplications the factor takes, with `rows` weight equations."""
    S, F = incidence(layer), layer.filters // layer.groups
    pairs = sum(len(taps) ** 2 for taps, _ in S.classes)
    return layer.groups * float(F * S.output_count) ** 2 * pairs + rows**3 / 6


class CapacitanceFactor:
    """A factor of `A^T A + B^T B`, as a preconditioner; as good as its precision and the condition of A allow.

    Args:
        equations: all equations of the layer; the gradient equations have full column rank.
        ridge: added to the squared singular values of A; it keeps M within what the type can tell.
        dtype: of the arithmetic.

    Raises:
        numpy.linalg.LinAlgError: rounding left a capacitance matrix that is not positive definite.
    """

    def __init__(self, equations: StackedEquations, ridge: float, dtype: DTypeLike) -> None:
        """Factor the capacitance matrix of every group."""
        layer = equations.layer
        self.layer, self.blocks, self.dtype = layer, equations.blocks, np.dtype(dtype)
        self.weight, self.whiten = equations.weight.astype(dtype), equations.whiten.astype(dtype)
        self.inverses = [(b.right / (b.singular**2 + ridge) @ b.right.T).astype(dtype) for b in self.blocks]
        self.scratch = Scratch()
        self.rows: list[IntArray] = []
        self.factors: list[RealArray] = []
        S, F = incidence(layer), layer.filters // layer.groups
        by_output = np.arange(F * S.output_count).reshape(F, -1).T.ravel()  # the order of G: (output, filter)
        for group, scale in enumerate(self.whiten.reshape(layer.groups, -1)):
            counts = scale[by_output] > 0
            rows = by_output[counts]
            G = self._capacitance(group)
            if not counts.all():
                G = G[np.ix_(counts, counts)]
            G *= scale[rows]
            G *= scale[rows, None]
            G[np.diag_indices_from(G)] += 1
            self.rows.append(rows)
            self.factors.append(cholesky(G.T, overwrite_a=True, check_finite=False))  # in LAPACK's order

    def __call__(self, x: RealArray) -> RealArray:
        """Return the inverse applied to x `(*input_shape, n)`."""
        size = float(np.abs(x).max()) or 1.0  # the type may not hold the range of what comes
        alone = self._by_gradients((x / size).astype(self.dtype))
        seen = self.whiten[..., None] * trilinear.forward(self.layer, self.weight, alone, self.scratch)
        by_group = seen.reshape(self.layer.groups, -1, seen.shape[-1])
        for values, rows, factor in zip(by_group, self.rows, self.factors, strict=True):
            values[rows] = cholesky_solve(factor, values[rows])
        back = trilinear.input_gradient(self.layer, self.weight, self.whiten[..., None] * seen, self.scratch)
        return (alone - self._by_gradients(back)).astype(x.dtype) * size

    def _by_gradients(self, x: RealArray) -> RealArray:
        """Return M x, for x `(*input_shape, n)`."""
        x4 = x.reshape(self.layer.groups, self.layer.channels // self.layer.groups, -1, x.shape[-1])
        out = np.empty_like(x4)
        for block, M in zip(self.blocks, self.inverses, strict=True):
            scatter(out, block, M @ gather(x4, block))
        return out.reshape(x.shape)

    def _capacitance(self, group: int) -> RealArray:
        """Return `B M B^T` of one group for all its outputs, in units without their noise, `(o f, o f)`.

        What lies above the diagonal may be missing.
        """
        layer, S = self.layer, incidence(self.layer)
        F, C, outputs = layer.filters // layer.groups, layer.channels // layer.groups, S.output_count
        W = self.weight.reshape(layer.groups, F, C, -1)[group]
        products, seen = [], []
        for (taps, places), M in self._classes(group):
            rows = W[:, :, taps].swapaxes(1, 2).reshape(-1, C)  # (f, t)
            product = (rows @ rows.T).reshape(F, len(taps), F, len(taps))
            products.append(product.transpose(3, 1, 0, 2).reshape(-1, F * F))  # (t', t), (f, f')
            local = np.full(S.position_count + 1, len(places))
            local[places] = np.arange(len(places))
            seen.append((local[S.positions_seen[:, taps]], np.pad(M, (0, 1))))  # zeros for what lies outside
        K = np.concatenate(products)
        step = min(-(-outputs // STRIPES), max(1, GATHERED // (outputs * len(K))))
        G = np.zeros((outputs, F, outputs, F), dtype=self.dtype)
        for first in range(0, outputs, step):
            last = min(first + step, outputs)
            pairs = np.concatenate([_pairs(M, q, first, last) for q, M in seen], axis=-1)
            G[first:last, :, :last] = (pairs @ K).reshape(-1, last, F, F).swapaxes(1, 2)
        return G.reshape(outputs * F, outputs * F)

    def _classes(self, group: int) -> Iterator[tuple[tuple[IntArray, IntArray], RealArray]]:
        """Yield taps and positions of each residue class, and M there."""
        inverses = [M for block, M in zip(self.blocks, self.inverses, strict=True) if block.group == group]
        for (taps, places), M in zip(incidence(self.layer).classes, inverses, strict=True):
            if len(taps):
                yield (taps, places), M


def _pairs(M: RealArray, q: IntArray, first: int, last: int) -> RealArray:
    """Return `M[q(o, t), q(o', t')]` for the outputs o from `first`, and o' from 0, up to `last`, `(o o', t' t)`."""
    some = np.ascontiguousarray(M[:, q[first:last]].swapaxes(0, 1))  # o, position, t
    return some.take(q[:last].ravel(), axis=1).reshape((last - first) * last, -1)
