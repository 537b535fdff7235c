"""By the blocks of the gradient equations, corrected by the weight equations: a factor of low rank."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.numerics.conjugate_gradients import Preconditioner
from constraint_algebra.solvers import capacitance_factor
from constraint_algebra.solvers.by_factor import FactoredIteration
from constraint_algebra.solvers.choose_factor import correcting_factor
from constraint_algebra.solvers.elimination import Elimination
from constraint_algebra.solvers.strategy import Cost

# Condition of the gradient equations up to which an iteration is done, in a dozen steps, before a factor is.
MILD = 8.0
# Multiplications beyond which the factor takes longer than the steps that it saves: 75 ms on the machine of `strategy`.
LARGEST = 3e9


class CorrectedBlocks:
    """The solution with a factor of the gradient equations, which determine all, corrected by the weight equations."""

    def __init__(self, stage: Elimination) -> None:
        """Keep the equations."""
        self.stage = stage

    def _factoring(self) -> float:
        return capacitance_factor.operations(self.stage.layer, self.stage.equations.weight_row_count)

    def cost(self) -> Cost:
        """Return the cost of the factor, and of the few steps that it takes then."""
        return Cost(self._factoring()) + 4 * self.stage.product_cost()

    def applies(self) -> bool:
        """Whether gradient equations determine all, and not so well that an iteration is cheaper."""
        return self.factor is not None

    @cached_property
    def factor(self) -> Preconditioner | None:
        """The factor, `None` where there is none or it would not pay."""
        stage = self.stage
        singular = np.concatenate([block.singular for block in stage.blocks])
        if len(singular) < stage.layer.unknowns // stage.channels:
            return None  # the gradient equations alone do not determine all
        condition = max(float(singular.max()), 1.0) / float(singular.min())  # the largest row of all is of size 1
        if condition < MILD or self._factoring() >= LARGEST or not (stage.open or stage.worth_weighing):
            return None
        return correcting_factor(stage.stacked, condition)

    def solve(self, weight_gradient: FloatArray, output: FloatArray, share: float, *, single: bool) -> FloatArray:
        """Return the least-squares solution of all equations."""
        assert self.factor is not None
        return FactoredIteration(self.stage, self.factor, exact=True).solve(
            weight_gradient, output, share, single=single
        )
