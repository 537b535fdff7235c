"""What equations leave possible: a point and the directions in which it may move."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.numerics.rows import row_norms

MOVING = 1e-9  # row norm of V above which a value can move at all


@dataclass(frozen=True, eq=False)
class Family:
    """All x = p + V y that equations leave possible.

    Attributes:
        p: one of them, shape `(n,)`.
        V: orthonormal columns, `(n, d)`.
        noise: standard deviation by which the nearest point of the family may miss the truth, `(n,)`.
    """

    p: FloatArray
    V: FloatArray
    noise: FloatArray

    @property
    def dimension(self) -> int:
        """Number of directions that are open."""
        return int(self.V.shape[1])

    @cached_property
    def moving(self) -> BoolArray:
        """Which values can move."""
        return np.asarray(row_norms(self.V) > MOVING)

    def at(self, y: FloatArray) -> FloatArray:
        """Return x."""
        return np.asarray(self.p + self.V @ y)
