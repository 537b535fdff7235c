"""By iteration alone, for layers with too many open directions to decompose: random vectors give the verdict.

Send a random input through the equations and solve them for it: unknowns that come back unchanged are determined, since
the difference is a random null vector.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.numerics.conjugate_gradients import conjugate_gradients
from constraint_algebra.numerics.refinement import refined, restarted
from constraint_algebra.solvers import by_reduction, null_space_factor
from constraint_algebra.solvers.by_correction import CorrectedBlocks
from constraint_algebra.solvers.elimination import Elimination
from constraint_algebra.solvers.null_space_factor import NullSpaceFactor
from constraint_algebra.solvers.operators import Coordinates
from constraint_algebra.solvers.strategy import Cost, Finding
from constraint_algebra.solvers.verdict import Verdict

STEPS = 2000  # most of them; 64→64 channels on 32×32 pixels take 405 for the verdict and 755 for the solution
FACTORED = 20  # steps with a factor before the residual is computed afresh
# Share of the noise at which an ensemble stops: large layers have thousands of weak directions, which come last.
LAST = 0.01
PROBES = 3  # random vectors; a single one gave a wrong "determined" in 805 of 804 unknowns (references of the project)
GAP = 10.0  # between the shares of determined unknowns and those of the others
ACCURACY = 1e-11  # to which the random vectors are solved for, relative to them


class Probes:
    """The verdict of random vectors: an unknown that its own equations give back is determined."""

    def __init__(self, stage: Elimination, seed: int) -> None:
        """Keep the equations."""
        self.stage, self.seed = stage, seed

    def cost(self) -> Cost:
        """Return the cost of all steps."""
        return self.stage.decomposition_cost() + STEPS * self.stage.product_cost(vectors=PROBES)

    def applies(self) -> bool:
        """Whether the open directions are too many for a dense matrix."""
        return self.stage.more_open_than(by_reduction.LARGEST)

    def judge(self) -> Finding:
        """Return what comes back; where the iteration does not converge, with a factor if there can be one."""
        solution = OpenIteration(self.stage)
        verdict = self._probed(solution)
        if not verdict.settled and self.stage.enough and solution.factorise():
            verdict = self._probed(solution)
        return Finding(verdict, (CorrectedBlocks(self.stage), solution))

    def _probed(self, solution: OpenIteration) -> Verdict:
        stage = self.stage
        probes = np.random.default_rng(self.seed).standard_normal((*stage.layer.input_shape, PROBES))
        rhs = stage.stacked.forward(probes)
        share = ACCURACY * float(np.linalg.norm(rhs)) / stage.unit
        back, converged = solution.passes(rhs, share, 1)
        verdict = stage.judged(np.abs(probes - back).max(axis=-1), None, np.nan, settled=converged)
        # Shares without a gap are those of an iteration that has not got to its weakest directions.
        return replace(verdict, settled=converged and verdict.gap[1] > GAP * verdict.gap[0])


class OpenIteration:
    """The solution in two stages, the second by iteration over what is open."""

    def __init__(self, stage: Elimination) -> None:
        """Keep the equations."""
        self.stage = stage
        self.factor: NullSpaceFactor | None = None

    def cost(self) -> Cost:
        """Return the cost of all steps."""
        return STEPS * self.stage.product_cost()

    def applies(self) -> bool:
        """Whether it can be iterated: it can."""
        return True

    @cached_property
    def double(self) -> Coordinates:
        """The equations of the open directions."""
        return Coordinates(self.stage.stacked, self.stage.strong)

    @cached_property
    def single(self) -> Coordinates:
        """The same in single precision."""
        return Coordinates(self.stage.single, self.stage.strong)

    def factorise(self) -> bool:
        """Factor the normal equations of what is open, and return whether that can be done."""
        if not null_space_factor.worthwhile(self.single):
            return False
        try:
            self.factor = null_space_factor.NullSpaceFactor(self.single)
        except (np.linalg.LinAlgError, MemoryError):
            return False
        return True

    def solve(self, weight_gradient: FloatArray, output: FloatArray, share: float, *, single: bool) -> FloatArray:
        """Return the least-squares solution; in double precision with a second pass from the true residual."""
        rhs = self.stage.sides(weight_gradient, output)
        return self.passes(rhs, LAST * share if single else share, 1 if single else 2, single=single)[0]

    def passes(self, rhs: FloatArray, share: float, passes: int, *, single: bool = False) -> tuple[FloatArray, bool]:
        """Return the solution, and whether it converged.

        A second pass is for what turning into the coordinates rounded off in the first.
        """
        stage = self.stage
        x, converged = np.zeros((*stage.layer.input_shape, rhs.shape[-1])), True
        for n in range(passes):
            rest = rhs - stage.stacked.forward(x) if n else rhs
            strong = stage.strong_part(stage.stacked.split(rest)[0])
            more, done = self._iterated(rest - stage.stacked.forward(strong), share, single=single)
            x, converged = x + strong + more, converged and done
        return x, converged

    def _iterated(self, rhs: FloatArray, share: float, *, single: bool) -> tuple[FloatArray, bool]:
        stage, double, fast = self.stage, self.double, self.single
        rhs, size, distance = stage.prepared(double.rotate(*stage.stacked.split(rhs)), share, single=single)
        if single:
            precondition, delay = (self.factor, 2) if self.factor else (fast.precondition, 4)
            y, done = conjugate_gradients(fast, precondition, rhs, distance=distance, iterations=STEPS, delay=delay)
        elif self.factor:
            y, done = restarted(double, self.factor, rhs, distance=distance, iterations=FACTORED, delay=2)
        else:
            y, done = refined(double, fast, fast.precondition, rhs, distance=distance, iterations=STEPS)
        return (fast if single else double).to_input(y) * size, done
