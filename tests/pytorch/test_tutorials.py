"""Models as tutorials and benchmarks have them: read, with PyTorch's values and gradients, or refused with a way on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.notes import collected
from constraint_algebra.pytorch.gradients import torch_gradients
from tests.pytorch.judge import Forward, bind, by_autograd, read, stored
from tests.pytorch.tutorial_models import REFUSED, models

MODELS = models()
LOSSES = {"two-nn": lambda output: -output.log()[0, 1]}  # its output is a softmax


def test_at_least_17_of_20_are_analysed() -> None:
    assert len(MODELS) >= 20
    assert len(MODELS) - len(REFUSED) >= 17


LARGE = {"femnist-cnn"}  # millions of parameters
READ = [
    pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
    for name in sorted(MODELS.keys() - REFUSED.keys())
]


@pytest.mark.parametrize("name", READ)
def test_tutorial_models_are_read_with_pytorchs_gradients(name) -> None:
    factory, shape = MODELS[name]
    model = factory()
    network, state = read(model, shape)
    parameters = bind(network, state, "parameters")
    x = np.random.default_rng(1).uniform(size=shape)
    values = network.forward(parameters, x)
    loss = LOSSES.get(name, lambda output: functional.cross_entropy(output.reshape(1, -1), torch.tensor([1])))
    output, expected, at_input = by_autograd(model, x, np.zeros(0), loss)
    z = values[-1].ravel()
    if name == "two-nn":
        np.testing.assert_allclose(np.exp(z) / np.exp(z).sum(), output, rtol=0, atol=1e-12)
    elif name in {"log-softmax-cnn", "mnist-example"}:
        np.testing.assert_allclose(z - np.log(np.exp(z).sum()), output, rtol=0, atol=1e-12)
    else:
        np.testing.assert_allclose(z, output, rtol=0, atol=1e-12)
    k = np.exp(z) / np.exp(z).sum() - np.eye(len(z))[1]
    found = stored(network, network.backward(parameters, values, k))
    assert set(found) == set(expected)
    for key, gradient in expected.items():
        np.testing.assert_allclose(found[key], gradient, rtol=0, atol=1e-12 * (1 + np.abs(gradient).max()))
    np.testing.assert_allclose(
        network.output_gradients(parameters, values, k)[0], at_input, rtol=0, atol=1e-12 * (1 + np.abs(at_input).max())
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_and_a_way_on_as_well(name) -> None:
    factory, shape = MODELS[name]
    model = factory()
    with pytest.raises(ca.UnsupportedLayerError) as caught:
        ca.from_torch(model, shape)
    message = str(caught.value)
    paths = [problem.path for problem in caught.value.problems]
    assert all(any(word in path for path in paths) for word in REFUSED[name]), paths
    assert all(problem.advice for problem in caught.value.problems)
    assert "torch_whole_map" in message
    assert "certify(model, x, target)" in message
    x = np.random.default_rng(1).uniform(size=shape)
    assert torch_gradients(model, x, 1).keys() == dict(model.named_parameters()).keys()


def test_a_model_without_its_batch_axis_at_the_end_has_gradients_all_the_same() -> None:
    factory, shape = MODELS["squeeze-head"]
    model = factory()
    x = np.random.default_rng(1).uniform(size=shape)
    _, expected, _ = by_autograd(
        model, x, np.zeros(0), lambda output: functional.cross_entropy(output[None], torch.tensor([3]))
    )
    found = torch_gradients(model, x, 3)
    assert all(np.array_equal(found[name], gradient) for name, gradient in expected.items())
    assert ca.verify_twin(model, x, x, 3).equal
    small = Forward(lambda m, x: m.conv(x).squeeze(), conv=torch.nn.Conv2d(1, 3, 4)).double()
    x = x[:, :4, :4]
    found = ca.gradient_jacobian(small, x, 2)
    np.testing.assert_allclose(found["conv.bias"].sum(axis=0), 0, atol=1e-15)  # k sums to zero
    assert np.abs(found["conv.weight"]).max() > 1e-3


ENDS = {"log-softmax-cnn": "log_softmax at the end .* NLLLoss", "two-nn": "softmax at the end .* loss=None"}


@pytest.mark.parametrize("name", ENDS)
def test_a_softmax_at_the_end_belongs_to_the_loss_and_that_is_said(name) -> None:
    factory, shape = MODELS[name]
    with pytest.warns(ca.AssumptionWarning, match=ENDS[name]):
        network, _ = ca.from_torch(factory(), shape)
    assert network[-1].kind == "Linear"


def test_gradients_after_log_softmax_are_those_of_the_logits() -> None:
    factory, shape = MODELS["log-softmax-cnn"]
    model, x = factory(), np.random.default_rng(1).uniform(size=shape)
    by_nll = torch_gradients(model, x, 1, lambda output, target: functional.nll_loss(output, target.reshape(1)))
    by_name = torch_gradients(model, x, 1)
    for name, gradient in by_nll.items():
        np.testing.assert_allclose(by_name[name], gradient, rtol=0, atol=1e-14)


def test_the_head_of_a_tutorial_model_gives_its_features_back() -> None:
    """What the gradients of the last layer tell, in the graph's own names."""
    factory, shape = MODELS["cifar-tutorial"]
    model = factory()
    x = np.random.default_rng(1).uniform(size=shape)
    with collected():
        network, state = ca.from_torch(model, shape)
    given = torch_gradients(model, x, 1)
    values = network.forward(bind(network, state, "parameters"), x)
    features = values[network.head.inputs[0]]
    assert network.head.name == "fc3"
    np.testing.assert_allclose(given["fc3.weight"], np.outer(given["fc3.bias"], features), atol=1e-14)
