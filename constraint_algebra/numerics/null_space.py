"""Numerical rank and null space of a sparse matrix, by dense singular values of its connected components.

Rows are scaled to unit norm first, so that equations in different units count alike; singular values above the
tolerance count. The tolerance is one for the whole matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ParameterError, ShapeError
from constraint_algebra.numerics.blocks import Component, blocks
from constraint_algebra.numerics.rows import EPSILON, gap_at, unit_rows
from constraint_algebra.numerics.singular import svd

LARGEST = 4 * 2**30  # bytes of dense arrays; an SVD of that size takes hours


class NumericalRank(NamedTuple):
    """A rank, the tolerance that singular values must exceed, the last one counted and the first not counted.

    The gap is NaN where there is no such singular value.
    """

    rank: int
    tolerance: float
    gap: tuple[float, float]


@checked
@dataclass(frozen=True)
class NullSpace:
    """What a system of equations leaves open: an orthonormal basis of all vectors that no equation notices.

    Attributes:
        basis: orthonormal columns, shape `(unknowns, dimension)`, rows in the order of the unknowns.
        rank: how many singular values are above the tolerance; rows are scaled to unit norm before.
        tolerance: that of the singular values.
        gap: the last singular value counted and the first not counted, NaN where there is none. Where the two are not
            far apart, another tolerance gives another answer.
    """

    basis: FloatArray
    rank: int
    tolerance: float
    gap: tuple[float, float]

    @property
    def dimension(self) -> int:
        """The number of directions left open: unknowns less rank."""
        return int(self.basis.shape[1])

    def __repr__(self) -> str:
        """Return one line: dimension, rank, tolerance, gap."""
        return (
            f"<null space: {self.dimension} of {len(self.basis)} dimensions open, rank {self.rank}, tolerance"
            f" {self.tolerance:.1e}, gap from {self.gap[0]:.1e} to {self.gap[1]:.1e}>"
        )


def singular_values(matrix: sp.csr_array) -> FloatArray:
    """Return the singular values, largest first, `min(shape)` of them, by connected components."""
    matrix = sp.csr_array(matrix, copy=True)
    matrix.eliminate_zeros()  # a stored zero would join what is apart
    parts = [part for part in blocks(matrix) if len(part.rows)]
    found = np.concatenate([np.empty(0), *(la.svdvals(dense_part(matrix, part)) for part in parts)])
    return _largest_first(found, min(matrix.shape))


def numerical_rank(matrix: sp.csr_array, rtol: float | None = None) -> NumericalRank:
    """Return the numerical rank of a matrix, its rows scaled to unit norm.

    Args:
        matrix: the coefficients.
        rtol: tolerance relative to the largest singular value, `max(shape) * eps` by default.

    Raises:
        ParameterError: a tolerance that is no number from 0 to 1.
        NonFiniteError: NaN or infinity among the coefficients.
        ShapeError: a dense component of more than `LARGEST` bytes.
    """
    return _counted(singular_values(unit_rows(matrix)[0]), matrix.shape, rtol)


def null_space(matrix: sp.csr_array, rtol: float | None = None) -> NullSpace:
    """Return an orthonormal basis of the null space; arguments and errors as for `numerical_rank`.

    >>> null_space(sp.csr_array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])).basis.round(3)
    array([[-0.707],
           [ 0.707],
           [ 0.   ]])
    """
    scaled, unknowns = unit_rows(matrix)[0], matrix.shape[1]
    scaled.eliminate_zeros()
    parts = blocks(scaled)
    _check_size(sum(len(part.columns) ** 2 for part in parts), matrix)  # the vectors of all components
    found = [right_vectors(dense_part(scaled, part)) for part in parts]
    sigma = _largest_first(np.concatenate([np.empty(0), *(s for s, _ in found)]), min(matrix.shape))
    rank = _counted(sigma, matrix.shape, rtol)
    _check_size(unknowns * (unknowns - rank.rank), matrix)
    basis, done = np.zeros((unknowns, unknowns - rank.rank)), 0
    for part, (values, vectors) in zip(parts, found, strict=True):
        left = vectors[np.count_nonzero(values > rank.tolerance) :]
        basis[part.columns, done : done + len(left)] = left.T
        done += len(left)
    return NullSpace(basis, *rank)


def dense_part(matrix: sp.csr_array, part: Component) -> FloatArray:
    """Return a component as a dense matrix.

    Raises:
        ShapeError: with its singular vectors it would take more than `LARGEST` bytes.
    """
    _check_size(2 * len(part.rows) * len(part.columns) + 3 * len(part.columns) ** 2, matrix)
    return np.asarray(matrix[part.rows][:, part.columns].toarray())


def right_vectors(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the singular values of a dense matrix and all its right singular vectors, one in each row."""
    if not matrix.shape[0]:
        return np.empty(0), np.eye(matrix.shape[1])
    if matrix.shape[0] > matrix.shape[1]:  # the triangle has the same null space, and no large left factor
        matrix = np.asarray(la.qr(matrix, mode="r")[0][: matrix.shape[1]])
    _, sigma, vectors = svd(matrix)
    return sigma, vectors


def _counted(sigma: FloatArray, shape: Sequence[int], rtol: float | None) -> NumericalRank:
    if rtol is not None and not 0 <= rtol < 1:
        raise ParameterError(
            "rtol", f"rtol, relative to the largest singular value, must be from 0 to below 1, got {rtol!r}"
        )
    tolerance = (max(shape) * EPSILON if rtol is None else rtol) * float(sigma.max(initial=0.0))
    rank = int(np.count_nonzero(sigma > tolerance))
    return NumericalRank(rank, tolerance, gap_at(sigma, rank))


def _largest_first(found: FloatArray, count: int) -> FloatArray:
    """Return singular values in order, with a zero for each that the components do not have."""
    return np.pad(np.sort(found)[::-1], (0, count - len(found)))


def _check_size(entries: int, matrix: sp.csr_array) -> None:
    if 8 * entries > LARGEST:
        rows, unknowns = matrix.shape
        raise ShapeError(
            f"singular vectors of {rows:,} equations in {unknowns:,} unknowns take about {8 * entries / 2**30:.0f} GiB,"
            f" more than {LARGEST / 2**30:.0f}; take a smaller layer, or generic_rank(layer) and determined(system),"
            " which need no floats"
        )
