"""Which unknowns a system of equations determines: those on which every null vector is zero.

Three answers to the same question, from less or more knowledge: from the sparsity pattern, by the coarse
Dulmage-Mendelsohn decomposition (exact if all coefficients were independent); for almost all values of the
coefficients, those that rows share staying shared, by a null space modulo a prime; for given values, by the row norms
of an orthonormal null-space basis. Only the last one has a tolerance. For a layer without a system: `generic_rank`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.equations.constraint_graph import components
from constraint_algebra.equations.dulmage_mendelsohn import dulmage_mendelsohn
from constraint_algebra.equations.systems import LinearSystem
from constraint_algebra.errors import ParameterError, UnknownNameError
from constraint_algebra.numerics.null_space import dense_part, right_vectors
from constraint_algebra.numerics.rows import EPSILON, gap_at, unit_rows
from constraint_algebra.ranks.ladder import generic_blocks

TOLERANCE = 1e-8  # rounding leaves about eps times the condition number, a null vector far more


@checked
@dataclass(frozen=True)
class NullSpaceNorms:
    """How much of each unknown the given values leave open.

    Attributes:
        norms: row norms of an orthonormal null-space basis, in the unknowns' shape: 0 determined, 1 not met at all.
        determined: whether the norm is at most the tolerance.
        tolerance: that of the norms.
        norm_gap: the largest norm that counts as determined and the smallest that does not, NaN where there is none.
        rank: numerical rank behind the null space.
        rank_gap: the last singular value counted and the first not counted over all connected components, in units of
            the tolerance of their component; NaN where there is none.
    """

    norms: FloatArray
    determined: BoolArray
    tolerance: float
    norm_gap: tuple[float, float]
    rank: int
    rank_gap: tuple[float, float]


@checked
def determined(
    system: LinearSystem,
    *,
    method: str = "generic",
    tolerance: float = TOLERANCE,
    rtol: float | None = None,
    seed: int = 0,
) -> BoolArray:
    """Return which unknowns the equations determine, as a mask in the unknowns' shape.

    Args:
        system: the equations.
        method: "structural", "generic" or "numerical"; the last one needs values.
        tolerance: of the row norms of the null space, for "numerical".
        rtol: of the rank behind it, relative to the largest singular value; `max(shape) * eps` by default.
        seed: of the random residues, for "generic".

    Raises:
        UnknownNameError: another method.
        ParameterError: "numerical" for a system without values.

    >>> from constraint_algebra.equations.systems import gradient_equations
    >>> from constraint_algebra.layers import Conv1d
    >>> determined(gradient_equations(Conv1d(2, 2, stride=3).place((1, 6))))
    array([[ True,  True, False,  True,  True, False]])
    """
    shape = system.unknowns.shape
    if method == "structural":
        mask = np.ones(system.shape[1], dtype=bool)
        mask[dulmage_mendelsohn(system).underconstrained.columns] = False
        return mask.reshape(shape)
    if method == "generic":
        rng = np.random.default_rng([seed, 1])  # not the one behind the coefficients
        mask = np.zeros(system.shape[1], dtype=bool)
        for columns, form in generic_blocks(system, seed):
            mask[columns] = form.determined(rng)
        return mask.reshape(shape)
    if method == "numerical":
        return null_space_norms(system, tolerance=tolerance, rtol=rtol).determined
    raise UnknownNameError(f'method must be "structural", "generic" or "numerical", got {method!r}')


@checked
def null_space_norms(
    system: LinearSystem, *, tolerance: float = TOLERANCE, rtol: float | None = None
) -> NullSpaceNorms:
    """Return the row norms of an orthonormal null-space basis, rows of the matrix scaled to unit norm.

    Raises:
        ParameterError: the system has no values.
        NonFiniteError: NaN or infinity among the coefficients.
        ShapeError: the dense singular vectors would take too much memory.
    """
    if system.values is None:
        raise ParameterError(
            "values", 'the equations come from shapes alone; give them values, or use method="generic"'
        )
    matrix, _ = unit_rows(system.matrix)
    norms, rank, gaps = np.ones(system.shape[1]), 0, [(np.nan, np.nan)]
    for part in components(matrix):
        if len(part.rows) == 0:
            continue
        sigma, vectors = right_vectors(dense_part(matrix, part))
        cut = (max(len(part.rows), len(part.columns)) * EPSILON if rtol is None else rtol) * sigma[0]
        r = int(np.count_nonzero(sigma > cut))
        norms[part.columns] = la.norm(vectors[r:], axis=0)
        rank += r
        gaps.append(gap_at(sigma / cut, r))
    last, first = np.transpose(gaps)
    mask = norms <= tolerance
    return NullSpaceNorms(
        norms=norms.reshape(system.unknowns.shape),
        determined=mask.reshape(system.unknowns.shape),
        tolerance=tolerance,
        norm_gap=(_extreme(np.max, norms[mask]), _extreme(np.min, norms[~mask])),
        rank=rank,
        rank_gap=(_extreme(np.min, last[~np.isnan(last)]), _extreme(np.max, first[~np.isnan(first)])),
    )


def _extreme(function: Callable[[FloatArray], np.float64], values: FloatArray) -> float:
    return float(function(values)) if len(values) else np.nan
