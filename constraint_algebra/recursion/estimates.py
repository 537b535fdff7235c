"""Values that are partly known, with their noise, and the way back through an activation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers.activations import Identity, formulas
from constraint_algebra.layers.formula import Formulas
from constraint_algebra.layers.kinds import Activation, Shape
from constraint_algebra.layers.two_branches import Branches
from constraint_algebra.recursion.activation_sides import BiasCheck, decide, log_odds_at_kink, log_odds_at_plateau

EDGE = 6.0  # standard deviations from an edge at which a value is settled
BENT = 0.3  # relative change of a derivative over one standard deviation, beyond which first order is not enough


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

    @cached_property
    def deviation(self) -> FloatArray:
        """Standard deviation of each value."""
        squares = np.einsum("...m,...m->...", self.perturbations, self.perturbations)
        return np.asarray(np.sqrt(squares / self.perturbations.shape[-1]))

    def filled(self) -> FloatArray:
        """Return the values, zero where not known."""
        return np.where(self.known, self.value, 0.0)

    def says_something(self, values: Estimate) -> bool:
        """Whether this gradient, with the values that it belongs to, makes any equation: one known and not zero."""
        return bool(values.known.any() or self.value[self.known].any())

    def learnt(self, found: Estimate) -> Estimate:
        """Return the estimate with what was found where nothing was known; what is known stays."""
        fresh = found.known & ~self.known
        return Estimate(
            np.where(fresh, found.value, self.value),
            self.known | fresh,
            np.where(fresh[..., None], found.perturbations, self.perturbations),
        )

    def multiplied(self, factor: float) -> Estimate:
        """Return the estimate times an exact number."""
        return Estimate(factor * self.value, self.known, factor * self.perturbations)

    def reshape(self, shape: Shape) -> Estimate:
        """Return the estimate in another shape."""
        return Estimate(self.value.reshape(shape), self.known.reshape(shape), self.perturbations.reshape(*shape, -1))

    @staticmethod
    def unknown(shape: Shape, members: int) -> Estimate:
        """Return values of which nothing is known."""
        return Estimate(np.full(shape, np.nan), np.zeros(shape, dtype=bool), np.zeros((*shape, members)))


@dataclass(frozen=True)
class Above:
    """The activation that reads a layer's output z.

    Attributes:
        activation: σ.
        gradient: the gradient dL/dy that arrives at its output y = σ(z).
    """

    activation: Activation
    gradient: Estimate


def activated(f: Formulas, z: Estimate) -> Estimate:
    """Return the output of an activation, to first order in the noise; known where its input is."""
    at = np.where(z.known, z.value, 0.0)
    y = f.value(at)
    with np.errstate(invalid="ignore"):
        d = np.nan_to_num(f.derivative_at(at, y))
    if f.branches is not None:  # next to the minimum y moves by the square of what z does
        moved = f.value(at[..., None] + np.where(z.known[..., None], z.perturbations, 0.0)) - y[..., None]
        return Estimate(y, z.known, moved)
    return Estimate(y, z.known, d[..., None] * np.where(z.known[..., None], z.perturbations, 0.0))


def through_activation(
    activation: Activation,
    y: Estimate,
    dy: Estimate,
    stored: FloatArray | float = 0.0,
    check: BiasCheck | None = None,
) -> tuple[Estimate, Estimate]:
    """Return z and dL/dz from the output y = σ(z) of an activation and dL/dy.

    dL/dz is known where both are, and also where one of them makes it zero: dL/dy whatever y may be, or a y that was
    cut off whatever arrives; behind an `Identity`, dL/dy is dL/dz.

    Args:
        activation: σ.
        y: its output.
        dy: the gradient that arrives there.
        stored: perturbations `(*shape, members)` of σ(z) when the client stored it as y. The layers above have seen the
            stored value, so that only z is off: by much where σ is flat.
        check: the bias equations of the layer below, whose outputs are the z.
    """
    return through_formulas(formulas(activation), y, dy, stored, check, one_to_one=isinstance(activation, Identity))


def through_formulas(
    f: Formulas,
    y: Estimate,
    dy: Estimate,
    stored: FloatArray | float = 0.0,
    check: BiasCheck | None = None,
    *,
    one_to_one: bool = False,
) -> tuple[Estimate, Estimate]:
    """Return the same for an activation by its formulas; `one_to_one` says that dL/dy is dL/dz whatever y is."""
    value, decided, doubt = sides(f, y, dy, check)
    d, slope = f.derivative(value), f.slope(value)
    steep = (y.known | one_to_one) & decided & np.isfinite(d)
    d, slope = np.where(steep, d, 0.0), np.where(steep, slope, 0.0)
    moved = np.where(y.known[..., None], y.perturbations, 0.0)
    arriving = np.where(dy.known, dy.value, 0.0)
    low, high = f.kink or (0.0, 1.0)
    doubtful = (doubt * (high - low) * arriving)[..., None] * np.sign(moved)  # noise lifted y over the edge, or not
    if f.cancels:  # slope · stored / 4 is of the size of one rounding of those numbers
        moved = moved + 0.25 * stored
    dz = Estimate(
        value=arriving * d,
        known=(dy.known & (steep | (dy.value == 0))) | (steep & (d == 0) & (doubt == 0)),
        perturbations=d[..., None] * dy.perturbations + (slope * arriving)[..., None] * moved + doubtful,
    )
    z = f.inverse(value)
    bent = np.abs(slope) * y.deviation > BENT * d  # the noise is so large that the inverse is no straight line over it
    known = y.known & decided & (doubt == 0) & np.isfinite(z) & ~bent
    steepness = np.where(known & (d > 0), d, 1.0)
    # Where z does not follow, the edge of the plateau stands in for it: a value with the same output.
    return Estimate(np.where(known, z, value), known, (y.perturbations + stored) / steepness[..., None]), dz


def slope_at(f: Formulas, z: Estimate) -> Estimate:
    """Return σ′(z) of an activation with two branches from z itself, to first order in the noise.

    Where the noise is so large that σ′ is no straight line over it, or a kink lies within it, it counts as unknown.
    """
    b = f.branches
    assert b is not None
    at, deviation = np.where(z.known, z.value, 0.0), z.deviation
    d = b.derivative(at)
    above, below = b.derivative(at + deviation), b.derivative(at - deviation)
    straight = np.abs(above + below - 2 * d) <= BENT * np.maximum(np.abs(d), np.abs(above - below) / 2)
    for kink in b.kinks:
        straight &= np.abs(at - kink) > EDGE * deviation
    moved = np.where(z.known[..., None], z.perturbations, 0.0)
    return Estimate(d, z.known & straight, b.curvature(at)[..., None] * moved)


def upper_input(b: Branches, y: Estimate, stored: FloatArray | float = 0.0) -> Estimate:
    """Return z of an activation with two branches where its output y has that one pre-image alone.

    Args:
        b: its branches.
        y: its output.
        stored: perturbations `(*shape, members)` of σ(z) when the client stored it as y.
    """
    alone = _is_alone(b, y)
    z = b.inverse(np.where(alone, y.value, 1.0), np.ones(alone.shape, dtype=bool))
    d = b.derivative(z)
    bent = np.abs(b.curvature(z)) * y.deviation > BENT * d * d
    moved = (np.where(alone[..., None], y.perturbations, 0.0) + stored) / d[..., None]
    return Estimate(z, alone & ~bent, moved)


def _is_alone(b: Branches, y: Estimate) -> BoolArray:
    """Return which outputs have one pre-image for all that noise allows: the positive ones, off a kink."""
    alone = y.known & (y.value > EDGE * y.deviation)
    for kink in b.kinks:
        level = float(b.value(np.array(kink)))
        alone &= np.abs(y.value - level) > EDGE * y.deviation
    return np.asarray(alone)


def sides(f: Formulas, y: Estimate, dy: Estimate, check: BiasCheck | None) -> tuple[FloatArray, BoolArray, FloatArray]:
    """Return the outputs, each on the side of its edge where the evidence puts it; where that is decided; doubts."""
    if f.branches is not None:
        return y.value, _is_alone(f.branches, y), np.zeros(y.value.shape)
    if not f.plateaus and f.kink is None:
        return y.value, np.ones(y.value.shape, dtype=bool), np.zeros(y.value.shape)
    levels = np.array(f.plateaus or (0.0,))
    nearest = levels[np.abs(y.value[..., None] - levels).argmin(axis=-1)]
    inward = np.where(nearest == levels[0], y.value - nearest, nearest - y.value)
    deviations = np.where(y.known, np.maximum(y.deviation, np.finfo(float).tiny), 1.0)
    with np.errstate(over="ignore"):  # no noise, or next to none: infinitely far
        distances = np.where(y.known, np.clip(inward / deviations, -1e150, 1e150), 0.0)
    if f.plateaus:
        # Where all lie on the edge but for noise, that is all that is known of their size.
        size = float(np.maximum(np.abs(inward), y.deviation)[y.known].max(initial=0.0))
        odds = log_odds_at_plateau(distances, deviations, 1 / size if size > 0 else 0.0)
    else:
        odds = log_odds_at_kink(distances)
    by_filter = (len(check.gradient) if check is not None else 1, -1)
    known = (dy.known & y.known) | (dy.known & (dy.value == 0))
    found = decide(
        np.where(y.known, odds, np.nan).reshape(by_filter),
        np.where(known, dy.value, np.nan).reshape(by_filter),
        dy.perturbations.reshape(*by_filter, dy.perturbations.shape[-1]),
        f.kink or (0.0, 1.0),
        check,
    )
    shape = y.value.shape
    passes, decided, doubt = found.passes.reshape(shape), found.decided.reshape(shape), found.doubt.reshape(shape)
    # What lies on a side lies off the edge, if only by rounding: on it, the formulas would not know the side.
    towards = np.where(nearest == levels[0], np.inf, -np.inf)
    above = np.where(inward <= 0, np.nextafter(nearest, towards), y.value)
    below = nearest if f.plateaus else np.where(inward >= 0, np.nextafter(nearest, -towards), y.value)
    return np.where(passes, above, below), decided, doubt
