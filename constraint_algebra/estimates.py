"""Values that are partly known, with their noise, and the way back through an activation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from constraint_algebra.activations import formulas
from constraint_algebra.layers import Activation, Shape

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

NOISE_TAIL = (4.0, 200.0)  # standard deviations that noise reaches in any case, and never


@dataclass(frozen=True)
class Estimate:
    """Values with what is known of them.

    Attributes:
        value: any shape; meaningless where not known.
        known: same shape.
        perturbations: `(*shape, members)`, how the values would move under each member of the noise ensemble.
    """

    value: FloatArray
    known: BoolArray
    perturbations: FloatArray

    @property
    def deviation(self) -> FloatArray:
        """Standard deviation of each value."""
        return np.asarray(np.sqrt((self.perturbations**2).mean(axis=-1)))

    def filled(self) -> FloatArray:
        """Return the values, zero where not known."""
        return np.where(self.known, self.value, 0.0)

    def reshape(self, shape: Shape) -> Estimate:
        """Return the estimate in another shape."""
        return Estimate(self.value.reshape(shape), self.known.reshape(shape), self.perturbations.reshape(*shape, -1))

    @staticmethod
    def unknown(shape: Shape, members: int) -> Estimate:
        """Return values of which nothing is known."""
        return Estimate(np.full(shape, np.nan), np.zeros(shape, dtype=bool), np.zeros((*shape, members)))


def through_activation(
    activation: Activation, y: Estimate, dy: Estimate, stored: FloatArray | float = 0.0
) -> tuple[Estimate, Estimate]:
    """Return z and dL/dz from the output y = σ(z) of an activation and dL/dy.

    dL/dz is known where both are, and also where dL/dy is zero, whatever y may be.

    Args:
        activation: σ.
        y: its output.
        dy: the gradient that arrives there.
        stored: perturbations `(*shape, members)` of σ(z) when the client stored it as y. The layers above have seen the
            stored value, so that only z is off: by much where σ is flat.
    """
    f = formulas(activation)
    value = y.value
    for plateau in f.plateaus:  # rounding must not lift a value off the plateau
        distance = np.abs(value - plateau) / np.maximum(y.deviation, 1e-150)  # a quotient by less would overflow
        value = np.where(distance <= noise_edge(distance[y.known]), plateau, value)
    d, slope = f.derivative(value), f.slope(value)
    steep = y.known & np.isfinite(d)
    d, slope = np.where(steep, d, 0.0), np.where(steep, slope, 0.0)
    moved = np.where(y.known[..., None], y.perturbations, 0.0)
    dz = Estimate(
        value=np.where(dy.known, dy.value * d, 0.0),
        known=dy.known & (steep | (dy.value == 0)),
        perturbations=d[..., None] * dy.perturbations + (slope * dy.value)[..., None] * moved,
    )
    z = f.inverse(value)
    known = y.known & np.isfinite(z)
    steepness = np.where(known & (d > 0), d, 1.0)
    return Estimate(np.where(known, z, np.nan), known, (y.perturbations + stored) / steepness[..., None]), dz


def noise_edge(distances: FloatArray) -> float:
    """Return where noise ends and signal begins among distances in standard deviations: amid their widest gap.

    >>> noise_edge(np.array([0.1, 2.0, 9.0, 4e6, 5e7])), (9.0 * 4e6) ** 0.5
    (6000.0, 6000.0)
    """
    surely, never = NOISE_TAIL
    low = np.concatenate([[surely], np.sort(distances[(distances > surely) & (distances <= never)])])
    beyond = distances[distances > never].min(initial=1e9)
    high = np.append(low[1:], beyond)
    widest = int(np.argmax(high / low))
    return float(np.sqrt(low[widest] * high[widest]))
