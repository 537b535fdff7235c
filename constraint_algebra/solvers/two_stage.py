"""Two-stage elimination: the gradient equations of one layer first, its weight equations in what they leave open.

For the input x of one layer there are gradient equations `A x[c] = dL/dW[:, c]`, the same `A` for every channel of a
group, and weight equations `B x = z - b` that tie the channels together. Each row is divided by the standard deviation
of its noise, so that a singular value σ says: this direction of x is known to 1/σ.

1. `A` falls apart into blocks (one residue class of one group each). Their singular value decompositions serve all
   channels. Strong directions are solved; N spans the weak ones and the null space.
2. What is left are the unknowns y of `x = x_p + N y`. They have the equations `B N y = z - b - B x_p`, and those of the
   weak directions, which are diagonal. Where A has full rank nothing is left.

How far each stage is taken depends on how many equations of each kind there are. `strategy` says what a strategy is;
the cheapest that applies gives the verdict, and the cheapest that then is possible the solution.
"""

from __future__ import annotations

from constraint_algebra.arrays import FloatArray
from constraint_algebra.solvers.by_dense import DenseSystem
from constraint_algebra.solvers.by_diagonal import WellConditioned
from constraint_algebra.solvers.by_factor import SmallestSingularValue
from constraint_algebra.solvers.by_gradients import BlockRanks
from constraint_algebra.solvers.by_iteration import Probes
from constraint_algebra.solvers.by_reduction import ReducedRank
from constraint_algebra.solvers.elimination import Elimination
from constraint_algebra.solvers.noisy_equations import LayerEquations
from constraint_algebra.solvers.strategy import Finding, Judge, cheapest_first


class TwoStage:
    """The equations of one layer, eliminated; `solve` takes any number of right-hand sides.

    Args:
        equations: the layer's equations with their noise.
        cut: a direction counts as known where its standard deviation is below `scale / cut`; by default `noise_cut`.
        tolerance: share of a null vector above which an unknown counts as undetermined.
        seed: seed of the random probes of a large system.

    Attributes:
        verdict: what the equations can tell.
        stage: the equations in units of their noise.
        whiten_gradient: factor of each gradient row, `(filters, taps)`, that gives it noise of the unit; 0 for those
            that do not count.
    """

    def __init__(
        self, equations: LayerEquations, *, cut: float | None = None, tolerance: float = 1e-5, seed: int = 0
    ) -> None:
        """Decide what is determined, and how it will be solved for."""
        self.equations = equations
        self.stage = Elimination(equations, cut, tolerance)
        self.whiten_gradient = self.stage.whiten_gradient
        found = decide(judges(self.stage, seed))
        self.verdict = found.verdict
        self.solution = next(cheapest_first(found.solutions))

    def solve(
        self, weight_gradient: FloatArray, output: FloatArray, share: float = 0.1, *, single: bool = False
    ) -> FloatArray:
        """Return the least-squares input, `(*input_shape, n)`, for n right-hand sides.

        Args:
            weight_gradient: right-hand sides of the gradient equations, `(*weight_shape, n)`.
            output: right-hand sides of the weight equations, `(*output_shape, n)`; ignored where no weight row counts.
            share: where to stop: no direction is further from the least-squares solution than this share of the
                standard deviation that noise gives it.
            single: whether single precision will do.
        """
        return self.solution.solve(weight_gradient, output, share, single=single)


def judges(stage: Elimination, seed: int) -> tuple[Judge, ...]:
    """Return all ways to a verdict."""
    return (
        WellConditioned(stage),
        SmallestSingularValue(stage),
        BlockRanks(stage),
        DenseSystem(stage),
        ReducedRank(stage),
        Probes(stage, seed),
    )


def decide(judges: tuple[Judge, ...]) -> Finding:
    """Return what the cheapest judge that can tell has found; of the last ones one always can."""
    return next(found for judge in cheapest_first(judges) if (found := judge.judge()) is not None)
