"""What the equations of one layer can tell, whatever their right-hand sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray


@dataclass(frozen=True)
class Verdict:
    """What the equations of one layer can tell, whatever their right-hand sides.

    Attributes:
        determined: which input values are unique, in the input shape.
        rank: numerical rank of all equations together; `None` where the layer is too large and not determined.
        condition: largest over smallest singular value of the directions solved for, an estimate; an upper bound where
            the gradient equations alone determine all, NaN where the layer is too large to tell.
        settled: whether the iteration behind the verdict converged; where not, what is not determined may yet be.
        tolerance: share of a null vector above which an unknown counts as undetermined.
        shares: share of each unknown in what the equations leave open, in the input shape.
        gap: largest share among the determined unknowns, smallest among the others.
    """

    determined: BoolArray
    rank: int | None
    condition: float
    settled: bool
    tolerance: float
    shares: FloatArray
    gap: tuple[float, float]

    @classmethod
    def of(cls, shares: FloatArray, tolerance: float, rank: int | None, condition: float, settled: bool) -> Self:
        """Return the verdict for the shares that null vectors have of the unknowns, in the input shape."""
        determined = shares < tolerance
        largest = float(shares[determined].max(initial=0.0))
        smallest = float(shares[~determined].min(initial=np.inf))
        return cls(determined, rank, condition, settled, tolerance, shares, (largest, smallest))
