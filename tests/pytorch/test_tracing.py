"""Models to networks: PyTorch itself says what a model computes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra import layers as kinds
from constraint_algebra.pytorch.gradients import load_parameters, torch_gradients
from constraint_algebra.pytorch.tracing import from_torch


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
    with pytest.raises((ca.ShapeError, ca.ArgumentError), match=words) as caught:
        from_torch(model, input_shape)
    assert "\n" not in str(caught.value)  # none of the tracer's own remarks


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


def small() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 2),
    ).eval()


def test_an_exported_program_is_read_like_the_model_that_it_was_made_of() -> None:
    model = small().double()
    program = torch.export.export(model, (torch.zeros(1, 1, 4, 4, dtype=torch.float64),))
    network, parameters = from_torch(model, (1, 4, 4))
    for exported in (program, program.module()):
        found, own = from_torch(exported, (1, 4, 4))
        assert [layer.layer for layer in found] == [layer.layer for layer in network]
        assert [layer.name for layer in found if layer.has_parameters] == ["0", "1", "5"]
        assert all(np.array_equal(own[name], parameters[name]) for name in parameters)
    x = np.random.default_rng(0).uniform(size=(1, 4, 4))
    given, expected = torch_gradients(program.module(), x, 1), torch_gradients(model, x, 1)
    assert all(np.allclose(given[name], expected[name], atol=1e-14) for name in expected)


def test_a_graph_module_is_read_like_the_model_that_it_was_made_of() -> None:
    model = small()
    assert from_torch(torch.fx.symbolic_trace(model), (1, 4, 4))[0] == from_torch(model, (1, 4, 4))[0]


def test_a_frozen_parameter_is_read_and_its_missing_gradient_is_named() -> None:
    model = small()
    model[0].weight.requires_grad_(False)
    assert from_torch(model, (1, 4, 4))[0] == from_torch(small(), (1, 4, 4))[0]
    with pytest.raises(ca.ParameterError, match=r"frozen parameters have no gradient: 0.weight"):
        torch_gradients(model, np.ones((1, 4, 4)), 1)


def test_buffers_on_the_meta_device_are_named() -> None:
    model = small()
    model[1].to("meta")
    with pytest.raises(ca.ParameterError, match=r"'1\.\w+' is on the meta device"):
        from_torch(model, (1, 4, 4))
    model = small()
    model[1].running_var = model[1].running_var.to("meta")
    with pytest.raises(ca.ParameterError, match=r"'1.running_var' is on the meta device"):
        from_torch(model, (1, 4, 4))


def test_the_state_of_batch_norm_comes_with_the_parameters_and_goes_into_a_model() -> None:
    model = small()
    nn.init.uniform_(model[1].running_var, 0.5, 2.0)
    network, state = from_torch(model, (1, 4, 4))
    twin = ca.to_torch(network, seed=2)
    load_parameters(twin, state)
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    assert torch.allclose(twin(x), model.double()(x), atol=1e-7)
    load_parameters(twin, model.state_dict())  # its counters are no matter
    with pytest.raises(ca.ParameterError, match=r"'1.running_mean' is not among those of the arrays"):
        load_parameters(twin, {name: array for name, array in state.items() if "running" not in name})
    with pytest.raises(ca.ParameterError, match=r"'1.other' is not among those of the model"):
        load_parameters(twin, {**state, "1.other": np.zeros(3)})


def test_a_trace_draws_no_random_numbers_and_leaves_statistics_alone() -> None:
    model = nn.Sequential(conv(), nn.Dropout2d(0.0), nn.Flatten(), nn.Linear(64, 3))
    torch.manual_seed(5)
    from_torch(model, (3, 6, 6))
    found = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(1))


def test_a_trace_in_another_thread_does_not_see_this_one() -> None:
    """Modules are observed for the time of a trace, and only in the thread that traces."""
    model, done, found = small(), threading.Event(), []

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def forward(self, x):
            done.wait(5)
            return self.inner(x)

    thread = threading.Thread(target=lambda: found.append(from_torch(Slow(), (1, 4, 4))[0]))
    thread.start()
    model(torch.zeros(1, 1, 4, 4))
    done.set()
    thread.join()
    assert [layer.name.removeprefix("inner.") for layer in found[0]] == [
        layer.name for layer in from_torch(model, (1, 4, 4))[0]
    ]
    assert nn.Module.__call__ is PLAIN_CALL


PLAIN_CALL = nn.Module.__call__
