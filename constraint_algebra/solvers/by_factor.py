"""By a factor of the normal equations: its smallest singular value gives the verdict, a few steps with it the input."""

from __future__ import annotations

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.numerics.conjugate_gradients import Preconditioner, conjugate_gradients
from constraint_algebra.numerics.refinement import restarted
from constraint_algebra.solvers import choose_factor
from constraint_algebra.solvers.elimination import Elimination
from constraint_algebra.solvers.strategy import Cost, Finding

# Open directions up to which their singular values cost less than 20 ms, and give rank and null space besides.
FEW = 1024
# The iteration reaches weak directions last, and noise moves them most. An ensemble that stopped where its error is a
# share of all directions' would leave out the few that make most of the error bar.
LAST = 0.1
STEPS = 8  # with a factor before the residual is computed afresh; more only add up rounding


class SmallestSingularValue:
    """The verdict that everything is determined, where a factor of the normal equations shows it."""

    def __init__(self, stage: Elimination) -> None:
        """Keep the equations."""
        self.stage = stage

    def cost(self) -> Cost:
        """Return the cost of the factorisation, and of inverse iteration with it."""
        return Cost(choose_factor.operations(self.stage.layer, self.stage.core_rows)) + 4 * self.stage.product_cost(
            vectors=1
        )

    def applies(self) -> bool:
        """Whether there are equations enough, many directions to decide upon, and a factor that is worth its cost."""
        stage = self.stage
        enough = stage.enough and stage.equations.weight_row_count > 0
        return enough and stage.more_open_than(FEW) and choose_factor.operations(stage.layer, stage.core_rows) < np.inf

    def judge(self) -> Finding | None:
        """Return that all is determined, `None` where the smallest singular value does not say so."""
        stage = self.stage
        largest = stage.stacked.largest()
        found = choose_factor.cheapest_factor(stage.stacked, largest)
        if found is None or found[1] * stage.scale < stage.cut:
            return None
        factor, smallest, exact = found
        return Finding(stage.all_determined(largest / smallest), (FactoredIteration(stage, factor, exact=exact),))


class FactoredIteration:
    """The solution by conjugate gradients with a factor of the normal equations as the preconditioner.

    Args:
        stage: the equations.
        factor: of their normal equations.
        exact: whether it inverts them but for some percent.
    """

    def __init__(self, stage: Elimination, factor: Preconditioner, *, exact: bool) -> None:
        """Keep the factor."""
        self.stage, self.factor, self.exact = stage, factor, exact

    def cost(self) -> Cost:
        """Return the cost of some steps; the factor is there."""
        return STEPS * self.stage.product_cost()

    def applies(self) -> bool:
        """Whether there is a factor: there is."""
        return True

    def solve(self, weight_gradient: FloatArray, output: FloatArray, share: float, *, single: bool) -> FloatArray:
        """Return the least-squares solution of all equations."""
        stage = self.stage
        rhs = stage.sides(weight_gradient, output)
        if single and self.exact:
            rhs, size, _ = stage.prepared(rhs, share, single=True)
            return self.factor(stage.single.adjoint(rhs)).astype(float) * size
        rhs, size, distance = stage.prepared(rhs, LAST * share if single else share, single=single)
        if single:
            return conjugate_gradients(stage.single, self.factor, rhs, distance=distance, delay=2)[0] * size
        patience = {"delay": 1, "patience": 2} if self.exact else {"delay": 2, "patience": 10}
        steps = STEPS if self.exact else 20 * STEPS
        return restarted(stage.stacked, self.factor, rhs, distance=distance, iterations=steps, **patience)[0] * size
