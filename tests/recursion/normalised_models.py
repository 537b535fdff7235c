"""Networks with normalisation in training mode, as PyTorch trains them, and what their client shares."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from constraint_algebra.networks.network import bind
from constraint_algebra.recursion import graph_statistics
from constraint_algebra.recursion.buffers import shared
from constraint_algebra.recursion.ensemble import MEMBERS, Ensemble
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.graph_recursion import Graph
from constraint_algebra.recursion.noise import deviations_of, precision
from constraint_algebra.recursion.observation import Observation

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
    parameters = {name: p.detach() for name, p in made.named_parameters()}

    def loss(own: dict[str, Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        h, statistics = image[None], []
        for index, layer in enumerate(made):
            mine = {name.split(".")[1]: p for name, p in own.items() if name.split(".")[0] == str(index)}
            if isinstance(layer, nn.BatchNorm2d):
                statistics += [h.mean((0, 2, 3)), h.var((0, 2, 3))]
                h = functional.batch_norm(h, None, None, mine["weight"], mine["bias"], training=True)
            else:
                h = functional_call(layer, mine, (h,)) if mine else layer(h)
        return functional.cross_entropy(h, torch.tensor([LABEL])), torch.cat(statistics)

    def seen(image: Tensor) -> Tensor:
        gradients, statistics = grad(loss, has_aux=True)(parameters, image)
        return torch.cat([*(g.flatten() for g in gradients.values()), statistics])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own, when it first derives forwards
        jacobian = jacfwd(seen)(torch.tensor(x)).reshape(-1, x.size).numpy()
    _, s, Vt = np.linalg.svd(jacobian, full_matrices=True)
    null = Vt[int((s > 1e-9 * s[0]).sum()) :]
    return np.asarray(np.sqrt((null**2).sum(axis=0)) < 1e-6).reshape(x.shape)


def batch(act: Act, samples: int, widths: tuple[int, int, int], size: int) -> tuple[Graph, FloatArray]:
    """Several samples of one step as one network with an axis of samples, its features and their gradients known."""
    torch.manual_seed(0)
    c, first, second = widths
    made = nn.Sequential(
        nn.Conv2d(c, first, 3, padding=1, bias=False),
        nn.BatchNorm2d(first),
        act(),
        nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(second),
        act(),
    ).double()
    head = nn.Sequential(nn.Flatten(), nn.Linear(second * (size // 2) ** 2, 10)).double()
    before = {name: p.detach().clone() for name, p in made.state_dict().items()}
    x = torch.rand(samples, c, size, size, dtype=torch.float64)
    features = made(x)
    loss = nn.functional.cross_entropy(head(features), torch.arange(samples))
    names = [name for name, _ in made.named_parameters()]
    *own, sent = torch.autograd.grad(loss, [*made.parameters(), features])
    spread = ca.LeakyReLU(0.2) if act is not nn.ReLU else ca.ReLU()
    flat, halved = (1, 3, 3), ((0, 0), (1, 1), (1, 1))
    layers = [
        ca.Conv3d(first, flat, padding=halved, bias=False),
        ca.BatchNorm(training=True),
        spread,
        ca.Conv3d(second, flat, stride=(1, 2, 2), padding=halved, bias=False),
        ca.BatchNorm(training=True),
        spread,
    ]
    network = ca.Network((c, samples, size, size), layers)

    def thick(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: a[:, :, None] if a.ndim == 4 else a for n, a in arrays.items() if a.ndim}

    given = bind(network, thick(dict(zip(names, own, strict=True))), "gradients")
    parameters, rounding = bind(network, thick(before), "parameters"), precision({"x": np.zeros(1)})
    found = shared(network, parameters, made.state_dict())
    observed = Observation(
        network, parameters, given, deviations_of(given, rounding, 0.0), rounding, Ensemble(0).draw, found
    )
    knows = GraphKnowledge.nothing(observed)
    for layer in network:
        if layer.is_normalisation:
            graph_statistics.by_buffers(knows, layer)
    top = network.layers[-1]
    knows.learn_value(top.number, _known(features.detach().numpy().swapaxes(0, 1)))
    knows.learn_gradient(top.number, _known(sent.numpy().swapaxes(0, 1)))
    graph = Graph(observed, top, knows.gradients[top.number], np.inf, None)
    graph.knows = knows
    return graph, x.numpy().swapaxes(0, 1)


def _known(values: FloatArray) -> Estimate:
    return Estimate(values, np.ones(values.shape, dtype=bool), np.zeros((*values.shape, MEMBERS)))
