"""Graphs that people train, each beside plain PyTorch: what a client computes, and what the recursion then knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from constraint_algebra.recursion import graph_recursion
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from tests.graph_cases import Builder, Case


@dataclass(frozen=True)
class Steps:
    """A function of PyTorch that keeps the values in between."""

    steps: tuple[Any, ...]

    def values(self, parameters: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """Return every value by its name, of one sample with a batch axis."""
        values = {"input": x[None]}
        for name, step, inputs in self.steps:
            own = {key.rsplit(".", 1)[1]: p for key, p in parameters.items() if key.rsplit(".", 1)[0] == name}
            values[name] = step(own, *(values[key] for key in inputs))
        return values

    def __call__(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return self.values(parameters, x)[self.steps[-1][0]][0]


class Written(Builder):
    """Layers by hand: nothing is left to chance but the parameters."""

    def conv(self, filters: int, kernel: int = 3, stride: int = 1, *, at: str | None = None, bias: bool = False) -> str:  # type: ignore[override]
        """A convolution that keeps the size, but for its stride."""
        layer = (ca.Conv1d, ca.Conv2d)[self.axes - 1](filters, kernel, stride=stride, padding=kernel // 2, bias=bias)
        function: Any = (functional.conv1d, functional.conv2d)[self.axes - 1]
        channels = self.shape(at)[0]
        size = np.sqrt(3 / (channels * kernel**self.axes))
        own = {"weight": self.rng.uniform(-size, size, (filters, channels, *(kernel,) * self.axes))}
        if bias:
            own["bias"] = self.rng.uniform(-0.2, 0.2, filters)
        return self.put(
            layer,
            lambda p, x: function(x, p["weight"], p.get("bias"), stride=stride, padding=kernel // 2),
            *(() if at is None else (at,)),
            kind="conv",
            parameters=own,
        )

    def norm(self, at: str | None = None) -> str:
        channels = self.shape(at)[0]
        own = {
            "running_mean": 0.1 * self.rng.standard_normal(channels),
            "running_var": self.rng.uniform(0.5, 1.5, channels),
            "weight": self.rng.uniform(0.5, 1.5, channels),
            "bias": 0.2 * self.rng.standard_normal(channels),
        }
        return self.put(
            ca.BatchNorm(),
            lambda p, x: functional.batch_norm(
                x, p["running_mean"], p["running_var"], p["weight"], p["bias"], training=False
            ),
            *(() if at is None else (at,)),
            kind="norm",
            parameters=own,
        )

    def relu(self, at: str | None = None) -> str:
        return self.put(ca.ReLU(), lambda _, x: functional.relu(x), *(() if at is None else (at,)))

    def tanh(self) -> str:
        return self.put(ca.Tanh(), lambda _, x: torch.tanh(x))

    def prelu(self, slopes: int) -> str:
        own = {"weight": self.rng.uniform(0.1, 0.4, slopes)}
        return self.put(ca.PReLU(slopes), lambda p, x: functional.prelu(x, p["weight"]), parameters=own)

    def add(self, one: str, other: str) -> str:
        return self.put(ca.Add(), lambda _, x, y: x + y, one, other)

    def done(self) -> Case:
        return super().done()._replace(function=Steps(tuple(self.steps)))

    def head(self, classes: int = 10, *, mean: bool = False) -> Case:
        """Flatten the map, or take its mean, and end in a linear layer."""
        if mean:
            self.adaptive(1, largest=False)
        self.flatten()
        self.linear(classes)
        return self.done()


def residual(
    size: int, widths: tuple[int, ...], *, blocks: int = 1, stem: int = 0, mean: bool = False, seed: int = 0
) -> Case:
    """Blocks `relu(norm(conv(relu(norm(conv(x))))) + shortcut)`, the shortcut a 1x1 convolution where shapes change."""
    net = Written((3, size, size), seed)
    net.conv(stem or widths[0])
    net.norm()
    last = net.relu()
    for stage, width in enumerate(widths):
        for number in range(blocks):
            stride = 2 if stage and not number else 1
            net.conv(width, stride=stride, at=last)
            net.norm()
            net.relu()
            net.conv(width)
            branch = shortcut = net.norm()
            if stride != 1 or net.shape(last)[0] != width:
                net.conv(width, 1, stride, at=last)
                shortcut = net.norm()
            else:
                shortcut = last
            net.add(branch, shortcut)
            last = net.relu()
    return net.head(mean=mean)


def preactivated(size: int, widths: tuple[int, ...], *, mean: bool = False, seed: int = 0) -> Case:
    """Blocks whose norms and activations come before their convolutions: nothing bends between the sums."""
    net = Written((3, size, size), seed)
    last = net.conv(widths[0])
    for stage, width in enumerate(widths):
        stride = 2 if stage else 1
        net.norm(last)
        first = net.relu()
        shortcut = net.conv(width, 1, stride) if stride != 1 else last
        net.conv(width, 3, stride, at=first)
        net.norm()
        net.relu()
        last = net.add(net.conv(width), shortcut)
    net.norm()
    net.relu()
    return net.head(mean=mean)


def bottleneck(size: int, widths: tuple[int, ...], *, squeeze: int = 2, mean: bool = False, seed: int = 0) -> Case:
    """Blocks of 1x1, 3x3 and 1x1 convolutions, the middle ones so many times narrower."""
    net = Written((3, size, size), seed)
    net.conv(widths[0] // 2)
    net.norm()
    last = net.relu()
    for stage, width in enumerate(widths):
        stride, inner = 2 if stage else 1, width // squeeze
        net.conv(inner, 1, at=last)
        net.norm()
        net.relu()
        net.conv(inner, 3, stride)
        net.norm()
        net.relu()
        net.conv(width, 1)
        branch = net.norm()
        net.conv(width, 1, stride, at=last)
        net.add(branch, net.norm())
        last = net.relu()
    return net.head(mean=mean)


def densely_connected(size: int, stem: int, growth: int, layers: int = 2, *, seed: int = 0) -> Case:
    """One dense block: each layer reads all before it."""
    net = Written((3, size, size), seed)
    last = net.conv(stem)
    for _ in range(layers):
        net.norm(last)
        net.relu()
        net.conv(4 * growth, 1)
        net.norm()
        net.relu()
        last = net.join(last, net.conv(growth))
    net.norm()
    net.relu()
    return net.head()


def inception(size: int, stem: int, *, blocks: int = 1, largest: bool = True, seed: int = 0) -> Case:
    """Branches of 1x1, 3x3 and 5x5 convolutions and of a pool, side by side."""
    net = Written((3, size, size), seed)
    net.conv(stem, bias=True)
    last = net.relu()
    for _ in range(blocks):
        branches = []
        for filters, kernel in ((12, 1), (16, 3), (12, 5)):
            net.conv(filters, kernel, at=last, bias=True)
            branches.append(net.relu())
        net.at = last
        net.pool(largest=largest, kernel=3, stride=1, padding=1)
        net.conv(8, 1, bias=True)
        last = net.join(*branches, net.relu())
    return net.head()


def lenet(size: int, first: int, second: int, *, seed: int = 0) -> Case:
    """Convolution, average pool, tanh, twice, and three linear layers."""
    net = Written((1, size, size), seed)
    for filters in (first, second):
        net.conv(filters, 5, bias=True)
        net.pool(largest=False)
        net.tanh()
    net.flatten()
    for units in (60, 40):
        net.linear(units)
        net.tanh()
    net.linear(10)
    return net.done()


def tutorial(size: int, first: int, second: int, *, seed: int = 0) -> Case:
    """Two convolutions, a max-pool, two linear layers."""
    net = Written((3, size, size), seed)
    net.conv(first, bias=True)
    net.relu()
    net.conv(second, bias=True)
    net.relu()
    net.pool(largest=True)
    net.flatten()
    net.linear(64)
    net.relu()
    net.linear(10)
    return net.done()


def pooled_at_once(size: int, filters: int, *, seed: int = 0) -> Case:
    """A convolution, a max-pool of it, and a head: who won decides what is known."""
    net = Written((2, size, size), seed)
    net.conv(filters, bias=True)
    net.relu()
    net.pool(largest=True)
    return net.head()


def transposed(size: int, *, seed: int = 0) -> Case:
    """A transposed convolution, as of a decoder."""
    net = Written((4, size, size), seed)
    own = {"weight": net.rng.uniform(-0.3, 0.3, (4, 16, 4, 4)), "bias": 0.1 * net.rng.standard_normal(16)}
    net.put(
        ca.ConvTranspose2d(16, 4, stride=2, padding=1),
        lambda p, x: functional.conv_transpose2d(x, p["weight"], p["bias"], stride=2, padding=1),
        kind="up",
        parameters=own,
    )
    net.relu()
    net.conv(24, bias=True)
    net.relu()
    return net.head()


def with_prelu(size: int, *, seed: int = 0) -> Case:
    """Slopes that are trained: one for each channel, and one for all."""
    net = Written((3, size, size), seed)
    net.conv(16, bias=True)
    net.prelu(16)
    net.conv(24, stride=2, bias=True)
    net.prelu(1)
    return net.head()


def all_convolutional(size: int, filters: int, *, norm: bool = False, seed: int = 0) -> Case:
    """A last convolution of as many filters as classes, a batch norm of it or none, and the mean of each."""
    net = Written((2, size, size), seed)
    net.conv(filters, bias=True)
    net.relu()
    net.conv(10, 1, bias=True)
    if norm:
        net.norm()
    net.adaptive(1, largest=False)
    net.flatten()
    return net.done()


def u_net(size: int, width: int, *, seed: int = 0) -> Case:
    """Down by a stride, up by repetition, and side by side with what was there before."""
    net = Written((3, size, size), seed)
    net.conv(width, bias=True)
    top = net.relu()
    net.conv(2 * width, stride=2, bias=True)
    net.relu()
    up = net.put(ca.Upsample(2), lambda _, x: functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    net.join(up, top)
    net.conv(width, bias=True)
    net.relu()
    return net.head()


@dataclass(frozen=True)
class Client:
    """What a client has and sends: a network, an input, and real gradients in some precision.

    Attributes:
        case: the network and its PyTorch function.
        image: the input.
        parameters, gradients: by name, in the client's precision.
        values, sent: each value by its name, and the gradient there.
    """

    case: Case
    image: FloatArray
    parameters: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    values: dict[str, FloatArray]
    sent: dict[str, FloatArray]

    def reconstruct(self, **options: Any) -> tuple[ca.Reconstruction, GraphKnowledge]:
        """Return the result, and what the recursion knew of every value."""
        kept: list[GraphKnowledge] = []
        once: Callable[..., Any] = graph_recursion.Graph.to_input

        def watched(recursion: graph_recursion.Graph, *args: Any) -> Any:
            found = once(recursion, *args)
            kept.extend([recursion.knows] if found is not None and recursion.knows is not None else [])
            return found

        with mock.patch.object(graph_recursion.Graph, "to_input", watched):
            result = ca.reconstruct(self.case.network, self.parameters, self.gradients, **options)
        return result, kept[-1]


def client(case: Case, *, seed: int = 0, label: int = 3, dtype: torch.dtype = torch.float64) -> Client:
    """Compute a step in PyTorch, all of it in one precision."""
    x = torch.tensor(np.random.default_rng([1, seed]).random(case.network.input_shape)).to(dtype)
    trained = case.network.parameter_shapes
    given = {name: torch.tensor(a).to(dtype).requires_grad_(name in trained) for name, a in case.parameters.items()}
    assert isinstance(case.function, Steps)
    values = case.function.values(given, x.clone().requires_grad_())
    for value in values.values():
        value.retain_grad()
    loss = functional.cross_entropy(list(values.values())[-1], torch.tensor([label]))
    loss.backward()
    return Client(
        case,
        x.numpy().astype(float),
        {name: p.detach().numpy() for name, p in given.items()},
        {name: p.grad.numpy() for name, p in given.items() if p.requires_grad},
        {name: v.detach().numpy()[0].astype(float) for name, v in values.items()},
        {name: v.grad.numpy()[0].astype(float) for name, v in values.items()},
    )
