"""The equations of one layer in units of their noise, and the first stage of their elimination.

Each row is divided by the standard deviation of its noise, and all by one unit, so that the largest row is of size 1.
The gradient equations fall apart into blocks; directions whose singular value there is above `strong` are solved for by
the blocks alone. The others are *open*: weak, or in the null space. Strategies share what is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.solvers.gradient_blocks import Block, gradient_blocks, project, scatter
from constraint_algebra.solvers.noisy_equations import LayerEquations, largest_row, noise_cut
from constraint_algebra.solvers.operators import Coordinates, StackedEquations
from constraint_algebra.solvers.strategy import Cost
from constraint_algebra.solvers.verdict import Verdict

# Gradient equations are solved for first where they are this many times stronger than what counts as known, if weight
# equations may add to them; a direction just above the cut would take all of the weight equations' part in it.
STRONGER = 30.0
# Singular values up to here may be rounding, the largest row being 1: some hundred epsilon, and a margin.
ROUNDED = 1e4 * float(np.finfo(float).eps)
# Share of the variance that weight equations must remove to be worth their steps: 5 % are 2.5 % of an error bar.
WORTHWHILE = 0.05
LEAST = 1e-290  # noise of a gradient equation; beside one of a saturated loss, 1e-310, its inverse is infinite
VECTORS = 13  # right-hand sides that a layer is solved for: the central one and the ensemble of its noise


class Elimination:
    """The equations of a layer, whitened, with the decomposition of the gradient equations where that is asked for.

    Args:
        equations: the layer's equations with their noise.
        cut: a direction counts as known where its standard deviation is below `scale / cut`; by default `noise_cut`.
        tolerance: share of a null vector above which an unknown counts as undetermined.

    Attributes:
        unit: of the noise, such that the largest row is of size 1.
        scale: a typical input value in that unit.
        strong: singular value above which a direction of the gradient equations is solved for by them alone.
        whiten_gradient: factor of each gradient row, `(filters, taps)`, that gives it noise of that unit; 0 for those
            that do not count.
        whiten_output: the same for the weight rows, in the output shape.
    """

    def __init__(self, equations: LayerEquations, cut: float | None, tolerance: float) -> None:
        """Find the unit."""
        self.equations, self.layer, self.tolerance = equations, equations.layer, tolerance
        self.cut = noise_cut(equations) if cut is None else cut
        known, counts = equations.weight_rows, equations.gradient_rows
        whiten_output = np.where(known, 1 / np.where(known, equations.output_noise, 1.0), 0.0)
        whiten_gradient = np.where(counts, 1 / np.maximum(np.where(counts, equations.gradient_noise, 1.0), LEAST), 0.0)
        self.unit = 1 / (largest_row(equations, whiten_output, whiten_gradient) or 1.0)
        self.whiten_output, self.whiten_gradient = whiten_output * self.unit, whiten_gradient * self.unit
        self.scale = equations.scale / self.unit
        stronger = STRONGER if equations.weight_row_count else 1.0
        self.strong = max(stronger * self.cut / self.scale, ROUNDED)
        self.channels = self.layer.channels // self.layer.groups  # that share a block

    def assembled(self, *, compress: bool) -> StackedEquations:
        """Return all equations as an operator, tall blocks compressed or as they are."""
        eq = self.equations
        args = eq.layer, eq.output_gradient, eq.gradient_rows, self.whiten_gradient
        return StackedEquations(eq.layer, eq.weight, gradient_blocks(*args, compress=compress), self.whiten_output)

    @cached_property
    def stacked(self) -> StackedEquations:
        """All equations, tall blocks compressed."""
        return self.assembled(compress=True)

    @cached_property
    def single(self) -> StackedEquations:
        """The same in single precision."""
        return self.stacked.astype(np.float32)

    @cached_property
    def coordinates(self) -> Coordinates:
        """All equations in the coordinates in which the gradient equations are diagonal."""
        return Coordinates(self.stacked)

    @cached_property
    def single_coordinates(self) -> Coordinates:
        """The same in single precision."""
        return Coordinates(self.single)

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks of the gradient equations."""
        return self.stacked.blocks

    @cached_property
    def core_shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of each block's core as far as shapes tell; costs are estimated before a block is built."""
        S, layer = incidence(self.layer), self.layer
        counts = self.equations.gradient_rows.reshape(layer.groups, -1, S.tap_count).sum(axis=1)
        return [(min(int(rows[taps].sum()), len(places)), len(places)) for rows in counts for taps, places in S.classes]

    @property
    def core_size(self) -> int:
        """Number of entries of all cores, for one channel of each group."""
        return sum(rows * columns for rows, columns in self.core_shapes)

    @property
    def core_rows(self) -> int:
        """Number of rows of all cores, over all channels."""
        return self.channels * sum(rows for rows, _ in self.core_shapes)

    @property
    def surely_open(self) -> int:
        """Number of directions that the blocks leave open by their shapes; costs no decomposition."""
        return self.channels * sum(columns - rows for rows, columns in self.core_shapes)

    @cached_property
    def open(self) -> int:
        """Number of directions that the gradient equations leave open, or too weak for the noise."""
        return self.channels * sum(block.weak_count(self.strong) for block in self.blocks)

    @property
    def known_open(self) -> int:
        """Number of open directions as far as it is known without a further decomposition."""
        return self.open if "open" in self.__dict__ else self.surely_open

    def more_open_than(self, directions: int) -> bool:
        """Whether more directions are open; by their shapes, if these settle it."""
        return self.surely_open > directions or self.open > directions

    @cached_property
    def worth_weighing(self) -> bool:
        """Whether weight equations lower the error where gradient equations alone determine all.

        With β² the mean squared column of the weight equations and m their number, they remove at most
        `β² sum 1/σ⁴` of the variance `sum 1/σ²`, and at most its m largest terms.
        """
        values = np.concatenate([block.singular for block in self.blocks])
        variances = np.sort(np.repeat(values**-2, self.channels))[::-1]
        removed = min(
            self.coordinates.beta2 * float((variances**2).sum()),
            float(variances[: self.equations.weight_row_count].sum()),
        )
        return removed > WORTHWHILE * float(variances.sum())

    @property
    def enough(self) -> bool:
        """Whether there are as many equations as unknowns, which a verdict of "all determined" takes."""
        rows = self.channels * sum(len(block.core) for block in self.blocks) + self.equations.weight_row_count
        return rows >= self.layer.unknowns

    @property
    def strong_values(self) -> list[FloatArray]:
        """The singular values of each block above `strong`."""
        return [block.singular[block.singular > self.strong] for block in self.blocks]

    @property
    def strong_rank(self) -> int:
        """Number of directions that the blocks alone solve for."""
        return self.channels * sum(map(len, self.strong_values))

    def project(self, weight_gradient: FloatArray) -> list[FloatArray]:
        """Return the right-hand sides of the gradient equations, those of each block's core."""
        return project(self.layer, self.blocks, self.whiten_gradient, weight_gradient)

    def weight_sides(self, output: FloatArray) -> FloatArray:
        """Return the right-hand sides of the weight equations, `(*output_shape, n)`."""
        return self.whiten_output[..., None] * np.where(self.equations.weight_rows[..., None], output, 0.0)

    def sides(self, weight_gradient: FloatArray, output: FloatArray) -> FloatArray:
        """Return the right-hand sides of all equations."""
        return self.stacked.join(self.project(weight_gradient), self.weight_sides(output))

    def strong_part(self, alphas: list[FloatArray]) -> FloatArray:
        """Return the part of the input along the strong directions."""
        x = self.stacked.zeros(alphas[0].shape[-1] // self.channels)
        for block, alpha in zip(self.blocks, alphas, strict=True):
            U, s, V = (part[..., block.singular > self.strong] for part in block.svd)
            scatter(x, block, V @ ((U.T @ alpha) / s[:, None]))
        return x.reshape(*self.layer.input_shape, -1)

    def prepared(self, rhs: FloatArray, share: float, *, single: bool) -> tuple[FloatArray, FloatArray, float]:
        """Return right-hand sides of size 1, their sizes, and at which distance an iteration may stop."""
        size = np.abs(rhs).max(axis=0)
        size = np.where(size > 0, size, 1.0)
        return (rhs / size).astype(np.float32 if single else float), size, share * self.unit / float(size.max())

    def judged(self, shares: FloatArray, rank: int | None, condition: float, *, settled: bool = True) -> Verdict:
        """Return the verdict for the shares that null vectors have of the unknowns."""
        return Verdict.of(shares, self.tolerance, rank, condition, settled)

    def all_determined(self, condition: float) -> Verdict:
        """Return the verdict that no null vector is left."""
        return self.judged(np.zeros(self.layer.input_shape), self.layer.unknowns, condition)

    def product_cost(self, vectors: int = VECTORS, itemsize: int = 4) -> Cost:
        """Return what all equations applied to a few vectors cost, and their transpose applied to the result."""
        layer, S = self.layer, incidence(self.layer)
        of_blocks = self.core_size
        of_weights = layer.filters * self.channels * S.output_count * S.tap_count
        seen = layer.channels * (S.output_count * S.tap_count + S.arrivals.size)  # gathered there and back
        moved = itemsize * (2 * of_blocks + 3 * vectors * seen)  # read, written, and read by the product
        return Cost(2.0 * vectors * (self.channels * of_blocks + of_weights), float(moved))

    def decomposition_cost(self) -> Cost:
        """Return what the singular value decompositions of all blocks cost.

        Ten times the product of a core with itself, in double precision, at half the speed.
        """
        return Cost(sum(20.0 * rows * columns * min(rows, columns) for rows, columns in self.core_shapes))
