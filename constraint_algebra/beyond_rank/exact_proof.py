"""The same proof over the rationals: no rounding, no tolerance, no noise.

What floating-point numbers propose, a few fractions decide: multipliers next to those found that fit exactly, whether x
lies at the bounds that they hold, and the rank of the rows of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import flint
import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.numerics.rational import Rationals, fmpqs, fraction, null_space, row_basis

LARGEST = 2**40  # denominators of multipliers: what they lack to fit is put right exactly


def proves_exactly(
    equations: Sequence[Rationals],
    x: Rationals,
    lower: Rationals,
    upper: Rationals,
    multipliers: FloatArray,
    determined: BoolArray,
) -> bool:
    """Whether values have no width where `equations` hold as at x, between bounds, proven in exact arithmetic.

    Args:
        equations: coefficients, one list for each equation; their right-hand sides are those of x.
        x: a point between the bounds.
        lower: a bound of each value; as low as can be where it has none.
        upper: the same from above.
        multipliers: what is held at a bound, positive at upper ones and negative at lower ones, to float64.
        determined: the values that are said to have no width.

    >>> one, none = Fraction(1), Fraction(0)  # x_0 + x_1 = 2 and neither is more than 1
    >>> given = [[one, one]], [one, one], [none, none], [one, one]
    >>> proves_exactly(*given, np.array([0.9, 0.9]), np.array([True, True]))
    True
    >>> proves_exactly(*given, np.array([0.9, 0.0]), np.array([True, True]))
    False
    """
    n = len(x)
    if not all(low <= value <= high for low, value, high in zip(lower, x, upper, strict=True)):
        return False
    entries = fmpqs(value for row in equations for value in row)
    V = null_space(flint.fmpq_mat(len(equations), n, entries) if len(equations) else flint.fmpq_mat(1, n))[0]
    on = [i for i in range(n) if multipliers[i] or lower[i] == upper[i]]
    largest = Fraction(float(np.abs(multipliers).max(initial=0.0)) or 1.0)
    start = [(Fraction(float(multipliers[i])) / largest).limit_denominator(LARGEST) for i in on]
    m = _fitting(_rows(V, on), start)
    if on and any((_rows(V, on).transpose() * flint.fmpq_mat(len(on), 1, fmpqs(m))).entries()):
        return False
    for i, old, new in zip(on, start, m, strict=True):
        if lower[i] == upper[i]:
            continue
        end = upper[i] if old > 0 else lower[i]
        if old * new <= 0 or end != x[i]:
            return False  # a multiplier that is none, or one of a bound at which x does not lie: the sum is not zero
    if not any(determined):
        return True
    open_ways = null_space(_rows(V, on))[0] if on and V.ncols() else _identity(V.ncols())
    moved = _rows(V, [int(j) for j in np.flatnonzero(determined)]) * open_ways
    return not any(moved.entries())


def _fitting(rows: flint.fmpq_mat, m: Rationals) -> Rationals:
    """Return numbers with `rows^T m = 0` that are nearest to m, relative to their size."""
    if not m or not rows.ncols():
        return m
    weight = [value or Fraction(1) for value in m]
    independent = row_basis(rows.transpose())  # a basis of what the columns ask for
    scaled = flint.fmpq_mat(
        independent.nrows(),
        len(m),
        [a * b for row in independent.tolist() for a, b in zip(row, fmpqs(weight), strict=True)],
    )
    missed = independent * flint.fmpq_mat(len(m), 1, fmpqs(m))
    share = scaled.transpose() * (scaled * scaled.transpose()).solve(missed)
    return [value - w * fraction(s) for value, w, s in zip(m, weight, share.entries(), strict=True)]


def _rows(matrix: flint.fmpq_mat, which: list[int]) -> flint.fmpq_mat:
    return flint.fmpq_mat(len(which), matrix.ncols(), [matrix[i, j] for i in which for j in range(matrix.ncols())])


def _identity(size: int) -> flint.fmpq_mat:
    return flint.fmpq_mat(size, size, [flint.fmpq(i == j) for i in range(size) for j in range(size)])
