"""Matrices of rational numbers (FLINT): null spaces without rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

import flint
import numpy as np

from constraint_algebra.arrays import FloatArray

Rationals = list[Fraction]
ZERO = Fraction(0)


def null_space(matrix: flint.fmpq_mat) -> tuple[flint.fmpq_mat, list[int]]:
    """Return a basis, in columns, with a unit matrix at the free unknowns, and these.

    >>> null_space(flint.fmpq_mat([[2, 1, 0], [0, 0, 3]]))
    ([-1/2]
    [    1]
    [    0], [1])
    """
    reduced, rank = matrix.rref()
    unknowns, pivots = matrix.ncols(), list[int]()
    for i in range(rank):
        start = pivots[-1] + 1 if pivots else 0
        pivots.append(next(j for j in range(start, unknowns) if reduced[i, j] != 0))
    taken = set(pivots)
    free = [j for j in range(unknowns) if j not in taken]
    basis = flint.fmpq_mat(unknowns, len(free))
    for place, j in enumerate(free):
        basis[j, place] = 1
        for i, pivot in enumerate(pivots):
            basis[pivot, place] = -reduced[i, j]
    return basis, free


def row_basis(matrix: flint.fmpq_mat) -> flint.fmpq_mat:
    """Return the rows of the reduced echelon form that are not zero: they span what the rows of the matrix span."""
    reduced, rank = matrix.rref()
    columns = matrix.ncols()
    return flint.fmpq_mat(rank, columns, reduced.entries()[: rank * columns])


def matrix_of(sparse: list[dict[int, flint.fmpq]], columns: int) -> flint.fmpq_mat:
    """Return a matrix from the entries of its rows by column."""
    matrix = flint.fmpq_mat(len(sparse), columns)
    for i, row in enumerate(sparse):
        for j, value in row.items():
            matrix[i, j] = value
    return matrix


def from_columns(vectors: list[Rationals], rows: int) -> flint.fmpq_mat:
    """Return a matrix from its columns."""
    return flint.fmpq_mat(len(vectors), rows, fmpqs(v for vector in vectors for v in vector)).transpose()


def columns_of(matrix: flint.fmpq_mat) -> list[Rationals]:
    """Return the columns of a matrix."""
    entries, count = matrix.entries(), matrix.ncols()
    return [[fraction(value) for value in entries[j::count]] for j in range(count)]


def fmpqs(values: Iterable[Fraction]) -> list[flint.fmpq]:
    """Return fractions as FLINT's numbers."""
    return [flint.fmpq(value.numerator, value.denominator) for value in values]


def fraction(value: flint.fmpq) -> Fraction:
    """Return one of FLINT's numbers as a fraction."""
    return Fraction(int(value.p), int(value.q)) if value else ZERO


def times(matrix: Iterable[Mapping[int, Fraction]], x: Rationals) -> Rationals:
    """Return the product of rows, each by column, with a vector."""
    return [sum((c * x[j] for j, c in row.items()), Fraction(0)) for row in matrix]


def orthonormal(vectors: list[Rationals], size: int) -> FloatArray:
    """Return orthonormal columns in float64 that span the same space, up to rounding, shape `(size, len(vectors))`."""
    if not vectors:
        return np.zeros((size, 0))
    scaled = [[float(value / max(map(abs, vector))) for value in vector] for vector in vectors]  # some exceed float64
    return np.asarray(np.linalg.qr(np.array(scaled).T)[0])
