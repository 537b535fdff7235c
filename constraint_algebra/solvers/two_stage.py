"""Two-stage elimination: the gradient equations of one layer first, its weight equations in what they leave open.

For the input x of one layer there are gradient equations `A x[c] = dL/dW[:, c]`, the same `A` for every channel of a
group, and weight equations `B x = z - b` that tie the channels together. Each row is divided by the standard deviation
of its noise, so that a singular value σ says: this direction of x is known to 1/σ.

1. `A` falls apart into blocks (one residue class of one group each). Their singular value decompositions serve all
   channels. Strong directions are solved; N spans the weak ones and the null space.
2. What is left are the unknowns y of `x = x_p + N y`. They have the equations `B N y = z - b - B x_p`, and those of the
   weak directions, which are diagonal. Where A has full rank nothing is left.

Conjugate gradients on the least-squares problem of all equations give every equation its due weight, with a factor of
the normal equations in single precision at hand. Where the gradient equations fix every direction, and the weight
equations only lower the error, that is a factor of theirs, corrected; elsewhere one of all together, whose smallest
singular value says whether everything is determined. Where it is not, a
singular value decomposition of the reduced system gives the exact rank and null space. Systems too large for either are
left to the iteration, and random vectors sent through it show which unknowns are determined: those that come back
unchanged.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.numerics.conjugate_gradients import Preconditioner, conjugate_gradients
from constraint_algebra.numerics.dense_least_squares import Reduced
from constraint_algebra.numerics.lanczos import extreme_singular_values
from constraint_algebra.numerics.refinement import refined, restarted
from constraint_algebra.solvers import capacitance_factor, null_space_factor
from constraint_algebra.solvers.choose_factor import cheapest_factor, correcting_factor
from constraint_algebra.solvers.dense_factor import Diagonal
from constraint_algebra.solvers.gradient_blocks import gradient_blocks, scatter
from constraint_algebra.solvers.noisy_equations import LayerEquations, largest_row, noise_cut
from constraint_algebra.solvers.operators import Coordinates, StackedEquations
from constraint_algebra.solvers.verdict import Verdict

MANY = 2  # times as many weight equations as unknowns
FEW = 1024  # open directions up to which their singular values cost next to nothing
DENSE_LIMIT = 4096  # open directions up to which their singular values are computed
CORRECTION_OPERATIONS = 3e9  # multiplications up to which one that corrects the gradient equations saves time
ROUNDED = 1e4 * float(np.finfo(float).eps)  # singular values up to here may be rounding, the largest row being 1
POLISH = 80  # most steps to weigh the equations against each other, from a start that is right up to noise
WORTHWHILE = 0.05  # share of the variance that weight equations must remove to be worth these steps
ITERATIONS = 2000  # most steps of the iteration otherwise
# The iteration reaches weak directions last, and noise moves them most. An ensemble that stopped where its error is a
# share of all directions' would leave out the few that make most of the error bar; large layers have thousands.
LAST, LAST_OF_LARGE = 0.1, 0.01
REFINED = 8  # steps with a factor before the residual is computed afresh
GAP = 10.0  # between the shares of determined unknowns and those of the others
MILD = 8.0  # condition up to which the iteration is done before a factor is
PROBES = 3  # random vectors that ask which unknowns are determined


class TwoStage:
    """The equations of one layer, eliminated; `solve` takes any number of right-hand sides.

    Args:
        equations: the layer's equations with their noise.
        cut: a direction counts as known where its standard deviation is below `scale / cut`; by default `noise_cut`.
        tolerance: share of a null vector above which an unknown counts as undetermined.
        seed: seed of the random probes of a large system.

    Attributes:
        verdict: what the equations can tell.
        unit: of the noise, such that the largest row is of size 1.
        whiten_gradient: factor of each gradient row, `(filters, taps)`, that gives it noise of that unit; 0 for those
            that do not count.
    """

    def __init__(
        self, equations: LayerEquations, *, cut: float | None = None, tolerance: float = 1e-5, seed: int = 0
    ) -> None:
        """Factor both stages."""
        self.equations = equations
        self.cut = noise_cut(equations) if cut is None else cut
        self.tolerance = tolerance
        known = equations.weight_rows
        whiten_output = np.where(known, 1 / np.where(known, equations.output_noise, 1.0), 0.0)
        counts = equations.gradient_rows
        whiten_gradient = np.where(counts, 1 / np.where(counts, equations.gradient_noise, 1.0), 0.0)
        # One unit of noise for all rows, so that the largest is of size 1 and fits any precision.
        self.unit = 1 / (largest_row(equations, whiten_output, whiten_gradient) or 1.0)
        self._whiten_output, self.whiten_gradient = whiten_output * self.unit, whiten_gradient * self.unit
        self.scale = equations.scale / self.unit
        # Weight equations that are many determine x well, and nothing needs to be eliminated.
        self._assemble(compress=not self._many)
        # Strong enough to be solved for before the weight equations are looked at, if there are any. In units of the
        # largest row, rounding alone makes singular values of some hundred epsilon.
        self.strong = max((30 if equations.weight_row_count else 1) * self.cut / self.scale, ROUNDED)
        self._reduced: Reduced | None = None
        self._factor: Preconditioner | None = None
        self._open_factor: Preconditioner | None = None
        self._exact = False  # whether the factor inverts the normal equations but for some percent
        self.verdict = self._verdict(seed)

    def _assemble(self, *, compress: bool) -> None:
        eq = self.equations
        args = eq.layer, eq.output_gradient, eq.gradient_rows, self.whiten_gradient
        self.blocks = gradient_blocks(*args, compress=compress)
        self.stacked = StackedEquations(eq.layer, eq.weight, self.blocks, self._whiten_output)

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
        alphas = self._project(weight_gradient)
        betas = self._whiten_output[..., None] * np.where(self.equations.weight_rows[..., None], output, 0.0)
        if not self.equations.weight_row_count:
            return self._by_gradients(weight_gradient, alphas, single=single)
        if self._factor is not None or self._corrected:
            return self._by_factor(self.stacked.join(alphas, betas), share, single=single)
        if self._large:
            passes = 1 if single else 2
            return self._in_two_stages(self.stacked.join(alphas, betas), share, passes, single=single)[0]
        if self._reduced is None and not self.open and not self._worth_weighing:
            return self._by_gradients(weight_gradient, alphas, single=single)
        x = self._strong_part(alphas)  # the gradient equations first, at the price of the weight equations
        if self._reduced is not None:
            x = x + self._open_part(alphas, betas, x)
        rest = self.stacked.join(alphas, betas) - self.stacked.forward(x)
        more, converged = self._in_coordinates(rest, share, POLISH, single=single)
        if converged or not self.verdict.determined.all() or not self._try_factors(self.stacked.largest()):
            return x + more
        return self._by_factor(self.stacked.join(alphas, betas), share, single=single)

    def _in_two_stages(
        self, rhs: FloatArray, share: float, passes: int, *, single: bool = False
    ) -> tuple[FloatArray, bool]:
        """Return the solution of a layer left to the iteration, and whether it converged.

        A second pass is for what turning into the coordinates rounded off in the first.
        """
        x, converged = np.zeros((*self.equations.layer.input_shape, rhs.shape[-1])), True
        for n in range(passes):
            rest = rhs - self.stacked.forward(x) if n else rhs
            strong = self._strong_part(self.stacked.split(rest)[0])
            more, done = self._in_coordinates(rest - self.stacked.forward(strong), share, ITERATIONS, single=single)
            x, converged = x + strong + more, converged and done
        return x, converged

    def _by_factor(self, rhs: FloatArray, share: float, *, single: bool) -> FloatArray:
        """Return the least-squares solution with the help of a factor of the normal equations."""
        assert self._factor is not None
        if single and self._exact:
            rhs, size, _ = self._prepared(rhs, share, single=True)
            return self._factor(self._single.adjoint(rhs)).astype(float) * size
        rhs, size, distance = self._prepared(rhs, LAST * share if single else share, single=single)
        if single:
            return conjugate_gradients(self._single, self._factor, rhs, distance=distance, delay=2)[0] * size
        if isinstance(self._factor, Diagonal):
            args = self.stacked, self._single, self._factor, rhs
            return refined(*args, distance=distance, iterations=POLISH, delay=2)[0] * size
        patience = {"delay": 1, "patience": 2} if self._exact else {"delay": 2, "patience": 10}
        steps = REFINED if self._exact else 20 * REFINED
        return restarted(self.stacked, self._factor, rhs, distance=distance, iterations=steps, **patience)[0] * size

    def _in_coordinates(
        self, rhs: FloatArray, share: float, steps: int, *, single: bool = False
    ) -> tuple[FloatArray, bool]:
        """Return the least-squares solution by iteration from zero, and whether it converged."""
        alphas, betas = self.stacked.split(rhs)
        share = (LAST_OF_LARGE if self._large else LAST) * share if single else share
        rhs, size, distance = self._prepared(self._coordinates.rotate(alphas, betas), share, single=single)
        operator = self._single_coordinates if single else self._coordinates
        if single or not self._large:
            precondition, delay = (self._open_factor, 2) if self._open_factor else (operator.precondition, 4)
            y, converged = conjugate_gradients(
                operator, precondition, rhs, distance=distance, iterations=steps, delay=delay
            )
        elif self._open_factor:
            y, converged = restarted(operator, self._open_factor, rhs, distance=distance, iterations=20, delay=2)
        else:
            fast = self._single_coordinates
            y, converged = refined(operator, fast, fast.precondition, rhs, distance=distance, iterations=steps)
        return operator.to_input(y) * size, converged

    def _prepared(self, rhs: FloatArray, share: float, *, single: bool) -> tuple[FloatArray, FloatArray, float]:
        """Return right-hand sides of size 1, their sizes, and at which distance the iteration may stop."""
        size = np.abs(rhs).max(axis=0)
        size = np.where(size > 0, size, 1.0)
        return (rhs / size).astype(np.float32 if single else float), size, share * self.unit / float(size.max())

    @cached_property
    def open(self) -> int:
        """Number of directions that the gradient equations leave open, or too weak for the noise."""
        layer = self.equations.layer
        return layer.channels // layer.groups * sum(block.weak_count(self.strong) for block in self.blocks)

    @cached_property
    def _single(self) -> StackedEquations:
        return self.stacked.astype(np.float32)

    @cached_property
    def _coordinates(self) -> Coordinates:
        return Coordinates(self.stacked, self._iterated)

    @cached_property
    def _single_coordinates(self) -> Coordinates:
        return Coordinates(self._single, self._iterated)

    @property
    def _many(self) -> bool:
        """Whether the weight equations are so many that they may well determine x by themselves."""
        return self.equations.weight_row_count >= max(MANY * self.equations.layer.unknowns, FEW)

    @property
    def _iterated(self) -> float:
        """Up to which singular value the iteration moves a direction: of a large layer only what is open."""
        return self.strong if self._large else np.inf

    @property
    def _large(self) -> bool:
        """Whether the layer is left to the iteration: too many open directions for their singular values."""
        return self.open > DENSE_LIMIT and self._reduced is None

    @cached_property
    def _worth_weighing(self) -> bool:
        """Whether weight equations lower the error where gradient equations alone determine all.

        With β² the mean squared column of the weight equations and m their number, they remove at most
        `β² sum 1/σ⁴` of the variance `sum 1/σ²`, and at most its m largest terms.
        """
        channels = self.equations.layer.channels // self.equations.layer.groups
        variances = np.sort(np.repeat(np.concatenate([b.singular for b in self.blocks]) ** -2, channels))[::-1]
        removed = min(
            self._coordinates.beta2 * float((variances**2).sum()),
            float(variances[: self.equations.weight_row_count].sum()),
        )
        return removed > WORTHWHILE * float(variances.sum())

    @cached_property
    def _corrected(self) -> bool:
        """Whether there is a factor of the gradient equations, with the weight equations as their correction."""
        layer, eq = self.equations.layer, self.equations
        singular = np.concatenate([block.singular for block in self.blocks])
        if len(singular) < layer.unknowns // (layer.channels // layer.groups):
            return False  # the gradient equations alone do not determine all
        condition = max(float(singular.max()), 1.0) / float(singular.min())  # the largest row of all is of size 1
        few = capacitance_factor.operations(layer, eq.weight_row_count) < CORRECTION_OPERATIONS
        if condition < MILD or not few or not (self.open or self._worth_weighing):
            return False
        self._factor = correcting_factor(self.stacked, condition)
        self._exact = self._factor is not None
        return self._exact

    def _project(self, weight_gradient: FloatArray) -> list[FloatArray]:
        """Return the right-hand sides of the gradient equations, those of each block's core."""
        layer = self.equations.layer
        F, C = layer.filters // layer.groups, layer.channels // layer.groups
        rhs = weight_gradient.reshape(layer.groups, F, C, -1, weight_gradient.shape[-1])
        by_row = rhs.transpose(0, 1, 3, 2, 4).reshape(layer.groups, -1, C * rhs.shape[-1])
        by_row = by_row * self.whiten_gradient.reshape(layer.groups, -1, 1)
        return [block.compress(by_row[block.group][block.rows]) for block in self.blocks]

    def _by_gradients(self, weight_gradient: FloatArray, alphas: list[FloatArray], *, single: bool) -> FloatArray:
        """Return the solution of the gradient equations alone, rid of what their factors rounded off."""
        x = self._strong_part(alphas)
        if single:
            return x
        layer, k = self.equations.layer, self.equations.output_gradient
        found = [trilinear.weight_gradient(layer, k, column) for column in np.moveaxis(x, -1, 0)]
        return x + self._strong_part(self._project(weight_gradient - np.stack(found, axis=-1)))

    def _strong_part(self, alphas: list[FloatArray]) -> FloatArray:
        layer = self.equations.layer
        x = self.stacked.zeros(alphas[0].shape[-1] // (layer.channels // layer.groups))
        for block, alpha in zip(self.blocks, alphas, strict=True):
            U, s, V = (part[..., block.singular > self.strong] for part in block.svd)
            scatter(x, block, V @ ((U.T @ alpha) / s[:, None]))
        return x.reshape(*self.equations.layer.input_shape, -1)

    def _open_part(self, alphas: list[FloatArray], betas: FloatArray, x: FloatArray) -> FloatArray:
        """Solve for y, given the part of x along the strong directions."""
        assert self._reduced is not None
        weak = [
            (block.svd[0].T @ alpha)[block.singular <= self.strong].reshape(-1, x.shape[-1])
            for block, alpha in zip(self.blocks, alphas, strict=True)
        ]
        rest = (betas - self.stacked.weigh(x))[self.equations.weight_rows]
        return self._from_reduced(self._reduced.solve(np.concatenate([*weak, rest])))

    def _from_reduced(self, y: FloatArray) -> FloatArray:
        """Return N y in the input shape."""
        x, start = self.stacked.zeros(y.shape[-1]), 0
        for block in self.blocks:
            N = block.weak_basis(self.strong)
            stop = start + x.shape[1] * N.shape[1]
            scatter(x, block, N @ y[start:stop].reshape(N.shape[1], x.shape[1] * x.shape[3]))
            start = stop
        return x.reshape(*self.equations.layer.input_shape, -1)

    def _reduced_matrix(self) -> FloatArray:
        """Return the equations of y: those of the weak directions, then the weight equations."""
        C = self.stacked.grouped[1]
        weak = []
        for block in self.blocks:
            singular = block.singular[block.singular <= self.strong]
            diagonal = np.eye(len(singular), block.weak_count(self.strong)) * singular[:, None]
            weak.append(np.kron(diagonal, np.eye(C)))
        B = self.stacked.weigh(self._from_reduced(np.eye(self.open)))
        return np.vstack([la.block_diag(*weak), B[self.equations.weight_rows]])

    def _verdict(self, seed: int) -> Verdict:
        layer, eq = self.equations.layer, self.equations
        C = self.stacked.grouped[1]
        surely_open = C * sum(block.surely_open for block in self.blocks)
        if self._many:
            diagonal = self._single.diagonal()
            found = extreme_singular_values(self._single, diagonal, layer.input_shape) if diagonal.all() else None
            if found is not None and found[0] * self.scale >= self.cut:
                self._factor = Diagonal(diagonal)
                return self._judge(np.zeros(layer.input_shape), layer.unknowns, found[1] / found[0])
            self._assemble(compress=True)
            del self._single  # of the equations as they were
        enough = C * sum(len(block.core) for block in self.blocks) + eq.weight_row_count >= layer.unknowns
        if enough and eq.weight_row_count and (surely_open > FEW or self.open > FEW):
            largest = self.stacked.largest()
            smallest = self._try_factors(largest)
            if smallest * self.scale >= self.cut:
                return self._judge(np.zeros(layer.input_shape), layer.unknowns, largest / smallest)
            self._factor = None
        channels = layer.channels // layer.groups
        solved = [b.singular[b.singular > self.strong] for b in self.blocks]
        strong_rank = channels * sum(map(len, solved))
        if not eq.weight_row_count or not self.open:
            return self._judge(self._block_shares(), strong_rank, self._gradient_condition(solved))
        if self.open > DENSE_LIMIT:
            verdict = self._probed(seed)
            if not verdict.settled and enough and self._try_open_factor():
                verdict = self._probed(seed)
            return verdict
        rounding = layer.unknowns * float(np.finfo(float).eps)  # the largest row is of size 1
        self._reduced = Reduced(self._reduced_matrix(), max(self.cut / self.scale, rounding))
        null = self._from_reduced(self._reduced.null)
        values = np.concatenate([*solved, self._reduced.kept])
        condition = float(values.max() / values.min()) if len(values) else 1.0
        return self._judge(np.sqrt((null**2).sum(axis=-1)), strong_rank + self._reduced.rank, condition)

    def _probed(self, seed: int) -> Verdict:
        """Return the verdict of random vectors: what comes back from its own equations is determined."""
        probes = np.random.default_rng(seed).standard_normal((*self.equations.layer.input_shape, PROBES))
        rhs = self.stacked.forward(probes)
        share = 1e-11 * float(np.linalg.norm(rhs)) / self.unit
        back, converged = self._in_two_stages(rhs, share, passes=1)
        verdict = self._judge(np.abs(probes - back).max(axis=-1), None, np.nan, converged)
        # Shares without a gap are those of an iteration that has not got to its weakest directions.
        return replace(verdict, settled=converged and verdict.gap[1] > GAP * verdict.gap[0])

    def _try_open_factor(self) -> bool:
        """Factor the normal equations of what is open, and return whether that can be done."""
        if not null_space_factor.worthwhile(self._single_coordinates):
            return False
        try:
            self._open_factor = null_space_factor.OpenFactor(self._single_coordinates)
        except (np.linalg.LinAlgError, MemoryError):
            return False
        return True

    def _try_factors(self, largest: float) -> float:
        """Factor the normal equations and return the smallest singular value; 0 where it cannot be told from none."""
        found = cheapest_factor(self.stacked, largest)
        self._factor, smallest, self._exact = found if found is not None else (None, 0.0, False)
        return smallest

    def _judge(self, shares: FloatArray, rank: int | None, condition: float, settled: bool = True) -> Verdict:
        return Verdict.of(shares, self.tolerance, rank, condition, settled)

    def _block_shares(self) -> FloatArray:
        """Return the share of each unknown that the strong directions of the gradient equations leave open."""
        x = self.stacked.zeros(1)
        for block in self.blocks:
            kept = (block.right[:, block.singular > self.strong] ** 2).sum(axis=1)
            x[block.group][:, block.columns] = np.sqrt(np.clip(1 - kept, 0, None) * (1 - kept > 1e-12))[:, None]
        return x.reshape(self.equations.layer.input_shape)

    def _gradient_condition(self, solved: list[FloatArray]) -> float:
        """Return the condition number where the gradient equations alone solve, or an upper bound of it."""
        values = np.concatenate([*solved, np.zeros(0)])
        if not len(values):
            return 1.0
        if not self.equations.weight_row_count:
            return float(values.max() / values.min())
        return self.stacked.largest() / float(values.min())
