"""Activations over residues: output, derivative and second derivative at a random output.

A network in the prime field has no order, so that the side of a kink is given, and no exponential, so that the output
of an activation that bends is a residue of its own, the same for the same input. Its derivatives follow from it by the
formulas of `activations`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers import activations as act
from constraint_algebra.layers.kinds import Activation
from constraint_algebra.layers.two_branches import CUBIC
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


# Outputs at zero; that of Softplus is a logarithm, and no residue is one.
ZERO: dict[type[Activation], float] = {act.Sigmoid: residue(0.5), act.Tanh: 0.0, act.ELU: 0.0, act.SELU: 0.0}


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
    if isinstance(activation, act.Softsign):
        return _softsign(z, np.where(above, 1.0, -1.0))
    if act.has_two_branches(activation):
        return _gated(z, *_gate(activation, z, rng))
    y, power = _drawn(z, ZERO.get(type(activation)), rng)
    match activation:
        case act.Sigmoid():
            first, bend = y * (1 - y), 1 - 2 * y
        case act.Tanh():
            first, bend = 1 - y * y, -2 * y
        case act.Softplus(beta):
            first, bend = 1 - power, residue(beta) * power
        case act.ELU(alpha):
            return _two_pieces(z, y, above, residue(1.0), residue(alpha))
        case act.SELU():
            return _two_pieces(z, y, above, residue(act.SELU.scale), residue(act.SELU.scale * act.SELU.alpha))
        case _:
            raise TypeError(f"no formulas over residues for {activation!r}; write them as a new case of derivatives()")
    steep = _mod(first)
    return Derivatives(y, steep, _mod(_mod(bend) * steep))


def _drawn(z: FloatArray, at_zero: float | None, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return an output y for every z, and exp(-beta y) for Softplus, which is no power of y.

    Where z is the same, as at places that see padding alone, the output is the same; at zero it is known.
    """
    distinct, place = np.unique(z, return_inverse=True)
    y, power = residues(len(distinct), rng), residues(len(distinct), rng)
    y[distinct == 0] = y[distinct == 0] if at_zero is None else at_zero
    power[distinct == 0] = residue(0.5)
    return y[place].reshape(z.shape), power[place].reshape(z.shape)


def _gate(activation: Activation, z: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the gate g of an activation `z g(z)`, and its two derivatives; what is no fraction of z is drawn.

    Hardswish is taken between its cut-offs.
    """
    share, density = _drawn(z, residue(0.5), rng)
    match activation:
        case act.Hardswish():
            sixth = residue(1.0) * _inverse(np.full(z.shape, 6.0))
            return _mod(_mod(z + 3) * sixth), sixth, np.zeros(z.shape)
        case act.GELU("none"):
            return share, density, _mod(-z * density)
        case act.GELU():
            c, cubic = residue(float(2 * np.sqrt(2 / np.pi))), residue(CUBIC)
            steep = _mod(c * _mod(1 + 3 * _mod(cubic * _mod(z * z))))
            bend = _mod(6 * _mod(c * _mod(cubic * z)))
            bell = _mod(share * _mod(1 - share))
            curved = _mod(_mod(1 - 2 * share) * _mod(steep * steep)) + bend
            return share, _mod(bell * steep), _mod(bell * _mod(curved))
        case act.Mish():
            return _softened(share)
    bell = _mod(share * _mod(1 - share))
    return share, bell, _mod(bell * _mod(1 - 2 * share))


def _softened(s: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the gate of Mish from the logistic function s: with q = 1 - s it is `(1 - q²) / (1 + q²)`."""
    q = _mod(1 - s)
    squared = _mod(q * q)
    t = _mod(_mod(1 - squared) * _inverse(_mod(1 + squared)))
    rest = _mod(1 - _mod(t * t))
    first = _mod(rest * s)
    return t, first, _mod(first * _mod(q - _mod(2 * _mod(t * s))))


def _gated(z: FloatArray, g: FloatArray, first: FloatArray, second: FloatArray) -> Derivatives:
    """Return `z g(z)`: its slope is `g + z g'`, its curvature `2 g' + z g''`."""
    return Derivatives(_mod(z * g), _mod(g + _mod(z * first)), _mod(2 * first + _mod(z * second)))


def _softsign(z: FloatArray, sign: FloatArray) -> Derivatives:
    """Return `z / (1 + sign z)`, which is a fraction of residues like any other."""
    below = _inverse(_mod(1 + sign * z))
    steep = _mod(below * below)
    return Derivatives(_mod(z * below), steep, _mod(-2 * sign * _mod(steep * below)))


def _two_pieces(z: FloatArray, y: FloatArray, above: BoolArray, scale: float, depth: float) -> Derivatives:
    """Return ELU and SELU: `scale * z` above zero, below it an output whose derivative is `y + depth`."""
    below = _mod(y + depth)
    return Derivatives(np.where(above, _mod(scale * z), y), np.where(above, scale, below), np.where(above, 0.0, below))


def _inverse(values: FloatArray) -> FloatArray:
    """Return the inverses modulo the prime, by Fermat's little theorem; zero for zero."""
    found, square, left = np.ones(values.shape), values, PRIME - 2
    while left:
        if left % 2:
            found = _mod(found * square)
        square, left = _mod(square * square), left // 2
    return found


def _mod(values: FloatArray) -> FloatArray:
    return np.remainder(values, PRIME)
