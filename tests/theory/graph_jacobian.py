"""How all gradients of a graph move with its input at a fixed head gradient, by automatic differentiation alone.

The function under test is plain PyTorch, with parameters of its own and whatever pattern the input has there.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, jacfwd

from constraint_algebra.arrays import FloatArray
from tests.graph_cases import Case
from tests.whole_map_oracle import rank_and_determined

CLEAR = 1e5  # a last singular value so many times the next one leaves no doubt about the rank


def jacobian(case: Case, x: FloatArray, seed: int) -> NDArray[np.float64]:
    """Return the Jacobian of all parameter gradients and centred logits at an input, rows of unit norm."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.tensor(array, dtype=torch.float64) for name, array in case.parameters.items()}
    trained = {name: tensors[name] for name in case.network.parameter_shapes}
    fixed = {name: value for name, value in tensors.items() if name not in trained}
    k = torch.randn(case.network.output_shape, generator=generator, dtype=torch.float64)

    def gradients(image: Tensor) -> Tensor:
        found = grad(lambda own: (case.function({**fixed, **own}, image) * k).sum())(trained)
        logits = case.function(tensors, image)
        return torch.cat([*(value.flatten() for value in found.values()), logits - logits.mean()])

    image = torch.tensor(x, dtype=torch.float64)
    with warnings.catch_warnings():
        # PyTorch compiles its own rules on the first use, by a function that it calls deprecated.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")
        J = jacfwd(gradients)(image).reshape(-1, image.numel()).numpy()
    sizes = np.linalg.norm(J, axis=1)
    J = J[sizes > 1e-12 * sizes.max(initial=0.0)]
    return np.asarray(J / np.linalg.norm(J, axis=1, keepdims=True))


def judged(case: Case, seed: int) -> tuple[FloatArray, int, NDArray[np.bool_]]:
    """Return the first random input that leaves no doubt about the rank, the rank, and which values are determined."""
    for attempt in range(5):
        x = np.random.default_rng([11, seed, attempt]).standard_normal(case.network.input_shape)
        rank, determined, clear = rank_and_determined(jacobian(case, x, seed))
        if clear > CLEAR:
            return x, rank, determined
    raise AssertionError(f"no clear rank for graph {seed}")
