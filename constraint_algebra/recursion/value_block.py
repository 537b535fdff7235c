"""The first stage of the equations of a value: the gradient equations of some channels by their singular values.

The readers of a value share one matrix of gradient equations for all channels that lie in the same groups of each.
Directions of large singular values are *strong*: what their noise leaves of them is small. The others are open, and
what little the gradient equations say of these is left to a second stage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from constraint_algebra.arrays import FloatArray, IntArray


@dataclass(frozen=True)
class Block:
    """The matrix of some channels, `left diag(singular) right^T`.

    Attributes:
        channels: which.
        left: of the rows, `(rows, ranks)`.
        singular: falling, `(ranks,)`.
        right: of the positions, all of them, `(positions, positions)`.
        strong: how many directions count as strong, the first ones.
    """

    channels: IntArray
    left: FloatArray
    singular: FloatArray
    right: FloatArray
    strong: int

    def solved(self, rhs: FloatArray) -> FloatArray:
        """Return the strong part for right-hand sides `(rows, n)`, `(positions, n)`."""
        s = self.strong
        return np.asarray(self.right[:, :s] @ ((self.left[:, :s].T @ rhs) / self.singular[:s, None]))

    def weak(self, rhs: FloatArray) -> FloatArray:
        """Return the right-hand sides of the weak directions, `(weak, n)`."""
        return np.asarray(self.left[:, self.strong : len(self.singular)].T @ rhs)

    @property
    def noise(self) -> FloatArray:
        """Standard deviation of each entry of the strong part, `(positions,)`."""
        return np.asarray(np.linalg.norm(self.right[:, : self.strong] / self.singular[: self.strong], axis=1))

    @property
    def opens(self) -> int:
        """Number of directions that the strong ones leave open, of all channels."""
        return int(self.open.shape[1]) * len(self.channels)

    def sharper(self, cut: float) -> Block:
        """Return the block in which only directions stronger than a cut count as strong."""
        return replace(self, strong=min(self.strong, int(np.count_nonzero(self.singular > cut))))

    @property
    def open(self) -> FloatArray:
        """Basis of what the strong directions leave open: the weak ones first, `(positions, open)`."""
        return self.right[:, self.strong :]
