"""The mathematics of activations with two branches, all of them gates `σ(z) = z g(z)`: SiLU, GELU, Mish, hardswish.

They fall to a minimum below zero and rise from there, so that an output between the minimum and zero has two
pre-images: one on the *upper* branch, above the minimum, one on the *lower* branch. With the gate's derivatives

    σ′ = g + z g′        σ″ = 2 g′ + z g″

and on either branch z follows from y by Newton's steps inside a bracket: g rises, so that z = y / g(z) lies between y
over g at both ends of the branch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from constraint_algebra.arrays import BoolArray, FloatArray

Gate = Callable[[FloatArray], tuple[FloatArray, FloatArray, FloatArray]]  # g, g′ and g″ at z

HALVINGS, STEPS = 30, 4  # of the bracket, and of Newton behind it: to the last place
FAR = 745.0  # below minus that exp(z) is zero
SATURATED = 50.0  # beyond, the gates of GELU are 0 or 1 to the last place
CUBIC = 0.044715  # of GELU's approximation by tanh


class Branches(NamedTuple):
    """The two branches of an activation.

    Attributes:
        value, derivative, curvature: σ, σ′ and σ″ as functions of z.
        inverse: z from y and a mask of the entries on the upper branch; NaN where that branch has no such output.
        minimum: the z between the branches.
        lowest: its output, the least of all.
        flat: below this z the output is zero; minus infinity where it never is.
        kinks: the z at which the derivative jumps.
        cancels: whether clients compute the gate as `(1 + …) / 2`, so that σ(z) is rounded as z is, not as itself.
    """

    value: Callable[[FloatArray], FloatArray]
    derivative: Callable[[FloatArray], FloatArray]
    curvature: Callable[[FloatArray], FloatArray]
    inverse: Callable[[FloatArray, BoolArray], FloatArray]
    minimum: float
    lowest: float
    flat: float = -np.inf
    kinks: tuple[float, ...] = ()
    cancels: bool = False


def gated(gate: Gate, *, flat: float = -np.inf, kinks: tuple[float, ...] = (), cancels: bool = False) -> Branches:
    """Return the branches of `z g(z)` for a gate that rises from 0 to 1.

    >>> silu = gated(logistic)
    >>> y = silu.value(np.array([-3.0, -0.5]))
    >>> silu.inverse(y, np.array([False, True])).round(12)
    array([-3. , -0.5])
    """

    def value(z: FloatArray) -> FloatArray:
        return np.asarray(z * gate(z)[0])

    def derivative(z: FloatArray) -> FloatArray:
        g, first, _ = gate(z)
        return np.asarray(g + z * first)

    def curvature(z: FloatArray) -> FloatArray:
        _, first, second = gate(z)
        return np.asarray(2 * first + z * second)

    def falls(z: float) -> float:
        return float(derivative(np.array(z)))

    minimum = float(brentq(falls, -3.0, 0.0, xtol=1e-15)) if np.isinf(flat) else flat / 2
    lowest = float(value(np.array(minimum)))
    at_zero, at_minimum = (float(gate(np.array(z))[0]) for z in (0.0, minimum))

    def inverse(y: FloatArray, upper: BoolArray) -> FloatArray:
        rounded = lowest * (1 + 4 * np.finfo(float).eps)
        there = np.where(upper, y >= rounded, (y >= rounded) & (y < 0))
        safe = np.where(there, np.maximum(y, lowest), 0.1 * lowest)
        ends = safe / np.where(safe > 0, 1.0, at_minimum), safe / at_zero
        left = np.where(upper, np.where(safe > 0, ends[0], np.maximum(ends[0], minimum)), max(flat, -FAR))
        z = _between(value, derivative, safe, left, np.where(upper, ends[1], minimum), upper)
        return np.where(there, z, np.nan)

    return Branches(value, derivative, curvature, inverse, minimum, lowest, flat, kinks, cancels)


def _between(
    value: Callable[[FloatArray], FloatArray],
    derivative: Callable[[FloatArray], FloatArray],
    y: FloatArray,
    low: FloatArray,
    high: FloatArray,
    rises: BoolArray,
) -> FloatArray:
    """Return z with `value(z) = y` between low and high, where the value rises, or falls."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        right = (value(middle) < y) == rises  # z lies to the right of the middle
        low, high = np.where(right, middle, low), np.where(right, high, middle)
    z = (low + high) / 2
    for _ in range(STEPS):
        steep = derivative(z)
        step = (value(z) - y) / np.where(steep != 0, steep, np.inf)
        z = np.clip(z - step, low, high)
    return z


def logistic(z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The gate of SiLU: `1 / (1 + exp(-z))`."""
    s = expit(z)
    first = s * expit(-z)
    return s, first, first * (1 - 2 * s)


def normal(z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The gate of GELU: the distribution function of the normal distribution."""
    near = np.clip(z, -SATURATED, SATURATED)
    density = np.exp(-near * near / 2) / np.sqrt(2 * np.pi)
    return ndtr(z), density, -z * density


def nearly_normal(z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The gate of GELU's approximation: `(1 + tanh(sqrt(2/pi) (z + 0.044715 z³))) / 2`."""
    c = 2 * np.sqrt(2 / np.pi)
    near = np.clip(z, -SATURATED, SATURATED)
    w, dw, ddw = c * near * (1 + CUBIC * near**2), c * (1 + 3 * CUBIC * near**2), 6 * c * CUBIC * near
    s, bell = expit(w), expit(w) * expit(-w)
    return s, bell * dw, bell * ((1 - 2 * s) * dw * dw + ddw)


def softened(z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The gate of Mish: `tanh(log(1 + exp(z)))`."""
    s, grown = expit(z), np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
    t, rest = np.tanh(grown), 1 / np.cosh(np.minimum(grown, 300)) ** 2  # the latter is 1 - t²
    return t, rest * s, rest * s * (expit(-z) - 2 * t * s)


def ramp(z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The gate of hardswish: `(z + 3) / 6` between -3 and 3, cut off outside."""
    inside = (z > -3) & (z < 3)
    return np.clip((z + 3) / 6, 0, 1), np.where(inside, 1 / 6, 0.0), np.zeros(np.shape(z))


SILU = gated(logistic)
GELU = gated(normal, cancels=True)
GELU_TANH = gated(nearly_normal, cancels=True)
MISH = gated(softened)
HARDSWISH = gated(ramp, flat=-3.0, kinks=(-3.0, 3.0))
