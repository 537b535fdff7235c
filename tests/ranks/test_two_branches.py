"""Activations with two branches over residues, against symbolic derivatives."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy as sy

import constraint_algebra as ca
from constraint_algebra.numerics.modular import PRIME
from constraint_algebra.ranks import modular_activations

z = sy.Symbol("z")
S, P = sy.Function("S")(z), sy.Function("P")(z)  # the logistic function or the distribution, and the density
C, CUBIC = (sy.Rational(Fraction(value)) for value in (float(2 * np.sqrt(2 / np.pi)), 0.044715))
W = C * (z + CUBIC * z**3)
q = 1 - S
# The gate, and what the derivatives of S and P are.
CASES = {
    "SiLU": (ca.SiLU(), S, S * q, 0),
    "GELU": (ca.GELU(), S, P, -z * P),
    "GELU by tanh": (ca.GELU("tanh"), S, S * q * sy.diff(W, z), 0),
    "Mish": (ca.Mish(), (1 - q**2) / (1 + q**2), S * q, 0),
    "hardswish": (ca.Hardswish(), (z + 3) / 6, 0, 0),
}
AT, SHARE, DENSITY = 12345, 678, 91011


@pytest.mark.parametrize(("activation", "gate", "of_s", "of_p"), CASES.values(), ids=CASES)
def test_output_slope_and_curvature_are_those_of_symbols(activation, gate, of_s, of_p, monkeypatch) -> None:
    def derived(expression: sy.Expr) -> sy.Expr:
        return sy.diff(expression, z).subs({sy.Derivative(S, z): of_s, sy.Derivative(P, z): of_p})

    def residue(expression: sy.Expr) -> float:
        value = sy.Rational(expression.subs({S: SHARE, P: DENSITY}).subs(z, AT))
        return float(int(value.p) * pow(int(value.q), -1, int(PRIME)) % int(PRIME))

    drawn = np.array([float(SHARE)]), np.array([float(DENSITY)])
    monkeypatch.setattr(modular_activations, "_drawn", lambda *_: drawn)
    found = modular_activations.derivatives(
        activation, np.array([float(AT)]), np.array([True]), np.random.default_rng(0)
    )
    first = derived(z * gate)
    assert [part[0] for part in found] == [residue(z * gate), residue(first), residue(derived(first))]
