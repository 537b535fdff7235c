"""What goes past PyTorch's functions in a forward pass is found by comparing the network read with the model."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.networks.network import bind, stored
from constraint_algebra.pytorch.tracing import from_torch
from tests.pytorch.test_tracing import Forward, outputs_agree


def doubled(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x) * 2.0


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch calls it deprecated
    compiled = torch.jit.script(doubled)


def between(change):
    """Return a model with a function between two linear layers."""
    return Forward(lambda m, x: m.b(change(m, m.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 3)).double()


def changed_as_data(_, h):
    h.data.mul_(2)
    return torch.tanh(h)


def changed_without_gradient(_, h):
    with torch.no_grad():
        h.mul_(2)
    return torch.tanh(h)


def counted(m, h):
    m.calls = getattr(m, "calls", 0) + 1
    return h if m.calls == 1 else 2 * h


def at_random(draw):
    return lambda _, h: torch.relu(h) if draw() else h


DIFFERENT = {
    "a compiled function": (between(lambda _, h: h + compiled(h)), "has a gradient and is no parameter", "add"),
    "a mapped function": (between(lambda _, h: h + torch.vmap(torch.relu)(h)), "that a run does not show", "add"),
    "values changed as data": (between(changed_as_data), "gives other outputs"),
    "values changed without a gradient": (between(changed_without_gradient), "gives other gradients"),
    "a count of calls": (between(counted), "gives other outputs"),
    "a branch by torch.rand": (between(at_random(lambda: torch.rand(1).item() < 0.5)), "is random"),
    "a branch by random": (between(at_random(lambda: random.random() < 0.5)), "is random"),
    "a rare branch by numpy": (between(at_random(lambda: np.random.rand() < 0.1)), "is random"),  # noqa: NPY002
    "a mask by numpy": (between(lambda _, h: h * torch.from_numpy((np.random.rand(8) > 0.5) * 1.0)), "random"),  # noqa: NPY002
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("case", DIFFERENT)
def test_a_network_that_differs_from_its_model_is_refused(case) -> None:
    model, words, *path = DIFFERENT[case]
    with pytest.raises(ca.UnsupportedLayerError, match=words) as caught:
        from_torch(model, (6,))
    assert caught.value.problems[0].path == (path or ["Forward"])[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_agrees_is_accepted_and_nothing_is_changed(dtype) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Dropout(0.0), nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 3, 2, 2), nn.PReLU(3), nn.Flatten(), nn.Linear(48, 3), nn.LogSoftmax(1),
    )  # fmt: skip
    model = model.to(dtype).eval()
    model[3].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = []
    for read in (True, False):
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)
        if read:
            with pytest.warns(ca.AssumptionWarning, match="log_softmax"):
                from_torch(model, (2, 6, 6))
        drawn.append((float(torch.rand(1)), np.random.rand(), random.random()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_parameters_of_the_model_itself_are_compared_too() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.rand(6, 6)), nn.Parameter(torch.rand(6))

        def forward(self, x):
            return x + torch.relu(functional.linear(x, self.weight, self.bias))

    assert outputs_agree(Own(), (6,)).parameter_shapes == {"weight": (6, 6), "bias": (6,)}


def accumulated(m, x):
    h = torch.relu(m.a(x))
    total = torch.zeros(x.size(0), 3, dtype=x.dtype)
    for head in m.heads:
        total += head(h)
    return total


def changed_after_use(m, x):
    constant = torch.full((1,), 2.0, dtype=x.dtype)
    y = m.a(x) + constant
    constant.mul_(3)
    return torch.relu(y + constant)


class Scaled(nn.Module):
    """An input brought to a mean and a deviation that are buffers, in the words of its number type."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))
        self.register_buffer("std", torch.rand(1, 3, 1, 1) + 1)
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        return self.conv((x - self.mean.to(x)) / self.std.type_as(x)).flatten(1)


def other_top() -> nn.Module:
    six = nn.ReLU6()
    six.max_val = 0.5
    return six


L, C = nn.Linear, nn.Conv2d
READ = {
    "a sum in place": (Forward(accumulated, a=L(6, 8), heads=nn.ModuleList([L(8, 3), L(8, 3)])), (6,)),
    "a constant changed after use": (Forward(changed_after_use, a=L(6, 3)), (6,)),
    "a piece of two": (Forward(lambda m, x: m.b(torch.relu(m.a(x))).chunk(2, 1)[0], a=L(6, 8), b=L(8, 8)), (6,)),
    "the last piece": (Forward(lambda m, x: m.a(x).split([3, 5], 1)[1], a=L(6, 8)), (6,)),
    "one of a stack": (Forward(lambda m, x: m.a(x).view(-1, 2, 4).unbind(1)[1], a=L(6, 8)), (6,)),
    "constants brought to a number type": (Scaled(), (3, 5, 5)),
    "ReLU6 with another bound": (Forward(lambda m, x: m.b(m.r(m.a(x))), a=L(4, 9), r=other_top(), b=L(9, 2)), (4,)),
    "cat along an axis": (Forward(lambda m, x: torch.cat([m.a(x), m.b(x)], axis=1), a=L(4, 3), b=L(4, 3)), (4,)),
    "a mean with axes kept": (
        Forward(lambda m, x: m.b(m.a(x).mean(axis=(2, 3), keepdims=True).flatten(1)), a=C(2, 4, 3), b=L(4, 2)),
        (2, 5, 5),
    ),
    "flip and permute by dims": (
        Forward(lambda m, x: m.a(torch.permute(x.flip(dims=(2,)), dims=(0, 1, 3, 2))), a=C(2, 1, 3)),
        (2, 4, 5),
    ),
    "an argument called input": (Forward(lambda m, x: torch.relu(input=m.a(x)), a=L(4, 3)), (4,)),
    "narrow from the end": (Forward(lambda m, x: m.a(x).narrow(1, -2, 2), a=L(4, 5)), (4,)),
    "max-pool with indices that nothing reads": (
        nn.Sequential(C(2, 3, 1), Forward(lambda m, x: m.p(x)[0], p=nn.MaxPool2d(2, return_indices=True))),
        (2, 4, 4),
    ),
    "adaptive max-pool with indices that nothing reads": (
        Forward(lambda m, x: functional.adaptive_max_pool2d(m.a(x), 2, return_indices=True)[0], a=C(2, 3, 1)),
        (2, 4, 4),
    ),
    "enlargement by a whole number that is a float": (
        Forward(lambda m, x: functional.interpolate(m.a(x), scale_factor=2.0), a=C(1, 2, 1)),
        (1, 3, 3),
    ),
    "a module called input in a chain": (Forward(lambda m, x: m.b(m.input(x)), input=L(4, 3), b=L(3, 2)), (4,)),
    "an activation called input in a graph": (
        Forward(lambda m, x: m.b(m.input(x) + x), input=nn.Tanh(), b=L(4, 2)),
        (4,),
    ),
}


@pytest.mark.parametrize("case", READ)
def test_outputs_and_gradients_are_those_of_the_model(case) -> None:
    model, shape = READ[case]
    network, parameters = from_torch(model.double(), shape)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=shape))
    output = model(x[None])
    weights = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).reshape(output.shape)
    named = dict(model.named_parameters())
    expected = dict(zip(named, torch.autograd.grad(output, list(named.values()), weights), strict=True))
    arrays = bind(network, parameters, "parameters")
    values = network.forward(arrays, x.numpy())
    np.testing.assert_allclose(values[-1].ravel(), output.detach().numpy().ravel(), rtol=0, atol=1e-12)
    gradients = stored(network, network.backward(arrays, values, weights.numpy().reshape(network.output_shape)))
    assert set(gradients) == set(expected)
    assert all(np.allclose(gradients[name], expected[name].numpy(), rtol=0, atol=1e-12) for name in expected)


def written_in_part(m, x):
    constant = torch.zeros(1, 8, dtype=x.dtype)
    constant[:, :4].add_(m.a(x))
    return m.b(x) + constant


REFUSED = {
    "a factor that is no whole number": (
        Forward(lambda m, x: functional.interpolate(m.a(x), scale_factor=1.05).flatten(1), a=nn.Conv1d(1, 2, 1)),
        (1, 10),
        "interpolate: it enlarges by 1.05",
    ),
    "a constant that is written into": (
        Forward(written_in_part, a=L(6, 4), b=L(6, 8)),
        (6,),
        "a tensor in it has a gradient and is no parameter",
    ),
    "a quotient by zero": (Forward(lambda m, x: m.a(x / 0), a=L(4, 3)), (4,), "it divides by zero"),
    "a deviation with a zero": (
        Forward(lambda m, x: m.a(x / torch.tensor([1.0, 0.0, 1.0, 1.0])), a=L(4, 3)),
        (4,),
        "it divides by zero",
    ),
    "a constant that is no number": (
        Forward(lambda m, x: m.a(x * torch.tensor(float("nan"))), a=L(4, 3)),
        (4,),
        "not finite",
    ),
    "a product with a parameter by hand": (
        Forward(lambda m, x: x @ m.a.weight.T + m.a.bias, a=L(4, 3)),
        (4,),
        "matmul: it multiplies values with a parameter by hand",
    ),
    "a layer called input in a graph": (
        Forward(lambda m, x: m.b(x + torch.relu(m.input(x))), input=L(4, 4), b=L(4, 2)),
        (4,),
        "self.input to self.stem",
    ),
    "a linear layer at each of some places": (
        Forward(lambda m, x: m.a(x).flatten(1), a=L(6, 3)),
        (4, 6),
        "it is applied at each of 4 places",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_is_in_the_way(case) -> None:
    model, shape, words = REFUSED[case]
    with pytest.raises(ca.UnsupportedLayerError) as caught:
        from_torch(model, shape)
    assert words in str(caught.value)


def test_a_batch_for_a_linear_layer_is_still_a_batch() -> None:
    with pytest.raises(ca.ShapeError, match="is a batch of 4"):
        from_torch(nn.Sequential(L(6, 3)), (4, 6))


@pytest.mark.filterwarnings("ignore::constraint_algebra.AssumptionWarning")
def test_parameters_and_gradients_of_parts_that_are_not_used_may_come_along() -> None:
    parts = {"a": L(6, 4), "b": nn.BatchNorm1d(4), "unused": L(3, 3), "norm": nn.BatchNorm1d(3)}
    model = Forward(lambda m, x: m.b(m.a(x)), **parts).double().eval()
    model.register_buffer("scale", torch.ones(3))
    network, parameters = from_torch(model, (6,))
    model(torch.rand(1, 6, dtype=torch.float64)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert set(bind(network, gradients, "gradients")) == set(network.parameter_shapes)
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    wrapped = {name: value for name, value in wrapped.items() if "scale" not in name and "norm.running" not in name}
    state = {name: value for name, value in model.state_dict().items() if name != "scale"}
    for came in (model, state, parameters, wrapped):
        found = bind(network, came, "parameters")
        assert set(found) == set(parameters)
    with pytest.raises(ca.ParameterError, match="is a buffer of batch norm, which"):
        bind(network, dict(model.named_parameters()), "parameters")
    with pytest.raises(ca.ParameterError, match="'other' is no parameter"):
        bind(network, {**parameters, "other": np.zeros(3)}, "parameters")
