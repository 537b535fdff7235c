"""How exact the given numbers are: the precision that they came in, or standard deviations that the user states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.errors import ParameterError
from constraint_algebra.networks.binding import number_type

# Spacing of the numbers next to 1 and next to 0, by the name of the type: NumPy itself does not know bfloat16.
SPACING = {
    "float64": (2.0**-52, 2.0**-1074),
    "float32": (2.0**-23, 2.0**-149),
    "float16": (2.0**-10, 2.0**-24),
    "bfloat16": (2.0**-7, 2.0**-133),
}

# A sum of many products, rounded as it goes, is off by about this share of epsilon times the root of its sum of
# squares, as measured on the networks of the literature; one of few products by less (`of_sums`).
SUM_ROUNDING = 1.2

# Rounding of a long sum in units of that of a short one, for each root of its number of products. A client's
# convolution of 800 products in float32 was off by up to 12 times what `SUM_ROUNDING` says, its weight gradient over
# 784 positions, with that of all above it, by up to 20.
LONG_SUM = 0.25

# As `SUM_ROUNDING`, for factorising and solving in float64, measured on the networks of the literature.
SOLVER_ROUNDING = 2.0 * 2.0**-52

# Relative error of a solved value besides, however many equations it is the mean of: about one spacing of float64.
STORED_SOLUTION = 2.0**-52

# What is open: the share of a null vector above which an unknown counts as undetermined; what factorising leaves of a
# share that is zero, and a margin; and how many times its noise it may move a value that counts as determined.
TOLERANCE, ROUNDED, LEAKING = 1e-5, 1e2 * 2.0**-52, 10.0

# Standard deviation of rounding once, in units of the spacing: the error is uniform over one spacing, 1/sqrt(12).
ONE_ROUNDING = 0.3

SIDE_BY_SIDE = 32  # numbers that a client's instructions add up side by side


@dataclass(frozen=True)
class Precision:
    """The spacing of the numbers that came in.

    Attributes:
        epsilon: spacing next to 1, which bounds the relative error of a large number.
        smallest: spacing next to 0, which bounds the absolute error of a number that underflows.
        gradient_unit: what gradients have been multiplied by since they came in.
        of_sums: error of a sum of products in units of `epsilon` times the root of its sum of squares.
    """

    epsilon: float
    smallest: float
    gradient_unit: float = 1.0
    of_sums: float = SUM_ROUNDING

    @property
    def arithmetic(self) -> float:
        """Relative error of a sum of products: the client's rounding, and that of our own solver in float64."""
        return self.of_sums * float(np.hypot(self.epsilon, SOLVER_ROUNDING / SUM_ROUNDING))

    def summing(self, products: int) -> Precision:
        """Return the same for sums of so many products."""
        return replace(self, of_sums=of_sums(self.epsilon, products))

    def long_sum(self, products: int) -> float:
        """Return the error of a sum of so many products in float32 at its worst, in units of `arithmetic`.

        A client's convolution may take ways to its sum that lose digits; in other types it loses none that is seen.
        """
        long = LONG_SUM * math.sqrt(products) if self.epsilon == SPACING["float32"][0] else 0.0
        return math.hypot(1.0, long)

    def deviation(self, values: FloatArray) -> FloatArray:
        """Return the standard deviation of rounding each value once."""
        return np.asarray(ONE_ROUNDING * np.maximum(self.epsilon * np.abs(values), self.smallest))

    @property
    def underflow(self) -> float:
        """The standard deviation of rounding a gradient next to zero."""
        return ONE_ROUNDING * (self.smallest * self.gradient_unit)


def of_sums(epsilon: float, products: int) -> float:
    """Return the error of a sum of products in units of epsilon times the root of its sum of squares.

    Each number that a sum passes is rounded, and they grow with the root of what has been summed: by the root of n in
    all, with several sums side by side in one instruction. Types coarser than float32 are summed up in float32 and
    rounded once.

    >>> [round(of_sums(2.0**-23, n), 2) for n in (9, 27, 288, 4608)]
    [0.34, 0.41, 0.95, 1.2]
    """
    if epsilon > SPACING["float32"][0]:
        return ONE_ROUNDING
    return min(ONE_ROUNDING * math.sqrt(1 + products / SIDE_BY_SIDE), SUM_ROUNDING)


def precision(arrays: Mapping[str, Any], what: str = "gradients") -> Precision:
    """Return the precision of the coarsest floating-point type among the arrays.

    Args:
        arrays: by name.
        what: they are, for the message.

    Raises:
        ParameterError: an array that is not of a floating-point type known here; the message names it.

    >>> precision({"a": np.zeros(2), "b": np.zeros(2, dtype=np.float32)}).epsilon == 2.0**-23
    True
    """
    types = {name: number_type(array) for name, array in arrays.items()}
    for name, kind in types.items():
        if kind not in SPACING:
            raise ParameterError(
                name, f"{what}: {name!r} has type {kind}, expected one of {', '.join(SPACING)}; convert it first"
            )
    epsilons, smallest = zip(*(SPACING[kind] for kind in types.values()), strict=True)
    return Precision(max(epsilons), max(smallest))


def deviations_of(
    gradients: Mapping[str, FloatArray], rounding: Precision, noise: float | Mapping[str, ArrayLike]
) -> dict[str, FloatArray]:
    """Return the standard deviation of every given number: rounding, and the noise that the user states.

    Raises:
        ParameterError: noise for a name that is no parameter, of a shape that does not fit, negative or not finite.
    """
    stated = dict(noise) if isinstance(noise, Mapping) else dict.fromkeys(gradients, noise)
    deviations = {name: rounding.deviation(values) for name, values in gradients.items()}
    for name, given in stated.items():
        if name not in deviations:
            raise ParameterError(name, f"noise: {name!r} is no parameter of the network; it has {', '.join(gradients)}")
        deviation = np.asarray(given, dtype=float)
        if deviation.shape not in {(), deviations[name].shape}:
            raise ParameterError(
                name, f"noise: {name!r} needs one number or shape {deviations[name].shape}, got {deviation.shape}"
            )
        if not (np.isfinite(deviation).all() and (deviation >= 0).all()):
            raise ParameterError(name, f"noise: {name!r} must be a standard deviation, finite and not negative")
        deviations[name] = np.hypot(deviations[name], deviation)
    return deviations


def settled(shares: FloatArray, moved: FloatArray, size: float) -> BoolArray:
    """Return which unknowns count as determined: what is open moves them by no more than noise does.

    Args:
        shares: share of each unknown in what the equations leave open.
        moved: how noise moves it, `(*shape, members)` for a shape that shares broadcast to.
        size: of a typical value.
    """
    noise = np.sqrt((moved**2).mean(axis=-1)) + ROUNDED * size
    return np.asarray((shares < TOLERANCE) & (size * shares <= LEAKING * noise))
