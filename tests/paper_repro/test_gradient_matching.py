"""DLG and iDLG: the distance against NumPy's own backward pass and differences, the search on networks like stamps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from paper_repro.baselines import Outcome
from paper_repro.baselines.dlg import dlg
from paper_repro.baselines.gradient_matching import Match
from paper_repro.baselines.idlg import idlg, label_of_head

LABEL = 2


def small(activation: ca.layers.Activation = ca.Sigmoid(), *, head_bias: bool = True) -> ca.Network:  # noqa: B008
    layers = [ca.Conv2d(4, 3, padding=1), activation, ca.Conv2d(4, 3, stride=2, padding=1), activation]
    return ca.Network((1, 6, 6), [*layers, ca.Flatten(), ca.Linear(5, bias=head_bias)])


def step(network: ca.Network, dtype: str = "float64", seed: int = 0):
    """Parameters, gradients and input of one training step in PyTorch."""
    model = ca.to_torch(network, seed=seed, dtype=dtype)
    image = np.random.default_rng(seed).random(network.input_shape)
    _, parameters = ca.from_torch(model, network.input_shape)
    return parameters, ca.torch_gradients(model, image, LABEL), image


def distance_by_numpy(network, parameters, gradients, x, shares) -> float:
    """D with forward and backward pass in NumPy, for shares of the classes as the label."""
    values = network.forward(parameters, x)
    softmax = np.exp(values[-1]) / np.exp(values[-1]).sum()
    found = network.backward(parameters, values, softmax - shares)
    return float(sum(np.sum((found[name] - gradients[name]) ** 2) for name in gradients))


@pytest.mark.parametrize("label", [None, LABEL])
def test_the_distance_and_its_slope(label) -> None:
    network = small()
    parameters, gradients, _ = step(network)
    match = Match(network, parameters, gradients, "float64", seed=3)
    x, logits = match.x.detach().numpy()[0].copy(), match.logits.detach().numpy()[0].copy()

    def oracle(x, logits) -> float:
        shares = np.eye(5)[LABEL] if label is not None else np.exp(logits) / np.exp(logits).sum()
        return distance_by_numpy(network, parameters, gradients, x, shares)

    value = match.distance(label)
    assert value.item() == pytest.approx(oracle(x, logits), rel=1e-12)
    (slope,) = torch.autograd.grad(value, [match.x], retain_graph=True)
    direction, h = np.random.default_rng(1).standard_normal(x.shape), 1e-5
    difference = (oracle(x + h * direction, logits) - oracle(x - h * direction, logits)) / (2 * h)
    assert float((slope[0].numpy() * direction).sum()) == pytest.approx(difference, rel=1e-6)
    if label is None:
        (slope,) = torch.autograd.grad(value, [match.logits])
        direction = np.random.default_rng(2).standard_normal(5)
        difference = (oracle(x, logits + h * direction) - oracle(x, logits - h * direction)) / (2 * h)
        assert float((slope[0].numpy() * direction).sum()) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("method", [dlg, idlg])
def test_sigmoid_gradients_give_image_and_label_back(method) -> None:
    network = small()
    parameters, gradients, image = step(network)
    result = method(network, parameters, gradients, seed=0, iterations=120)
    assert (result.outcome, result.label) == (Outcome.FINISHED, LABEL)
    assert result.input.shape == image.shape
    assert ca.mse(result.input, image) < 1e-4
    assert result.steps[-1].endswith("at rest")
    again = method(network, parameters, gradients, seed=0, iterations=120)
    np.testing.assert_array_equal(result.input, again.input)


def test_the_seed_chooses_the_start() -> None:
    network = small()
    parameters, gradients, _ = step(network)
    first, second = (dlg(network, parameters, gradients, seed=seed, iterations=1) for seed in (0, 1))
    assert np.abs(first.input - second.input).max() > 0.1


def test_relu_has_no_second_derivative_to_search_with() -> None:
    """With the same sizes and as many steps, the search that succeeds with sigmoid ends far away."""
    network = small(ca.ReLU())
    parameters, gradients, image = step(network)
    results = [dlg(network, parameters, gradients, seed=seed, iterations=120) for seed in range(3)]
    assert all(r.input is None or ca.mse(r.input, image) > 1e-3 for r in results)


def test_a_search_at_rest_ends() -> None:
    """At the true input the distance is zero, no call changes anything, and no further one is made."""
    network = small()
    parameters, gradients, _ = step(network)
    done = []
    for _ in range(2):
        done.clear()
        dlg(network, parameters, gradients, iterations=300, progress=lambda *news: done.append(news[:2]))
    assert len(done) <= 300
    still = {name: np.zeros_like(p) for name, p in parameters.items()}
    rest = idlg(network, still, still, iterations=50, progress=lambda *news: done.append(news[2]))
    assert rest.steps[-1].endswith("at rest")
    assert done[-1] == rest.steps[-1]


def test_a_search_that_diverges_is_a_failure() -> None:
    network = small()
    parameters, gradients, _ = step(network, "float32")
    huge = {name: g * np.float32(1e25) for name, g in gradients.items()}
    result = dlg(network, parameters, huge)
    assert (result.outcome, result.input, result.label) == (Outcome.FAILED, None, None)
    assert "diverged: values that are not finite in iteration 1" in result.reason


def test_time_limit_and_precision() -> None:
    network = small()
    parameters, gradients, _ = step(network)
    result = dlg(network, parameters, gradients, time_limit=0.0)
    assert (result.outcome, result.input) == (Outcome.OUT_OF_TIME, None)
    assert result.reason == "time limit of 0 s of processor time reached in iteration 1 of 300"
    single = dlg(network, parameters, gradients, iterations=2, dtype="float32")
    np.testing.assert_array_equal(single.input, single.input.astype(np.float32))
    double = dlg(network, parameters, gradients, iterations=2)
    assert (double.input != double.input.astype(np.float32)).any()


@pytest.mark.parametrize("head_bias", [True, False])
def test_the_label_is_read_off_the_head(head_bias) -> None:
    """Row sums show it because outputs of a sigmoid are positive."""
    network = small(head_bias=head_bias)
    model = ca.to_torch(network, seed=1)
    for label in range(5):
        gradients = ca.torch_gradients(model, np.random.default_rng(label).random(network.input_shape), label)
        assert label_of_head(network, gradients) == label


def test_networks_without_several_logits_are_refused() -> None:
    logistic = ca.Network((1, 6, 6), [ca.Flatten(), ca.Linear(1)])
    open_end = ca.Network((1, 6, 6), [ca.Conv2d(2, 3), ca.ReLU()])
    for network in (logistic, open_end):
        with pytest.raises(ca.ShapeError, match="the logits of at least two classes"):
            dlg(network, {}, {})
    with pytest.raises(ca.ShapeError, match="the label is read off"):
        idlg(open_end, {}, {})
    with pytest.raises(ca.ParameterError, match="missing"):
        dlg(small(), {}, {})
