"""An ensemble of noise: every quantity of a reconstruction is carried along as it is, and with a few draws of noise."""

from __future__ import annotations

import math

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.kinds import Shape

MEMBERS = 12  # their spread is known to about 20 %
SIGNS = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1), 1.0, -1.0)  # by the bits of a byte


class Ensemble:
    """Draws of independent noise.

    Args:
        seed: of the draws.

    >>> Ensemble(0).draw(np.array([1.0, 3.0]), (2,))[:, :4]
    array([[-1.,  1., -1.,  1.],
           [-3., -3.,  3., -3.]])
    """

    def __init__(self, seed: int) -> None:
        """Start the generator."""
        self.random = np.random.default_rng(seed)

    def draw(self, deviation: FloatArray, shape: Shape) -> FloatArray:
        """Return noise of the given standard deviations, `(*shape, MEMBERS)`: of their size, with random signs.

        What reaches a value is a sum of many, whose distribution does not depend on that of each.
        """
        count = math.prod(shape) * MEMBERS
        signs = SIGNS[np.frombuffer(self.random.bytes(-(-count // 8)), np.uint8)].ravel()[:count]
        noise: FloatArray = signs.reshape(*shape, MEMBERS)
        noise *= np.asarray(deviation)[..., None]  # in place: these arrays are the largest there are
        return noise
