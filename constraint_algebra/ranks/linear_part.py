"""What an operation does to differences of one value that it reads: a matrix over residues, often a diagonal one.

At a given pattern all operations but those with a weight are of this form: activations are diagonal, a selection takes
one entry for each output, and affine operations have their known coefficients, as residues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.numerics.modular import PRIME

DENOMINATOR = 10**6  # of the fractions that floats stand for


@dataclass(frozen=True, eq=False)
class LinearPart:
    """A matrix `(outputs, inputs)` over residues: the identity, a diagonal or a sparse one.

    Attributes:
        diagonal: its diagonal, where nothing stands beside it; `None` with no matrix is the identity.
        matrix: the matrix in whole numbers, where it is not diagonal.
    """

    diagonal: FloatArray | None = None
    matrix: sp.csr_array | None = None

    @staticmethod
    def of(matrices: Sequence[sp.csr_array]) -> LinearPart:
        """Return the sum of matrices of floats, which stand for the fractions next to them.

        >>> LinearPart.of([sp.csr_array([[0.5]])]).up(np.array([[2.0]]))
        array([[1.]])
        """
        total = sum((_residues(M) for M in matrices[1:]), _residues(matrices[0]))
        total.data %= int(PRIME)
        total.eliminate_zeros()
        n = total.shape[0]
        in_place = np.array_equal(total.indptr, np.arange(n + 1)) and np.array_equal(total.indices, np.arange(n))
        if total.shape[0] != total.shape[1] or not in_place:
            return LinearPart(matrix=total)
        return LinearPart() if (total.data == 1).all() else LinearPart(diagonal=total.data.astype(float))

    @staticmethod
    def picking(entries: IntArray, inputs: int) -> LinearPart:
        """Return the matrix that takes one entry for each output."""
        n = len(entries)
        ones = np.ones(n, dtype=np.int64)
        return LinearPart(matrix=sp.csr_array((ones, entries, np.arange(n + 1)), shape=(n, inputs)))

    @property
    def is_diagonal(self) -> bool:
        """Whether every output reads the one input at its own place."""
        return self.matrix is None

    def up(self, x: FloatArray) -> FloatArray:
        """Return the product with residues `(inputs, n)`."""
        if self.matrix is not None:
            return np.asarray((self.matrix @ x.astype(np.int64)) % int(PRIME), dtype=float)
        return x if self.diagonal is None else np.remainder(x * self.diagonal[:, None], PRIME)

    def down(self, k: FloatArray) -> FloatArray:
        """Return the product of the transpose with residues `(outputs, n)`."""
        if self.matrix is not None:
            return np.asarray((self.matrix.T @ k.astype(np.int64)) % int(PRIME), dtype=float)
        return self.up(k)

    def met_above(self, inputs: BoolArray) -> IntArray:
        """Return how many of some inputs each output reads, flat."""
        if self.matrix is not None:
            return np.asarray(_pattern(self.matrix) @ inputs.astype(np.int32))
        return self._reached(inputs)

    def met_below(self, outputs: BoolArray) -> IntArray:
        """Return how many of some outputs read each input, flat."""
        if self.matrix is not None:
            return np.asarray(_pattern(self.matrix).T @ outputs.astype(np.int32))
        return self._reached(outputs)

    def _reached(self, places: BoolArray) -> IntArray:
        return (places if self.diagonal is None else places & (self.diagonal != 0)).astype(np.int32)


def _pattern(matrix: sp.csr_array) -> sp.csr_array:
    return sp.csr_array((np.ones(matrix.nnz, dtype=np.int32), matrix.indices, matrix.indptr), shape=matrix.shape)


def _residues(matrix: sp.csr_array) -> sp.csr_array:
    return sp.csr_array((as_residues(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)


def as_residues(values: FloatArray) -> IntArray:
    """Return floats, as the fractions with a small denominator next to them, as residues in whole numbers.

    >>> int(as_residues(np.array([1 / 9]))[0]) * 9 % int(PRIME)
    1
    """
    distinct, place = np.unique(values, return_inverse=True)
    fractions = [Fraction(value).limit_denominator(DENOMINATOR) for value in distinct.tolist()]
    p = int(PRIME)
    found = [part.numerator * pow(part.denominator, -1, p) % p for part in fractions]
    return np.array(found, dtype=np.int64)[place.reshape(values.shape)]
