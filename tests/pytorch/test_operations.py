"""Every kind of operation that is read: its values and its derivatives are PyTorch's, over random geometries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra import layers as kinds
from tests.pytorch.judge import Forward, agree

Draw = Callable[[int, int], int]


def behind(operation: Any, shape: tuple[int, ...], **modules: nn.Module) -> nn.Module:
    """A model with layers around an operation, a module or a function of the value before it."""
    first = {2: nn.Conv1d, 3: nn.Conv2d, 4: nn.Conv3d}[len(shape)](shape[0], shape[0], 1)
    named = {"operation": operation} if isinstance(operation, nn.Module) else modules

    def features(m, x):
        y = torch.tanh(m.first(x))
        return torch.flatten(m.operation(y) if isinstance(operation, nn.Module) else operation(m, y), 1)

    width = features(Forward(None, first=first, **named).eval(), torch.zeros(1, *shape)).shape[1]
    head = nn.Linear(width, 3)
    return Forward(lambda m, x: m.head(features(m, x)), first=first, head=head, **named)


def plane(draw: Draw, least: int = 4) -> tuple[int, ...]:
    return (2 * draw(1, 2), draw(least, 7), draw(least, 7))


def spaces(draw: Draw, axes: int) -> tuple[int, ...]:
    return (2 * draw(1, 2), *(draw(4, 6) for _ in range(axes)))


def statistics(norm: nn.Module) -> nn.Module:
    """Batch norm as if it had seen data."""
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.3, 2.0)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


def _pool(kind: str, draw: Draw) -> tuple[Any, tuple[int, ...]]:
    axes = draw(1, 3)
    kernel = tuple(draw(2, 3) for _ in range(axes))
    settings: dict[str, Any] = {
        "stride": tuple(draw(1, 3) for _ in range(axes)),
        "padding": tuple(draw(0, 1) for _ in range(axes)),
        "ceil_mode": bool(draw(0, 1)),
    }
    if kind == "Max":
        settings["dilation"] = draw(1, 2)
        kernel = kernel if settings["dilation"] == 1 else (2,) * axes  # what is larger than the input is no case
    else:
        settings["count_include_pad"] = bool(draw(0, 1))
    return getattr(nn, f"{kind}Pool{axes}d")(kernel, **settings), spaces(draw, axes)


def _conv_transpose(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    axes, stride = draw(1, 3), draw(2, 3)
    shape = spaces(draw, axes)
    module = getattr(nn, f"ConvTranspose{axes}d")(
        shape[0],
        2 * draw(1, 2),
        tuple(draw(2, 4) for _ in range(axes)),
        stride=stride,
        padding=draw(0, 1),
        output_padding=draw(0, stride - 1),
        dilation=draw(1, 2),
        groups=draw(1, 2),
        bias=bool(draw(0, 1)),
    )
    return module, shape


def _padded_conv(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    shape = plane(draw)
    mode = ("reflect", "replicate", "circular")[draw(0, 2)]
    return nn.Conv2d(shape[0], 3, draw(1, 3), padding=draw(1, 2), padding_mode=mode), shape


def _pad(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    sides = [draw(0, 2) for _ in range(4)]
    case = draw(0, 5)
    modes = ("reflect", "replicate", "circular")
    if case < 3:
        return (lambda _, y: functional.pad(y, sides, mode=modes[case])), plane(draw)
    if case == 3:
        return (lambda _, y: functional.pad(y, sides, value=0.5)), plane(draw)
    if case == 4:  # zeros around, the channels too, and a part cut off
        return (lambda _, y: functional.pad(y, [-1, *sides[:2], -2, 1, 2])), plane(draw)
    return (nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)[draw(0, 2)](tuple(sides)), plane(draw)


def _permuted(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    functions = [
        lambda _, y: y.permute(0, 3, 1, 2),
        lambda _, y: torch.permute(y, (0, 2, 3, 1)),
        lambda _, y: y.transpose(1, -1),
        lambda _, y: y.mT,
        lambda _, y: torch.movedim(y, 1, 3),
    ]
    return functions[draw(0, 4)], plane(draw)


def _sliced(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    a, step = draw(0, 2), draw(1, 3)
    functions = [
        lambda _, y: y[:, :, a::step, ::2],
        lambda _, y: y[..., a],
        lambda _, y: y[:, -1],
        lambda _, y: y[:, None, :1, a : a + 2],
        lambda _, y: y.narrow(2, a, 2),
        lambda _, y: y.select(3, a),
        lambda _, y: torch.flip(y, (2,)),
    ]
    return functions[draw(0, 6)], plane(draw)


def _parts(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    def chunks(_, y):
        a, b = y.chunk(2, 1)
        return a - b

    def split(_, y):
        a, b = torch.split(y, [1, y.shape[1] - 1], dim=1)
        return torch.cat([b, a, a], 1)

    def unbound(_, y):
        rows = y.unbind(2)
        return torch.stack([rows[1], rows[0]], dim=1)

    return (chunks, split, unbound)[draw(0, 2)], plane(draw)


def _reshaped(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    functions = [
        lambda _, y: y.view(y.size(0), -1, 2),
        lambda _, y: y.reshape(len(y), y.shape[1] // 2, 2, *y.shape[2:]),
        lambda _, y: y.flatten(2).unsqueeze(1),
        lambda _, y: y.unflatten(1, (2, -1)),
        lambda _, y: y[:, :1].squeeze(1),
        lambda _, y: y.expand_as(y).contiguous().clone(),
    ]
    return functions[draw(0, 5)], plane(draw)


def _arithmetic(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    shape = plane(draw)
    by_channel = torch.rand(shape[0], 1, 1, dtype=torch.float64) + 0.5
    functions = [
        lambda _, y: (y / 255 - by_channel) / by_channel,
        lambda _, y: 1 - 2 * y,
        lambda _, y: -y + y.mul(0.3).add(1.5),
        lambda _, y: torch.sub(y, y.tanh(), alpha=0.5),
        lambda _, y: torch.add(y.sigmoid(), y, alpha=2),
        lambda _, y: by_channel - y.true_divide(3),
        lambda _, y: y + y.relu() - y.tanh() * 0.1,
        lambda _, y: sum([y, y.relu(), y.tanh()]),
    ]
    return functions[draw(0, 7)], shape


def _in_place(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    def shortcut_changed(_, y):  # what goes by is the rectified value, which a symbolic trace misses
        z = 2 * y
        return functional.relu(z, inplace=True).sigmoid() + z

    def added(_, y):
        z = 3 * y
        z += y.sigmoid()
        z *= 0.5
        return z.relu_().tanh() - z

    return (shortcut_changed, added)[draw(0, 1)], plane(draw)


def _means(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    functions = [
        lambda _, y: y.mean((2, 3)),
        lambda _, y: torch.mean(y, dim=[-1, -2], keepdim=True),
        lambda _, y: y.mean(1),
        lambda _, y: y.sum(-1),
        lambda _, y: functional.avg_pool2d(y, y.shape[2:]),
        lambda _, y: functional.adaptive_avg_pool2d(y, (2, None)),
        lambda _, y: functional.adaptive_max_pool2d(y, 3),
    ]
    return functions[draw(0, 6)], plane(draw)


def _enlarged(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    modules = [nn.Upsample(scale_factor=draw(1, 3)), nn.UpsamplingNearest2d(scale_factor=2)]
    functions = [
        lambda _, y: functional.interpolate(y, scale_factor=(2.0, 3.0)),
        lambda _, y: functional.interpolate(y, size=(2 * y.shape[2], y.shape[3])),
    ]
    return [*modules, *functions][draw(0, 3)], plane(draw)


def _shuffled(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    cases = [
        (nn.PixelShuffle(2), (8, 3, 4)),
        (lambda _, y: functional.pixel_unshuffle(y, 2), (2, 4, 6)),
        (nn.ChannelShuffle(2), (6, 3, 2)),
    ]
    return cases[draw(0, 2)]


def _norm(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    axes = draw(1, 3)
    shape = spaces(draw, axes)
    kind = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 1]
    return statistics(kind(shape[0], eps=10.0 ** -draw(2, 5), affine=bool(draw(0, 3)))), shape


def _functional_weights(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    shape = plane(draw)
    cases = [
        (lambda m, y: functional.conv2d(y, m.inner.weight, m.inner.bias, padding=1), nn.Conv2d(shape[0], 2, 3)),
        (lambda m, y: functional.linear(y.flatten(1), m.inner.weight, m.inner.bias), nn.Linear(int(np.prod(shape)), 4)),
        (lambda m, y: functional.prelu(y, m.inner.weight), nn.PReLU(shape[0])),
    ]
    function, inner = cases[draw(0, 2)]
    return function, shape, {"inner": inner}


def _drop(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    cases = [
        nn.Dropout2d(0.5),
        nn.AlphaDropout(),
        lambda m, y: functional.dropout(y, 0.3, m.training),
        lambda m, y: functional.dropout2d(y, training=m.training),
        lambda _, y: functional.alpha_dropout(y),
    ]
    return cases[draw(0, 4)], plane(draw)


def _activated(draw: Draw) -> tuple[Any, tuple[int, ...]]:
    cases = [
        nn.PReLU(),
        nn.RReLU(),
        nn.CELU(),
        nn.Threshold(0, 0),
        lambda _, y: y.clamp(min=0),
        lambda _, y: torch.clamp(y, -0.2, 0.4),
        lambda _, y: functional.threshold(y, 0, 0),
    ]
    return cases[draw(0, 6)], plane(draw)


CASES: dict[str, Callable[[Draw], Any]] = {
    "max-pool": lambda draw: _pool("Max", draw),
    "average pool": lambda draw: _pool("Avg", draw),
    "means and adaptive pools": _means,
    "transposed convolution": _conv_transpose,
    "convolution with another padding": _padded_conv,
    "padding": _pad,
    "permutation": _permuted,
    "slice": _sliced,
    "parts": _parts,
    "reshape": _reshaped,
    "arithmetic": _arithmetic,
    "in place": _in_place,
    "enlargement": _enlarged,
    "shuffle": _shuffled,
    "batch norm": _norm,
    "functional weights": _functional_weights,
    "dropout": _drop,
    "activation": _activated,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_are_those_of_autograd(case, seed) -> None:
    rng = np.random.default_rng([seed, list(CASES).index(case)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        operation, shape, *more = CASES[case](lambda low, high: int(rng.integers(low, high + 1)))
        model = behind(operation, shape, **(more[0] if more else {}))
    agree(model, shape, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 40))
@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_are_those_of_autograd_often(case, seed) -> None:
    test_values_and_derivatives_are_those_of_autograd(case, seed)


def test_a_module_called_twice_counts_once_for_each_call() -> None:
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    model = Forward(
        lambda m, x: m.head(m.pool(m.act(m.b(m.pool(m.act(m.a(x)))))).flatten(1)),
        a=nn.Conv2d(1, 2, 3),
        b=nn.Conv2d(2, 3, 3),
        act=relu,
        pool=pool,
        head=nn.Linear(12, 3),
    )
    network = agree(model, (1, 14, 14))
    assert [layer.name for layer in network] == ["a", "act", "pool", "b", "act_1", "pool_1", "flatten", "head"]


def test_the_graph_reads_what_the_model_reads() -> None:
    model = Forward(
        lambda m, x: m.head((m.b(torch.relu(m.a(x))) + m.side(x)).flatten(1)),
        a=nn.Conv2d(2, 3, 3, padding=1),
        b=nn.Conv2d(3, 3, 3, padding=1, bias=False),
        side=nn.Conv2d(2, 3, 1),
        head=nn.Linear(48, 2),
    )
    network = agree(model, (2, 4, 4))
    assert {x.name: [network.value_name(number) for number in x.inputs] for x in network} == {
        "a": ["input"],
        "relu": ["a"],
        "b": ["relu"],
        "side": ["input"],
        "add": ["b", "side"],
        "flatten": ["add"],
        "head": ["flatten"],
    }
    assert not network.is_chain


def test_zero_padding_that_several_convolutions_read_becomes_part_of_each() -> None:
    def forward(m, x):
        y = functional.pad(x, (1, 1, 0, 2))
        return m.head(torch.cat([m.a(y), m.b(y)], 1).flatten(1))

    modules = {"a": nn.Conv2d(1, 2, 3), "b": nn.Conv2d(1, 3, 3), "head": nn.Linear(5 * 4 * 4, 2)}
    network = agree(Forward(forward, **modules), (1, 4, 4))
    assert network.named("a").layer.paddings == network.named("b").layer.paddings == ((0, 2), (1, 1))
    assert "Pad" not in [layer.kind for layer in network]


def test_zero_padding_of_channels_stays_a_layer() -> None:
    def forward(m, x):
        return m.head(m.a(functional.pad(x, (1, 0, 0, 1, 1, 2))).flatten(1))

    network = agree(Forward(forward, a=nn.Conv2d(5, 2, 2), head=nn.Linear(32, 2)), (2, 4, 4))
    assert [layer.kind for layer in network] == ["Pad", "Conv2d", "Flatten", "Linear"]


def test_zero_padding_that_something_else_reads_stays_a_layer() -> None:
    def forward(m, x):
        y = functional.pad(x, (1, 1, 1, 1))
        return m.head((m.a(y) + y[:, :, 1:-1, 1:-1]).flatten(1))

    network = agree(Forward(forward, a=nn.Conv2d(1, 1, 3), head=nn.Linear(16, 2)), (1, 4, 4))
    assert [layer.kind for layer in network].count("Pad") == 1


def test_every_layer_that_can_be_written_becomes_a_model_and_comes_back() -> None:
    """Also those that no model of PyTorch's has, such as a scale for each channel alone and maxout."""
    layers = {
        "prepare": kinds.Normalise((0.4, 0.5), (0.2, 0.3)),
        "stem.conv": kinds.Conv2d(4, 3, padding=((1, 0), (2, 1))),
        "stem.norm": kinds.BatchNorm(affine=False),
        "scale": kinds.ChannelScale(),
        "only": kinds.ChannelScale(bias=False),
        "maxout": kinds.Maxout(2),
        "pad": kinds.Pad(((1, 2),), mode="circular"),
        "up": kinds.ConvTranspose2d(4, 3, stride=2, padding=1, output_padding=1, groups=2),
        "slope": kinds.PReLU(4),
        "shuffle": kinds.PixelShuffle(2),
        "back": kinds.PixelUnshuffle(2),
        "cut": kinds.Slice(((0, 4, 1), (0, 6, 2))),
        "larger": kinds.Upsample((2, 1)),
        "less": (kinds.Subtract(), "larger", "larger"),
        "all": (kinds.Concatenate(2), "larger", "less", "larger"),
        "mean": kinds.Mean((1,), keepdims=True),
        "turned": kinds.Permute((2, 0, 1)),
        "scaled": kinds.Scale(0.5, 1.0),
        "flat": kinds.Flatten(),
        "head": kinds.Linear(3),
    }
    network = ca.Network((2, 6, 6), layers)
    model = ca.to_torch(network, seed=3)
    assert not model.training
    assert bool((model.slope.weight >= 0).all())  # so that an output tells its input
    state = model.state_dict()
    assert all(tuple(state[name].shape) == shape for name, shape in network.parameter_shapes.items())
    assert all(tuple(state[name].shape) == shape for name, shape in network.buffer_shapes.items())
    assert agree(model, (2, 6, 6)) == network
