"""By the diagonal of the normal equations, where weight equations are many: these are well-conditioned, nearly always.

Nothing needs to be eliminated then: Lanczos' process shows the extreme singular values, and an iteration with no more
than the diagonal as its preconditioner solves.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from constraint_algebra.arrays import FloatArray, RealArray
from constraint_algebra.numerics.conjugate_gradients import conjugate_gradients
from constraint_algebra.numerics.lanczos import STEPS, extreme_singular_values
from constraint_algebra.numerics.refinement import refined
from constraint_algebra.solvers.by_factor import FEW, LAST
from constraint_algebra.solvers.by_reduction import POLISH
from constraint_algebra.solvers.elimination import Elimination
from constraint_algebra.solvers.gradient_blocks import project
from constraint_algebra.solvers.operators import StackedEquations
from constraint_algebra.solvers.strategy import Cost, Finding

MANY = 2  # times as many weight equations as unknowns: random ones have a condition of (√2 + 1)² = 6 then


class Diagonal:
    """The inverse of the diagonal of the normal equations, `(*input_shape, 1)`, as a preconditioner."""

    def __init__(self, diagonal: RealArray) -> None:
        """Invert."""
        self.inverse = (1 / diagonal).astype(np.float32)

    def __call__(self, x: RealArray) -> RealArray:
        """Return the inverse applied to x `(*input_shape, n)`, in the precision of x."""
        return np.asarray(self.inverse * x)


class WellConditioned:
    """The verdict that everything is determined, where the equations are many and Lanczos' process shows it."""

    def __init__(self, stage: Elimination) -> None:
        """Keep the equations."""
        self.stage = stage

    @cached_property
    def stacked(self) -> StackedEquations:
        """All equations as they are: blocks that are used so few times are not worth compressing."""
        return self.stage.assembled(compress=False)

    def cost(self) -> Cost:
        """Return the cost of the steps of Lanczos' process, which are products with one vector."""
        return STEPS * self.stage.product_cost(vectors=1)

    def applies(self) -> bool:
        """Whether the weight equations are so many that they may well determine the input by themselves."""
        return self.stage.equations.weight_row_count >= max(MANY * self.stage.layer.unknowns, FEW)

    def judge(self) -> Finding | None:
        """Return that all is determined, `None` where that takes more steps than it is worth."""
        stage, single = self.stage, self.stacked.astype(np.float32)
        diagonal = single.diagonal()
        found = extreme_singular_values(single, diagonal, stage.layer.input_shape) if diagonal.all() else None
        if found is None or found[0] * stage.scale < stage.cut:
            return None
        solution = DiagonalIteration(stage, self.stacked, single, Diagonal(diagonal))
        return Finding(stage.all_determined(found[1] / found[0]), (solution,))


class DiagonalIteration:
    """The solution by conjugate gradients with the diagonal as their preconditioner."""

    def __init__(
        self, stage: Elimination, stacked: StackedEquations, single: StackedEquations, factor: Diagonal
    ) -> None:
        """Keep the equations in both precisions."""
        self.stage, self.stacked, self.single, self.factor = stage, stacked, single, factor

    def cost(self) -> Cost:
        """Return the cost of the steps."""
        return POLISH * self.stage.product_cost()

    def applies(self) -> bool:
        """Whether it does: it was found to."""
        return True

    def solve(self, weight_gradient: FloatArray, output: FloatArray, share: float, *, single: bool) -> FloatArray:
        """Return the least-squares solution of all equations."""
        stage = self.stage
        alphas = project(stage.layer, self.stacked.blocks, stage.whiten_gradient, weight_gradient)
        rhs = self.stacked.join(alphas, stage.weight_sides(output))
        rhs, size, distance = stage.prepared(rhs, LAST * share if single else share, single=single)
        if single:
            return conjugate_gradients(self.single, self.factor, rhs, distance=distance, delay=2)[0] * size
        args = self.stacked, self.single, self.factor, rhs
        return refined(*args, distance=distance, iterations=POLISH, delay=2)[0] * size
