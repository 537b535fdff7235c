"""Which factor of a layer's normal equations takes the fewest operations, in the lowest precision that will do."""

from __future__ import annotations

import numpy as np

from constraint_algebra.layers.kinds import Conv, PlacedLayer
from constraint_algebra.numerics.conjugate_gradients import Preconditioner
from constraint_algebra.solvers import banded_factor
from constraint_algebra.solvers.capacitance_factor import CapacitanceFactor
from constraint_algebra.solvers.dense_factor import DenseFactor
from constraint_algebra.solvers.operators import StackedEquations

UNKNOWNS = 6144  # up to which a dense factor is worth its memory
OPERATIONS = 2e12  # multiplications up to which a banded one is worth its time
# Precision of a factor, its ridge, and the smallest squared singular value that it can tell from none, both relative.
PRECISIONS = ((np.float32, 3e-6, 3e-7), (np.float64, 1e-12, 1e-11))


def operations(layer: PlacedLayer, rank: int) -> float:
    """Return how many multiplications the cheapest factor of all normal equations takes; infinite where none pays.

    Args:
        layer: the layer.
        rank: number of gradient equations over all channels, tall blocks compressed.
    """
    by_lines, whole = _operations(layer, rank)
    fewest = min(by_lines, whole if layer.unknowns <= UNKNOWNS else np.inf)
    return fewest if fewest <= OPERATIONS else np.inf


def _operations(layer: PlacedLayer, rank: int) -> tuple[float, float]:
    """Return the multiplications of a banded factor and of a dense one."""
    by_lines = banded_factor.operations(layer, rank) if isinstance(layer.layer, Conv) else np.inf
    return by_lines, layer.unknowns**3 / 6


def cheapest_factor(equations: StackedEquations, largest: float) -> tuple[Preconditioner, float, bool] | None:
    """Return a factor, the smallest singular value, and whether the factor inverts but for some percent.

    `None` where a factor costs too much, or cannot tell the smallest singular value from zero.

    Args:
        equations: all equations of the layer.
        largest: their largest singular value, of which the smallest is a share.
    """
    layer = equations.layer
    rank = layer.channels // layer.groups * sum(map(len, equations.cores))
    if operations(layer, rank) == np.inf:
        return None
    by_lines, whole = _operations(layer, rank)
    kind = banded_factor.BandedFactor if by_lines < whole else DenseFactor
    for dtype, ridge, limit in PRECISIONS:
        try:
            factor = kind(equations, ridge=ridge, dtype=dtype)
        except np.linalg.LinAlgError:
            continue
        smallest = equations.smallest(factor)
        if smallest > np.sqrt(limit) * largest:
            return factor, smallest, _inverts(smallest / largest, ridge)
    return None


def correcting_factor(equations: StackedEquations, condition: float) -> Preconditioner | None:
    """Return a factor of the gradient equations, corrected by the weight equations, that inverts but for some percent.

    `None` where there is none.

    Args:
        equations: all equations of the layer, whose gradient equations determine every unknown.
        condition: of the gradient equations alone.
    """
    largest = max(1.0, *(float(block.singular.max()) for block in equations.blocks))
    for dtype, ridge, _ in PRECISIONS:
        try:
            factor = CapacitanceFactor(equations, ridge=ridge * largest**2, dtype=dtype)
        except np.linalg.LinAlgError:
            continue
        if _inverts(1 / condition, ridge) or _inverts(equations.smallest(factor) / largest, ridge):
            return factor
    return None


def _inverts(smallest: float, ridge: float) -> bool:
    """Return whether a ridge leaves alone the direction of the smallest singular value, both relative."""
    return smallest**2 > 10 * ridge
