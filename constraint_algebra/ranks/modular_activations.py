"""Activations over residues: output, derivative and second derivative at a random output.

A network in the prime field has no order, so that the side of a kink is given, and no exponential, so that the output
of an activation that bends is a residue of its own. Its derivatives follow from it by the formulas of `activations`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers import activations as act
from constraint_algebra.layers.kinds import Activation
from constraint_algebra.numerics.modular import PRIME, residues


class Derivatives(NamedTuple):
    """An activation at one output each: output y, slope σ'(z) and curvature σ''(z), residues of one shape."""

    output: FloatArray
    slope: FloatArray
    curvature: FloatArray


def residue(value: float) -> float:
    """Return a number as a residue; exactly, as floats are fractions with a power of two below.

    >>> residue(0.5) * 2 % PRIME
    1.0
    """
    fraction = Fraction(value)
    return float(fraction.numerator * pow(fraction.denominator, -1, PRIME) % PRIME)


def slope(activation: Activation, above: BoolArray) -> FloatArray:
    """Return the slopes of an activation that is linear in pieces.

    Args:
        activation: the activation.
        above: where it works on the side that passes z on: z above zero, or between both cut-offs.
    """
    match activation:
        case act.Identity():
            return np.ones(above.shape)
        case act.LeakyReLU(below):
            return np.where(above, 1.0, residue(below))
    return above.astype(float)


def derivatives(activation: Activation, z: FloatArray, above: BoolArray, rng: np.random.Generator) -> Derivatives:
    """Return output, slope and curvature of any activation.

    Args:
        activation: the activation.
        z: its input, residues.
        above: on which side each entry works, for an activation with two.
        rng: of the outputs that z does not give over residues.
    """
    if act.is_piecewise_linear(activation):
        steep = slope(activation, above)
        edge = residue(activation.low) if isinstance(activation, act.Hardtanh) else 0.0
        return Derivatives(_mod(np.where(steep != 0, steep * z, edge)), steep, np.zeros(z.shape))
    y = residues(z.shape, rng)
    match activation:
        case act.Sigmoid():
            first, bend = y * (1 - y), 1 - 2 * y
        case act.Tanh():
            first, bend = 1 - y * y, -2 * y
        case act.Softsign():
            sign = np.where(rng.random(z.shape) < 0.5, 1.0, -1.0)
            first, bend = (1 - sign * y) ** 2, _mod(-2 * sign * (1 - sign * y))
        case act.Softplus(beta):
            power = residues(z.shape, rng)  # exp(-beta y), which is no power of y
            first, bend = 1 - power, residue(beta) * power
        case act.ELU(alpha):
            return _two_pieces(z, y, above, residue(1.0), residue(alpha))
        case act.SELU():
            return _two_pieces(z, y, above, residue(act.SELU.scale), residue(act.SELU.scale * act.SELU.alpha))
        case _:
            raise TypeError(f"no formulas over residues for {activation!r}; write them as a new case of derivatives()")
    steep = _mod(first)
    return Derivatives(y, steep, _mod(_mod(bend) * steep))


def _two_pieces(z: FloatArray, y: FloatArray, above: BoolArray, scale: float, depth: float) -> Derivatives:
    """Return ELU and SELU: `scale * z` above zero, below it an output whose derivative is `y + depth`."""
    below = _mod(y + depth)
    return Derivatives(np.where(above, _mod(scale * z), y), np.where(above, scale, below), np.where(above, 0.0, below))


def _mod(values: FloatArray) -> FloatArray:
    return np.remainder(values, PRIME)
