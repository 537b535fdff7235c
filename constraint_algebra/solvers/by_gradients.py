"""By the gradient equations alone: their blocks say what they determine, and give it."""

from __future__ import annotations

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.solvers.by_correction import CorrectedBlocks
from constraint_algebra.solvers.by_dense import DenseSystem
from constraint_algebra.solvers.by_reduction import Polish
from constraint_algebra.solvers.elimination import VECTORS, Elimination
from constraint_algebra.solvers.strategy import Cost, Finding


class BlockRanks:
    """The verdict of the blocks, where weight equations have nothing to add or there are none."""

    def __init__(self, stage: Elimination) -> None:
        """Keep the equations."""
        self.stage = stage

    def cost(self) -> Cost:
        """Return the cost of the decompositions."""
        return self.stage.decomposition_cost()

    def applies(self) -> bool:
        """Whether nothing is left to the weight equations."""
        return not self.stage.equations.weight_row_count or not self.stage.more_open_than(0)

    def judge(self) -> Finding:
        """Return what the strong directions determine."""
        stage = self.stage
        verdict = stage.judged(self._shares(), stage.strong_rank, self._condition())
        return Finding(verdict, (Blocks(stage), DenseSystem(stage), CorrectedBlocks(stage), Polish(stage, verdict)))

    def _shares(self) -> FloatArray:
        """Return the share of each unknown that the strong directions of the gradient equations leave open."""
        stage = self.stage
        x = stage.stacked.zeros(1)
        for block in stage.blocks:
            kept = (block.right[:, block.singular > stage.strong] ** 2).sum(axis=1)
            x[block.group][:, block.columns] = np.sqrt(np.clip(1 - kept, 0, None) * (1 - kept > 1e-12))[:, None]
        return x.reshape(stage.layer.input_shape)

    def _condition(self) -> float:
        """Return the condition number where the gradient equations alone solve, or an upper bound of it."""
        values = np.concatenate([*self.stage.strong_values, np.zeros(0)])
        if not len(values):
            return 1.0
        if not self.stage.equations.weight_row_count:
            return float(values.max() / values.min())
        return self.stage.stacked.largest() / float(values.min())


class Blocks:
    """The solution of the blocks, rid of what their factors rounded off."""

    def __init__(self, stage: Elimination) -> None:
        """Keep the equations."""
        self.stage = stage

    def cost(self) -> Cost:
        """Return the cost of two passes through the blocks."""
        passed = VECTORS * self.stage.channels * self.stage.core_size
        return Cost(4.0 * passed)

    def applies(self) -> bool:
        """Whether weight equations are not there, or would hardly lower the error."""
        return not self.stage.equations.weight_row_count or not (self.stage.open or self.stage.worth_weighing)

    def solve(self, weight_gradient: FloatArray, output: FloatArray, share: float, *, single: bool) -> FloatArray:  # noqa: ARG002
        """Return the solution; one pass of refinement where double precision is asked for."""
        stage = self.stage
        x = stage.strong_part(stage.project(weight_gradient))
        if single:
            return x
        layer, k = stage.layer, stage.equations.output_gradient
        found = [trilinear.weight_gradient(layer, k, column) for column in np.moveaxis(x, -1, 0)]
        return x + stage.strong_part(stage.project(weight_gradient - np.stack(found, axis=-1)))
