"""Networks with normalisation in training mode, as PyTorch trains them, and what their client shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray

LABEL = 3
Act = Callable[[], nn.Module]


@dataclass(frozen=True)
class Step:
    """What a client has and shares: its model's state before and after a step, the gradients, and the truth."""

    network: ca.Network
    before: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    values: list[FloatArray]

    @property
    def image(self) -> FloatArray:
        return self.values[0]

    def reconstruct(self, **options: Any) -> ca.Reconstruction:
        """Reconstruct with the buffers."""
        options = {"buffers": self.after, "search": 2.0, **options}
        return ca.reconstruct(self.network, self.before, self.gradients, **options)


def model(act: Act, widths: tuple[int, int, int], size: int, *, bias: bool = False, seed: int = 0) -> nn.Sequential:
    """Two convolutions with batch norm behind each, and a linear head; random factors and shifts."""
    torch.manual_seed(seed)
    c, first, second = widths
    made = nn.Sequential(
        nn.Conv2d(c, first, 3, padding=1, bias=bias),
        nn.BatchNorm2d(first),
        act(),
        nn.Conv2d(first, second, 3, stride=2, padding=1, bias=bias),
        nn.BatchNorm2d(second),
        act(),
        nn.Flatten(),
        nn.Linear(second * ((size + 1) // 2) ** 2, 10),
    ).double()
    for layer in made:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.6, 1.4)
            nn.init.normal_(layer.bias, 0, 0.3)
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return made.train()


def written(made: nn.Sequential, shape: tuple[int, ...]) -> ca.Network:
    """The same network."""
    layers: list[Any] = []
    for layer in made:
        match layer:
            case nn.Conv2d():
                layers.append(
                    ca.Conv2d(layer.out_channels, 3, stride=layer.stride, padding=1, bias=layer.bias is not None)
                )
            case nn.BatchNorm2d():
                layers.append(ca.BatchNorm(training=True, momentum=layer.momentum))
            case nn.ReLU():
                layers.append(ca.ReLU())
            case nn.LeakyReLU():
                layers.append(ca.LeakyReLU(layer.negative_slope))
            case nn.Sigmoid():
                layers.append(ca.Sigmoid())
            case nn.Flatten():
                layers.append(ca.Flatten())
            case nn.Linear():
                layers.append(ca.Linear(layer.out_features))
    return ca.Network(shape, layers)


def step(
    made: nn.Sequential, size: int, *, dtype: torch.dtype = torch.float64, noise: float = 0.0, seed: int = 0
) -> Step:
    """One step of a client in training mode; values are those of float64."""
    torch.manual_seed(100 + seed)
    x = torch.rand(made[0].in_channels, size, size, dtype=torch.float64)
    made = made.to(dtype)
    before = {name: p.detach().clone() for name, p in made.state_dict().items()}
    values = [x.to(dtype)[None]]
    for layer in made:
        values.append(layer(values[-1]))
    loss = functional.cross_entropy(values[-1], torch.tensor([LABEL]))
    names = [name for name, _ in made.named_parameters()]
    gradients = dict(zip(names, torch.autograd.grad(loss, list(made.parameters())), strict=True))
    gradients = {name: g + noise * torch.randn_like(g) for name, g in gradients.items()}
    after = {name: p.detach().clone() for name, p in made.state_dict().items()}
    truth = [np.asarray(v.detach()[0].double()) for v in values]
    return Step(written(made, tuple(x.shape)), before, gradients, after, truth)


def determined(made: nn.Sequential, x: FloatArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which values the Jacobian of all gradients and of all statistics determines, by PyTorch and a dense SVD."""
    parameters = list(made.parameters())

    def seen(image: Tensor) -> Tensor:
        h, statistics = image[None], []
        for layer in made:
            if isinstance(layer, nn.BatchNorm2d):
                statistics += [h.mean((0, 2, 3)), h.var((0, 2, 3))]
            h = layer(h)
        loss = functional.cross_entropy(h, torch.tensor([LABEL]))
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        return torch.cat([part.flatten() for part in (*gradients, *statistics)])

    image = torch.tensor(x)
    jacobian = torch.autograd.functional.jacobian(seen, image).reshape(-1, image.numel()).numpy()
    _, s, Vt = np.linalg.svd(jacobian, full_matrices=True)
    null = Vt[int((s > 1e-9 * s[0]).sum()) :]
    return (np.sqrt((null**2).sum(axis=0)) < 1e-6).reshape(x.shape)
