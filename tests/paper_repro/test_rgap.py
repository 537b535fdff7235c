"""R-GAP: roots against a grid, each layer against a dense pseudo-inverse, images against the truth and the library."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from paper_repro.baselines import Outcome
from paper_repro.baselines.rgap import layer_input, margins, rgap

LEAKY = ca.LeakyReLU(0.2)


def small(activation: ca.layers.Activation = LEAKY, *, last: int = 1) -> ca.Network:
    """Two convolutions, of which the second needs both kinds of equations, and a linear layer before the head."""
    layers = [
        *(ca.Conv2d(6, 4, stride=2, padding=2, bias=False), activation),
        *(ca.Conv2d(8, 3, stride=2, padding=1, bias=False), activation),
        *(ca.Flatten(), ca.Linear(30, bias=False), activation),
    ]
    return ca.Network((2, 8, 8), [*layers, ca.Linear(last, bias=False)])


def step(network: ca.Network, label: int, seed: int = 0, dtype: str = "float64"):
    """Parameters, gradients, input and margin of one training step in PyTorch."""
    model = ca.to_torch(network, seed=seed, init="default", dtype=dtype)
    image = np.random.default_rng(seed).random(network.input_shape)
    _, parameters = ca.from_torch(model, network.input_shape)
    logit = network.forward({n: p.astype(float) for n, p in parameters.items()}, image)[-1][0]
    return parameters, ca.torch_gradients(model, image, label, loss="logistic"), image, logit * (2 * label - 1), model


@pytest.mark.parametrize("target", [-0.278, -0.2, -1e-3, -1e-12, 0.0, 1e-3, 0.7, 40.0])
def test_margins_are_those_of_a_grid(target) -> None:
    grid = np.concatenate([-np.geomspace(50, 1e-16, 100_000), np.geomspace(1e-16, 60, 100_000)])
    values = -grid / (1 + np.exp(grid)) - target
    expected = (grid[1:] + grid[:-1])[np.sign(values[1:]) != np.sign(values[:-1])] / 2
    if target == 0:
        expected = [0.0]
    found = margins(target)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-15)
    for m in found:
        assert -m / (1 + np.exp(m)) == pytest.approx(target, rel=1e-10, abs=1e-20)


def test_below_the_least_possible_value_there_is_no_margin() -> None:
    assert margins(-0.279) == []
    assert len(margins(-0.2784)) == 2


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_the_image_comes_back_as_from_the_library(label, seed) -> None:
    network = small()
    parameters, gradients, image, margin, _ = step(network, label, seed)
    result = rgap(network, parameters, gradients)
    assert result.outcome is Outcome.FINISHED
    assert len(result.alternatives) == (1 if margin > 0 else 0)
    np.testing.assert_allclose(result.input, image, atol=1e-9)
    library = ca.reconstruct(network, parameters, gradients, loss="logistic")
    candidates = [library.input, *(other.input for other in library.alternatives)]
    assert min(np.abs(result.input - c).max() for c in candidates) < 1e-9


def test_every_alternative_has_the_gradients_of_the_image() -> None:
    """The second root is a multiple of the image, and no gradient tells the two apart."""
    network = small()
    seed = next(s for s in range(20) if step(network, 1, s)[3] > 0)
    parameters, gradients, image, margin, model = step(network, 1, seed)
    result = rgap(network, parameters, gradients)
    (other,) = result.alternatives
    first, second = margins(-margin / (1 + np.exp(margin)))
    assert min(abs(first - margin), abs(second - margin)) < 1e-9
    np.testing.assert_allclose(other / image, (second + first - margin) / margin, rtol=1e-7)
    for name, gradient in ca.torch_gradients(model, other, 1, loss="logistic").items():
        np.testing.assert_allclose(gradient, gradients[name], atol=1e-9 * np.abs(gradients[name]).max())


def test_without_activations_the_label_stays_open() -> None:
    """A linear network gives the same gradient for the negative image and the other label."""
    network = small(ca.Identity())
    parameters, gradients, image, _, model = step(network, 0)
    result = rgap(network, parameters, gradients)
    np.testing.assert_allclose(result.input, image, atol=1e-9)
    negative = min(result.alternatives, key=lambda other: np.abs(other + image).max())
    np.testing.assert_allclose(negative, -image, atol=1e-9)
    for name, gradient in ca.torch_gradients(model, negative, 1, loss="logistic").items():
        np.testing.assert_allclose(gradient, gradients[name], atol=1e-12)


CASES = [
    # Both kinds of equations are needed.
    ((2, 7, 7), ca.Conv2d(3, 3, stride=2, padding=1, bias=False)),
    # More than enough.
    ((1, 5, 6), ca.Conv2d(6, 3, padding=1, bias=False)),
    # Rank-deficient: the solution of minimum norm.
    ((3, 8, 8), ca.Conv2d(2, 3, stride=2, padding=1, bias=False)),
    ((12,), ca.Linear(5, bias=False)),
]


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize(("shape", "layer"), CASES)
def test_a_layer_is_solved_as_by_the_dense_pseudo_inverse(shape, layer, noise) -> None:
    placed = layer.place(shape, "0", 0)
    rng = np.random.default_rng(0)
    W, k = rng.standard_normal(placed.weight_shape), rng.standard_normal(placed.output_shape)
    A = ca.stack(ca.weight_equations(placed, weight=W), ca.gradient_equations(placed, output_gradient=k)).matrix
    x = rng.standard_normal(placed.unknowns)
    rhs = A @ x
    rhs += noise * rng.standard_normal(rhs.shape)
    count = int(np.prod(placed.output_shape))
    z = rhs[:count].reshape(placed.output_shape)
    # The library's gradient rows run over (c, f, taps), the weight's gradient over (f, c, taps).
    rows = rhs[count:].reshape(placed.channels, placed.filters, *placed.taps)
    found, misfit = layer_input(placed, W, z, k, np.moveaxis(rows, 0, 1))
    expected = np.linalg.pinv(A.toarray(), rcond=1e-10) @ rhs
    np.testing.assert_allclose(found.ravel(), expected, atol=2e-6)
    assert misfit == pytest.approx(np.linalg.norm(A @ expected - rhs) / np.linalg.norm(rhs), abs=1e-9)


def test_float32_gradients_cost_precision() -> None:
    network = small()
    parameters, gradients, image, *_ = step(network, 1, dtype="float32")
    result = rgap(network, parameters, gradients)
    error = np.abs(result.input - image).max()
    assert 1e-8 < error < 0.1


def test_a_saturated_loss_and_a_gradient_of_another_loss_are_failures() -> None:
    network = small()
    parameters, gradients, *_ = step(network, 1)
    zeros = rgap(network, parameters, {name: 0 * g for name, g in gradients.items()})
    assert (zeros.outcome, zeros.input) == (Outcome.FAILED, None)
    assert "the loss is saturated" in zeros.reason
    head = "7.weight"
    other = gradients | {head: -10 * parameters[head] / np.sum(parameters[head] ** 2)}
    foreign = rgap(network, parameters, other)
    assert foreign.outcome is Outcome.FAILED
    assert "no margin gives w · dL/dw = -10: the least possible is -0.278465" in foreign.reason


def test_time_limit_and_progress() -> None:
    network, seen = small(), []
    parameters, gradients, *_ = step(network, 1)
    rgap(network, parameters, gradients, progress=lambda *news: seen.append(news))
    assert seen == [(1, 4, "7"), (2, 4, "5"), (3, 4, "2"), (4, 4, "0")]
    result = rgap(network, parameters, gradients, time_limit=0.0)
    assert (result.outcome, result.input) == (Outcome.OUT_OF_TIME, None)
    assert result.reason == "time limit of 0 s of processor time reached in layer '5'"


def test_networks_that_it_is_not_made_for_are_refused_with_all_reasons() -> None:
    layers = [ca.Conv2d(4, 3), ca.ReLU(), ca.Conv2d(4, 3, groups=2, bias=False), ca.Sigmoid(), ca.Flatten()]
    network = ca.Network((1, 8, 8), [*layers, ca.Linear(3, bias=False)])
    with pytest.raises(ca.ShapeError) as caught:
        rgap(network, {}, {})
    told = str(caught.value)
    for reason in ("biases (layer 0)", "ReLU (layer 1)", "groups (layer 2)", "Sigmoid (layer 3)", "end (layer 5)"):
        assert reason in told
    with pytest.raises(ca.ParameterError, match="missing"):
        rgap(small(), {}, {})
