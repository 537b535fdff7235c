"""A dense factor of the normal equations `A^T A + B^T B` of a layer, which stands for their inverse.

`banded_factor` and `capacitance_factor` are factors for layers with few equations of one kind. Normal equations square
the condition number, which costs steps, not accuracy: the iteration itself works with the equations as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike
from scipy.linalg import cholesky

from constraint_algebra.arrays import RealArray
from constraint_algebra.numerics.triangular import cholesky_solve
from constraint_algebra.solvers.normal_equations import all_normal_equations
from constraint_algebra.solvers.operators import StackedEquations


class DenseFactor:
    """A Cholesky factor of all normal equations.

    Args:
        equations: all equations of the layer.
        ridge: relative to the largest diagonal entry; it keeps the factor alive along null vectors.
        dtype: of the arithmetic.

    Raises:
        numpy.linalg.LinAlgError: the factorisation broke down.
    """

    def __init__(self, equations: StackedEquations, ridge: float, dtype: DTypeLike) -> None:
        """Factor."""
        layer, equations = equations.layer, equations.astype(dtype)
        self.layer, self.dtype = layer, np.dtype(dtype)
        H = all_normal_equations(layer, equations.weight, equations.whiten)  # (*position, channel) twice
        C = layer.channels // layer.groups
        by_channel = H.reshape(-1, layer.channels, H.shape[0] // layer.channels, layer.channels)
        for block, core in zip(equations.blocks, equations.cores, strict=True):
            gram = core.T @ core
            for c in range(block.group * C, (block.group + 1) * C):
                by_channel[block.columns[:, None], c, block.columns, c] += gram
        H[np.diag_indices_from(H)] += ridge * H.diagonal().max()
        self.factor = cholesky(
            H.T, lower=False, overwrite_a=True, check_finite=False
        )  # of what lies below the diagonal

    def __call__(self, x: RealArray) -> RealArray:
        """Return the inverse applied to x `(*input_shape, n)`."""
        C, n = self.layer.channels, x.shape[-1]
        size = float(np.abs(x).max()) or 1.0  # the type may not hold the range of what comes
        v = (x.reshape(C, -1, n).transpose(1, 0, 2).reshape(-1, n) / size).astype(self.dtype)
        v = cholesky_solve(self.factor, v)
        return v.reshape(-1, C, n).transpose(1, 0, 2).reshape(x.shape).astype(x.dtype) * size
