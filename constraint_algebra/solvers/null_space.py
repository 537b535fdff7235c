"""The null space of one layer's equations for given values, and the multipliers that explain a vector by its rows.

Gradient equations are the same for every channel, weight equations tie the channels together, so both stages of the
elimination return: the blocks of the gradient equations are factored first, and the weight equations in what these
leave open. Unlike in `two_stage`, nothing here has noise: a row counts or it does not, and all rows have unit norm.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers.kinds import PlacedLayer, Shape
from constraint_algebra.numerics.rows import row_norms
from constraint_algebra.numerics.singular import svd
from constraint_algebra.solvers.gradient_rows import GradientRows

RTOL = 1e-12  # singular values below this share of the largest count as zero
PLAIN = 2.0  # times the cut: a smallest singular value above it needs no closer look
PROBES, ROUNDS = 6, 8  # of the iteration that finds it
TOLERANCE = 1e-8  # share of a null vector up to which an unknown counts as fixed


class Kernel(ABC):
    """What linear equations leave open, whichever equations they are.

    Attributes:
        shape: shape of the unknowns.
        tolerance: row norm of the basis up to which an unknown counts as fixed.
        basis: orthonormal columns, `(unknowns, nullity)`.
        gap: smallest singular value counted and largest not counted, relative to the size of their matrix.
        blur: of each row, how many times the relative error of its coefficients is that of numbers as they came.
        plain: how many rows, the first ones, are equations as they came and no combinations of them.
    """

    shape: Shape
    tolerance: float
    basis: FloatArray
    gap: tuple[float, float]
    blur: FloatArray
    plain: int

    @property
    @abstractmethod
    def matrix(self) -> sp.csr_array:
        """All rows that count, each of unit norm."""

    @abstractmethod
    def multipliers(self, vectors: FloatArray) -> FloatArray:
        """Return λ with `matrix^T λ = vectors` for flat vectors in columns, up to their part in the null space."""

    @property
    def well_conditioned(self) -> sp.csr_array:
        """Rows with the same kernel, as far from dependent as they come at hand, for solvers with a tolerance."""
        return self.matrix

    def applied(self, vector: FloatArray) -> FloatArray:
        """Return `matrix @ vector` for a flat vector."""
        return np.asarray(self.matrix @ vector)

    def lengths(self) -> FloatArray:
        """Return the sum of absolute coefficients of each row."""
        return np.asarray(abs(self.matrix).sum(axis=1), dtype=float)

    def combined(self, multipliers: FloatArray) -> FloatArray:
        """Return `matrix^T λ`."""
        return np.asarray(self.matrix.T @ multipliers)

    def sizes(self, multipliers: FloatArray) -> FloatArray:
        """Return `|matrix|^T |λ|`."""
        return np.asarray(abs(self.matrix).T @ np.abs(multipliers))

    @property
    def nullity(self) -> int:
        """Dimension of the null space."""
        return int(self.basis.shape[1])

    @cached_property
    def norms(self) -> FloatArray:
        """Row norms of the basis, in the shape of the unknowns: 0 for one that the equations determine."""
        return row_norms(self.basis).reshape(self.shape)

    @property
    def fixed(self) -> BoolArray:
        """Which unknowns the equations determine, in their shape."""
        return np.asarray(self.norms <= self.tolerance)

    def project(self, vector: FloatArray) -> FloatArray:
        """Return the part of a flat vector inside the null space."""
        return np.asarray(self.basis @ (self.basis.T @ vector))


class NullSpace(Kernel):
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
        gradient_rows: which gradient rows (filter, tap) count.
        row_counts, row_scale: the same for each channel and the factors to unit norm, `(channels, rows of its group)`.

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
        self.layer, self.shape, self.tolerance, self.weight_rows = layer, layer.input_shape, tolerance, weight_rows
        self._first = GradientRows(layer, output_gradients, known, rtol=rtol)
        self.gradient_rows = self._first.counts
        self.row_counts, self.row_scale = self._first.row_counts, self._first.row_scale
        self._matrix = sp.csr_array(sp.vstack([self._first.matrix, weight_rows], format="csr"))
        self.plain = self._matrix.shape[0]
        self.blur = np.ones(self.plain)
        B = abs(weight_rows)
        size = math.sqrt(B.sum(axis=0).max() * B.sum(axis=1).max()) if B.nnz else 1.0  # at least the largest of B
        self._second = rank_of(np.asarray(self._first.of_open(weight_rows)), rtol * size)
        least = self._second.least / size if self._second.rank else 1.0
        self.gap = (min(float(self._first.kept.min(initial=1.0)), least), self._second.dropped / size)
        self.basis = self._first.from_open(self._second.null)

    @property
    def matrix(self) -> sp.csr_array:
        """All rows that count, gradient rows first, each of unit norm."""
        return self._matrix

    def multipliers(self, vectors: FloatArray) -> FloatArray:
        """Return λ with `matrix^T λ = vectors` for flat vectors in columns, up to their part in the null space."""
        second = self._second
        weight = second.left @ second.explained(second.right @ self._first.to_open(vectors))
        return np.concatenate([self._first.multipliers(vectors - self.weight_rows.T @ weight), weight])


@dataclass(frozen=True, eq=False)
class Rank:
    """A dense matrix, cut at a singular value.

    Attributes:
        left: orthonormal columns, one for each of its rank.
        right: orthonormal rows that span what it sees.
        core: `left^T matrix right^T`: the singular values, or a triangle where the rank is plainly full.
        null: orthonormal columns that it does not see.
        least: the smallest singular value that counts, 1 where there is none.
        dropped: the largest that does not, 0 where there is none.
    """

    left: FloatArray
    right: FloatArray
    core: FloatArray
    null: FloatArray
    least: float
    dropped: float

    @property
    def rank(self) -> int:
        """How many singular values count."""
        return len(self.right)

    def explained(self, coordinates: FloatArray) -> FloatArray:
        """Return c with `right^T core^T c = y` for `coordinates = right y`, in columns."""
        if self.core.ndim == 1:
            return np.asarray(coordinates / self.core[:, None])
        return np.asarray(la.solve_triangular(self.core, coordinates, trans="T"))


def rank_of(matrix: FloatArray, strong: float) -> Rank:
    """Return a dense matrix cut at its singular values up to `strong`.

    >>> found = rank_of(np.array([[3.0, 4.0], [0.0, 0.0]]), 1e-9)
    >>> found.core, found.null.shape
    (array([5.]), (2, 1))
    """
    rows, columns = matrix.shape
    if not matrix.size:
        return Rank(np.zeros((rows, 0)), np.zeros((0, columns)), np.zeros(0), np.eye(columns), 1.0, 0.0)
    Q, R = None, matrix
    if rows > columns:  # a tall matrix first loses its length
        Q, R = (np.asarray(part, dtype=float) for part in la.qr(matrix, mode="economic"))
        plainly = _least(R)
        if plainly > PLAIN * strong:
            return Rank(Q, np.eye(columns), R, np.zeros((columns, 0)), plainly, 0.0)
    u, s, vt = svd(R, full_matrices=False)
    rank = int((s > strong).sum())
    left = u[:, :rank] if Q is None else Q @ u[:, :rank]
    if not rank:
        null: FloatArray = np.eye(columns)
    elif len(vt) == columns:
        null = vt[rank:].T
    else:
        null = np.asarray(la.qr(vt[:rank].T)[0][:, rank:])
    least, dropped = s[:rank].min(initial=np.inf), s[rank:].max(initial=0.0)
    return Rank(left, vt[:rank], s[:rank], null, float(least) if rank else 1.0, float(dropped))


def _least(triangle: FloatArray) -> float:
    """Return about the smallest singular value of a triangle, from above, by inverse iteration; 0 if it is singular."""
    if not np.diag(triangle).all():
        return 0.0
    x = np.random.default_rng(0).standard_normal((len(triangle), PROBES))
    for _ in range(ROUNDS):
        Q = la.qr(x, mode="economic")[0]
        y = la.solve_triangular(triangle, Q, trans="T")
        if not np.isfinite(y).all():
            return 0.0
        x = la.solve_triangular(triangle, y)
    return float(1 / la.svdvals(y)[0])
