"""All equations of one layer at once, as an operator, and conjugate gradients for their least-squares problem.

Nothing is stacked in memory. The gradient equations act through the singular value decompositions of their blocks,
the weight equations through a matrix-free convolution. The coordinates of stage one make a good preconditioner: along a
direction that the gradient equations fix with singular value σ the gain is 1 / (σ² + β²), elsewhere 1 / β², where β is
the size of a column of the weight equations. Where that is not enough, `factor` takes a Cholesky factor of the normal
equations instead. It squares their condition number, which costs steps, not accuracy: the iteration itself works with
the equations as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky

from constraint_algebra import contractions
from constraint_algebra.blocks import Block
from constraint_algebra.equations import weight_equations
from constraint_algebra.layers import PlacedLayer

FloatArray = NDArray[np.float64]


class StackedEquations:
    """Weight and gradient equations of one layer, each row in units of its noise, over n vectors at a time.

    Args:
        layer: the layer.
        weight: W.
        blocks: the factored gradient equations.
        whiten: factor of each weight row in the output shape, 0 for those that do not count.
    """

    def __init__(self, layer: PlacedLayer, weight: FloatArray, blocks: Sequence[Block], whiten: FloatArray) -> None:
        """Choose the preconditioner."""
        self.layer, self.weight, self.blocks, self.whiten = layer, weight, blocks, whiten
        columns = contractions.input_gradient(layer, weight**2, whiten**2)
        self.beta = float(np.sqrt(columns.mean()))
        if self.beta == 0:  # gradient equations alone
            self.beta = max((float(block.singular.max(initial=0)) for block in blocks), default=1.0) or 1.0
            self.beta *= 1e-8
        self._factor: FloatArray | None = None

    def zeros(self, n: int) -> FloatArray:
        """Return zeros with axes (group, channel, position, n)."""
        return np.zeros((*self._grouped, n))

    @property
    def factored(self) -> bool:
        """Whether the preconditioner inverts the normal equations."""
        return self._factor is not None

    @property
    def patience(self) -> int:
        """Steps without progress after which rounding, not the iteration, sets the error."""
        return 50 if self._factor is None else 4

    @property
    def _grouped(self) -> tuple[int, int, int]:
        G = self.layer.groups
        return G, self.layer.channels // G, int(np.prod(self.layer.positions, dtype=int))

    def join(self, alphas: Sequence[FloatArray], betas: FloatArray) -> FloatArray:
        """Return right-hand sides as one array `(rows, n)`: the blocks' first, the weight equations' after them."""
        n = betas.shape[-1]
        return np.concatenate([*(alpha.reshape(-1, n) for alpha in alphas), betas.reshape(-1, n)])

    def forward(self, x: FloatArray) -> FloatArray:
        """Return all equations applied to x `(*input_shape, n)`."""
        x4 = x.reshape(*self._grouped, -1)
        alphas = [b.singular[:, None] * (b.right.T @ gather(x4, b)) for b in self.blocks]
        return self.join(alphas, self.whiten[..., None] * contractions.forward(self.layer, self.weight, x))

    def adjoint(self, r: FloatArray) -> FloatArray:
        """Return the transpose of `forward` applied to r `(rows, n)`."""
        n, start = r.shape[-1], 0
        x4 = self.zeros(n)
        for b in self.blocks:
            stop = start + x4.shape[1] * len(b.singular)
            alpha = r[start:stop].reshape(len(b.singular), x4.shape[1] * n)
            scatter(x4, b, b.right @ (b.singular[:, None] * alpha))
            start = stop
        weights = r[start:].reshape(*self.layer.output_shape, n) * self.whiten[..., None]
        return x4.reshape(*self.layer.input_shape, n) + contractions.input_gradient(self.layer, self.weight, weights)

    def precondition(self, x: FloatArray) -> FloatArray:
        """Return approximately (A^T A + B^T B)^-1 x, by a symmetric positive definite operator."""
        if self._factor is not None:
            flat = x.reshape(self.layer.unknowns, -1)
            return np.asarray(cho_solve((self._factor, True), flat, check_finite=False)).reshape(x.shape)
        x4 = x.reshape(*self._grouped, -1)
        out = np.empty_like(x4)
        for b in self.blocks:
            gain = 1 / (b.singular**2 + self.beta**2) - 1 / self.beta**2
            part = gather(x4, b)
            scatter(out, b, part / self.beta**2 + b.right @ (gain[:, None] * (b.right.T @ part)))
        return out.reshape(x.shape)

    def factor(self) -> None:
        """Factor the normal equations, and precondition with them from now on."""
        B = weight_equations(self.layer, self.weight).matrix * self.whiten.reshape(-1, 1)
        H = (B.T @ B).toarray()
        _, C, Q = self._grouped
        for block in self.blocks:
            gram = (block.right * block.singular**2) @ block.right.T
            for c in range(block.group * C, (block.group + 1) * C):
                places = c * Q + block.columns
                H[np.ix_(places, places)] += gram
        # Keeps the factorisation alive on null directions; the iteration corrects what it distorts.
        H[np.diag_indices_from(H)] += 1e-13 * H.diagonal().max()
        self._factor = cholesky(H.T, lower=True, overwrite_a=True, check_finite=False)  # H.T: already in Fortran order

    def extremes(self, steps: int = 12) -> tuple[float, float]:
        """Return estimates of the largest and the smallest singular value, by power iteration.

        The largest is approached from below; the smallest from above, as far as the preconditioner inverts the
        equations.
        """

        def largest(of: Callable[[FloatArray], FloatArray]) -> float:
            x = np.random.default_rng(0).standard_normal((*self.layer.input_shape, 1))
            size = float(np.linalg.norm(x))
            for _ in range(steps):
                x = of(x / (size or 1.0))
                size = float(np.linalg.norm(x))
            return size

        gain = largest(self.precondition)
        return float(np.sqrt(largest(lambda x: self.adjoint(self.forward(x))))), 1 / float(np.sqrt(gain))


def gather(x4: FloatArray, block: Block) -> FloatArray:
    """Return a block's values of x `(group, channel, position, n)` as `(columns, channels * n)`: one matrix product."""
    part = x4[block.group][:, block.columns].transpose(1, 0, 2)
    return np.asarray(part.reshape(len(block.columns), x4.shape[1] * x4.shape[3]))


def scatter(x4: FloatArray, block: Block, part: FloatArray) -> None:
    """Set a block's values of x from an array shaped as `gather` returns it."""
    values = part.reshape(len(block.columns), x4.shape[1], x4.shape[3])
    x4[block.group][:, block.columns] = values.transpose(1, 0, 2)


def conjugate_gradients(
    equations: StackedEquations, rhs: FloatArray, start: FloatArray, iterations: int, rtol: float
) -> tuple[FloatArray, bool]:
    """Minimise the sum of squares of `equations.forward(x) - rhs` for every column of `rhs` at once.

    Conjugate gradients on the normal equations in the form that never squares the matrix (CGLS; Hestenes and Stiefel
    1952), preconditioned. A column stops where its gradient has fallen by `rtol`, or stops falling.

    Args:
        equations: the operator.
        rhs: right-hand sides `(rows, n)`.
        start: first guess `(*input_shape, n)`.
        iterations: most steps.
        rtol: relative size of the gradient, in the norm of the preconditioner, at which a column is done.

    Returns:
        The solutions, `(*input_shape, n)`, and whether every column is done.
    """
    axes = tuple(range(start.ndim - 1))
    x = start.copy()
    r = rhs - equations.forward(x)
    s = equations.adjoint(r)
    p = z = equations.precondition(s)
    gamma = np.sum(s * z, axis=axes)
    reference = np.maximum(gamma, _size(equations, rhs, axes))
    best = gamma.copy()
    patience = np.zeros(len(gamma), dtype=int)
    for _ in range(iterations):
        going = (gamma > rtol**2 * reference) & (patience < equations.patience)
        if not going.any():
            break
        q = equations.forward(p)
        step = np.where(going, gamma / np.maximum(np.sum(q * q, axis=0), np.finfo(float).tiny), 0.0)
        x += step * p
        r -= step * q
        s = equations.adjoint(r)
        z = equations.precondition(s)
        new = np.sum(s * z, axis=axes)
        ratio = np.where(going, new / np.where(gamma > 0, gamma, 1.0), 0.0)
        p = z + ratio * p
        gamma = new
        better = gamma < 0.9 * best
        patience = np.where(better, 0, patience + 1)
        best = np.where(better, gamma, best)
    return x, bool((gamma <= rtol**2 * reference).all())


def _size(equations: StackedEquations, rhs: FloatArray, axes: tuple[int, ...]) -> FloatArray:
    s = equations.adjoint(rhs)
    return (s * equations.precondition(s)).sum(axis=axes)  # type: ignore[no-any-return]
