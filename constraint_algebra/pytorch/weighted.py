"""Operations with parameters, read as layers: convolutions, linear layers, trained slopes."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from constraint_algebra import layers as kinds
from constraint_algebra.layers.base import Layer
from constraint_algebra.pytorch.place import Flow, Place, Reader
from constraint_algebra.pytorch.unsupported import BY_HAND, PART, Unsupported

_CONVS = {1: kinds.Conv1d, 2: kinds.Conv2d, 3: kinds.Conv3d}
_TRANSPOSED = {1: kinds.ConvTranspose1d, 2: kinds.ConvTranspose2d, 3: kinds.ConvTranspose3d}


def _conv(
    at: Place,
    x: Flow,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Flow:
    owner = at.owner(weight, bias)
    filters, _, *kernel = weight.tensor.shape
    layer = _CONVS[len(kernel)](
        filters,
        tuple(kernel),
        stride=_each(stride),
        padding=_each(padding),
        dilation=_each(dilation),
        groups=groups,
        bias=bias is not None,
    )
    return owned(at, owner, layer, x)


def _conv_transpose(
    at: Place,
    x: Flow,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Flow:
    owner = at.owner(weight, bias)
    _, filters, *kernel = weight.tensor.shape
    layer = _TRANSPOSED[len(kernel)](
        filters * groups,
        tuple(kernel),
        stride=_each(stride),
        padding=_each(padding),
        output_padding=_each(output_padding),
        dilation=_each(dilation),
        groups=groups,
        bias=bias is not None,
    )
    return owned(at, owner, layer, x)


def _linear(at: Place, x: Flow, weight: Any, bias: Any = None) -> Flow:
    owner = at.owner(weight, bias)
    if len(x.shape) != 1:
        places = "×".join(map(str, x.shape[:-1]))
        raise Unsupported(
            f"it is applied at each of {places} places of {x.shape}, and only a linear layer of one vector has "
            "equations here; a convolution with kernel 1 is the same operation with channels first",
            PART,
        )
    return owned(at, owner, kinds.Linear(weight.tensor.shape[0], bias=bias is not None), x)


def _prelu(at: Place, x: Flow, weight: Any) -> Flow:
    owner = at.owner(weight)
    return owned(at, owner, kinds.PReLU(math.prod(weight.tensor.shape)), x)


def _operation(at: Place, *inputs: Flow) -> Flow:
    """Take the layer of an `Operation` as it is."""
    module: Any = at.call.module
    names = [f"{at.call.path}.{name}" for name, _ in module.named_parameters()]
    if at.used & set(names):
        raise Unsupported("its parameters are used more than once, so their gradient is a sum", PART)
    at.used |= set(names)
    return at.add(module.layer, *inputs)


def owned(at: Place, owner: str, layer: Layer, x: Flow) -> Flow:
    """Add a layer under the path of the module that owns its parameters."""
    if owner in at.entries:
        raise Unsupported(f"another layer is called {owner!r} already", BY_HAND)
    return at.add(layer, x, name=owner)


def _each(value: Any) -> Any:
    """Return one number for each axis, or one for all where a single one came in a tuple."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def is_in_conv(module: nn.Module | None) -> bool:
    """Return whether a call belongs to a convolution."""
    return isinstance(module, nn.modules.conv._ConvNd)


READERS: dict[str, Reader] = {
    **{f"conv{n}d": _conv for n in _CONVS},
    **{f"conv_transpose{n}d": _conv_transpose for n in _CONVS},
    "linear": _linear,
    "prelu": _prelu,
    "Operation": _operation,
}
