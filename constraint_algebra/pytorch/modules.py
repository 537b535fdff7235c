"""A network as modules of PyTorch, under the names of its layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from constraint_algebra import layers as kinds
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.pooling import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, MaxPool
from constraint_algebra.layers.transposed import Spread, TurnedConv1d, TurnedConv2d, TurnedConv3d
from constraint_algebra.networks.network import Network
from constraint_algebra.pytorch.norm_modules import evaluated, norm_at
from constraint_algebra.pytorch.operation import Operation


class PadFirst(nn.Module):
    """Mixed into a convolution to pad with zeros differently before and behind, which PyTorch's own cannot.

    Attributes:
        zeros: `(before, after)` for each axis.
    """

    zeros: tuple[tuple[int, int], ...]

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the padded input."""
        sides = [side for pair in reversed(self.zeros) for side in pair]
        output: Tensor = super().forward(functional.pad(x, sides))
        return output

    def extra_repr(self) -> str:
        """Return PyTorch's description and the zeros."""
        return f"{super().extra_repr()}, zeros={self.zeros}"


class PaddedConv1d(PadFirst, nn.Conv1d):
    """See `PadFirst`."""


class PaddedConv2d(PadFirst, nn.Conv2d):
    """See `PadFirst`."""


class PaddedConv3d(PadFirst, nn.Conv3d):
    """See `PadFirst`."""


_CONVS: dict[int, tuple[type[Any], type[Any]]] = {
    1: (nn.Conv1d, PaddedConv1d),
    2: (nn.Conv2d, PaddedConv2d),
    3: (nn.Conv3d, PaddedConv3d),
}


_DROPOUTS: dict[int, type[Any]] = {0: nn.Dropout, 2: nn.Dropout1d, 3: nn.Dropout2d, 4: nn.Dropout3d}
_POOLS = (AvgPool, MaxPool, AdaptiveAvgPool, AdaptiveMaxPool)
_TRANSPOSED: dict[type[kinds.Layer], type[Any]] = {
    TurnedConv1d: nn.ConvTranspose1d,
    TurnedConv2d: nn.ConvTranspose2d,
    TurnedConv3d: nn.ConvTranspose3d,
}


def module_of(network: Network) -> nn.Module:
    """Return a model of a network's layers, in float64 and with PyTorch's own initialisation.

    Raises:
        ShapeError: two layers have the same name, or a layer has no module.
    """
    if network.is_chain:
        return _assembled([(layer.name, _module(layer)) for layer in network])
    steps = _steps(network)
    one_after_the_other = all(step.reads == (before,) for step, before in zip(steps, _sources(steps), strict=True))
    modules = [(step.path, step.module) for step in steps]
    return _assembled(modules) if one_after_the_other else Graph(steps)


def steps_of(network: Network) -> list[Step]:
    """Return the modules of any network in order, without values: for parameters that others have."""
    with torch.device("meta"):
        steps = _steps(network)
    for step in steps:
        evaluated(step.module)
    return steps


@dataclass(frozen=True)
class Step:
    """One module of a graph: its path, what it reads, and the value that it makes, by number."""

    path: str
    module: nn.Module
    reads: tuple[int, ...]
    makes: int


def _sources(steps: Sequence[Step]) -> list[int]:
    """Return for each step the value that the one before makes."""
    return [0, *(step.makes for step in steps[:-1])]


def _steps(network: Network) -> list[Step]:
    """Return the modules of a graph in order; two layers that are one module of PyTorch's become that."""
    steps, joined = [], set()
    for layer in network:
        if layer.number in joined:
            continue
        norm = norm_at(network, layer)
        if norm is not None:
            module, path, last = norm
            joined |= set(range(layer.number + 1, last.number + 1))
            steps.append(Step(path, module, layer.inputs, last.number))
            continue
        users = network.users(layer.number)
        pair = _joined(layer, users[0]) if len(users) == 1 and users[0].inputs == (layer.number,) else None
        if pair is not None:
            joined.add(users[0].number)
            steps.append(Step(users[0].name, pair, layer.inputs, users[0].number))
            continue
        steps.append(Step(layer.name, _module(layer), layer.inputs, layer.number))
    return steps


def _joined(first: PlacedLayer, second: PlacedLayer) -> nn.Module | None:
    """Return the module that two layers are together, `None` where they are none."""
    match first.layer, second.layer:
        case Spread(steps, sides), TurnedConv1d() | TurnedConv2d() | TurnedConv3d():
            conv: Any = second.layer
            full = [d * (k - 1) for k, d in zip(conv.taps, conv.dilations, strict=True)]
            padding = [n - before for n, (before, _) in zip(full, sides, strict=True)]
            output_padding = [after - before for before, after in sides]
            plain = conv.strides == (1,) * conv.axes and conv.paddings == ((0, 0),) * conv.axes
            if min(padding) < 0 or min(output_padding) < 0 or not plain:
                return None
            transposed: nn.Module = _TRANSPOSED[type(conv)](
                second.channels,
                conv.filters,
                conv.taps,
                stride=steps,
                padding=tuple(padding),
                output_padding=tuple(output_padding),
                dilation=conv.dilations,
                groups=conv.groups,
                bias=conv.bias,
                dtype=torch.float64,
            )
            return transposed
    return None


def _pool(layer: Any) -> nn.Module:
    """Return a pooling module."""
    module: Any = getattr(nn, type(layer).__name__)
    if isinstance(layer, AdaptiveAvgPool | AdaptiveMaxPool):
        sizes: Any = layer.output_size
        adaptive: nn.Module = module(sizes if layer.axes > 1 else sizes[0])
        return adaptive
    settings = {"stride": layer.stride, "padding": layer.padding, "ceil_mode": layer.ceil_mode}
    if isinstance(layer, MaxPool):
        settings["dilation"] = layer.dilation
    else:
        settings["count_include_pad"] = layer.count_include_pad
    if layer.axes == 1:
        settings = {name: value[0] if isinstance(value, tuple) else value for name, value in settings.items()}
    pool: nn.Module = module(layer.kernel if layer.axes > 1 else layer.kernel[0], **settings)
    return pool


def _convolution(placed: PlacedLayer, conv: kinds.Conv) -> nn.Module:
    symmetric = all(before == after for before, after in conv.paddings)
    plain, padded = _CONVS[conv.axes]
    module: nn.Module = (plain if symmetric else padded)(
        placed.channels,
        conv.filters,
        conv.taps,
        stride=conv.strides,
        padding=tuple(before for before, _ in conv.paddings) if symmetric else 0,
        dilation=conv.dilations,
        groups=conv.groups,
        bias=conv.bias,
        dtype=torch.float64,
    )
    if isinstance(module, PadFirst):
        module.zeros = conv.paddings
    return module


def _module(placed: PlacedLayer) -> nn.Module:
    match placed.layer:
        case TurnedConv1d() | TurnedConv2d() | TurnedConv3d():
            raise ShapeError(f"layer {placed.name!r}: only a whole ConvTranspose has a module of PyTorch's")
        case kinds.Conv() as conv:
            return _convolution(placed, conv)
        case kinds.Linear(filters, bias=bias):
            return nn.Linear(placed.channels, filters, bias=bias, dtype=torch.float64)
        case kinds.Standardise():
            shape = placed.input_shape
            raise ShapeError(f"layer {placed.name!r}: PyTorch has no batch norm for inputs of shape {shape}")
        case kinds.Dropout(p, features):
            kind = _DROPOUTS[len(placed.input_shape) if features else 0]
            dropout: nn.Module = kind(p)
            return dropout
        case kinds.Flatten():
            return nn.Flatten()
        case layer if isinstance(layer, _POOLS):
            return _pool(layer)
    return _activation(placed) if placed.is_activation else Operation(placed)


def _activation(placed: PlacedLayer) -> nn.Module:
    match placed.layer:
        case kinds.PReLU(parameters):
            return nn.PReLU(parameters, dtype=torch.float64)
        case kinds.LeakyReLU(slope):
            return nn.LeakyReLU(slope)
        case kinds.ELU(alpha):
            return nn.ELU(alpha)
        case kinds.Softplus(beta, threshold):
            return nn.Softplus(beta, threshold)
        case kinds.GELU(approximate):
            return nn.GELU(approximate)
        case kinds.ReLU6():
            return nn.ReLU6()
        case kinds.Hardtanh(low, high):
            return nn.Hardtanh(low, high)
    # The rest has no hyper-parameters, and PyTorch's names.
    plain_module: nn.Module = getattr(nn, placed.kind)()
    return plain_module


def _assembled(modules: list[tuple[str, nn.Module]]) -> nn.Module:
    names = [name for name, _ in modules]
    if names == [""]:
        return modules[0][1]
    if len(set(names)) < len(names) or "" in names:
        raise ShapeError(f"a model needs a name of its own for each layer, got {', '.join(map(repr, names))}")
    if not any("." in name for name in names):
        return nn.Sequential(OrderedDict(modules))
    return Chain(modules)


class Paths(nn.Module):
    """Modules at any paths, with empty modules as folders."""

    def _put(self, path: str, module: nn.Module) -> None:
        """Put a module at its path, and what lay there already into it."""
        *folders, name = path.split(".")
        parent: nn.Module = self
        for folder in folders:
            if folder not in parent._modules:
                _add(parent, folder, nn.Module())
            parent = parent.get_submodule(folder)
        for inner, other in dict(parent._modules.pop(name, nn.Module()).named_children()).items():  # type: ignore[union-attr]
            _add(module, inner, other)
        _add(parent, name, module)


def _add(parent: nn.Module, name: str, module: nn.Module) -> None:
    """Add a module; `ShapeError` where PyTorch has another use for the name."""
    try:
        parent.add_module(name, module)
    except KeyError as error:
        raise ShapeError(
            f"a module cannot be called {name!r} in PyTorch ({error}); give the layer another name"
        ) from None


class Chain(Paths):
    """Modules at any paths, called one after the other."""

    def __init__(self, modules: list[tuple[str, nn.Module]]) -> None:
        """Put every module at its path."""
        super().__init__()
        self._paths = [path for path, _ in modules]
        for path, module in modules:
            self._put(path, module)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last module."""
        for path in self._paths:
            x = self.get_submodule(path)(x)
        return x


class Graph(Paths):
    """Modules at any paths, each of which reads the values of some before it."""

    def __init__(self, steps: Sequence[Step]) -> None:
        """Put every module at its path."""
        super().__init__()
        self._steps = [(step.path, step.reads, step.makes) for step in steps]
        for step in steps:
            self._put(step.path, step.module)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last module."""
        values = {0: x}
        for path, reads, makes in self._steps:
            values[makes] = self.get_submodule(path)(*(values[number] for number in reads))
        return values[self._steps[-1][2]]
