"""Random small graphs, each beside a plain PyTorch function that computes the same: no code of the library in it.

    network, parameters, function = random_graph(seed)
    logits = function({name: torch.tensor(array) for name, array in parameters.items()}, torch.tensor(x))

Parameters have PyTorch's names and shapes, with the running statistics of batch normalisation among them; what has a
gradient is `network.parameter_shapes`. One sample goes in without a batch axis, logits come out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray

Parameters = dict[str, FloatArray]
TorchFunction = Callable[[dict[str, Tensor], Tensor], Tensor]
Step = Callable[..., Tensor]
CLASSES = 4
SMOOTH = (ca.Sigmoid(), ca.Tanh(), ca.Softplus())
POINTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": functional.relu,
    "LeakyReLU": lambda z: functional.leaky_relu(z, 0.2),
    "ReLU6": functional.relu6,
    "Hardtanh": lambda z: functional.hardtanh(z, -0.5, 0.5),
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softplus": functional.softplus,
}
PIECES = (ca.ReLU(), ca.ReLU(), ca.ReLU(), ca.LeakyReLU(0.2), ca.ReLU6(), ca.Hardtanh(-0.5, 0.5))


class Case(NamedTuple):
    """A network, parameters for it, and the same function in PyTorch."""

    network: ca.Network
    parameters: Parameters
    function: TorchFunction


class Builder:
    """Layers of the library and steps of PyTorch, written down one beside the other.

    Args:
        shape: of the input.
        seed: of what is drawn.
        pieces: the activations to draw from.
    """

    def __init__(self, shape: tuple[int, ...], seed: int, pieces: tuple[Any, ...] = PIECES) -> None:
        self.input_shape, self.rng, self.pieces = shape, np.random.default_rng([7, seed]), pieces
        self.layers: dict[str, Any] = {}
        self.parameters: Parameters = {}
        self.steps: list[tuple[str, Step, tuple[str, ...]]] = []
        self.values = {"input": torch.zeros(1, *shape, dtype=torch.float64)}
        self.at = "input"

    @property
    def axes(self) -> int:
        return len(self.input_shape) - 1

    def shape(self, name: str | None = None) -> tuple[int, ...]:
        return tuple(self.values[name or self.at].shape[1:])

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def whole(self, low: int, high: int) -> int:
        """Draw a whole number, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def put(self, layer: Any, step: Step, *inputs: str, kind: str = "", parameters: Parameters | None = None) -> str:
        """Write one operation down; without inputs it reads the last one."""
        inputs = inputs or (self.at,)
        name = f"{kind or type(layer).__name__.lower()}{len(self.layers)}"
        own = {f"{name}.{key}": value for key, value in (parameters or {}).items()}
        tensors = {key.rsplit(".", 1)[1]: torch.tensor(value) for key, value in own.items()}
        self.values[name] = step(tensors, *(self.values[key] for key in inputs))
        self.layers[name] = (layer, *inputs)
        self.parameters |= own
        self.steps.append((name, step, inputs))
        self.at = name
        return name

    def conv(
        self,
        filters: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        *,
        at: str | None = None,
    ) -> str:
        """A convolution of as many axes as the input has."""
        layer = (ca.Conv1d, ca.Conv2d)[self.axes - 1]
        function: Any = (functional.conv1d, functional.conv2d)[self.axes - 1]
        channels, bias = self.shape(at)[0], self.chance(0.6)
        scale = 1 / np.sqrt(channels // groups * kernel**self.axes)
        own = {"weight": scale * self.rng.uniform(-1.5, 1.5, (filters, channels // groups, *(kernel,) * self.axes))}
        if bias:
            own["bias"] = self.rng.uniform(-0.3, 0.3, filters)
        return self.put(
            layer(filters, kernel, stride=stride, padding=padding, groups=groups, bias=bias),
            lambda p, x: function(x, p["weight"], p.get("bias"), stride=stride, padding=padding, groups=groups),
            *(() if at is None else (at,)),
            kind="conv",
            parameters=own,
        )

    def transposed(self, filters: int, kernel: int, stride: int) -> str:
        """A transposed convolution."""
        layer = (ca.ConvTranspose1d, ca.ConvTranspose2d)[self.axes - 1]
        function: Any = (functional.conv_transpose1d, functional.conv_transpose2d)[self.axes - 1]
        own = {"weight": self.rng.uniform(-0.8, 0.8, (self.shape()[0], filters, *(kernel,) * self.axes))}
        return self.put(
            layer(filters, kernel, stride=stride, bias=False),
            lambda p, x: function(x, p["weight"], stride=stride),
            kind="up",
            parameters=own,
        )

    def norm(self, at: str | None = None) -> str:
        """Batch normalisation in evaluation mode."""
        channels, affine = self.shape(at)[0], self.chance(0.85)
        own = {
            "running_mean": self.rng.uniform(-0.3, 0.3, channels),
            "running_var": self.rng.uniform(0.4, 1.5, channels),
        }
        if affine:
            own["weight"] = self.rng.uniform(0.5, 1.5, channels) * self.rng.choice([1, 1, 1, -1], channels)
            own["bias"] = self.rng.uniform(-0.3, 0.3, channels)
        return self.put(
            ca.BatchNorm(eps=1e-4, affine=affine),
            lambda p, x: functional.batch_norm(
                x, p["running_mean"], p["running_var"], p.get("weight"), p.get("bias"), training=False, eps=1e-4
            ),
            *(() if at is None else (at,)),
            kind="norm",
            parameters=own,
        )

    def act(self, at: str | None = None, *, prelu: bool = True) -> str:
        """An activation, or PReLU with a slope of its own."""
        inputs = () if at is None else (at,)
        if prelu and self.chance(0.15):
            count = self.shape(at)[0] if self.chance(0.5) else 1
            own = {"weight": self.rng.uniform(0.1, 0.4, count)}
            return self.put(ca.PReLU(count), lambda p, x: functional.prelu(x, p["weight"]), *inputs, parameters=own)
        layer = self.pieces[int(self.rng.integers(len(self.pieces)))]
        function = POINTWISE[type(layer).__name__]
        return self.put(layer, lambda _, x: function(x), *inputs, kind="act")

    def add(self, one: str, other: str) -> str:
        if self.chance(0.15):
            return self.put(ca.Subtract(), lambda _, x, y: x - y, one, other)
        return self.put(ca.Add(), lambda _, x, y: x + y, one, other)

    def join(self, *names: str) -> str:
        return self.put(ca.Concatenate(), lambda _, *x: torch.cat(x, 1), *names, kind="join")

    def pool(self, *, largest: bool, kernel: int = 2, stride: int | None = None, padding: int = 0) -> str:
        """A pooling layer, of the largest or of the average."""
        names = ("MaxPool", "AvgPool")
        layer = getattr(ca, f"{names[not largest]}{self.axes}d")(kernel, stride=stride, padding=padding)
        function: Any = getattr(functional, f"{'max' if largest else 'avg'}_pool{self.axes}d")
        return self.put(layer, lambda _, x: function(x, kernel, stride, padding), kind="pool")

    def adaptive(self, size: int, *, largest: bool) -> str:
        """An adaptive pooling layer."""
        layer = getattr(ca, f"Adaptive{'Max' if largest else 'Avg'}Pool{self.axes}d")(size)
        function: Any = getattr(functional, f"adaptive_{'max' if largest else 'avg'}_pool{self.axes}d")
        return self.put(layer, lambda _, x: function(x, size), kind="pool")

    def flatten(self) -> str:
        return self.put(ca.Flatten(), lambda _, x: x.flatten(1))

    def linear(self, units: int, *, bias: bool = True) -> str:
        inputs = self.shape()[0]
        own = {"weight": self.rng.uniform(-1, 1, (units, inputs)) / np.sqrt(inputs)}
        if bias:
            own["bias"] = self.rng.uniform(-0.3, 0.3, units)
        return self.put(
            ca.Linear(units, bias=bias), lambda p, x: functional.linear(x, p["weight"], p.get("bias")), parameters=own
        )

    def done(self) -> Case:
        """Return the network and its function."""
        steps = tuple(self.steps)

        def function(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            values = {"input": x[None]}
            for name, step, inputs in steps:
                own = {key.rsplit(".", 1)[1]: v for key, v in parameters.items() if key.rsplit(".", 1)[0] == name}
                values[name] = step(own, *(values[key] for key in inputs))
            return values[steps[-1][0]][0]

        return Case(ca.Network(self.input_shape, self.layers), self.parameters, function)


def random_graph(seed: int, *, smooth: bool = False) -> Case:
    """Return residual blocks, joins and pools in a random order, with few channels on a small image.

    Args:
        seed: of everything.
        smooth: whether activations that bend are among those drawn.
    """
    rng = np.random.default_rng([3, seed])
    axes = 2 if rng.random() < 0.75 else 1
    sizes = rng.integers(5, 8, 2) if axes == 2 else rng.integers(8, 15, 1)
    shape = (int(rng.integers(1, 4)), *map(int, sizes))
    build = Builder(shape, seed, PIECES + SMOOTH if smooth else PIECES)
    _before(build)
    _stem(build)
    for _ in range(build.whole(1, 3)):
        if min(build.shape()[1:]) < 3:
            break
        BLOCKS[int(build.rng.integers(len(BLOCKS)))](build)
    if build.chance(0.4):
        build.adaptive(1, largest=build.chance(0.2))
    build.flatten()
    if build.chance(0.25):
        build.linear(build.whole(3, 8), bias=build.chance(0.5))
        build.act()
    build.linear(CLASSES, bias=build.chance(0.9))
    return build.done()


def _before(build: Builder) -> None:
    """Put what may precede the first layer with a weight."""
    channels = build.input_shape[0]
    if build.chance(0.2):
        mean, std = build.rng.uniform(0.3, 0.6, channels), build.rng.uniform(0.2, 0.4, channels)
        sides = (-1, *(1,) * build.axes)
        build.put(
            ca.Normalise(tuple(mean.tolist()), tuple(std.tolist())),
            lambda _, x: (x - torch.tensor(mean).reshape(sides)) / torch.tensor(std).reshape(sides),
        )
    if build.chance(0.1):
        build.put(
            ca.Pad(((0, 0), *((1, 1),) * build.axes), mode="reflect"),
            lambda _, x: functional.pad(x, (1, 1) * build.axes, mode="reflect"),
        )
    if build.chance(0.08):
        build.pool(largest=True, kernel=2, stride=1)


def _stem(build: Builder) -> None:
    """Put the first layers: one, or two side by side that both read the input."""
    start = build.at
    if build.chance(0.2):
        one, other = build.conv(build.whole(1, 3), 3, padding=1, at=start), build.conv(build.whole(1, 3), 1, at=start)
        build.join(one, other)
    else:
        build.conv(build.whole(1, 5), build.whole(2, 3), stride=build.whole(1, 2), padding=1)
    if build.chance(0.4):
        build.norm()
    if build.chance(0.7):
        build.act()
    if build.chance(0.2) and min(build.shape()[1:]) > 3:
        build.pool(largest=True, kernel=3, stride=2, padding=1)


def _maybe_norm(build: Builder) -> None:
    if build.chance(0.5):
        build.norm()


def _shortcut(build: Builder, start: str, filters: int, stride: int) -> str:
    """Return the name of what is added: the block's input, or a 1x1 convolution of it."""
    if stride == 1 and build.shape(start)[0] == filters and build.chance(0.8):
        return start
    build.conv(filters, 1, stride=stride, at=start)
    _maybe_norm(build)
    return build.at


def _basic(build: Builder) -> None:
    start, filters, stride = build.at, build.whole(1, 5), build.whole(1, 2)
    if stride == 1 and build.chance(0.5):
        filters = build.shape()[0]
    build.conv(filters, 3, stride=stride, padding=1)
    _maybe_norm(build)
    build.act()
    build.conv(filters, 3, padding=1)
    _maybe_norm(build)
    branch = build.at
    build.add(branch, _shortcut(build, start, filters, stride))
    if build.chance(0.8):
        build.act()


def _preactivated(build: Builder) -> None:
    start, filters, stride = build.at, build.whole(1, 5), build.whole(1, 2)
    _maybe_norm(build)
    build.act()
    build.conv(filters, 3, stride=stride, padding=1)
    _maybe_norm(build)
    build.act()
    build.conv(filters, 3, padding=1)
    branch = build.at
    build.add(branch, _shortcut(build, start, filters, stride))


def _bottleneck(build: Builder) -> None:
    start, filters, stride = build.at, build.whole(2, 6), build.whole(1, 2)
    build.conv(build.whole(1, 3), 1)
    _maybe_norm(build)
    build.act()
    build.conv(build.shape()[0], 3, stride=stride, padding=1)
    _maybe_norm(build)
    build.act()
    build.conv(filters, 1)
    branch = build.at
    build.add(branch, _shortcut(build, start, filters, stride))
    build.act()


def _dense(build: Builder) -> None:
    start = build.at
    for _ in range(build.whole(1, 2)):
        before = build.at
        _maybe_norm(build)
        build.act()
        build.conv(build.whole(1, 3), 3, padding=1)
        build.join(before, build.at)
    if build.chance(0.4):
        build.conv(build.shape(start)[0], 1)
        build.pool(largest=build.chance(0.3))


def _inception(build: Builder) -> None:
    start = build.at
    build.conv(build.whole(1, 3), 1)
    one = build.act()
    build.conv(build.whole(1, 3), 3, padding=1, at=start)
    other = build.act()
    build.at = start
    third = build.pool(largest=build.chance(0.7), kernel=3, stride=1, padding=1)
    build.join(one, other, third)


def _pooled(build: Builder) -> None:
    kind = build.whole(0, 3)
    if kind == 0:
        build.conv(build.whole(1, 5), 3, padding=1)
        build.act()
        build.pool(largest=True)
    elif kind == 1:
        build.conv(build.whole(1, 5), 3, padding=1)
        build.pool(largest=True)
        build.act()
    elif kind == 2:
        build.pool(largest=False)
    else:
        build.adaptive(2, largest=build.chance(0.5))


def _widened(build: Builder) -> None:
    build.transposed(build.whole(1, 3), 2, build.whole(1, 2))
    build.act()
    build.conv(build.whole(1, 3), 3, stride=2)


BLOCKS = (_basic, _basic, _preactivated, _bottleneck, _dense, _inception, _pooled, _pooled, _widened)
