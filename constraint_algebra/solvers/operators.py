"""All equations of one layer at once, as an operator, and conjugate gradients for their least-squares problem.

Nothing is stacked in memory. The gradient equations act through their blocks, the weight equations through a
matrix-free convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

from constraint_algebra.arrays import RealArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.conjugate_gradients import Preconditioner
from constraint_algebra.numerics.workspace import Scratch
from constraint_algebra.solvers.gradient_blocks import Block, gather, scatter


class StackedEquations:
    """Weight and gradient equations of one layer, each row in units of its noise, over n vectors at a time.

    Args:
        layer: the layer.
        weight: W.
        blocks: the gradient equations; tall ones count through their cores.
        whiten: factor of each weight row in the output shape, 0 for those that do not count.
    """

    def __init__(self, layer: PlacedLayer, weight: RealArray, blocks: Sequence[Block], whiten: RealArray) -> None:
        """Keep the factors."""
        self.layer, self.weight, self.blocks, self.whiten = layer, weight, blocks, whiten
        self.grouped = layer.groups, layer.channels // layer.groups, math.prod(layer.positions)
        self.cores = [block.core for block in blocks]
        self.scratch = Scratch()

    def astype(self, dtype: DTypeLike) -> Self:
        """Return the same operator in another precision."""
        other = copy(self)
        other.weight, other.whiten = self.weight.astype(dtype), self.whiten.astype(dtype)
        other.cores = [core.astype(dtype) for core in self.cores]
        other.scratch = Scratch()
        return other

    def zeros(self, n: int) -> RealArray:
        """Return zeros with axes (group, channel, position, n)."""
        return np.zeros((*self.grouped, n), dtype=self.weight.dtype)

    def join(self, alphas: Sequence[RealArray], betas: RealArray) -> RealArray:
        """Return right-hand sides as one array `(rows, n)`: the blocks' first, the weight equations' after them."""
        n = betas.shape[-1]
        return np.concatenate([*(alpha.reshape(-1, n) for alpha in alphas), betas.reshape(-1, n)])

    def split(self, r: RealArray) -> tuple[list[RealArray], RealArray]:
        """Return what `join` joined: for each block `(r, channels * n)`, and the rest in the output shape."""
        n, C = r.shape[-1], self.grouped[1]
        ends = np.cumsum([C * len(core) for core in self.cores])
        *alphas, betas = np.split(r, ends)
        return [alpha.reshape(-1, C * n) for alpha in alphas], betas.reshape(*self.layer.output_shape, n)

    def forward(self, x: RealArray) -> RealArray:
        """Return all equations applied to x `(*input_shape, n)`."""
        x4 = x.reshape(*self.grouped, -1)
        alphas = [core @ gather(x4, b) for b, core in zip(self.blocks, self.cores, strict=True)]
        return self.join(alphas, self.weigh(x))

    def adjoint(self, r: RealArray) -> RealArray:
        """Return the transpose of `forward` applied to r `(rows, n)`."""
        alphas, betas = self.split(r)
        x4 = self.zeros(r.shape[-1])
        for b, core, alpha in zip(self.blocks, self.cores, alphas, strict=True):
            scatter(x4, b, core.T @ alpha)
        return x4.reshape(*self.layer.input_shape, -1) + self.weigh_back(betas)

    def weigh(self, x: RealArray) -> RealArray:
        """Return the weight equations applied to x `(*input_shape, n)`, in the output shape."""
        return self.whiten[..., None] * trilinear.forward(self.layer, self.weight, x, self.scratch)

    def weigh_back(self, betas: RealArray) -> RealArray:
        """Return the transpose of `weigh` applied to `(*output_shape, n)`."""
        return trilinear.input_gradient(self.layer, self.weight, self.whiten[..., None] * betas, self.scratch)

    def diagonal(self) -> RealArray:
        """Return the diagonal of the normal equations, `(*input_shape, 1)`."""
        x4 = self.zeros(1)
        for b, core in zip(self.blocks, self.cores, strict=True):
            x4[b.group][:, b.columns] = (core**2).sum(axis=0)[:, None]
        by_weights = trilinear.input_gradient(self.layer, self.weight**2, self.whiten**2)
        return x4.reshape(*self.layer.input_shape, 1) + by_weights[..., None]

    def largest(self, steps: int = 3) -> float:
        """Return an estimate of the largest singular value from below, by power iteration."""
        x = np.random.default_rng(0).standard_normal((*self.layer.input_shape, 1))
        size = float(np.linalg.norm(x))
        for _ in range(steps):
            x = self.adjoint(self.forward(x / (size or 1.0)))
            size = float(np.linalg.norm(x))
        return float(np.sqrt(size))

    def smallest(self, precondition: Preconditioner, steps: int = 2, vectors: int = 1) -> float:
        """Return an estimate of the smallest singular value from above, by inverse iteration with several vectors.

        As good as the preconditioner inverts the normal equations.
        """
        x = np.random.default_rng(1).standard_normal((*self.layer.input_shape, vectors))
        for _ in range(steps):
            flat = precondition(x).reshape(-1, vectors)
            x = np.linalg.qr(flat)[0].reshape(x.shape)
        return float(np.linalg.svd(self.forward(x), compute_uv=False)[-1])


class Coordinates:
    """The same equations in the coordinates of stage one, where the gradient equations are diagonal.

    x = U y with an orthonormal basis U of every block: its right singular vectors, then its null space. The gradient
    equations become `σ y`, with zeros along the null space. With the weight equations replaced by β² times the
    identity, β the size of their columns, the normal equations are diagonal: a cheap preconditioner.

    Args:
        stacked: the equations.
        strong: singular value above which a direction is left out, as one that is solved for already.
    """

    def __init__(self, stacked: StackedEquations, strong: float = np.inf) -> None:
        """Decompose every block."""
        self.stacked, self.strong = stacked, strong
        dtype, C = stacked.weight.dtype, stacked.grouped[1]
        self.bases = [block.weak_basis(strong).astype(dtype, copy=False) for block in stacked.blocks]
        lengths = []
        for block, U in zip(stacked.blocks, self.bases, strict=True):
            weak = block.singular[block.singular <= strong]
            lengths.append(np.pad(weak, (0, U.shape[1] - len(weak))))
        self.sizes = np.concatenate([np.repeat(length, C) for length in lengths])[:, None].astype(dtype)
        squares = trilinear.input_gradient(stacked.layer, stacked.weight**2, stacked.whiten**2)
        largest = float(self.sizes.max(initial=0)) or 1.0
        self.beta2 = float(squares.mean()) or (1e-8 * largest) ** 2  # gradient equations alone
        self.gains = 1 / (self.sizes**2 + self.beta2)

    def precondition(self, y: RealArray) -> RealArray:
        """Return y times the diagonal that stands for the inverse of the normal equations."""
        return np.asarray(self.gains * y)

    def rotate(self, alphas: Sequence[RealArray], betas: RealArray) -> RealArray:
        """Return right-hand sides of the cores, and those of the weight equations, as `forward` orders them."""
        n = betas.shape[-1]
        rotated = []
        for block, U, alpha in zip(self.stacked.blocks, self.bases, alphas, strict=True):
            weak = (block.svd[0].T @ alpha)[block.singular <= self.strong]
            rotated.append(np.pad(weak, ((0, U.shape[1] - len(weak)), (0, 0))).reshape(-1, n))
        return np.concatenate([*rotated, betas.reshape(-1, n)])

    def to_input(self, y: RealArray) -> RealArray:
        """Return x = U y in the input shape, `(*input_shape, n)`."""
        n, start = y.shape[-1], 0
        C = self.stacked.grouped[1]
        x4 = np.empty((*self.stacked.grouped, n), dtype=y.dtype)
        for block, U in zip(self.stacked.blocks, self.bases, strict=True):
            stop = start + C * U.shape[1]
            scatter(x4, block, U @ y[start:stop].reshape(U.shape[1], C * n))
            start = stop
        return x4.reshape(*self.stacked.layer.input_shape, n)

    def from_input(self, x: RealArray) -> RealArray:
        """Return y = U^T x, `(coordinates, n)`."""
        n = x.shape[-1]
        x4 = x.reshape(*self.stacked.grouped, n)
        parts = [U.T @ gather(x4, block) for block, U in zip(self.stacked.blocks, self.bases, strict=True)]
        return np.concatenate([part.reshape(-1, n) for part in parts])

    def forward(self, y: RealArray) -> RealArray:
        """Return all equations applied to y `(coordinates, n)`."""
        betas = self.stacked.weigh(self.to_input(y))
        return np.concatenate([self.sizes * y, betas.reshape(-1, y.shape[-1])])

    def adjoint(self, r: RealArray) -> RealArray:
        """Return the transpose of `forward` applied to r `(rows, n)`."""
        alphas, betas = np.split(r, [len(self.sizes)])
        back = self.stacked.weigh_back(betas.reshape(*self.stacked.layer.output_shape, -1))
        return np.asarray(self.sizes * alphas + self.from_input(back))
