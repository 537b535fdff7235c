"""The rank ladder: six numbers for one system of equations, never merged into one.

Each of the first five is an upper bound of the next. The last one is of another kind: with equations it counts bounds.

| rung | from | meaning |
| --- | --- | --- |
| counted | shapes | the smaller of rows and unknowns |
| structural | pattern | size of a largest matching: the rank if all entries were independent |
| generic | pattern and names | rank for almost all values of the coefficients, values that rows share staying shared |
| numerical | values | singular values above a stated tolerance, rows scaled to unit norm |
| usable | values and noise | singular values above the noise floor, rows scaled to unit noise |
| ranged | values, the unknowns and their range | numerical rank of equations and of the bounds that they imply |

The rung `ranged` is at least the numerical rank: an unknown that lies at a bound in every point of the range that
solves the equations, at the given one and at all others, has one more equation there (`beyond_rank.implied`).

A coefficient whose given value is exactly zero, as the output gradient of an inactive ReLU, is zero on every rung.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.beyond_rank.implied import implied
from constraint_algebra.display import Table, Tabular, draw
from constraint_algebra.equations.constraint_graph import components, structural_rank, without_zeros
from constraint_algebra.equations.systems import LinearSystem
from constraint_algebra.errors import ParameterError
from constraint_algebra.numerics.modular import PRIME, Echelon, echelon, residues
from constraint_algebra.numerics.null_space import null_space, numerical_rank, singular_values
from constraint_algebra.numerics.rows import EPSILON

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@checked
@dataclass(frozen=True, repr=False)
class RankLadder(Tabular):
    """Six ranks of one system; `None` where a rung is not defined, as no values, noise or unknowns were given.

    Attributes:
        rows, unknowns: size of the system.
        counted, structural, generic, numerical, usable: the rungs, see the module.
        ranged: the numerical rank of the equations and of the bounds that they imply at the unknowns given: not below
            `numerical`, unlike all others.
        error: upper bound of the probability that `generic` is too small.
        tolerance: the numerical rank counts singular values above it, those of the matrix with rows of unit norm.
        gap: the last singular value counted and the first not counted, NaN where there is none.
        noise_floor: the usable rank counts singular values above it, those of the matrix with rows of unit noise.
        valid_range: the range that `ranged` is about.
    """

    rows: int
    unknowns: int
    counted: int
    structural: int
    generic: int
    error: float
    numerical: int | None = None
    tolerance: float | None = None
    gap: tuple[float, float] | None = None
    usable: int | None = None
    noise_floor: float | None = None
    ranged: int | None = None
    valid_range: tuple[float, float] | None = None

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the rungs, see `plotting.rank_ladder`."""
        drawn: Axes = draw(self, ax)
        return drawn

    def _shown(self) -> Table:
        notes = {"structural": "largest matching", "generic": f"error probability at most {self.error:.1e}"}
        notes["counted"] = f"{self.rows} rows, {self.unknowns} unknowns"
        notes["numerical"] = notes["usable"] = ""
        if self.gap is not None:
            notes["numerical"] = f"tolerance {self.tolerance:.1e}, gap from {self.gap[0]:.1e} to {self.gap[1]:.1e}"
        if self.noise_floor is not None:
            notes["usable"] = f"noise floor {self.noise_floor:.1e} for rows of unit noise"
        lines = [f"{'rung':<10}  {'rank':>6}  note"]
        rungs = ["counted", "structural", "generic", "numerical", "usable"]
        if self.valid_range is not None:
            rungs.append("ranged")
            notes["ranged"] = f"with what the range from {self.valid_range[0]:g} to {self.valid_range[1]:g} implies"
        for rung in rungs:
            rank = getattr(self, rung)
            lines.append(f"{rung:<10}  {'-' if rank is None else rank:>6}  {notes[rung]}".rstrip())
        return Table("\n".join(lines))


@checked
def rank_ladder(
    system: LinearSystem,
    *,
    noise: ArrayLike | None = None,
    rtol: float | None = None,
    seed: int = 0,
    at: ArrayLike | None = None,
    valid_range: tuple[float, float] = (0.0, 1.0),
) -> RankLadder:
    """Return the rank ladder of a system.

    Args:
        system: the equations, from shapes alone or with values.
        noise: standard deviation of the noise in the entries, one number or one for each row; needs values.
        rtol: tolerance of the numerical rank relative to the largest singular value, `max(shape) * eps` by default.
        seed: of the random residues behind the generic rank.
        at: values of all unknowns, which solve the equations, for the rung `ranged`; needs values of the coefficients.
        valid_range: smallest and largest value of an unknown.

    Raises:
        ParameterError: noise or unknowns without values, or that are not what they should be; a tolerance that is not
            from 0 to 1.
        NonFiniteError: NaN or infinity among the coefficients.

    >>> from constraint_algebra.equations.systems import weight_equations
    >>> from constraint_algebra.layers import Conv2d
    >>> rank_ladder(weight_equations(Conv2d(2, 3).place((1, 8, 8))))
    rung          rank  note
    counted         64  72 rows, 64 unknowns
    structural      64  largest matching
    generic         56  error probability at most 7.6e-06
    numerical        -
    usable           -

    Two pixels that add up to 2 are both 1: the range says so, and no second equation.

    >>> from constraint_algebra.layers import Linear
    >>> ladder = rank_ladder(weight_equations(Linear(1).place((2,)), weight=np.ones((1, 2))), at=[1.0, 1.0])
    >>> ladder.numerical, ladder.ranged
    (1, 2)
    """
    m, n = system.shape
    blocks = generic_blocks(system, seed)
    generic = sum(form.rank for _, form in blocks)
    structural = structural_rank(system)
    ladder = RankLadder(m, n, min(m, n), structural, generic, error=structural / (PRIME - 1))
    if system.values is None:
        for name, given in (("noise", noise), ("at", at)):
            if given is not None:
                raise ParameterError(
                    name, f"{name} was given for a system without values; give the equations their weight or gradient"
                )
        return ladder
    ladder = _with_values(ladder, system.matrix, noise, rtol)
    if at is None:
        return ladder
    ranged = _ranged(system.matrix, rtol, _unknowns(at, n, valid_range), valid_range)
    return replace(ladder, ranged=ranged, valid_range=valid_range)


def _with_values(ladder: RankLadder, matrix: sp.csr_array, noise: ArrayLike | None, rtol: float | None) -> RankLadder:
    """Return the ladder with the rungs that rest on values and noise."""
    numerical, tolerance, gap = numerical_rank(matrix, rtol)
    usable = floor = None
    if noise is not None:
        scaled = _unit_noise(matrix, _checked_noise(noise, matrix.shape[0]))
        floor = _noise_norm(scaled)
        usable = min(numerical, int(np.count_nonzero(singular_values(scaled) > floor)))
    return replace(ladder, numerical=numerical, tolerance=tolerance, gap=gap, usable=usable, noise_floor=floor)


def _ranged(matrix: sp.csr_array, rtol: float | None, x: FloatArray, valid_range: tuple[float, float]) -> int:
    """Return how many unknowns there are, less the directions that equations and range leave open at x."""
    n, (low, high) = len(x), valid_range
    basis = null_space(matrix, rtol).basis
    found = implied(Family(x, basis, np.zeros(n)), np.full(n, low), np.full(n, high))
    return n - int((basis if found is None else found.null).shape[1])


def _unknowns(at: ArrayLike, unknowns: int, valid_range: tuple[float, float]) -> FloatArray:
    """Return the unknowns flat; `ParameterError` where they do not fit."""
    x, (low, high) = np.asarray(at, dtype=float).ravel(), valid_range
    if not low < high:
        raise ParameterError("valid_range", f"valid_range must be (smallest, largest), got {valid_range}")
    if len(x) != unknowns:
        raise ParameterError("at", f"the system has {unknowns} unknowns, got {len(x)} values")
    if not np.isfinite(x).all():
        raise ParameterError("at", f"at must hold finite numbers in the valid range, got {x[~np.isfinite(x)][0]:g}")
    if not ((x >= low) & (x <= high)).all():
        raise ParameterError(
            "at",
            f"the unknowns must lie in the valid range from {low:g} to {high:g}, got values from {x.min():g} to"
            f" {x.max():g}; pass valid_range=(smallest, largest)",
        )
    return x


def generic_blocks(system: LinearSystem, seed: int = 0) -> list[tuple[IntArray, Echelon]]:
    """Return the unknowns and the echelon form of each connected component, at random residues modulo a prime."""
    pattern = without_zeros(system)
    values = residues(len(system.coefficients), np.random.default_rng(seed))
    A = sp.csr_array((values[pattern.data - 1], pattern.indices, pattern.indptr), shape=pattern.shape)
    return [(part.columns, echelon(A[part.rows][:, part.columns])) for part in components(A)]


def _unit_noise(matrix: sp.csr_array, noise: FloatArray) -> sp.csr_array:
    """Return the matrix with rows of unit noise; rounding is the least noise that a row has."""
    norms = np.sqrt(np.asarray((matrix * matrix).sum(axis=1)).ravel())
    least = EPSILON * np.where(norms > 0, norms, 1)
    return sp.csr_array(sp.diags_array(1 / np.maximum(noise, least)) @ matrix)


def _noise_norm(matrix: sp.csr_array) -> float:
    """Return the spectral norm to expect of unit noise on the entries of a sparse matrix.

    It is the root of the most entries in a row plus that of the most entries in a column, up to a small logarithmic
    term (Bandeira and van Handel 2016, doi 10.1214/15-AOP1025); for a dense matrix the familiar sqrt(m) + sqrt(n).
    """
    if matrix.nnz == 0:
        return 0.0
    in_row, in_column = np.diff(matrix.indptr).max(), np.bincount(matrix.indices).max()
    return float(np.sqrt(in_row) + np.sqrt(in_column))


def _checked_noise(noise: ArrayLike, rows: int) -> FloatArray:
    array = np.asarray(noise, dtype=float)
    if array.shape not in ((), (rows,)):
        raise ParameterError(
            "noise", f"noise must be one number or one for each of {rows} rows, got shape {array.shape}"
        )
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        raise ParameterError("noise", f"noise is a standard deviation, finite and not negative, got {array}")
    return np.broadcast_to(array, rows)
