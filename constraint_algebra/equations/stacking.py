"""Two systems over the same unknowns, one below the other."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.equations.names import Names
from constraint_algebra.equations.systems import LinearSystem
from constraint_algebra.errors import ParameterError, ShapeError


@checked
def stack(first: LinearSystem, second: LinearSystem) -> LinearSystem:
    """Return the rows of two systems of the same layer over the same unknowns, one below the other.

    Either both systems have values or neither. Right-hand sides that only one of them has are kept, NaN below or above.

    Raises:
        ShapeError: the systems have different unknowns.
        ParameterError: one has values, the other comes from shapes alone.
    """
    if first.layer != second.layer or first.unknowns.label != second.unknowns.label:
        raise ShapeError(f"stack needs two systems over the same unknowns, got {first!r} and {second!r}")
    shifted = second.pattern.copy()
    shifted.data = shifted.data + len(first.coefficients)
    return LinearSystem(
        layer=first.layer,
        kinds=np.concatenate([first.kinds, second.kinds]),
        pattern=sp.csr_array(sp.vstack([first.pattern, shifted], format="csr")),
        rows=Names.joined([first.rows, second.rows]),
        unknowns=first.unknowns,
        coefficients=Names.joined([first.coefficients, second.coefficients]),
        values=_both_values(first, second),
        rhs=_either_rhs(first, second),
    )


def _both_values(first: LinearSystem, second: LinearSystem) -> FloatArray | None:
    if first.values is not None and second.values is not None:
        return np.concatenate([first.values, second.values])
    if first.values is None and second.values is None:
        return None
    has, lacks = (first, second) if second.values is None else (second, first)
    raise ParameterError(
        "values",
        f"stack needs values for both systems or for neither, got {has!r} and {lacks!r}: give the second its weight or"
        " output gradient, or .at_random(seed) where ranks alone count; or build the first from shapes alone as well",
    )


def _either_rhs(first: LinearSystem, second: LinearSystem) -> FloatArray | None:
    if first.rhs is None and second.rhs is None:
        return None
    return np.concatenate([np.full(len(s.rows), np.nan) if s.rhs is None else s.rhs for s in (first, second)])
