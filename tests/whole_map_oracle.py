"""Random small networks, and how all their gradients move at a fixed head gradient, by automatic differentiation.

The oracle knows layers and hyper-parameters alone: activations with a given pattern are products with slopes, and
everything else is PyTorch's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, jacfwd
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.layers.kinds import Conv

CONVS: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
SMOOTH: dict[str, Any] = {
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softplus": functional.softplus,
}


def random_network(rng: np.random.Generator, activations: tuple[Any, ...], share: float = 0.6) -> ca.Network:
    """Return convolutions that widen, narrow or work channel by channel, often with no activation between them."""
    axes = int(rng.integers(1, 3))
    size = rng.integers(5, 15, 1) if axes == 1 else rng.integers(3, 7, 2)
    first = shape = (int(rng.integers(1, 4)), *size.tolist())
    kind = (ca.Conv1d, ca.Conv2d)[axes - 1]
    layers: list[Any] = []

    def maybe_activation() -> None:
        if rng.random() < share:
            layers.append(activations[int(rng.integers(len(activations)))])

    for _ in range(int(rng.integers(1, 4))):
        groups = shape[0] if shape[0] > 1 and rng.random() < 0.3 else 1
        filters = groups * int(rng.integers(1, 3)) if groups > 1 else int(rng.choice([1, 2, 3, 6, 8]))
        kernel, stride, padding = int(rng.integers(1, 4)), int(rng.integers(1, 3)), int(rng.integers(0, 2))
        bias = bool(rng.random() < 0.7)
        conv = kind(filters, kernel, stride=stride, padding=padding, groups=groups, bias=bias)
        try:
            shape = conv.output_shape(shape)
        except ca.ShapeError:
            continue
        layers.append(conv)
        maybe_activation()
    layers.append(ca.Flatten())
    if rng.random() < 0.5:
        layers.append(ca.Linear(int(rng.integers(1, 8)), bias=bool(rng.random() < 0.5)))
        maybe_activation()
    return ca.Network(first, [*layers, ca.Linear(int(rng.integers(2, 6)))])


def random_pattern(network: ca.Network, rng: np.random.Generator) -> dict[str, NDArray[np.bool_]]:
    """Return a side for every output of an activation with a kink: half of them, most of them or all."""
    share = float(rng.choice([0.5, 0.8, 1.0]))
    kinked = (ca.ReLU, ca.LeakyReLU, ca.Hardtanh, ca.ELU, ca.SELU, ca.Softsign)
    return {
        layer.name: rng.random(layer.output_shape) < (0.5 if isinstance(layer.layer, ca.LeakyReLU) else share)
        for layer in network
        if isinstance(layer.layer, kinked)
    }


def jacobian(
    network: ca.Network, pattern: Mapping[str, NDArray[np.bool_]], seed: int, *, normalised: bool = True
) -> NDArray[np.float64]:
    """Return how all gradients of `sum(k * output)` move with the input, for random weights and a fixed random k.

    Args:
        network: the network.
        pattern: the side of every activation with a kink.
        seed: of weights, input and k.
        normalised: whether each row is scaled to unit norm.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    parameters = {
        name: normal(*shape) / max(1, np.prod(shape[1:])) ** 0.5 for name, shape in network.parameter_shapes.items()
    }
    x, k = normal(*network.input_shape), normal(*network.output_shape)

    def output(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        value = image
        for layer in network:
            bias = weights.get(f"{layer.name}.bias")
            match layer.layer:
                case Conv() as conv:
                    weight, zeros = (
                        weights[layer.weight_name],
                        [side for pair in reversed(conv.paddings) for side in pair],
                    )
                    options = {"stride": conv.strides, "dilation": conv.dilations, "groups": conv.groups}
                    value = CONVS[conv.axes](functional.pad(value[None], zeros), weight, bias, **options)[0]
                case ca.Linear():
                    value = functional.linear(value, weights[layer.weight_name], bias)
                case ca.Flatten():
                    value = value.flatten()
                case ca.LeakyReLU(slope):
                    value = value * torch.where(torch.tensor(pattern[layer.name]), 1.0, slope)
                case ca.ReLU() | ca.Hardtanh():
                    value = value * torch.tensor(pattern[layer.name]).double()
                case ca.ELU(alpha):
                    on = torch.tensor(pattern[layer.name])
                    value = torch.where(on, value, alpha * (torch.exp(value) - 1))
                case ca.Softsign():
                    value = value / (1 + value * torch.where(torch.tensor(pattern[layer.name]), 1.0, -1.0))
                case ca.Identity():
                    pass
                case other:
                    value = SMOOTH[type(other).__name__](value)
        return value

    def gradients(image: Tensor) -> Tensor:
        found = grad(lambda weights: (output(weights, image) * k).sum())(parameters)
        logits = output(parameters, image)
        return torch.cat([*(value.flatten() for value in found.values()), logits - logits.mean()])

    with warnings.catch_warnings():
        # PyTorch compiles its own rules on the first use, by a function that it calls deprecated.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")
        J = jacfwd(gradients)(x).reshape(-1, x.numel()).numpy()
    sizes = np.linalg.norm(J, axis=1)
    J = J[sizes > 1e-13 * sizes.max(initial=0.0)]
    return J / np.linalg.norm(J, axis=1, keepdims=True) if normalised else J


def rank_and_determined(J: NDArray[np.float64]) -> tuple[int, NDArray[np.bool_], float]:
    """Return rank, which columns are determined, and how many times larger the last singular value counted is.

    The last is 0 where a column moves so little along the null space that rounding could hide it.
    """
    n = J.shape[1]
    if not len(J):
        return 0, np.zeros(n, dtype=bool), np.inf
    if len(J) > n:
        J = np.linalg.qr(J, mode="r")
    s, vectors = np.linalg.svd(J)[1:]
    rank = int(np.count_nonzero(s > 1e-10 * s[0]))
    left = float(s[rank]) if rank < len(s) else 0.0
    moves = np.linalg.norm(vectors[rank:], axis=0)
    clear = 0.0 if ((moves > 1e-9) & (moves < 1e-4)).any() else float(s[rank - 1] / max(left, 1e-16 * s[0]))
    return rank, moves < 1e-6, clear
