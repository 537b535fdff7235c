"""Exact linear algebra modulo a prime, fast enough for a layer: rank, echelon form, null space.

A matrix whose entries are independent indeterminates has, for almost all values, the rank that it has at one random
point modulo a prime p: a minor of size r that is not the zero polynomial vanishes at a random point with probability at
most r / (p - 1) (Schwartz 1980, Zippel 1979), and then the rank found is too small, never too large. (That p divides
every coefficient of every largest minor is possible in principle; they are small integers.)

Residues are held in float64. A product of blocks with at most 128 inner terms, each below p < 2^23, stays below 2^53
and is exact, so that the work is that of the BLAS; the remainder is taken once per block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray

PRIME = 8388593  # the largest below 2^23
BLOCK = 128  # BLOCK * PRIME^2 <= 2^53
PROBES = 3  # a random null vector vanishes by chance with probability 1 / PRIME, three at once with its cube


def residues(shape: int | tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Return random residues other than zero."""
    return rng.integers(1, PRIME, size=shape).astype(float)


def multiply(A: FloatArray, B: FloatArray) -> FloatArray:
    """Return `A @ B` modulo the prime.

    >>> multiply(np.array([[PRIME - 1.0, 2.0]]), np.array([[3.0], [4.0]]))
    array([[5.]])
    """
    total = np.zeros((len(A), B.shape[1]))
    for start in range(0, A.shape[1], BLOCK):
        inner = slice(start, start + BLOCK)
        total += _remainder(A[:, inner] @ B[inner])
    return _remainder(total)


class Echelon:
    """The row space, modulo the prime, of all rows absorbed so far.

    Rows come in blocks, in any number; those that add nothing leave nothing behind, and once the rank is the number of
    columns nothing more is computed. Each block of pivot rows keeps only the range of columns that it reaches, so
    that rows sorted by their first entry cost what a banded matrix costs.

    Attributes:
        columns: number of columns.
        rank: number of independent rows so far.

    >>> rows = Echelon(3).absorb(np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]]))
    >>> rows.rank, rows.free, rows.determined(np.random.default_rng(0))
    (1, array([1, 2]), array([False, False, False]))
    """

    def __init__(self, columns: int) -> None:
        """Start with no rows."""
        self.columns = columns
        self.rank = 0
        self._panels: list[_Panel] = []

    def absorb(self, rows: FloatArray) -> Echelon:
        """Add rows, shape `(n, columns)` of residues; returns itself."""
        for start in range(0, len(rows), BLOCK):
            if self.rank == self.columns:
                break
            block = self.reduce(rows[start : start + BLOCK])
            ends = _extent(block)
            reached = block[:, ends]
            pivot_rows, pivots = _reduced_echelon(reached[reached.any(axis=1)])
            if len(pivots):
                self.rank += len(pivots)
                self._append(_Panel(pivot_rows, pivots + ends.start, ends.start))
        return self

    def reduce(self, rows: FloatArray) -> FloatArray:
        """Return rows minus a combination of those absorbed, zero in every pivot column."""
        rows = rows.copy()
        for panel in self._panels:
            factors = rows[:, panel.pivots]
            if factors.any():
                _subtract(rows[:, panel.extent], factors, panel.rows)
        return rows

    @property
    def free(self) -> IntArray:
        """The columns without a pivot, ascending."""
        pivots = [panel.pivots for panel in self._panels]
        return np.setdiff1d(np.arange(self.columns), np.concatenate([np.empty(0, dtype=np.intp), *pivots]))

    def null(self, values: FloatArray) -> FloatArray:
        """Return the null vectors with the given values, shape `(free, n)`, in the free columns."""
        x = np.zeros((self.columns, values.shape[1]))
        x[self.free] = values
        for panel in reversed(self._panels):  # a panel meets the pivots of later panels only
            x[panel.pivots] = _remainder(-multiply(panel.rows, x[panel.extent]))
        return x

    def null_space(self) -> FloatArray:
        """Return the null-space basis that is the identity in the free columns, shape `(columns, free)`."""
        return self.null(np.eye(self.columns - self.rank))

    def determined(self, rng: np.random.Generator) -> BoolArray:
        """Return the columns on which every null vector is zero, judged by `PROBES` random null vectors."""
        vectors = self.null(residues((self.columns - self.rank, PROBES), rng))
        return np.asarray(~vectors.any(axis=1))

    def _append(self, panel: _Panel) -> None:
        """Store a panel, joined with the last one where both fit into one block."""
        if self._panels and len(self._panels[-1].pivots) + len(panel.pivots) <= BLOCK:
            panel = self._panels.pop().joined(panel)
        self._panels.append(panel)


def echelon(matrix: sp.csr_array) -> Echelon:
    """Return the echelon form of a sparse matrix of residues, its rows sorted by their first entry.

    >>> echelon(sp.csr_array(np.array([[0, 3, 1], [5, 0, 0], [5, 3, 1]]))).rank
    2
    """
    result = Echelon(matrix.shape[1])
    stored = np.flatnonzero(np.diff(matrix.indptr))
    first = np.minimum.reduceat(matrix.indices, matrix.indptr[stored]) if len(stored) else stored
    order = stored[np.argsort(first, kind="stable")]
    for start in range(0, len(order), BLOCK):
        if result.rank == result.columns:
            break
        result.absorb(matrix[order[start : start + BLOCK]].toarray().astype(float))
    return result


@dataclass(frozen=True)
class _Panel:
    """At most `BLOCK` pivot rows over the columns from `start` on, the identity in their own pivot columns."""

    rows: FloatArray
    pivots: IntArray
    start: int

    @property
    def extent(self) -> slice:
        return slice(self.start, self.start + self.rows.shape[1])

    def joined(self, later: _Panel) -> _Panel:
        """Return both panels as one; the later one is already zero in the pivots of this one."""
        start = min(self.start, later.start)
        rows = np.zeros((len(self.pivots) + len(later.pivots), max(self.extent.stop, later.extent.stop) - start))
        upper, lower = rows[: len(self.pivots)], rows[len(self.pivots) :]
        upper[:, self.start - start : self.extent.stop - start] = self.rows
        lower[:, later.start - start : later.extent.stop - start] = later.rows
        _subtract(upper, upper[:, later.pivots - start], lower)
        return _Panel(rows, np.concatenate([self.pivots, later.pivots]), start)


def _reduced_echelon(rows: FloatArray) -> tuple[FloatArray, IntArray]:
    """Return pivot rows, the identity in their pivot columns, and these columns: by halves."""
    if len(rows) == 0:
        return rows, np.empty(0, dtype=np.intp)
    if len(rows) == 1:
        pivot = int(np.argmax(rows[0] != 0))
        if rows[0, pivot] == 0:
            return rows[:0], np.empty(0, dtype=np.intp)
        return _remainder(rows * pow(int(rows[0, pivot]), -1, PRIME)), np.array([pivot])
    upper, left = _reduced_echelon(rows[: len(rows) // 2])
    lower = rows[len(rows) // 2 :].copy()
    _subtract(lower, lower[:, left], upper)
    lower, right = _reduced_echelon(lower)
    _subtract(upper, upper[:, right], lower)
    return np.concatenate([upper, lower]), np.concatenate([left, right])


def _subtract(rows: FloatArray, factors: FloatArray, pivot_rows: FloatArray) -> None:
    """Replace `rows` by `rows - factors @ pivot_rows` modulo the prime; at most `BLOCK` pivot rows."""
    if factors.size:
        rows -= factors @ pivot_rows
        _remainder(rows)


def _remainder(x: FloatArray) -> FloatArray:
    """Reduce integers below 2^53 modulo the prime, in place, to the range -1 to p - 1 in which zero is unique.

    The quotient is rounded, so that a remainder of p - 1 may come out as -1; a multiple of p gives exactly zero.
    """
    quotient = x / PRIME
    np.floor(quotient, out=quotient)
    quotient *= PRIME
    x -= quotient
    return x


def _extent(rows: FloatArray) -> slice:
    """Return the range of columns that holds every entry other than zero."""
    nonzero = np.flatnonzero(rows.any(axis=0))
    return slice(int(nonzero[0]), int(nonzero[-1]) + 1) if len(nonzero) else slice(0, 0)
