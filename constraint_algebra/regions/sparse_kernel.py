"""The kernel of many sparse rows, by what they span: no basis of it is ever formed unless somebody asks for one.

With orthonormal rows in place of E the projection on the kernel would be `x - E^T E x`. Of sparse rows it is
`x - E^T (E E^T)^-1 E x`, one Cholesky factor of the size of the rows. Pivoting leaves out rows that depend on others;
whether they truly do is told by what is left of them, which is computed without squares.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra import memory
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers.kinds import Shape
from constraint_algebra.numerics.rows import row_norms, unit_rows
from constraint_algebra.solvers.null_space import RTOL, TOLERANCE, Kernel, rank_of

PIVOT = 1e-8  # square of what a row must add to the others to be taken at once
SMALL = 1e-3  # norms below this are computed once more, without the difference of squares
PASSES = 4  # of the projection; each takes rounding away
STILL = 1e-15  # what is left of the rows after that, relative to the vector
ROUNDS = 12  # of the iterations that find the ends of the spectrum
CHUNK = 512  # columns at a time


class SparseKernel(Kernel):
    """What sparse rows leave open.

    Args:
        rows: over the flat unknowns; their scale does not matter.
        shape: of the unknowns.
        rtol: singular values below this share of the largest count as zero.
        tolerance: row norm of a basis up to which an unknown counts as fixed.

    Raises:
        MemoryLimitError: products of all rows with each other are too many to be held.

    >>> found = SparseKernel(sp.csr_array([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]]), (3,))
    >>> found.nullity, found.fixed, found.project(np.array([1.0, 0.0, 1.0]))
    (2, array([False, False, False]), array([ 0.5, -0.5,  1. ]))
    """

    def __init__(self, rows: sp.csr_array, shape: Shape, *, rtol: float = RTOL, tolerance: float = TOLERANCE) -> None:
        """Factor the rows that count."""
        self.shape, self.tolerance = shape, tolerance
        E = _different(unit_rows(rows)[0])
        m = E.shape[0]
        memory.demand(
            f"the products of {m:,} equations with each other", 3 * 8.0 * m * m, "take a smaller input or network"
        )
        taken, left, rank = _pivoted(E)
        self._E, self._ET = E[taken[:rank]], sp.csr_array(E[taken[:rank]].T)
        self._factor, self.plain = (left[:rank, :rank], True), rank
        largest, least = self._ends() if rank else (1.0, 1.0)
        over = E[taken[rank:]]
        rest = np.asarray(over.toarray()) if over.shape[0] else np.zeros((0, E.shape[1]))
        for _ in range(2 if rank else 0):
            rest = rest - self._solve(self._E @ rest.T).T @ self._E
        found = rank_of(rest, rtol * largest)
        self._extra = found.right if found.core.ndim == 1 else np.asarray(la.qr(rest.T, mode="economic")[0]).T
        least = min(least, found.least) if found.rank else least
        self.gap = (float(least / largest), float(found.dropped / largest))
        self.blur = np.concatenate([np.ones(rank), np.full(len(self._extra), 1 / max(found.least, rtol))])

    @property
    def nullity(self) -> int:
        """Dimension of the null space."""
        return math.prod(self.shape) - self.plain - len(self._extra)

    @cached_property
    def matrix(self) -> sp.csr_array:
        """The rows that count, each of unit norm; those that others almost explain without what these explain."""
        return sp.csr_array(sp.vstack([self._E, sp.csr_array(self._extra)], format="csr"))

    @cached_property
    def basis(self) -> FloatArray:  # type: ignore[override] # computed only for those who ask
        """Orthonormal columns, `(unknowns, nullity)`."""
        n = math.prod(self.shape)
        memory.demand(f"a basis of {self.nullity:,} vectors of {n:,} values", 24.0 * n * n, "use project instead")
        return np.asarray(la.qr(self.matrix.T.toarray())[0][:, n - self.nullity :])

    @cached_property
    def norms(self) -> FloatArray:
        """Row norms of the basis, in the shape of the unknowns."""
        L, n = self._factor[0], math.prod(self.shape)
        squares = np.ones(n)
        for start in range(0, n, CHUNK):
            columns = self._E[:, start : start + CHUNK].toarray()
            spanned = la.solve_triangular(L, columns, lower=True) if self.plain else columns
            squares[start : start + CHUNK] -= (spanned**2).sum(axis=0)
        squares -= (self._extra**2).sum(axis=0)
        found = np.sqrt(np.maximum(squares, 0.0))
        close = np.flatnonzero(found < SMALL)
        for some in np.split(close, range(CHUNK, len(close), CHUNK)) if len(close) else ():
            one = np.zeros((n, len(some)))
            one[some, np.arange(len(some))] = 1.0
            found[some] = row_norms(self._projected(one).T)
        return found.reshape(self.shape)

    @property
    def fixed(self) -> BoolArray:
        """Which unknowns the equations determine, in their shape."""
        return np.asarray(self.norms <= self.tolerance)

    def multipliers(self, vectors: FloatArray) -> FloatArray:
        """Return λ with `matrix^T λ = vectors` for flat vectors in columns, up to their part in the null space."""
        own = self._solve(self._E @ vectors)
        own += self._solve(self._E @ (vectors - self._ET @ own - self._extra.T @ (self._extra @ vectors)))
        return np.concatenate([own, self._extra @ vectors])

    def project(self, vector: FloatArray) -> FloatArray:
        """Return the part of a flat vector inside the null space."""
        return self._projected(vector[:, None])[:, 0]

    def roughly(self, vector: FloatArray) -> FloatArray:
        """Return about the part of a flat vector inside the null space, in one pass."""
        return np.asarray(
            vector - self._ET @ (self._inverse @ (self._E @ vector)) - self._extra.T @ (self._extra @ vector)
        )

    @cached_property
    def _inverse(self) -> FloatArray:
        """The inverse of `E E^T`: one product where the factor takes two solutions."""
        if not self.plain:
            return np.zeros((0, 0))
        half = la.lapack.dpotri(self._factor[0], lower=1)[0]
        return np.asarray(np.tril(half) + np.tril(half, -1).T)

    def _projected(self, vectors: FloatArray) -> FloatArray:
        x = vectors
        for _ in range(PASSES):
            missed = self._E @ x
            x = x - self._ET @ self._solve(missed) - self._extra.T @ (self._extra @ x)
            if np.abs(missed).max(initial=0.0) <= STILL * np.abs(x).max(initial=0.0):
                break
        return np.asarray(x)

    def _solve(self, rhs: FloatArray) -> FloatArray:
        return np.asarray(la.cho_solve(self._factor, rhs, check_finite=False)) if self.plain else rhs

    def _ends(self) -> tuple[float, float]:
        """Return about the largest and the smallest singular value of the rows that were taken."""
        ends = []
        for apply in (lambda x: self._E @ (self._ET @ x), self._solve):
            x = np.random.default_rng(0).standard_normal((self._E.shape[0], 2))
            size = 1.0
            for _ in range(ROUNDS):
                x = apply(x)
                size = float(row_norms(x.T).max())
                x = np.asarray(la.qr(x, mode="economic")[0])
            ends.append(size)
        return math.sqrt(ends[0]), 1 / math.sqrt(ends[1])


def _pivoted(E: sp.csr_array) -> tuple[np.ndarray, FloatArray, int]:
    """Return an order of rows, the Cholesky factor of their products in it, and how many are independent."""
    if not E.shape[0]:
        return np.zeros(0, dtype=int), np.zeros((0, 0)), 0
    products = (E @ E.T).toarray()
    factor, order, rank, _ = la.lapack.dpstrf(products, lower=1, tol=PIVOT, overwrite_a=1)
    return order - 1, np.tril(factor), int(rank)


def _different(rows: sp.csr_array) -> sp.csr_array:
    """Return the rows that are not zero, each once."""
    rows = sp.csr_array(rows, copy=True)
    rows.eliminate_zeros()
    rows.sort_indices()
    first: dict[bytes, int] = {}
    for i, (a, b) in enumerate(zip(rows.indptr[:-1], rows.indptr[1:], strict=True)):
        if b > a:
            first.setdefault(rows.indices[a:b].tobytes() + rows.data[a:b].tobytes(), i)
    return sp.csr_array(rows[np.array(list(first.values()), dtype=int)])
