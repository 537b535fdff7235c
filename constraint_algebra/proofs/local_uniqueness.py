"""What the Jacobian of all gradients with respect to the input says about the neighbourhood of one input.

Where the certificate of the first layer cannot decide, because a layer above it is not determined, this still does: of
full column rank, no input nearby has the same gradients (inverse function theorem; activations must not sit on a kink).
A null vector is a direction along which no gradient moves to first order; it proves no twin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.errors import ParameterError
from constraint_algebra.numerics.rows import gap_at, row_norms
from constraint_algebra.numerics.singular import svd

RTOL = 1e-9  # derivatives of derivatives lose some digits
ROWS = 4096  # of the Jacobian at a time


@checked
@dataclass(frozen=True)
class LocalUniqueness:
    """The rank of the Jacobian at one input.

    Attributes:
        rank: its numerical rank.
        norms: row norms of an orthonormal null-space basis, in the input shape.
        rtol: singular values below this share of the largest count as zero.
        gap: last singular value that counted and first that did not, relative to the largest.
        tolerance: norm up to which a value does not move along any null vector.
    """

    rank: int
    norms: FloatArray
    rtol: float
    gap: tuple[float, float]
    tolerance: float

    @property
    def unique(self) -> bool:
        """Whether no other input nearby has the same gradients."""
        return self.rank == self.norms.size

    @property
    def moves(self) -> BoolArray:
        """Which values move along a direction in which no gradient does, to first order."""
        return np.asarray(self.norms > self.tolerance)


@checked
def local_uniqueness(
    jacobian: Mapping[str, FloatArray], input_shape: tuple[int, ...], *, rtol: float = RTOL, tolerance: float = 1e-7
) -> LocalUniqueness:
    """Return what the Jacobian says.

    Args:
        jacobian: for each parameter `(*parameter_shape, *input_shape)`, as `gradient_jacobian` returns it.
        input_shape: shape of the input.
        rtol: singular values below this share of the largest count as zero.
        tolerance: of the row norms of the null space.

    >>> local_uniqueness({"w": np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])}, (3,)).moves
    array([False, False,  True])
    """
    size = int(np.prod(input_shape))
    if not jacobian:
        raise ParameterError("jacobian", "jacobian holds no parameter; give what gradient_jacobian returns")
    R = np.zeros((0, size))
    for values in jacobian.values():
        rows = values.reshape(-1, size)
        for start in range(0, len(rows), ROWS):  # one triangle stands for all rows seen
            R = np.asarray(la.qr(np.vstack([R, rows[start : start + ROWS]]), mode="r")[0][:size])
    _, s, vectors = svd(R)
    rank = int(np.count_nonzero(s > rtol * s[0])) if s[0] > 0 else 0
    norms = row_norms(vectors[rank:].T)
    gap = gap_at(s / (s[0] or 1.0), rank)
    return LocalUniqueness(rank, norms.reshape(input_shape), rtol, gap, tolerance)
