"""Activations, dropout, pooling and arithmetic of a model, read as layers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from constraint_algebra import layers as kinds
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.base import Layer
from constraint_algebra.pytorch.graph import Fixed
from constraint_algebra.pytorch.place import Flow, Made, Place, Reader, constant_along_channels
from constraint_algebra.pytorch.unsupported import BY_HAND, EVALUATION, OWNER, PART, Unsupported, unsupported

_POOLS: dict[str, dict[int, Any]] = {
    "avg": {1: kinds.AvgPool1d, 2: kinds.AvgPool2d, 3: kinds.AvgPool3d},
    "max": {1: kinds.MaxPool1d, 2: kinds.MaxPool2d, 3: kinds.MaxPool3d},
    "adaptive_avg": {1: kinds.AdaptiveAvgPool1d, 2: kinds.AdaptiveAvgPool2d, 3: kinds.AdaptiveAvgPool3d},
    "adaptive_max": {1: kinds.AdaptiveMaxPool1d, 2: kinds.AdaptiveMaxPool2d, 3: kinds.AdaptiveMaxPool3d},
}


def _activation(at: Place, x: Flow, *args: Any, build: Callable[..., Layer], names: dict[str, Any], **kw: Any) -> Flow:
    """Read an activation; `names` are PyTorch's arguments that matter, with their defaults."""
    given = dict(zip(names, args, strict=False)) | kw
    try:
        layer = build(*(given.get(name, default) for name, default in names.items()))
    except ShapeError as error:
        raise Unsupported(str(error), PART) from None
    return at.add(layer, x)


def _leaky(slope: float) -> Layer:
    return kinds.LeakyReLU(slope) if slope else kinds.ReLU()


def _elu(alpha: float, scale: float, input_scale: float) -> Layer:
    if scale == input_scale == 1:
        return kinds.ELU(alpha)
    if input_scale != 1 or abs(scale - 1.0507009873554805) > 1e-9 or abs(alpha - 1.6732632423543772) > 1e-9:
        raise unsupported("scaled elu", "operation")
    return kinds.SELU()


def _celu(alpha: float) -> Layer:
    if alpha != 1:
        raise Unsupported("celu with another alpha than 1 bends at its kink", PART)
    return kinds.ELU()


def _threshold(threshold: float, value: float) -> Layer:
    if threshold or value:
        raise Unsupported("threshold with other numbers than 0 jumps", PART)
    return kinds.ReLU()


def _hardtanh(at: Place, x: Flow, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Flow:
    del inplace
    six = isinstance(at.call.module, nn.ReLU6) and (min_val, max_val) == (0, 6)
    return at.add(kinds.ReLU6() if six else kinds.Hardtanh(min_val, max_val), x)


def _clamp(at: Place, x: Flow, min: Any = None, max: Any = None) -> Flow:  # noqa: A002 -- PyTorch's names
    if isinstance(min, Flow | Fixed) or isinstance(max, Flow | Fixed):
        raise Unsupported("its bounds are tensors", PART)
    if max is None and min == 0:
        return at.add(kinds.ReLU(), x)
    if min is None or max is None:
        raise Unsupported("it has one bound, which is not 0 from below", PART)
    return at.add(kinds.Hardtanh(float(min), float(max)), x)


def _rrelu(at: Place, x: Flow, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any) -> Flow:
    if training:
        raise Unsupported("rrelu in training mode draws slopes that nobody else sees", EVALUATION)
    return at.add(kinds.LeakyReLU((lower + upper) / 2), x)


def _dropout(at: Place, x: Flow, p: float = 0.5, training: Any = None, **kw: Any) -> Flow:
    training = kw.get("train", training)
    usual = "alpha" not in at.call.function
    if not (usual if training is None else training) or not p:
        return x
    if "alpha" in at.call.function:
        raise Unsupported(
            "alpha dropout in training mode draws what it puts in the place of values, and nobody else sees it",
            f"{EVALUATION}, which draws nothing",
        )
    if p == 1:
        raise Unsupported("it drops every value, and nothing of the model below it has a gradient", EVALUATION)
    features = "feature" in at.call.function or at.call.function.endswith("d")
    return at.add(kinds.Dropout(float(p), features), x)


def _avg_pool(
    at: Place,
    x: Flow,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    axes: int = 2,
) -> Flow:
    if divisor_override is not None:
        raise Unsupported("it divides by a number of its own (divisor_override)", PART)
    layer = _POOLS["avg"][axes](
        _each(kernel_size),
        stride=_each(stride),
        padding=_each(padding),
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )
    return at.add(layer, x)


def _max_pool(
    at: Place,
    x: Flow,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    axes: int = 2,
) -> Flow:
    del return_indices  # with indices it has another name
    sizes = (_each(stride), _each(padding), _each(dilation))
    layer = _POOLS["max"][axes](
        _each(kernel_size), stride=sizes[0], padding=sizes[1], dilation=sizes[2], ceil_mode=ceil_mode
    )
    return at.add(layer, x)


def _adaptive(at: Place, x: Flow, output_size: Any, return_indices: bool = False, *, which: str, axes: int) -> Flow:
    del return_indices  # with indices it has another name
    return at.add(_POOLS[which][axes](_each(output_size)), x)


def _with_indices(at: Place, *args: Any, read: Reader, **kwargs: Any) -> Made:
    """Read a pooling whose indices come with it, and nothing reads these."""
    if at.call.outputs[1] in at.read:
        raise Unsupported("its indices (return_indices) are read, which are no values of the network", PART)
    flow = read(at, *args, **kwargs)
    assert isinstance(flow, Flow)
    return flow, flow


def _each(value: Any) -> Any:
    """Return one number for each axis: one for all where a single one came in a tuple, none for an empty one."""
    if isinstance(value, tuple) and len(value) < 2:
        return value[0] if value else None
    return value


def _sum(at: Place, x: Any, y: Any, *, alpha: float = 1, sign: int = 1, out: Any = None) -> Flow:
    """Read `x + alpha * y`, or `x - alpha * y`."""
    del out
    if isinstance(x, Flow) and isinstance(y, Flow):
        if alpha != 1:
            y = at.add(kinds.Scale(float(alpha)), y, suffix=".scale")
        return at.add(kinds.Add() if sign > 0 else kinds.Subtract(), x, y)
    flow, other = (x, y) if isinstance(x, Flow) else (y, x)
    numbers = _numbers(at, flow, other)
    if flow is x:
        return _scaled(at, flow, 1.0, _times(numbers, sign * alpha))
    return _scaled(at, flow, float(sign * alpha), numbers)


def _reversed_difference(at: Place, x: Flow, y: Any, alpha: float = 1) -> Flow:
    """Read `y - alpha * x`."""
    if isinstance(y, Flow):
        return _sum(at, y, x, alpha=alpha, sign=-1)
    return _scaled(at, x, -float(alpha), _numbers(at, x, y))


def _product(at: Place, x: Any, y: Any, out: Any = None) -> Flow:
    del out
    if isinstance(x, Flow) and isinstance(y, Flow):
        for value, gate in ((x, y), (y, x)):
            layer = _gated(at, value.name, gate.name)
            if layer is not None:
                return at.add(layer, value)
    flow, other = (x, y) if isinstance(x, Flow) else (y, x)
    return _scaled(at, flow, _numbers(at, flow, other), 0.0)


def _gated(at: Place, value: str, gate: str) -> Layer | None:
    """Return the activation that a value times a function of itself is, `None` if none: SiLU and Mish by hand."""
    layer, below = _made_by(at, gate)
    if layer == kinds.Sigmoid() and below == value:
        return kinds.SiLU()
    if layer == kinds.Tanh() and _made_by(at, below) == (kinds.Softplus(), value):
        return kinds.Mish()
    return None


def _made_by(at: Place, name: str) -> tuple[Layer | None, str]:
    """Return the layer that makes a value, `None` for the model's input, and the first value that it reads."""
    layer, reads = at.entries.get(name, (None, ("",)))
    return layer, reads[0]


def _quotient(at: Place, x: Any, y: Any, *, rounding_mode: str | None = None, out: Any = None) -> Flow:
    del out
    if rounding_mode is not None:
        raise Unsupported(f"it rounds a quotient ({rounding_mode})", PART)
    if not isinstance(x, Flow) or isinstance(y, Flow):
        raise Unsupported("it divides by a value of the network", PART)
    numbers = _numbers(at, x, y)
    if 0 in (numbers if isinstance(numbers, tuple) else (numbers,)):
        raise Unsupported("it divides by zero", PART)
    inverse = tuple(1 / n for n in numbers) if isinstance(numbers, tuple) else 1 / numbers
    return _scaled(at, x, inverse, 0.0)


def _negative(at: Place, x: Flow) -> Flow:
    return _scaled(at, x, -1.0, 0.0)


def _scaled(at: Place, x: Flow, factor: Any, shift: Any) -> Flow:
    return x if (factor, shift) == (1.0, 0.0) else at.add(kinds.Scale(factor, shift), x)


def _times(numbers: Any, factor: float) -> Any:
    return tuple(factor * n for n in numbers) if isinstance(numbers, tuple) else factor * numbers


def _numbers(at: Place, flow: Flow, other: Any) -> Any:
    """Return what a value is added to or multiplied with, as numbers; `Unsupported` for anything but constants."""
    if isinstance(other, Flow):
        raise unsupported(f"matmul of two values ({at.call.function})", "operation")
    if not isinstance(other, Fixed):
        return float(operator.pos(other))
    if other.kind == "constant" and other.differentiable:
        raise Unsupported(
            "a tensor in it has a gradient and is no parameter of the model: values were written into it, a function"
            " that a run does not show made it of them, or it is a parameter in a plain list",
            BY_HAND,
        )
    if other.kind == "random":
        raise Unsupported("it draws random numbers that nobody else sees", PART)
    if other.kind in {"parameter", "computed"}:
        raise Unsupported(
            f"{OWNER}, {other.name}" if other.kind == "parameter" else "it uses what is computed from parameters",
            BY_HAND,
        )
    return constant_along_channels(flow, other.tensor)


def _mean(at: Place, x: Flow, dim: Any = None, keepdim: bool = False, *, total: bool = False, **_: Any) -> Flow:
    """Read a mean, or a sum, over some axes."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim or range(len(x.tensor)))
    axes = sorted(x.axis(d) for d in dims)
    flow = at.add(kinds.Mean(axes, keepdims=keepdim), x)
    if total:
        count = float(torch.Size([x.shape[axis] for axis in axes]).numel())
        flow = at.add(kinds.Scale(count), flow, suffix=".count")
    return flow


def _at_the_end(at: Place, x: Flow, dim: Any = None, *_: Any, **__: Any) -> Made:
    """Leave a softmax at the end of the model to the loss."""
    vector = len(x.shape) == 1 and (dim is None or x.axis(dim) == 0)
    if not at.is_output or not vector:
        raise unsupported(at.call.function, "operation")
    at.loss_part = at.call.function
    return x


def _rule(build: Callable[..., Layer], **names: Any) -> Reader:
    return partial(_activation, build=build, names=names)


READERS: dict[str, Reader] = {
    "Identity": _rule(kinds.Identity),
    "relu": _rule(kinds.ReLU),
    "leaky_relu": _rule(_leaky, negative_slope=0.01),
    **dict.fromkeys(("sigmoid", "special_expit"), _rule(kinds.Sigmoid)),
    "tanh": _rule(kinds.Tanh),
    "elu": _rule(_elu, alpha=1.0, scale=1.0, input_scale=1.0),
    "celu": _rule(_celu, alpha=1.0),
    "selu": _rule(kinds.SELU),
    "softplus": _rule(kinds.Softplus, beta=1.0, threshold=20.0),
    "softsign": _rule(kinds.Softsign),
    "silu": _rule(kinds.SiLU),
    "gelu": _rule(kinds.GELU, approximate="none"),
    "mish": _rule(kinds.Mish),
    "hardswish": _rule(kinds.Hardswish),
    "relu6": _rule(kinds.ReLU6),
    **dict.fromkeys(("threshold", "_threshold"), _rule(_threshold, threshold=0.0, value=0.0)),
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp,
    "rrelu": _rrelu,
    **{f"{kind}dropout": _dropout for kind in ("", "alpha_", "feature_", "feature_alpha_")},
    **{f"dropout{n}d": _dropout for n in (1, 2, 3)},
    **{f"avg_pool{n}d": partial(_avg_pool, axes=n) for n in (1, 2, 3)},
    **{f"max_pool{n}d": partial(_max_pool, axes=n) for n in (1, 2, 3)},
    **{
        f"adaptive_{k}_pool{n}d": partial(_adaptive, which=f"adaptive_{k}", axes=n)
        for k in ("avg", "max")
        for n in (1, 2, 3)
    },
    **{f"max_pool{n}d_with_indices": partial(_with_indices, read=partial(_max_pool, axes=n)) for n in (1, 2, 3)},
    **{
        f"adaptive_max_pool{n}d_with_indices": partial(
            _with_indices, read=partial(_adaptive, which="adaptive_max", axes=n)
        )
        for n in (1, 2, 3)
    },
    **dict.fromkeys(("add", "__radd__"), _sum),
    **dict.fromkeys(("sub", "subtract"), partial(_sum, sign=-1)),
    **dict.fromkeys(("rsub", "__rsub__"), _reversed_difference),
    **dict.fromkeys(("mul", "multiply", "__rmul__"), _product),
    **dict.fromkeys(("div", "divide", "true_divide"), _quotient),
    **dict.fromkeys(("neg", "negative"), _negative),
    "mean": _mean,
    "sum": partial(_mean, total=True),
    **dict.fromkeys(("softmax", "log_softmax"), _at_the_end),
}
