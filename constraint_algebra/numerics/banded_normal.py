"""Normal equations `A^T D A + E` of sparse rows, in a band: D and E diagonal, changed often, A always the same.

Rows that meet the same unknowns, as those of all filters at one output position, are one small dense product. The
unknowns are put in the order in which rows first meet them, or in that of Cuthill and McKee, whichever leaves the
narrower band; LAPACK factors a band of width b in `n b^2` operations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp
from scipy.sparse.csgraph import reverse_cuthill_mckee

from constraint_algebra.arrays import FloatArray, IntArray

REGULAR = 1e-14  # on a unit diagonal


class _Group(NamedTuple):
    """Rows that meet the same unknowns: which, their coefficients, and where the products belong in the band."""

    rows: IntArray
    values: FloatArray
    products: IntArray
    places: IntArray


class Factor:
    """A factorisation of the normal equations, for several right-hand sides."""

    def __init__(self, band: FloatArray, order: IntArray) -> None:
        """Factor a band, of which no more is needed; `LinAlgError` where it is not positive."""
        n = band.shape[1]
        diagonal = band[0].copy()
        self.scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        for below in range(len(band)):
            band[below, : n - below] *= self.scale[: n - below] * self.scale[below:]
        band[0] += np.where(diagonal > 0, REGULAR, 1.0)
        self.band = la.cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False)
        self.order = order

    def solve(self, rhs: FloatArray) -> FloatArray:
        """Return the solution for right-hand sides `(n,)` or `(n, k)`."""
        scale = self.scale if rhs.ndim == 1 else self.scale[:, None]
        found = np.empty_like(rhs)
        found[self.order] = scale * la.cho_solve_banded((self.band, True), scale * rhs[self.order], check_finite=False)
        return found


class BandedNormal:
    """The matrix `A^T D A + E` for one A.

    Args:
        A: sparse rows, `(m, n)`.

    >>> A = sp.csr_array(np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]))
    >>> factor = BandedNormal(A).factor(np.array([1.0, 2.0]), np.ones(3))
    >>> whole = A.T @ np.diag([1.0, 2.0]) @ A + np.eye(3)
    >>> bool(np.allclose(factor.solve(np.arange(3.0)), np.linalg.solve(whole, np.arange(3.0))))
    True
    """

    def __init__(self, A: sp.csr_array) -> None:
        """Find the order of the unknowns and the groups of rows."""
        A = sp.csr_array(A)
        A.sort_indices()
        self.unknowns = int(A.shape[1])
        same: dict[bytes, list[int]] = {}
        for row, (start, end) in enumerate(zip(A.indptr[:-1], A.indptr[1:], strict=True)):
            same.setdefault(A.indices[start:end].tobytes(), []).append(row)
        together = [np.array(rows) for key, rows in same.items() if key]
        met = [A.indices[A.indptr[rows[0]] : A.indptr[rows[0] + 1]].astype(np.intp) for rows in together]
        self.order = _order(met, self.unknowns)
        place = np.empty(self.unknowns, dtype=np.intp)
        place[self.order] = np.arange(self.unknowns)
        self.width = _width(met, place)
        self._groups = [self._group(A, rows, place[columns]) for rows, columns in zip(together, met, strict=True)]

    def _group(self, A: sp.csr_array, rows: IntArray, places: IntArray) -> _Group:
        order = np.argsort(places)
        entries = A.indptr[rows][:, None] + order
        low, high = np.tril_indices(len(places))
        at = places[order]
        return _Group(rows, A.data[entries], low * len(places) + high, (at[low] - at[high]) * self.unknowns + at[high])

    def factor(self, weights: FloatArray, diagonal: FloatArray) -> Factor:
        """Return the factorisation for weights D of the rows, `(m,)`, and E, `(n,)`, neither negative."""
        flat = np.zeros((self.width + 1) * self.unknowns)
        for rows, values, products, places in self._groups:
            own = weights[rows]
            if own.any():
                flat[places] += (values.T @ (values * own[:, None])).ravel()[products]
        band = flat.reshape(self.width + 1, self.unknowns)
        band[0] += diagonal[self.order]
        return Factor(band, self.order)


def _order(met: list[IntArray], unknowns: int) -> IntArray:
    """Return the better of two orders of the unknowns."""
    first = np.full(unknowns, len(met))
    for number in range(len(met) - 1, -1, -1):
        first[met[number]] = number
    sizes = [len(columns) for columns in met]
    pattern = sp.csr_array(
        (np.ones(sum(sizes)), np.concatenate([np.zeros(0, np.int32), *met]), np.append(0, np.cumsum(sizes))),
        shape=(len(met), unknowns),
    )
    orders: list[IntArray] = [
        np.argsort(first, kind="stable"),
        np.asarray(reverse_cuthill_mckee(sp.csr_matrix(pattern.T @ pattern), symmetric_mode=True)),
    ]
    return min(orders, key=lambda order: _width(met, np.argsort(order)))


def _width(met: list[IntArray], place: IntArray) -> int:
    """Return how far apart two unknowns of one row lie at most."""
    return max((int(np.ptp(place[columns])) for columns in met), default=0)
