"""An approximate inverse of the normal equations of a value: exact for what speaks of one channel, or of few sums.

The gradient equations with k fixed, and known entries, speak of each channel by itself: a matrix for each channel,
inverted. On its diagonal stands, in the mean, what ties the channels: known outputs, and that k moves with the value.
The rows of mean and scale tie all channels too, and are by far the most exact, but few: what they add is inverted by
the formula of Woodbury.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray, IntArray

FLOOR = 1e-11  # of the largest entry of a channel's matrix: the least that is expected of a direction
TIED = 1e-9  # of the square of the longest row that ties channels: more digits are lost to it otherwise
ENTRIES = 3e7  # of all matrices of channels: beyond, the channels of a block share one
FEW = 2e7  # entries of the rows that tie channels, up to which these are taken along


class Preconditioner:
    """The approximate inverse: symmetric and positive.

    Args:
        blocks: channels that have the same gradient equations, with singular values and right singular vectors of
            these, `(positions, positions)`.
        by_entry: what the other rows add on the diagonal, `(channels, positions)`.
        tying: rows that tie channels, transposed, `(channels * positions, n)`.
    """

    def __init__(
        self, blocks: list[tuple[IntArray, FloatArray, FloatArray]], by_entry: FloatArray, tying: FloatArray
    ) -> None:
        """Invert."""
        self._channels = [channels for channels, _, _ in blocks]
        alone = by_entry.size * by_entry.shape[1] <= ENTRIES
        least = TIED * float((tying**2).sum(axis=0).max(initial=0.0))
        self._inverses = [_inverses(by_entry[channels], s, right, least, alone=alone) for channels, s, right in blocks]
        self._tying: tuple[FloatArray, tuple[FloatArray, bool]] | None = None
        if 0 < tying.size <= FEW:
            through = self._apart(tying)
            middle = np.eye(tying.shape[1]) + tying.T @ through
            self._tying = through, la.cho_factor((middle + middle.T) / 2)

    def __call__(self, d: FloatArray) -> FloatArray:
        """Return what the approximate inverse makes of `(*shape, n)`."""
        flat = d.reshape(-1, d.shape[-1])
        found = self._apart(flat)
        if self._tying is not None:
            through, factors = self._tying
            found -= through @ la.cho_solve(factors, through.T @ flat)
        return found.reshape(d.shape)

    def _apart(self, flat: FloatArray) -> FloatArray:
        """Return what the matrices of channels make of `(channels * positions, n)`."""
        positions = self._inverses[0].shape[-1]
        by_channel = flat.reshape(-1, positions, flat.shape[-1])
        found = np.zeros_like(by_channel)
        for channels, inverses in zip(self._channels, self._inverses, strict=True):
            found[channels] = inverses @ by_channel[channels]
        return found.reshape(flat.shape)


def _inverses(
    by_entry: FloatArray, singular: FloatArray, right: FloatArray, least: float, *, alone: bool
) -> FloatArray:
    """Return the inverses for the channels of a block, `(channels, positions, positions)`, or one for all.

    They are made of their triangular factors: so they are positive, whatever rounding does.
    """
    matrix = (right[:, : len(singular)] * singular**2) @ right[:, : len(singular)].T
    diagonals = by_entry if alone else by_entry.mean(axis=0, keepdims=True)
    whole = matrix + diagonals[..., None] * np.eye(len(matrix))
    top = np.einsum("cpp->cp", whole).max(axis=1)
    floor = np.maximum(FLOOR * top, least)
    whole += np.where(floor > 0, floor, 1.0)[:, None, None] * np.eye(len(matrix))
    factors = np.linalg.inv(np.linalg.cholesky(whole))
    return np.asarray(factors.swapaxes(1, 2) @ factors)
