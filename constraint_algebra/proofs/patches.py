"""The kernel of a patch embedding: a convolution whose windows tile its input, or a linear layer at several places.

Its input is then a matrix X, a column for each place, and the equations are `W X = 0` and `X K^T = 0` with K the output
gradient, a column for each place. The matrices that both leave open are those with columns in the kernel of W and rows
in the kernel of K: small factors, where elimination of all equations at once would take minutes.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from constraint_algebra import memory
from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import Conv, Linear
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.numerics.rows import unit_rows
from constraint_algebra.solvers.null_space import RTOL, TOLERANCE, Kernel, Rank, rank_of

COPIES = 4  # of the basis, in all that a set of differences is asked for


def patches(layer: PlacedLayer) -> NDArray[np.intp] | None:
    """Return the flat index of each value of each window, `(values, windows)`; `None` where windows do not tile.

    >>> from constraint_algebra.layers import Conv1d
    >>> patches(Conv1d(3, 2, stride=2).place((1, 6)))
    array([[0, 2, 4],
           [1, 3, 5]])
    >>> patches(Conv1d(3, 2).place((1, 6))) is None
    True
    """
    places = np.arange(layer.unknowns)
    if isinstance(layer.layer, Linear):
        return places[:, None]
    if not isinstance(layer.layer, Conv) or layer.groups != 1:
        return None
    conv, taps = layer.layer, layer.taps
    plain = not any(map(any, conv.paddings)) and tuple(conv.strides) == taps
    dilated = any(d > 1 and t > 1 for d, t in zip(conv.dilations, taps, strict=True))
    if not plain or dilated or any(n % t for n, t in zip(layer.positions, taps, strict=True)):
        return None
    split = [layer.channels, *(size for n, t in zip(layer.positions, taps, strict=True) for size in (n // t, t))]
    axes = range(1, len(split), 2)
    order = [0, *(axis + 1 for axis in axes), *axes]
    return places.reshape(split).transpose(order).reshape(layer.channels * math.prod(taps), -1)


class PatchKernel(Kernel):
    """The kernel of all gradient and weight equations of a layer whose windows tile its input.

    Args:
        places: what `patches` returned, of the unknowns in their order.
        weight: as a matrix, `(filters, values)`; columns of different factors may be scaled.
        output_gradient: as a matrix, `(filters, windows)`.
        shape: shape of the unknowns.
        rtol: singular values below this share of the largest count as zero.
        tolerance: row norm of the basis up to which an unknown counts as fixed.
    """

    def __init__(
        self,
        places: NDArray[np.intp],
        weight: FloatArray,
        output_gradient: FloatArray,
        shape: tuple[int, ...],
        *,
        rtol: float = RTOL,
        tolerance: float = TOLERANCE,
    ) -> None:
        """Factor both matrices."""
        self.shape, self.tolerance, self._places = shape, tolerance, places
        self._weight, self._k = _units(weight), _units(output_gradient)
        self._by_weight, self._by_k = (rank_of(rows, rtol * _size(rows)) for rows in (self._weight, self._k))
        opens = self._by_weight.null.shape[1] * self._by_k.null.shape[1]
        memory.demand(
            f"the twins of an input of {places.size:,} values, of which the first layer leaves {opens:,} directions"
            " open,",
            8.0 * COPIES * places.size * opens,
            "take a smaller input or model",
        )
        self.basis = np.empty((places.size, opens))
        self.basis[places.ravel()] = np.kron(self._by_weight.null, self._by_k.null)
        self._matrix = self._rows()
        self.plain = self._matrix.shape[0]
        self.blur = np.ones(self.plain)
        pairs = ((self._by_weight, self._weight), (self._by_k, self._k))
        least = min(found.least / _size(rows) if found.rank else 1.0 for found, rows in pairs)
        self.gap = (least, max(found.dropped / _size(rows) for found, rows in pairs))

    def _rows(self) -> sp.csr_array:
        """Return the gradient rows (value, filter), then the weight rows (filter, window), each of unit norm."""
        values, windows = self._places.shape
        gradient = sp.kron(sp.eye_array(values), self._k)
        weight = sp.kron(self._weight, sp.eye_array(windows))
        by_place = sp.csc_array(sp.vstack([gradient, weight], format="csc"))
        return sp.csr_array(by_place[:, np.argsort(self._places.ravel())])

    @property
    def matrix(self) -> sp.csr_array:
        """All rows, gradient rows first, each of unit norm."""
        return self._matrix

    def project(self, vector: FloatArray) -> FloatArray:
        """Return the part of a flat vector inside the null space."""
        left, right = self._by_weight.null, self._by_k.null
        found = np.empty(vector.shape)
        found[self._places] = left @ (left.T @ vector[self._places] @ right) @ right.T
        return found

    def multipliers(self, vectors: FloatArray) -> FloatArray:
        """Return λ with `matrix^T λ = vectors` for flat vectors in columns, up to their part in the null space."""
        count = vectors.shape[1]
        V = vectors[self._places]  # value, window, vector
        by_k = _explained(self._by_k, V.transpose(1, 0, 2))  # filter, value, vector
        rest = V - np.einsum("fo,fvn->von", self._k, by_k, optimize=True)
        by_weight = _explained(self._by_weight, rest)  # filter, window, vector
        return np.concatenate([by_k.transpose(1, 0, 2).reshape(-1, count), by_weight.reshape(-1, count)])


def _units(matrix: FloatArray) -> FloatArray:
    """Return the rows that are not zero, scaled to unit norm."""
    rows = unit_rows(sp.csr_array(matrix))[0].toarray()
    return np.asarray(rows[rows.any(axis=1)])


def _size(rows: FloatArray) -> float:
    """Return a number that is at least the largest singular value of a matrix."""
    return math.sqrt(np.abs(rows).sum(axis=0).max() * np.abs(rows).sum(axis=1).max()) if rows.size else 1.0


def _explained(found: Rank, vectors: FloatArray) -> FloatArray:
    """Return c with `matrix^T c = vectors` along the first axis, up to what the matrix does not see."""
    flat = vectors.reshape(len(vectors), -1)
    seen = found.left @ found.explained(found.right @ flat)
    return np.asarray(seen).reshape(-1, *vectors.shape[1:])
