"""Values that are partly known, with their noise, and the way back through an activation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from constraint_algebra.activations import formulas
from constraint_algebra.layers import Activation, Shape
from constraint_algebra.masks import BiasCheck, noise_edge, settle

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


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
    activation: Activation,
    y: Estimate,
    dy: Estimate,
    stored: FloatArray | float = 0.0,
    check: BiasCheck | None = None,
) -> tuple[Estimate, Estimate]:
    """Return z and dL/dz from the output y = σ(z) of an activation and dL/dy.

    dL/dz is known where both are, and also where one of them makes it zero: dL/dy whatever y may be, or a y that was
    cut off whatever arrives.

    Args:
        activation: σ.
        y: its output.
        dy: the gradient that arrives there.
        stored: perturbations `(*shape, members)` of σ(z) when the client stored it as y. The layers above have seen the
            stored value, so that only z is off: by much where σ is flat.
        check: the bias equations of the layer below, whose outputs are the z.
    """
    f = formulas(activation)
    value, decided = _on_plateaus(f.plateaus, y, dy, check)
    d, slope = f.derivative(value), f.slope(value)
    steep = y.known & decided & np.isfinite(d)
    d, slope = np.where(steep, d, 0.0), np.where(steep, slope, 0.0)
    moved = np.where(y.known[..., None], y.perturbations, 0.0)
    dz = Estimate(
        value=np.where(dy.known, dy.value * d, 0.0),
        known=(dy.known & (steep | (dy.value == 0))) | (steep & (d == 0)),
        perturbations=d[..., None] * dy.perturbations + (slope * np.where(dy.known, dy.value, 0.0))[..., None] * moved,
    )
    z = f.inverse(value)
    known = y.known & decided & np.isfinite(z)
    steepness = np.where(known & (d > 0), d, 1.0)
    # Where z does not follow, the edge of the plateau stands in for it: a value with the same output.
    return Estimate(np.where(known, z, value), known, (y.perturbations + stored) / steepness[..., None]), dz


def _on_plateaus(
    plateaus: tuple[float, ...], y: Estimate, dy: Estimate, check: BiasCheck | None
) -> tuple[FloatArray, BoolArray]:
    """Return the outputs with those that noise lifted off a plateau put back on it, and where that is decided."""
    if not plateaus:
        return y.value, np.ones(y.value.shape, dtype=bool)
    levels = np.array(plateaus)
    away = np.abs(y.value[..., None] - levels)
    nearest = levels[away.argmin(axis=-1)]
    beyond = (y.value < levels[0]) | ((len(levels) > 1) & (y.value > levels[-1]))
    with np.errstate(over="ignore"):  # no noise, or next to none: infinitely far
        distances = away.min(axis=-1) / np.maximum(y.deviation, np.finfo(float).tiny)
    passes = (distances > noise_edge(distances[y.known])) & ~beyond
    decided = np.ones(passes.shape, dtype=bool)
    if check is not None:
        by_filter = (len(check.gradient), -1)
        known = (dy.known & y.known) | (dy.known & (dy.value == 0))
        arriving = np.where(known, dy.value, np.nan).reshape(by_filter)
        moved = dy.perturbations.reshape(*by_filter, dy.perturbations.shape[-1])
        settled, undecided = settle(passes.reshape(by_filter), distances.reshape(by_filter), arriving, moved, check)
        passes, decided = settled.reshape(passes.shape), ~undecided.reshape(passes.shape)
    # A value that passes lies off the plateau, if only by rounding: on it, the formulas would cut it off.
    inside = np.where(nearest == levels[0], np.nextafter(nearest, np.inf), np.nextafter(nearest, -np.inf))
    return np.where(passes, np.where(beyond | (y.value == nearest), inside, y.value), nearest), decided
