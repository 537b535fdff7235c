"""Normalisation by the data's own statistics over residues: values, differences, and how gradients move with them.

With `d = x - mean`, `v = mean(d²) + eps` and a scale s, `s² = v`, group by group,

    x̂ = d / s        δx̂ = (δx - mean(δx) - d a(δx)) / s        a(y) = mean(d y) / v

and a gradient comes down by the same map. So s stands in front of all else as a factor, and there is nothing that takes
a root but the factor itself: where a residue has none, the root of it times a fixed residue without one stands for it.
The factors and weights behind a normalisation are generic, and take such a number in.

With `eps = 0` what scales all values of a group leaves x̂ as it is, as it nearly does with the tiny eps in use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from constraint_algebra.arrays import FloatArray, RealArray
from constraint_algebra.layers.base import Normalisation
from constraint_algebra.numerics.modular import PRIME

# PRIME - 1 = 16 * ODD: the roots of one of order 16 are what Tonelli and Shanks look up.
ODD = (PRIME - 1) // 16
ROOTLESS = 3  # the least residue without a root


@dataclass(frozen=True, eq=False)
class ModularStatistics:
    """What a normalisation makes of values over residues.

    Attributes:
        off: deviations from the mean of each group, `(groups, size)`.
        inverse_scale: 1 / s of each group, `(groups, 1)`.
        inverse_variance: 1 / v of each group; zero where v is, so that a constant group scales by itself alone.
        centred: whether the mean is taken away.
    """

    off: FloatArray
    inverse_scale: FloatArray
    inverse_variance: FloatArray
    centred: bool

    @staticmethod
    def of(operation: Normalisation, x: RealArray, eps: float) -> ModularStatistics:
        """Return the statistics of values.

        Args:
            operation: the normalisation, of which only the groups matter.
            x: residues, in its input's shape.
            eps: a residue that stands for what is added to the variance.

        >>> from constraint_algebra.layers.own_statistics import OwnStatistics
        >>> found = ModularStatistics.of(OwnStatistics(1), np.array([1.0, 3.0]), 0.0)
        >>> found.off.astype(int), found.inverse_variance
        (array([[8388592,       1]]), array([[1.]]))
        """
        runs = x.reshape(operation.runs(x.shape), -1).astype(float)
        off = _mod(runs - _mean(runs)[:, None]) if operation.centred else runs
        variance = _mod(_mean(_mod(off * off)) + eps)[:, None]
        scale = np.where(variance == 0, 1.0, root(variance))
        return ModularStatistics(off, power(scale, PRIME - 2), power(variance, PRIME - 2), operation.centred)

    @property
    def values(self) -> FloatArray:
        """x̂, `(groups, size)`."""
        return _mod(self.off * self.inverse_scale)

    def through(self, d: RealArray) -> FloatArray:
        """Return what differences of the input become at the output, and gradients at the output at the input.

        Args:
            d: `(*shape, n)`.
        """
        runs = self._runs(d)
        moved = self._centred(runs) - _mod(self.off[..., None] * self._along(runs)[:, None])
        return _mod(_mod(moved) * self.inverse_scale[..., None]).reshape(d.shape)

    def bend(self, k: RealArray, d: RealArray) -> FloatArray:
        """Return how `through(k)` of a gradient k at the output moves with differences of the input.

        Args:
            k: residues, `(*shape)`.
            d: differences, `(*shape, n)`.
        """
        runs, above = self._runs(d), self._runs(k)
        by_scale = self._along(runs)  # δs / s
        share, moved = self._along(above), self._centred(runs)
        share_moved = _mod(_mod(_mean(_mod(moved * above)) * self.inverse_variance) - 2 * _mod(by_scale * share))
        turned = _mod(moved * share[:, None]) + _mod(self.off[..., None] * share_moved[:, None])
        first = _mod(by_scale[:, None] * self.through(above))
        return _mod(-first - _mod(_mod(turned) * self.inverse_scale[..., None])).reshape(d.shape)

    def moments(self, d: RealArray) -> FloatArray:
        """Return how the means, and half the variances, move with differences of the input, `(rows, n)`."""
        runs = self._runs(d)
        by_variance = _mean(_mod(self.off[..., None] * runs))
        return np.concatenate([_mean(runs), by_variance]) if self.centred else by_variance

    def _runs(self, d: RealArray) -> FloatArray:
        """Return differences group by group, in float64, whose sums are exact."""
        return d.reshape(*self.off.shape, -1).astype(float)

    def _along(self, runs: FloatArray) -> FloatArray:
        """Return a of differences, `(groups, n)`."""
        return _mod(_mean(_mod(self.off[..., None] * runs)) * self.inverse_variance)

    def _centred(self, runs: FloatArray) -> FloatArray:
        return _mod(runs - _mean(runs)[:, None]) if self.centred else runs


def root(values: FloatArray) -> FloatArray:
    """Return a root of each residue, or of `ROOTLESS` times it where it has none (Tonelli and Shanks).

    >>> root(np.array([4.0, 9.0])) ** 2 % PRIME, root(np.array([3.0])) ** 2 % PRIME
    (array([4., 9.]), array([9.]))
    """
    generator = pow(ROOTLESS, ODD, PRIME)
    powers = np.array([pow(generator, i, PRIME) for i in range(16)])
    order = np.argsort(powers)
    at = order[np.searchsorted(powers[order], power(values, ODD)).clip(max=15)]
    odd = at % 2 == 1
    values, at = _mod(np.where(odd, ROOTLESS * values, values)), (at + odd) % 16
    return _mod(power(values, (ODD + 1) // 2) * powers[-(at // 2) % 16])


def power(values: FloatArray, exponent: int) -> FloatArray:
    """Return powers of residues.

    >>> power(np.array([2.0, 0.0]), PRIME - 2) * 2 % PRIME
    array([1., 0.])
    """
    found, square, left = np.ones(values.shape), values, exponent
    while left:
        if left % 2:
            found = _mod(found * square)
        square, left = _mod(square * square), left // 2
    return found


def _mean(runs: FloatArray) -> FloatArray:
    """Return the means over axis 1 of residues `(groups, size, ...)`."""
    return _mod(_mod(runs.sum(axis=1)) * pow(runs.shape[1], -1, PRIME))


def _mod(values: FloatArray) -> FloatArray:
    return np.remainder(values, PRIME)
