"""By what the gradient equations leave open: a dense system there, then steps that weigh all equations together.

With the strong directions solved for, the input is `x_p + N y`. The weight equations of y and those of the weak
directions, which are diagonal, make a dense system, whose singular values say exactly what is determined.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray
from constraint_algebra.numerics.conjugate_gradients import conjugate_gradients
from constraint_algebra.numerics.dense_least_squares import Reduced
from constraint_algebra.solvers.by_correction import CorrectedBlocks
from constraint_algebra.solvers.by_dense import DenseSystem
from constraint_algebra.solvers.by_factor import LAST, FactoredIteration
from constraint_algebra.solvers.choose_factor import cheapest_factor
from constraint_algebra.solvers.elimination import Elimination
from constraint_algebra.solvers.gradient_blocks import scatter
from constraint_algebra.solvers.strategy import Cost, Finding
from constraint_algebra.solvers.verdict import Verdict

LARGEST = 4096  # open directions up to which their singular values are computed: 134 MB, and 20 s where all are needed
LEAKS = 4.0  # times rounding, strong directions come into weak ones
POLISH = 80  # most steps to weigh the equations against each other, from a start that is right up to noise


class OpenSystem:
    """The equations of the open directions y, as a dense matrix, factored."""

    def __init__(self, stage: Elimination) -> None:
        """Factor: those of the weak directions first, then the weight equations."""
        self.stage = stage
        weak = []
        for block in stage.blocks:
            singular = block.singular[block.singular <= stage.strong]
            diagonal = np.eye(len(singular), block.weak_count(stage.strong)) * singular[:, None]
            weak.append(np.kron(diagonal, np.eye(stage.channels)))
        B = stage.stacked.weigh(self.to_input(np.eye(stage.open)))
        matrix = np.vstack([la.block_diag(*weak), B[stage.equations.weight_rows]])
        # The largest row is of size 1, and a weak direction as exact as its singular value lies apart from the others.
        apart = max((values[0] / values[-1] for values in stage.strong_values if len(values)), default=1.0)
        rounding = max(stage.layer.unknowns, LEAKS * float(apart)) * float(np.finfo(float).eps)
        self.reduced = Reduced(matrix, max(stage.cut / stage.scale, rounding))

    def to_input(self, y: FloatArray) -> FloatArray:
        """Return N y in the input shape."""
        stage, start = self.stage, 0
        x = stage.stacked.zeros(y.shape[-1])
        for block in stage.blocks:
            N = block.weak_basis(stage.strong)
            stop = start + x.shape[1] * N.shape[1]
            scatter(x, block, N @ y[start:stop].reshape(N.shape[1], x.shape[1] * x.shape[3]))
            start = stop
        return x.reshape(*stage.layer.input_shape, -1)

    def solve(self, alphas: list[FloatArray], betas: FloatArray, x: FloatArray) -> FloatArray:
        """Return N y, given the part x of the input along the strong directions."""
        stage = self.stage
        weak = [
            (block.svd[0].T @ alpha)[block.singular <= stage.strong].reshape(-1, x.shape[-1])
            for block, alpha in zip(stage.blocks, alphas, strict=True)
        ]
        rest = (betas - stage.stacked.weigh(x))[stage.equations.weight_rows]
        return self.to_input(self.reduced.solve(np.concatenate([*weak, rest])))


class ReducedRank:
    """The verdict of the singular values of the open directions: exact rank and null space."""

    def __init__(self, stage: Elimination) -> None:
        """Keep the equations."""
        self.stage = stage

    def cost(self) -> Cost:
        """Return the cost of the QR factorisation, in double precision, at half the speed."""
        stage = self.stage
        size = max(stage.known_open, 1)
        rows = stage.equations.weight_row_count + stage.known_open - stage.surely_open  # weak directions have one each
        factoring = 2.0 * max(rows, size) * min(rows, size) ** 2
        return stage.decomposition_cost() + Cost(factoring) + stage.product_cost(vectors=size, itemsize=8)

    def applies(self) -> bool:
        """Whether the open directions are few enough for a dense matrix, and all together too many for one."""
        return not DenseSystem(self.stage).applies() and not self.stage.more_open_than(LARGEST)

    def judge(self) -> Finding:
        """Return rank, null space and condition."""
        stage, system = self.stage, OpenSystem(self.stage)
        null = system.to_input(system.reduced.null)
        values = np.concatenate([*stage.strong_values, system.reduced.kept])
        condition = float(values.max() / values.min()) if len(values) else 1.0
        rank = stage.strong_rank + system.reduced.rank
        verdict = stage.judged(np.sqrt((null**2).sum(axis=-1)), rank, condition)
        return Finding(verdict, (CorrectedBlocks(stage), Polish(stage, verdict, system)))


class Polish:
    """The solution in two stages, then by iteration from there; a factor takes over where it does not get on.

    Args:
        stage: the equations.
        verdict: what they determine.
        system: of the open directions, `None` where nothing is open.
    """

    def __init__(self, stage: Elimination, verdict: Verdict, system: OpenSystem | None = None) -> None:
        """Keep the equations."""
        self.stage, self.verdict, self.system = stage, verdict, system
        self.instead: FactoredIteration | None = None

    def cost(self) -> Cost:
        """Return the cost of all steps, with a turn into the coordinates of the blocks and back in each."""
        turns = sum(columns**2 for _, columns in self.stage.core_shapes)
        return POLISH * (self.stage.product_cost() + Cost(bytes=8.0 * turns))

    def applies(self) -> bool:
        """Whether there is a start: there is."""
        return True

    @property
    def factor(self) -> object:
        """The factor that took over, if one did."""
        return self.instead and self.instead.factor

    def solve(self, weight_gradient: FloatArray, output: FloatArray, share: float, *, single: bool) -> FloatArray:
        """Return the least-squares solution of all equations."""
        stage = self.stage
        if self.instead is None:
            alphas, betas = stage.project(weight_gradient), stage.weight_sides(output)
            x = stage.strong_part(alphas)
            if self.system is not None:
                x = x + self.system.solve(alphas, betas, x)
            rest = stage.stacked.join(alphas, betas) - stage.stacked.forward(x)
            more, converged = self._iterated(rest, LAST * share if single else share, single=single)
            if not converged and self.verdict.determined.all():
                self.instead = self._factored()
            if self.instead is None:
                return x + more
        return self.instead.solve(weight_gradient, output, share, single=single)

    def _iterated(self, rhs: FloatArray, share: float, *, single: bool) -> tuple[FloatArray, bool]:
        """Return the least-squares solution by iteration from zero, and whether it converged."""
        stage = self.stage
        double = stage.coordinates
        rhs, size, distance = stage.prepared(double.rotate(*stage.stacked.split(rhs)), share, single=single)
        operator = stage.single_coordinates if single else double
        y, converged = conjugate_gradients(operator, operator.precondition, rhs, distance=distance, iterations=POLISH)
        return operator.to_input(y) * size, converged

    def _factored(self) -> FactoredIteration | None:
        found = cheapest_factor(self.stage.stacked, self.stage.stacked.largest())
        return None if found is None else FactoredIteration(self.stage, found[0], exact=found[2])
