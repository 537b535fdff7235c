"""Symbols for the names of `LinearSystem`, exact numbers for values, and LaTeX in the order of the unknowns."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import sympy

from constraint_algebra.errors import NonFiniteError, ParameterError
from constraint_algebra.layers.kinds import PlacedLayer, Shape


def symbol(name: str) -> sympy.Expr:
    """Return the symbol for a name of `LinearSystem`.

    >>> symbol("dL/dW[2,0,1,1]"), symbol("one")
    (g_{2,0,1,1}, 1)
    """
    label, _, inside = name.partition("[")
    if label == "one":
        return sympy.Integer(1)
    return indexed({"dL/dW": "g", "dL/db": "h"}.get(label, label), inside.rstrip("]").split(","))


def indexed(letter: str, index: Sequence[Any]) -> sympy.Symbol:
    """Return the symbol of one entry of the array behind a letter."""
    return sympy.Symbol(f"{letter}_{{{','.join(map(str, index))}}}")


def right_hand_side(name: str, layer: PlacedLayer) -> sympy.Expr:
    """Return what stands on the right in the row of this name: z - b in weight equations, a gradient in others."""
    if not name.startswith("z[") or layer.bias_name is None:
        return symbol(name)
    return symbol(name) - indexed("b", name[2:-1].split(",")[:1])


def column(entries: list[sympy.Expr]) -> sympy.ImmutableMatrix:
    """Return a matrix of one column."""
    return sympy.ImmutableMatrix(len(entries), 1, entries)


def exact(letter: str, index: Shape, value: Any) -> sympy.Expr:
    """Return a value as an exact SymPy number, `nan` for NaN, an expression as it is."""
    if (
        isinstance(value, sympy.Expr)
        and not isinstance(value, sympy.Float | type(sympy.nan))
        and value.is_finite is not False
    ):
        return value
    if isinstance(value, numbers.Rational):
        return sympy.Rational(int(value.numerator), int(value.denominator))
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ParameterError(
            letter, f"{letter}{list(index)} must be a real number or SymPy expression, got {value!r}"
        ) from error
    if math.isinf(number):
        raise NonFiniteError(
            letter, index, f"{letter}{list(index)} is infinite; give a finite number, or NaN to keep it"
        )
    return sympy.nan if math.isnan(number) else sympy.Rational(*number.as_integer_ratio())


def sum_latex(terms: Sequence[sympy.Expr]) -> str:
    """Return a sum in the order given, where SymPy would sort it by name, x_{10} before x_{2}."""
    return str(sympy.latex(sympy.Add(*terms, evaluate=False), order="none")) if terms else "0"


def expression_latex(expression: sympy.Expr) -> str:
    """Return a right-hand side with z before b."""
    return sum_latex(sorted(expression.as_ordered_terms(), key=lambda term: str(term).startswith("-")))
