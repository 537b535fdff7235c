"""Two-stage elimination: the gradient equations of one layer first, its weight equations in what they leave open.

For the input x of one layer there are gradient equations `A x[c] = dL/dW[:, c]`, the same `A` for every channel of a
group, and weight equations `B x = z - b` that tie the channels together. Each row is divided by the standard deviation
of its noise, so that a singular value σ says: this direction of x is known to 1/σ.

1. `A` falls apart into blocks (one residue class of one group each). Their singular value decompositions serve all
   channels. Strong directions are solved; N spans the weak ones and the null space.
2. What is left are the unknowns y of `x = x_p + N y`. They have the equations `B N y = z - b - B x_p`, and those of the
   weak directions, which are diagonal. Where A has full rank nothing is left.

Conjugate gradients on the least-squares problem of all equations, in the coordinates of stage 1 (`stacked`), give every
equation its due weight. Random vectors sent through the same solver show which unknowns are determined: those that come
back unchanged. Where some do not, and the reduced system is small enough, a singular value decomposition of it gives
the exact rank and null space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg as la
from numpy.typing import NDArray

from constraint_algebra import contractions
from constraint_algebra.blocks import gradient_blocks
from constraint_algebra.equations import weight_equations
from constraint_algebra.layers import PlacedLayer
from constraint_algebra.stacked import StackedEquations, conjugate_gradients, scatter

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

FACTOR_LIMIT = 6144  # unknowns up to which the normal equations are factored
CHEAP_LIMIT = 1536  # unknowns up to which that costs so little that it is always worth it
DENSE_LIMIT = 4096  # open directions up to which their singular values are computed
USABLE = 3.0  # a direction known to a third of a typical value is known
POLISH = 60  # most steps to weigh the equations against each other, from a start that is right up to noise
PROBES = 3  # random vectors that ask which unknowns are determined
ITERATIONS = 2000


@dataclass(frozen=True)
class LayerEquations:
    """What is known about the input of one layer, with its noise.

    Attributes:
        layer: the layer.
        weight: W, in the weight's shape.
        output_gradient: k, in the output shape; where it is unknown the value does not matter.
        gradient_rows: which gradient rows (f, t) count, those whose k are all known, shape `(filters, taps)`.
        gradient_noise: standard deviation of each gradient row, shape `(filters, taps)`.
        weight_gradient: dL/dW, in the weight's shape.
        output: z - b, in the output shape, NaN where the activation does not determine z.
        output_noise: standard deviation of `output`, in the output shape.
        scale: size of a typical input value; the unit in which a direction counts as known.
    """

    layer: PlacedLayer
    weight: FloatArray
    output_gradient: FloatArray
    gradient_rows: BoolArray
    gradient_noise: FloatArray
    weight_gradient: FloatArray
    output: FloatArray
    output_noise: FloatArray
    scale: float

    @property
    def weight_rows(self) -> BoolArray:
        """Which weight rows count: those whose output is known, in the output shape."""
        return np.isfinite(self.output)

    @property
    def weight_row_count(self) -> int:
        """Number of weight rows that count."""
        return int(self.weight_rows.sum())

    @property
    def gradient_row_count(self) -> int:
        """Number of gradient rows that count, over all channels."""
        return int(self.gradient_rows.sum()) * (self.layer.channels // self.layer.groups)


@dataclass(frozen=True)
class Verdict:
    """What the equations of one layer can tell, whatever their right-hand sides.

    Attributes:
        determined: which input values are unique, in the input shape.
        rank: numerical rank of all equations together; `None` where the layer is too large and not determined.
        condition: largest over smallest singular value of the directions solved for, an estimate.
        settled: whether the iteration behind the verdict converged; where not, what is not determined may yet be.
        tolerance: share of a null vector above which an unknown counts as undetermined.
        gap: largest share among the determined unknowns, smallest among the others.
    """

    determined: BoolArray
    rank: int | None
    condition: float
    settled: bool
    tolerance: float
    gap: tuple[float, float]


class TwoStage:
    """The equations of one layer, eliminated; `solve` takes any number of right-hand sides.

    Args:
        equations: the layer's equations with their noise.
        cut: a direction counts as known where its standard deviation is below `scale / cut`; by default the square
            root of the number of equations, which is where noise in k makes singular values that are none.
        tolerance: share of a null vector above which an unknown counts as undetermined.
        seed: seed of the random probes of a large system.
    """

    def __init__(
        self, equations: LayerEquations, *, cut: float | None = None, tolerance: float = 1e-5, seed: int = 0
    ) -> None:
        """Factor both stages."""
        self.equations = equations
        layer = equations.layer
        rows = equations.weight_row_count + equations.gradient_row_count
        self.cut = max(np.sqrt(max(rows, layer.unknowns)), 1.0) if cut is None else cut
        self.tolerance = tolerance
        self.blocks = gradient_blocks(
            layer, equations.output_gradient, equations.gradient_rows, 1 / equations.gradient_noise
        )
        known = equations.weight_rows
        self._whiten_output = np.where(known, 1 / np.where(known, equations.output_noise, 1.0), 0.0)
        self._whiten_gradient = np.where(equations.gradient_rows, 1 / equations.gradient_noise, 0.0)
        self.stacked = StackedEquations(layer, equations.weight, self.blocks, self._whiten_output)
        # Strong enough to be solved for before the weight equations are looked at, if there are any.
        self.strong = (30 if equations.weight_row_count else 1) * self.cut / equations.scale
        channels = layer.channels // layer.groups
        self.open = channels * sum(block.weak_count(self.strong) for block in self.blocks)
        self._reduced: Reduced | None = None
        if equations.weight_row_count and layer.unknowns <= (FACTOR_LIMIT if self.open else CHEAP_LIMIT):
            self.stacked.factor()
        self.verdict = self._verdict(seed)

    def solve(self, weight_gradient: FloatArray, output: FloatArray, rtol: float = 1e-16) -> FloatArray:
        """Return the least-squares input, `(*input_shape, n)`, for n right-hand sides.

        Args:
            weight_gradient: right-hand sides of the gradient equations, `(*weight_shape, n)`.
            output: right-hand sides of the weight equations, `(*output_shape, n)`; ignored where no weight row counts.
            rtol: accuracy at which to stop; noise needs no more than a few digits.
        """
        alphas = self._project(weight_gradient)
        betas = self._whiten_output[..., None] * np.where(self.equations.weight_rows[..., None], output, 0.0)
        x = self._strong_part(alphas)
        if self._reduced is not None:
            x = x + self._open_part(alphas, betas, x)
        if not self.equations.weight_row_count:
            return x
        rhs = self.stacked.join(alphas, betas)
        if self.open and self._reduced is None:
            return conjugate_gradients(self.stacked, rhs, x, ITERATIONS, rtol)[0]
        # The gradient equations came first, at the price of the weight equations: a few steps give both their weight.
        rest = rhs - self.stacked.forward(x)
        return x + conjugate_gradients(self.stacked, rest, np.zeros_like(x), POLISH, 1e-3)[0]

    def residual(self, x: FloatArray) -> float:
        """Return the largest residual at x relative to the largest right-hand side, over both kinds of equations."""
        eq = self.equations
        rows = eq.gradient_rows.reshape(eq.layer.filters, 1, *eq.layer.taps)
        pairs = (
            (
                contractions.weight_gradient(eq.layer, eq.output_gradient, x) - eq.weight_gradient,
                eq.weight_gradient,
                rows,
            ),
            (contractions.forward(eq.layer, eq.weight, x) - eq.output, eq.output, eq.weight_rows),
        )
        shares = [0.0]
        for difference, rhs, counts in pairs:
            largest = np.abs(rhs).max(where=np.broadcast_to(counts, rhs.shape), initial=0.0)
            if largest > 0:
                shares.append(
                    float(np.abs(difference).max(where=np.broadcast_to(counts, rhs.shape), initial=0.0) / largest)
                )
        return max(shares)

    def _project(self, weight_gradient: FloatArray) -> list[FloatArray]:
        """Return the right-hand sides of the gradient equations along each block's left singular vectors."""
        layer = self.equations.layer
        F, C = layer.filters // layer.groups, layer.channels // layer.groups
        rhs = weight_gradient.reshape(layer.groups, F, C, -1, weight_gradient.shape[-1])
        rhs = rhs * self._whiten_gradient.reshape(layer.groups, F, 1, -1, 1)
        by_row = rhs.transpose(0, 1, 3, 2, 4).reshape(layer.groups, -1, C * rhs.shape[-1])
        return [block.left.T @ by_row[block.group][block.rows] for block in self.blocks]

    def _strong_part(self, alphas: list[FloatArray]) -> FloatArray:
        layer = self.equations.layer
        x = self.stacked.zeros(alphas[0].shape[-1] // (layer.channels // layer.groups))
        for block, alpha in zip(self.blocks, alphas, strict=True):
            strong = block.singular > self.strong
            scatter(x, block, block.right[:, strong] @ (alpha[strong] / block.singular[strong][:, None]))
        return x.reshape(*self.equations.layer.input_shape, -1)

    def _open_part(self, alphas: list[FloatArray], betas: FloatArray, x: FloatArray) -> FloatArray:
        """Solve for y, given the part of x along the strong directions."""
        assert self._reduced is not None
        layer, n = self.equations.layer, x.shape[-1]
        known = self.equations.weight_rows
        fitted = contractions.forward(layer, self.equations.weight, x) * self._whiten_output[..., None]
        channels = layer.channels // layer.groups
        weak = [
            alpha[block.singular <= self.strong].reshape(-1, channels, n).transpose(1, 0, 2).reshape(-1, n)
            for block, alpha in zip(self.blocks, alphas, strict=True)
        ]
        y = self._reduced.solve(np.concatenate([*weak, (betas - fitted)[known]]))
        return self._from_reduced(y)

    def _from_reduced(self, y: FloatArray) -> FloatArray:
        """Return N y in the input shape."""
        x, start = self.stacked.zeros(y.shape[-1]), 0
        for block in self.blocks:
            N = block.weak_basis(self.strong)
            stop = start + x.shape[1] * N.shape[1]
            x[block.group][:, block.columns] = N @ y[start:stop].reshape(x.shape[1], N.shape[1], y.shape[-1])
            start = stop
        return x.reshape(*self.equations.layer.input_shape, -1)

    def _reduced_matrix(self) -> FloatArray:
        """Return the equations of y: those of the weak directions, then the weight equations."""
        eq, layer = self.equations, self.equations.layer
        rows = weight_equations(layer, eq.weight).matrix[eq.weight_rows.ravel()]
        B = (rows * self._whiten_output[eq.weight_rows][:, None]).tocsc()
        C, Q = layer.channels // layer.groups, int(np.prod(layer.positions, dtype=int))
        columns, weak = [], []
        for block in self.blocks:
            N = block.weak_basis(self.strong)
            first = block.group * C
            columns += [B[:, c * Q + block.columns] @ N for c in range(first, first + C)]
            singular = block.singular[block.singular <= self.strong]
            weak.append(np.kron(np.eye(C), np.eye(len(singular), N.shape[1]) * singular[:, None]))
        return np.vstack([la.block_diag(*weak), np.hstack(columns)])

    def _verdict(self, seed: int) -> Verdict:
        layer, eq = self.equations.layer, self.equations
        channels = layer.channels // layer.groups
        solved = [b.singular[b.singular > self.strong] for b in self.blocks]
        strong_rank = channels * sum(map(len, solved))
        if not eq.weight_row_count or not self.open:
            return self._judge(self._block_shares(), strong_rank, self._gradient_condition(solved))
        probes = np.random.default_rng(seed).standard_normal((*layer.input_shape, PROBES))
        back, converged = conjugate_gradients(
            self.stacked, self.stacked.forward(probes), np.zeros_like(probes), ITERATIONS, 1e-11
        )
        shares = np.abs(probes - back).max(axis=-1)
        largest, smallest = self.stacked.extremes()
        # Probes show whether a direction is met at all, the smallest singular value whether it is met above the noise.
        if (shares < self.tolerance).all() and smallest * eq.scale >= USABLE:
            return self._judge(shares, layer.unknowns, largest / smallest)
        if self.open > DENSE_LIMIT:
            return self._judge(shares, None, largest / smallest, converged)
        self._reduced = Reduced(self._reduced_matrix(), self.cut / eq.scale)
        null = self._from_reduced(self._reduced.null)
        values = np.concatenate([*solved, self._reduced.kept])
        condition = float(values.max() / values.min()) if len(values) else 1.0
        return self._judge(np.sqrt((null**2).sum(axis=-1)), strong_rank + len(self._reduced.kept), condition)

    def _judge(self, shares: FloatArray, rank: int | None, condition: float, settled: bool = True) -> Verdict:
        determined = shares < self.tolerance
        largest = float(shares[determined].max(initial=0.0))
        smallest = float(shares[~determined].min(initial=np.inf))
        return Verdict(determined, rank, condition, settled, self.tolerance, (largest, smallest))

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
        largest, smallest = self.stacked.extremes()
        return largest / max(smallest if self.stacked.factored else 0.0, float(values.min()))


class Reduced:
    """A dense least-squares problem, factored by QR; by a singular value decomposition of R where that is singular."""

    def __init__(self, matrix: FloatArray, cut: float) -> None:
        """Factor the matrix; singular values up to `cut` count as zero."""
        self.Q, R = la.qr(matrix, mode="economic")
        U, s, Vt = la.svd(R, full_matrices=True)
        keep = s > cut
        self.kept: FloatArray = s[keep]
        self.null: FloatArray = np.ascontiguousarray(Vt[np.count_nonzero(keep) :].T)
        self._U, self._V = U[:, : len(s)][:, keep], Vt[: len(s)][keep].T

    def solve(self, rhs: FloatArray) -> FloatArray:
        """Return the solution of least norm for every column of `rhs`."""
        return np.asarray(self._V @ ((self._U.T @ (self.Q.T @ rhs)) / self.kept[:, None]))
