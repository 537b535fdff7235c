"""By one dense system of all equations: exact to rounding whatever their condition, where a layer is small.

Taken in two stages, a weak direction is what the singular vectors of the gradient equations say, which are as exact as
those values lie apart; and an iteration may stand still far from the solution. Here neither happens.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.numerics.dense_least_squares import Reduced
from constraint_algebra.solvers.elimination import Elimination
from constraint_algebra.solvers.strategy import Cost, Finding

LARGEST = 256  # input values; beyond, a dense matrix of all equations takes longer than what it saves


class DenseSystem:
    """Verdict and least-squares solution by an orthogonal factorisation of all equations."""

    def __init__(self, stage: Elimination) -> None:
        """Keep the equations."""
        self.stage = stage

    def cost(self) -> Cost:
        """Return the cost of the factorisation, in double precision, at half the speed."""
        stage, size = self.stage, self.stage.layer.unknowns
        rows = stage.core_rows + stage.equations.weight_row_count
        return Cost(4.0 * rows * size * min(rows, size)) + stage.product_cost(vectors=size, itemsize=8)

    def applies(self) -> bool:
        """Whether the layer is small."""
        return self.stage.layer.unknowns <= LARGEST

    @cached_property
    def reduced(self) -> Reduced:
        """All equations, factored; directions that noise drowns count as open, as in the verdict."""
        stage, size = self.stage, self.stage.layer.unknowns
        one_by_one = np.eye(size).reshape(*stage.layer.input_shape, size)
        matrix = stage.stacked.forward(one_by_one)
        return Reduced(matrix, max(stage.cut / stage.scale, size * float(np.finfo(float).eps)))

    def judge(self) -> Finding:
        """Return rank, null space and condition."""
        shape, reduced = self.stage.layer.input_shape, self.reduced
        shares = np.sqrt((reduced.null**2).sum(axis=1)).reshape(shape)
        condition = float(reduced.kept.max() / reduced.kept.min()) if len(reduced.kept) else 1.0
        return Finding(self.stage.judged(shares, reduced.rank, condition), (self,))

    def solve(self, weight_gradient: FloatArray, output: FloatArray, share: float, *, single: bool) -> FloatArray:
        """Return the least-squares solution of all equations; one pass of refinement where double precision is asked.

        Factors round every equation as the largest is rounded; the residuals of a solution round each as its own size.
        """
        del share
        rhs = self.stage.sides(weight_gradient, output)
        x = self._solved(rhs)
        return x if single else x + self._solved(rhs - self.stage.stacked.forward(x))

    def _solved(self, rhs: FloatArray) -> FloatArray:
        return self.reduced.solve(rhs).reshape(*self.stage.layer.input_shape, -1)
