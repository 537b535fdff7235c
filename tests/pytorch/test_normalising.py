"""Normalisations read in their mode, made modules again, and the buffers that a step in training mode moves."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.networks.network import bind
from constraint_algebra.pytorch.gradients import load_parameters, to_torch, torch_gradients
from constraint_algebra.pytorch.tracing import from_torch
from tests.pytorch.test_tracing import Forward

SHAPE = (3, 6, 6)
X = np.random.default_rng(8).uniform(size=(4, *SHAPE))


def around(*norms: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), *norms, nn.Sigmoid(), nn.Flatten(), nn.Linear(64, 5))


class ConvNext(nn.Module):
    """A depthwise convolution and a layer norm over channels, which stand last for it."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm, self.head = nn.Conv2d(3, 3, 3, groups=3), nn.LayerNorm(3), nn.Linear(48, 5)

    def forward(self, x):
        x = self.norm(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(torch.sigmoid(x).flatten(1))


def by_functions(m, x):
    x = functional.batch_norm(m.a(x), None, None, m.w, m.b, training=True, eps=0.1)
    x = functional.group_norm(x, 2, eps=1e-3)
    x = functional.instance_norm(x, eps=1e-2)
    x = functional.rms_norm(functional.layer_norm(x, (4, 4)), (4,), eps=None)
    return m.head(x.flatten(1))


def functions() -> nn.Module:
    model = Forward(by_functions, a=nn.Conv2d(3, 4, 3), head=nn.Linear(64, 5))
    model.w, model.b = None, None
    return model


MODELS = {
    "batch norm": lambda: around(nn.BatchNorm2d(4)),
    "batch norm of 1 axis": lambda: nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(108, 5)),
    "mean over all steps": lambda: around(nn.BatchNorm2d(4, momentum=None)),
    "batch norm without buffers": lambda: around(nn.BatchNorm2d(4, track_running_stats=False)),
    "batch norm without factors": lambda: around(nn.BatchNorm2d(4, affine=False, eps=0.01, momentum=0.3)),
    "synchronised": lambda: around(nn.SyncBatchNorm(4)),
    "group norm": lambda: around(nn.GroupNorm(2, 4)),
    "groups of one channel": lambda: around(nn.GroupNorm(4, 4), nn.GroupNorm(1, 4, affine=False)),
    "layer norm": lambda: around(nn.LayerNorm((4, 4, 4))),
    "over two axes": lambda: around(nn.LayerNorm((4, 4), bias=False), nn.LayerNorm(4, elementwise_affine=False)),
    "of a vector": lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(108), nn.Linear(108, 5)),
    "instance norm": lambda: around(nn.InstanceNorm2d(4)),
    "instance norm with buffers": lambda: around(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    "RMS norm": lambda: around(nn.RMSNorm((4, 4, 4)), nn.RMSNorm(4, eps=1e-3)),
    "ConvNeXt": ConvNext,
    "functions": functions,
    "a norm alone": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()),
}
OWN = ("batch norm without buffers", "instance norm")  # the data's own statistics in evaluation mode, too
BUFFERED = "instance norm with buffers"


def made(case: str, *, training: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = MODELS[case]().double().train(training)
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if value.ndim == 1:
                nn.init.uniform_(value, 0.4, 1.6)
            elif name.endswith("num_batches_tracked"):
                value.fill_(2)
        return model


@pytest.mark.parametrize(
    ("case", "training"),
    [*((case, True) for case in MODELS), ("batch norm", False), *((case, False) for case in OWN), (BUFFERED, False)],
)
def test_what_is_read_is_the_model_in_its_mode_and_comes_back(case, training) -> None:
    model = made(case, training=training)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    network, arrays = from_torch(model, SHAPE)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    own = {layer.kind for layer in network} & {"OwnStatistics", "Standardise"}
    by_buffers = hasattr(model, "0") and any(b.ndim for b in model.buffers())
    assert own == ({"Standardise"} if by_buffers and not training else {"OwnStatistics"})
    bound = bind(network, arrays, "parameters")
    values = network.forward(bound, X[0])
    twin = copy.deepcopy(model)  # a run in training mode moves its buffers
    output = twin(torch.from_numpy(X[:1]))[0]
    np.testing.assert_allclose(values[-1].ravel(), output.detach().numpy(), rtol=0, atol=1e-12)
    if network.bilinear:
        k = np.random.default_rng(2).standard_normal(network.output_shape)
        (output * torch.from_numpy(k)).sum().backward()
        for name, gradient in ca.Network.backward(network, bound, values, k).items():
            np.testing.assert_allclose(gradient.ravel(), dict(twin.named_parameters())[name].grad.ravel(), atol=1e-12)
    again = to_torch(network)
    other, _ = from_torch(again, SHAPE)
    assert other == network
    assert set(again.state_dict()) == set(model.state_dict())
    load_parameters(again, model.state_dict())
    assert torch.allclose(again(torch.from_numpy(X))[0], twin(torch.from_numpy(X))[0], rtol=0, atol=1e-12)


def test_without_a_momentum_the_mean_over_all_steps_is_read_and_its_counter() -> None:
    network, arrays = from_torch(made("mean over all steps"), SHAPE)
    assert network.named("1.normalised").layer.momentum is None
    assert arrays["1.num_batches_tracked"] == 2
    assert to_torch(network).get_submodule("1").momentum is None


def test_a_network_in_training_mode_becomes_a_model_that_eval_changes() -> None:
    layers = {"conv": ca.Conv2d(4, 3), "norm": ca.BatchNorm(training=True, momentum=0.3), "flat": ca.Flatten()}
    model = to_torch(ca.Network(SHAPE, layers))
    assert [(type(m).__name__, m.training) for m in model.children()] == [
        ("Conv2d", False),
        ("BatchNorm2d", True),
        ("Flatten", False),
    ]
    assert model.norm.momentum == 0.3
    assert from_torch(model.eval(), SHAPE)[0].layers[1].kind == "Standardise"


@pytest.mark.parametrize(
    ("case", "samples"),
    [*((case, 1) for case in MODELS if case != "a norm alone"), ("batch norm", 4), ("mean over all steps", 4)],
)
def test_gradients_come_with_the_buffers_after_the_step(case, samples) -> None:
    model = made(case)
    twin, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    target = [1, 0, 4, 2][:samples]
    gradients, after = torch_gradients(model, X[:samples], target, buffers=True)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    functional.cross_entropy(twin(torch.from_numpy(X[:samples])), torch.tensor(target)).backward()
    for name, parameter in twin.named_parameters():
        np.testing.assert_allclose(gradients[name], parameter.grad, rtol=1e-12, atol=1e-15)
    assert {name: array.tolist() for name, array in after.items()} == {
        name: buffer.tolist() for name, buffer in twin.named_buffers()
    }
    plain = torch_gradients(model, X[:samples], target)
    assert {name: array.tolist() for name, array in plain.items()} == {n: a.tolist() for n, a in gradients.items()}


def test_buffers_that_moved_are_those_of_the_samples_own_statistics() -> None:
    model = made("batch norm without factors")
    network, arrays = from_torch(model, SHAPE)
    _, after = torch_gradients(model, X[0], 1, buffers=True)
    z = network.forward(bind(network, arrays, "parameters"), X[0])[1].reshape(4, -1)
    for name, own in (("running_mean", z.mean(axis=1)), ("running_var", z.var(axis=1, ddof=1))):
        np.testing.assert_allclose(after[f"1.{name}"], 0.7 * arrays[f"1.{name}"] + 0.3 * own, rtol=1e-12)
    assert after["1.num_batches_tracked"] == 3
    _, still = torch_gradients(model.eval(), X[0], 1, buffers=True)
    assert all(np.array_equal(still[name], buffer) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("case", ["mean over all steps"])
def test_the_jacobian_of_a_model_in_training_mode_is_that_of_finite_differences(case) -> None:
    model = made(case)
    found, h = ca.gradient_jacobian(model, X[0], 1), 1e-5
    step = np.zeros(SHAPE)
    step[1, 2, 3] = h
    over, under = torch_gradients(model, X[0] + step, 1), torch_gradients(model, X[0] - step, 1)
    for name, moved in found.items():
        np.testing.assert_allclose(moved[..., 1, 2, 3], (over[name] - under[name]) / (2 * h), atol=1e-8)
    whole = ca.torch_whole_map(model, X[0], 1)
    assert 0 < whole.rank <= X[0].size


@pytest.mark.slow  # exporting takes seconds
def test_an_exported_program_keeps_the_mode_of_its_norms() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what exporting remarks is PyTorch's own matter
        program = torch.export.export(made("group norm").eval(), (torch.from_numpy(X[:1]),))
        network, _ = from_torch(program, SHAPE)
    assert [layer.kind for layer in network][1:3] == ["OwnStatistics", "ChannelScale"]
