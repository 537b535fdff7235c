"""Random small networks linear in pieces, and their whole map by automatic differentiation: no code of the library."""

from __future__ import annotations

import numpy as np
import torch

import constraint_algebra as ca
from tests.twin_cases import Case, case

PIECES = (ca.ReLU(), ca.LeakyReLU(0.2), ca.ReLU6(), ca.Hardtanh(-0.5, 0.5))
EXPANDING = [ca.Conv1d(8, 2, stride=2), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(10)]  # on 1x12
NARROWING = [ca.Conv2d(24, 3, stride=2, padding=1), ca.Conv2d(2, 1), ca.Flatten(), ca.Linear(10)]  # on 1x8x8


def network_of_pieces(seed: int) -> ca.Network:
    """Bottlenecks, expansions and depthwise convolutions, with none, one or two activations between them."""
    rng = np.random.default_rng(seed)
    while True:
        flat = rng.random() < 0.5
        conv = ca.Conv1d if flat else ca.Conv2d
        sizes = rng.integers(6, 13, 1) if flat else rng.integers(3, 5, 2)
        channels = int(rng.integers(1, 4))
        shape, layers = (channels, *map(int, sizes)), []
        for _ in range(int(rng.integers(1, 4))):
            kind = rng.integers(4)
            if kind == 0:
                layers.append(conv(channels, int(rng.integers(1, 4)), padding=1, groups=channels))
            elif kind == 1:
                channels = int(rng.integers(1, 3))
                layers.append(conv(channels, 1))
            else:
                channels, kernel = int(rng.integers(1, 7)), int(rng.integers(1, 4))
                layers.append(conv(channels, kernel, stride=int(rng.integers(1, 3)), padding=int(rng.integers(0, 2))))
            layers += [PIECES[int(rng.integers(4))] for _ in range(int(rng.choice([0, 1, 1, 1, 2])))]
        layers.append(ca.Flatten())
        if rng.random() < 0.3:
            layers += [ca.Linear(int(rng.integers(2, 8)), bias=bool(rng.integers(2))), PIECES[int(rng.integers(4))]]
        layers.append(ca.Linear(4, bias=bool(rng.random() < 0.8)))
        try:
            network = ca.Network(shape, layers)
        except ca.ShapeError:
            continue
        if 6 <= np.prod(shape) <= 40:
            return network


def case_of_pieces(seed: int) -> Case:
    """Such a network with PyTorch's own initialisation, at an input some of whose values are at the edge."""
    network, rng = network_of_pieces(seed), np.random.default_rng(seed)
    image = rng.random(network.input_shape)
    image = np.where(rng.random(image.shape) < 0.1, np.round(image), image)
    return case(network, image, label=int(rng.integers(4)), seed=seed)


def jacobian(c: Case, k: torch.Tensor | None = None) -> np.ndarray:
    """The derivative of all gradients, and of the logits up to a constant, at a fixed gradient k of the logits."""
    x, parameters = torch.tensor(c.image), list(c.model.parameters())
    if k is None:
        k = torch.softmax(c.model(x[None])[0], 0).detach()
        k[c.label] -= 1

    def of_input(x: torch.Tensor) -> torch.Tensor:
        output = c.model(x[None])[0]
        gradients = torch.autograd.grad((output * k).sum(), parameters, create_graph=True)
        return torch.cat([*(g.reshape(-1) for g in gradients), output - output.mean()])

    return torch.autograd.functional.jacobian(of_input, x).reshape(-1, x.numel()).numpy()


def kernel_of(matrix: np.ndarray) -> tuple[int, np.ndarray]:
    """The rank of a dense matrix, and the norm of each row of a basis of its kernel."""
    _, s, vt = np.linalg.svd(matrix)
    rank = int((s > 1e-10 * s.max(initial=0.0)).sum())
    return rank, np.linalg.norm(vt[rank:], axis=0)
