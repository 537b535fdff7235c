"""Models to networks: PyTorch itself says what a model computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra import layers as kinds
from constraint_algebra.gradients import torch_gradients
from constraint_algebra.tracing import from_torch


class Forward(nn.Module):
    """A model made of submodules and a function of itself and the input."""

    def __init__(self, forward, **modules) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 4, 3)


def outputs_agree(model: nn.Module, input_shape: tuple[int, ...]) -> ca.Network:
    """Check the network's output against PyTorch's in float64, and return the network."""
    model = model.double()
    network, parameters = from_torch(model, input_shape)
    x = np.random.default_rng(3).uniform(-2, 2, input_shape)
    expected = model(torch.from_numpy(x[None])).detach().numpy()[0]
    np.testing.assert_allclose(network.forward(parameters, x)[-1], expected, rtol=0, atol=1e-10)
    assert set(parameters) == {name for name, _ in model.named_parameters()}
    return network


ACTIVATIONS = {
    "nn.ReLU": (nn.ReLU(), kinds.ReLU()),
    "nn.ReLU(inplace)": (nn.ReLU(inplace=True), kinds.ReLU()),
    "nn.LeakyReLU": (nn.LeakyReLU(0.2), kinds.LeakyReLU(0.2)),
    "nn.LeakyReLU of slope 0 is ReLU": (nn.LeakyReLU(0.0), kinds.ReLU()),
    "nn.Sigmoid": (nn.Sigmoid(), kinds.Sigmoid()),
    "nn.Tanh": (nn.Tanh(), kinds.Tanh()),
    "nn.ELU": (nn.ELU(0.7), kinds.ELU(0.7)),
    "nn.SELU": (nn.SELU(), kinds.SELU()),
    "nn.Softplus": (nn.Softplus(2.0, 3.0), kinds.Softplus(2.0, 3.0)),
    "nn.Softsign": (nn.Softsign(), kinds.Softsign()),
    "nn.Hardtanh": (nn.Hardtanh(-0.5, 2.0), kinds.Hardtanh(-0.5, 2.0)),
    "nn.ReLU6": (nn.ReLU6(), kinds.ReLU6()),
    "nn.Identity": (nn.Identity(), kinds.Identity()),
    "torch.relu": (torch.relu, kinds.ReLU()),
    "torch.relu_": (torch.relu_, kinds.ReLU()),
    "F.relu(inplace)": (lambda x: functional.relu(x, True), kinds.ReLU()),
    "x.relu()": (lambda x: x.relu(), kinds.ReLU()),
    "x.relu_()": (lambda x: x.relu_(), kinds.ReLU()),
    "F.leaky_relu by default": (functional.leaky_relu, kinds.LeakyReLU(0.01)),
    "F.leaky_relu(x, a)": (lambda x: functional.leaky_relu(x, 0.3), kinds.LeakyReLU(0.3)),
    "F.leaky_relu(x, negative_slope=a)": (
        lambda x: functional.leaky_relu(x, negative_slope=0.3, inplace=True),
        kinds.LeakyReLU(0.3),
    ),
    "F.leaky_relu of slope 0": (lambda x: functional.leaky_relu(x, 0.0), kinds.ReLU()),
    "torch.sigmoid": (torch.sigmoid, kinds.Sigmoid()),
    "torch.special.expit": (torch.special.expit, kinds.Sigmoid()),
    "x.sigmoid()": (lambda x: x.sigmoid(), kinds.Sigmoid()),
    "torch.tanh": (torch.tanh, kinds.Tanh()),
    "x.tanh()": (lambda x: x.tanh(), kinds.Tanh()),
    "F.elu(x, a)": (lambda x: functional.elu(x, 0.5), kinds.ELU(0.5)),
    "F.selu": (functional.selu, kinds.SELU()),
    "F.softplus(x, beta)": (lambda x: functional.softplus(x, 2.0), kinds.Softplus(2.0)),
    "F.softplus(x, beta, threshold)": (
        lambda x: functional.softplus(x, beta=2.0, threshold=1.0),
        kinds.Softplus(2.0, 1.0),
    ),
    "F.softsign": (functional.softsign, kinds.Softsign()),
    "F.hardtanh(x, low, high)": (lambda x: functional.hardtanh(x, -2.0, 1.5), kinds.Hardtanh(-2.0, 1.5)),
    "F.relu6": (functional.relu6, kinds.ReLU6()),
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_activations_as_modules_functions_and_methods(case) -> None:
    activation, expected = ACTIVATIONS[case]
    if isinstance(activation, nn.Module):
        model = nn.Sequential(nn.Linear(5, 8), activation, nn.Linear(8, 2))
    else:
        model = Forward(lambda m, x: m.b(activation(m.a(x))), a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert outputs_agree(model, (5,))[1].layer == expected


# Every way of joining all axes but the first, from 4×2×2 to 16 values.
FLATTENINGS = {
    "nn.Flatten": nn.Flatten(),
    "nn.Flatten by numbers": nn.Flatten(1, 3),
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "x.flatten": lambda x: x.flatten(start_dim=1),
    "view of x.size(0)": lambda x: x.view(x.size(0), -1),
    "view of a shape": lambda x: x.view(x.shape[0], -1),
    "view by numbers": lambda x: x.view(-1, 16),
    "reshape with arithmetic on sizes": lambda x: x.reshape(x.size(0), x.size(1) * x.shape[2] * x.size()[3]),
    "torch.reshape": lambda x: torch.reshape(x, (x.ndim - 3, -1)),
    "after contiguous": lambda x: x.contiguous().view(x.size(0), -1),
}


@pytest.mark.parametrize("case", FLATTENINGS)
def test_reshapes_that_join_all_axes_but_the_first(case) -> None:
    flatten = FLATTENINGS[case]
    modules = {"conv": nn.Conv2d(1, 4, 3), "head": nn.Linear(16, 3)}
    if isinstance(flatten, nn.Module):
        modules["flat"] = flatten
    model = Forward(lambda m, x: m.head(getattr(m, "flat", flatten)(m.conv(x))), **modules)
    network = outputs_agree(model, (1, 4, 4))
    assert [layer.kind for layer in network] == ["Conv2d", "Flatten", "Linear"]
    assert network[0].name == "conv"
    assert network[2].name == "head"


def test_a_size_taken_from_an_earlier_value_is_no_branch() -> None:
    def forward(m, x):
        batch = x.size(0)
        return m.head(m.conv(x).view(batch, -1))

    outputs_agree(Forward(forward, conv=nn.Conv2d(1, 4, 3), head=nn.Linear(16, 3)), (1, 4, 4))


def test_a_reshape_to_the_same_shape_counts_as_nothing() -> None:
    model = Forward(lambda m, x: m.conv(x.view(-1, 1, 4, 4)), conv=nn.Conv2d(1, 4, 3))
    assert [layer.kind for layer in outputs_agree(model, (1, 4, 4))] == ["Conv2d"]


# (model, input shape, padding of its only convolution)
PADDINGS = {
    "nn.ZeroPad2d, last axis first": (
        nn.Sequential(nn.ZeroPad2d((1, 2, 3, 0)), nn.Conv2d(1, 2, 3)),
        (1, 5, 4),
        ((3, 0), (1, 2)),
    ),
    "adds to the convolution's own": (
        nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(1, 2, 3, padding=(1, 2))),
        (1, 5, 4),
        ((1, 2), (2, 3)),
    ),
    "two in a row, dropout between": (
        nn.Sequential(nn.ZeroPad1d(1), nn.Dropout(), nn.ConstantPad1d((0, 2), 0.0), nn.Conv1d(1, 2, 3)).eval(),
        (1, 5),
        ((1, 3),),
    ),
    "F.pad": (
        Forward(lambda m, x: m.conv(functional.pad(x, (0, 1, 2, 3))), conv=nn.Conv2d(1, 2, 3)),
        (1, 4, 4),
        ((2, 3), (0, 1)),
    ),
    "F.pad of the last axis alone": (
        Forward(lambda m, x: m.conv(functional.pad(x, [1, 0], value=0.0)), conv=nn.Conv3d(1, 2, 2)),
        (1, 3, 3, 3),
        ((0, 0), (0, 0), (1, 0)),
    ),
    'padding="same" with an even kernel': (
        nn.Sequential(nn.Conv2d(1, 2, (4, 3), padding="same", dilation=(1, 2))),
        (1, 6, 6),
        ((1, 2), (2, 2)),
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # PyTorch's remark on even kernels
@pytest.mark.parametrize("case", PADDINGS)
def test_zero_padding_becomes_part_of_the_convolution(case) -> None:
    model, input_shape, padding = PADDINGS[case]
    network = outputs_agree(model, input_shape)
    assert len(network) == 1
    assert network[0].layer.paddings == padding


CHAINS = {
    "nested containers": (
        nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 3, groups=1), nn.ReLU())), nn.Flatten()),
        (3, 4, 4),
        ["0.0.0", "0.0.1", "1"],
    ),
    "order of calls, not of registration": (
        Forward(lambda m, x: m.a(m.b(x)), a=nn.Linear(4, 2), b=nn.Linear(3, 4)),
        (3,),
        ["b", "a"],
    ),
    "a bare layer": (nn.Linear(3, 2), (3,), [""]),
    "a loop over a ModuleList": (
        Forward(
            lambda m, x: [x := layer(x) for layer in m.layers][-1], layers=nn.ModuleList([nn.Linear(3, 3), nn.Tanh()])
        ),
        (3,),
        ["layers.0", "layers.1"],
    ),
    "one activation object, used twice": (
        Forward(lambda m, x: m.act(m.b(m.act(m.a(x)))), a=nn.Linear(3, 3), b=nn.Linear(3, 3), act=nn.Tanh()),
        (3,),
        ["a", "act", "b", "act_1"],
    ),
    "a subclass that keeps its forward pass": (
        nn.Sequential(type("Mine", (nn.Linear,), {})(3, 2)),
        (3,),
        ["0"],
    ),
    "dropout in evaluation mode": (
        nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.AlphaDropout(0.1)).eval(),
        (3,),
        ["0"],
    ),
    "dropout of nothing": (nn.Sequential(nn.Dropout2d(0.0), nn.Conv2d(3, 2, 1)), (3, 2, 2), ["1"]),
    "functional dropout": (
        Forward(lambda m, x: functional.dropout(m.a(x), 0.4, training=m.training), a=nn.Linear(3, 2)).eval(),
        (3,),
        ["a"],
    ),
    "strides, dilation and groups": (
        nn.Sequential(nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 3), (1, 2), 2, bias=False)),
        (4, 7, 6),
        ["0"],
    ),
}


@pytest.mark.parametrize("case", CHAINS)
def test_plain_chains(case) -> None:
    model, input_shape, names = CHAINS[case]
    assert [layer.name for layer in outputs_agree(model, input_shape)] == names


def hooked(model: nn.Module) -> nn.Module:
    model[0].register_forward_hook(lambda _module, _args, output: output * 2)
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


@torch.fx.wrap
def relu(x):  # a foreign function of a familiar name
    return x * 2


def branch_on_values(m, x):
    return m.a(x) if x.sum() > 0 else m.a(-x)


def with_unused_result(m, x):
    m.act(x)
    return m.a(x)


def unused(a: nn.Module) -> nn.Module:
    return Forward(lambda m, x: m.a(x), a=a, spare=nn.Linear(2, 2, bias=False))


two_convs = {"a": nn.Conv2d(3, 3, 1), "b": nn.Conv2d(3, 3, 1)}
# (model, path of the problem, words of its reason, words of its advice); every input is 3×6×6
UNSUPPORTED = {
    "residual": (Forward(lambda m, x: m.a(x) + x, a=conv()), "add", "a and x", "residual"),
    "branches": (Forward(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), **two_convs), "b", "from x", "branches"),
    "unused result": (Forward(with_unused_result, a=conv(), act=nn.ReLU()), "a", "from x", "unused"),
    "two outputs": (Forward(lambda m, x: (m.a(x), x), a=conv()), "output", "more or less", "return only"),
    "control flow": (Forward(branch_on_values, a=conv()), "Forward", "torch.fx cannot follow", "plain chain"),
    "batch norm": (nn.Sequential(conv(), nn.BatchNorm2d(4)), "1", "BatchNorm2d", "fold it"),
    "layer norm": (nn.Sequential(nn.LayerNorm(6), conv()), "0", "LayerNorm", "fold it"),
    "pooling": (nn.Sequential(conv(), nn.MaxPool2d(2)), "1", "MaxPool2d", "stride"),
    "functional pooling": (Forward(lambda m, x: functional.avg_pool2d(m.a(x), 2), a=conv()), "avg_pool2d", "", "strid"),
    "GELU": (nn.Sequential(conv(), nn.GELU()), "1", "falls before it rises", "LeakyReLU"),
    "SiLU": (nn.Sequential(conv(), nn.SiLU()), "1", "falls before it rises", "LeakyReLU"),
    "Mish": (nn.Sequential(conv(), nn.Mish()), "1", "falls before it rises", "LeakyReLU"),
    "functional GELU": (Forward(lambda m, x: functional.gelu(m.a(x)), a=conv()), "gelu", "falls", "LeakyReLU"),
    "PReLU": (nn.Sequential(conv(), nn.PReLU()), "1", "slope is a parameter", "LeakyReLU"),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(3, 2, 3)), "0", "transposed", "ordinary"),
    "circular padding": (
        nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular")),
        "0",
        "circular",
        "zeros",
    ),
    "reflection": (nn.Sequential(nn.ReflectionPad2d(1), conv()), "0", "only zero padding", "zeros"),
    "padding with ones": (nn.Sequential(nn.ConstantPad2d(1, 1.0), conv()), "0", "only zero padding", "zeros"),
    "F.pad, reflecting": (
        Forward(lambda m, x: m.a(functional.pad(x, (1, 1, 1, 1), mode="reflect")), a=conv()),
        "pad",
        "only zero padding",
        "zeros",
    ),
    "cropping": (nn.Sequential(nn.ZeroPad2d(-1), conv()), "0", "negative", "at least 0"),
    "padded channels": (
        Forward(lambda m, x: m.a(functional.pad(x, (0, 0, 0, 0, 0, 1))), a=nn.Conv2d(4, 2, 3)),
        "a",
        "reaches the channels",
        "spatial",
    ),
    "padding before an activation": (
        nn.Sequential(nn.ZeroPad2d(1), nn.Sigmoid(), conv()),
        "1",
        "zero padding",
        "directly",
    ),
    "padding at the end": (nn.Sequential(conv(), nn.ZeroPad2d(1)), "output", "no convolution", "remove"),
    "negative slope": (nn.Sequential(conv(), nn.LeakyReLU(-0.1)), "1", "positive", "choose"),
    "dropout in training": (nn.Sequential(conv(), nn.Dropout()), "1", "mask", "model.eval()"),
    "functional dropout": (Forward(lambda m, x: functional.dropout(m.a(x)), a=conv()), "dropout", "mask", "eval()"),
    "hook": (hooked(nn.Sequential(conv())), "0", "hooks", "remove"),
    "parametrised": (
        nn.Sequential(torch.nn.utils.parametrizations.weight_norm(conv())),
        "0",
        "parametrize",
        "remove_parametrizations",
    ),
    "a layer used twice": (Forward(lambda m, x: m.a(m.a(x)), a=nn.Conv2d(3, 3, 1)), "a", "more than once", "its own"),
    "the same object at two places": (nn.Sequential(*[nn.Conv2d(3, 3, 1)] * 2), "0", "more than once", "its own"),
    "tied weights": (tied(), "1", "more than once", "its own"),
    "unused parameter": (unused(conv()), "spare.weight", "never uses", "remove"),
    "a parameter by itself": (
        Forward(lambda m, x: functional.conv2d(x, m.a.weight, m.a.bias), a=conv()),
        "conv2d",
        "without the module",
        "nn.Linear",
    ),
    "arithmetic": (Forward(lambda m, x: m.a(x) * 2, a=conv()), "mul", "mul", "convolutions"),
    "a foreign function": (Forward(lambda m, x: relu(m.a(x)), a=conv()), "relu", "relu", "convolutions"),
    "transpose": (Forward(lambda m, x: m.a(x).permute(0, 2, 3, 1), a=conv()), "permute", "permute", "convolutions"),
    "joining some axes": (nn.Sequential(conv(), nn.Flatten(2)), "1", "to (1, 4, 16)", "joining all"),
    "joining the batch axis": (Forward(lambda m, x: m.a(x).view(-1), a=conv()), "view", "to (64,)", "joining all"),
    "a batch made of one sample": (
        Forward(lambda m, x: m.a(x).view(-1, 16), a=conv()),
        "view",
        "(4, 16)",
        "joining all",
    ),
    "softmax": (nn.Sequential(conv(), nn.Softmax(1)), "1", "all inputs", "logits"),
    "uninitialised": (nn.Sequential(nn.LazyConv2d(2, 3)), "0", "no shape yet", "once"),
    "a recurrent layer": (nn.Sequential(nn.Flatten(2), nn.LSTM(36, 2)), "1", "LSTM", "convolutions"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_unsupported_models_are_refused_with_path_reason_and_advice(case) -> None:
    model, path, reason, advice = UNSUPPORTED[case]
    with pytest.raises(ca.UnsupportedLayerError) as caught:
        from_torch(model, (3, 6, 6))
    first = {problem.path: problem for problem in caught.value.problems}
    assert path in first, caught.value
    assert reason in first[path].reason
    assert advice in first[path].advice


def test_a_second_input_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(ca.UnsupportedLayerError, match="second input"):
        from_torch(Two(), (3,))


def test_an_unused_optional_input_is_not_in_the_way() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x, mask=None):  # noqa: ARG002
            return self.a(x)

    outputs_agree(Optional(), (3,))


def test_all_problems_come_at_once_in_the_order_of_the_forward_pass() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.GELU(), nn.Sequential(nn.MaxPool2d(2)), nn.Flatten())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ca.UnsupportedLayerError, match="3 layers") as caught:
        from_torch(model, (3, 6, 6))
    assert [problem.path for problem in caught.value.problems] == ["1", "2", "3.0"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


WRONG_SHAPES = {
    "channels": (nn.Sequential(nn.Identity(), conv()), (1, 6, 6), "'1'.*3 channels"),
    "too small": (nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(4, 2, 5)), (3, 6, 6), "'2'"),
    "features": (nn.Sequential(conv(), nn.Flatten(), nn.Linear(7, 2)), (3, 6, 6), "'2'"),
    "a missing axis": (nn.Sequential(nn.Conv2d(1, 2, 3)), (6, 6), r"'0'.*\(channels, height, width\)"),
    "no whole number": (nn.Sequential(conv()), (3, 6.5, 6), "6.5"),
}


@pytest.mark.parametrize("case", WRONG_SHAPES)
def test_a_wrong_input_shape_names_the_layer(case) -> None:
    model, input_shape, words = WRONG_SHAPES[case]
    with pytest.raises(ca.ShapeError, match=words):
        from_torch(model, input_shape)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_parameters_keep_their_dtype_and_are_copies(dtype) -> None:
    model = nn.Sequential(nn.Linear(3, 2)).to(dtype)
    _, parameters = from_torch(model, (3,))
    assert parameters["0.weight"].dtype.name == str(dtype).removeprefix("torch.")
    expected = model[0].weight.detach().to(torch.float64, copy=True).numpy()
    with torch.no_grad():
        model[0].weight += 1
    np.testing.assert_array_equal(parameters["0.weight"].astype(float), expected)


def test_the_trace_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(conv(), nn.ReLU(), nn.Dropout(0.0), nn.Flatten(), nn.Linear(64, 3))
    torch_gradients(model, np.ones((3, 6, 6)), 1)
    from_torch(model, (3, 6, 6))
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
