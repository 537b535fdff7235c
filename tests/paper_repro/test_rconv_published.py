"""R-CONV as published: right in float64, where its choices happen to be harmless, and ruined by float32."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.pytorch.gradients import load_parameters
from paper_repro.baselines import Outcome
from paper_repro.baselines.rconv_published import (
    Watch,
    arrive,
    gradient_rows,
    independent_rows,
    rconv_published,
    through,
    weight_rows,
)
from tests.oracles import torch_layer


def small(last=ca.ReLU(), *, last_filters: int = 4, classes: int = 10) -> ca.Network:  # noqa: B008 -- immutable
    """LeNet-O in miniature: LeakyReLU below, the given activation on top."""
    layers = [ca.Conv2d(12, 5, stride=2, padding=2), ca.LeakyReLU(0.2), ca.Conv2d(last_filters, 5, padding=2), last]
    return ca.Network((3, 12, 12), [*layers, ca.Flatten(), ca.Linear(classes)])


def step(network: ca.Network, dtype: str = "float64", seed: int = 0):
    """Parameters, gradients and input of one training step in PyTorch."""
    model = ca.to_torch(network, seed=seed, dtype=dtype)
    image = np.random.default_rng(seed).random(network.input_shape)
    _, parameters = ca.from_torch(model, network.input_shape)
    return parameters, ca.torch_gradients(model, image, 1), image


ACTIVATIONS = [ca.ReLU(), ca.LeakyReLU(0.2), ca.Sigmoid(), ca.Tanh()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_float64_gradients_give_the_image_back(activation) -> None:
    network = small(activation)
    parameters, gradients, image = step(network)
    result = rconv_published(network, parameters, gradients)
    assert result.outcome is Outcome.FINISHED
    assert result.input.shape == image.shape
    assert ca.mse(result.input, image) < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_float32_gradients_ruin_it_where_least_squares_succeeds(seed) -> None:
    network = ca.zoo.network("lenet-o", input_shape=(3, 16, 16))
    parameters, gradients, image = step(network, "float32", seed)
    published = rconv_published(network, parameters, gradients)
    assert published.input is None or ca.mse(published.input, image) > 1
    assert ca.psnr(ca.reconstruct(network, parameters, gradients).input, image) > 80


def test_a_dead_filter_leaves_too_few_rows_and_weight_rows_are_not_asked() -> None:
    network = small(ca.ReLU(), last_filters=4)
    model = ca.to_torch(network, seed=0)
    _, parameters = ca.from_torch(model, network.input_shape)
    parameters["2.bias"][:] = [-1e3, -1e3, -1e3, 1.0]
    load_parameters(model, parameters)
    image = np.random.default_rng(0).random(network.input_shape)
    result = rconv_published(network, parameters, ca.torch_gradients(model, image, 1))
    assert (result.outcome, result.input) == (Outcome.FAILED, None)
    assert "layer '2' have rank" in result.reason
    assert "for 36 unknowns per channel" in result.reason


def test_weight_rows_complete_gradient_rows_of_an_invertible_activation() -> None:
    # The middle tap alone meets 9 pixels, and there are 8 filters: one pixel in each of 8 channels is left to the 72
    # weight rows, of which 8² depend on the gradient rows.
    layers = [
        ca.Conv2d(8, 3, stride=2, padding=1),
        ca.LeakyReLU(0.2),
        ca.Conv2d(8, 3, stride=2, padding=1),
        ca.LeakyReLU(0.2),
    ]
    network = ca.Network((1, 10, 10), [*layers, ca.Flatten(), ca.Linear(5)])
    parameters, gradients, image = step(network)
    result = rconv_published(network, parameters, gradients)
    assert result.outcome is Outcome.FINISHED, result.reason
    assert result.steps[1] == "2: 192 gradient rows, 8 weight rows"
    assert ca.mse(result.input, image) < 1e-10


def test_time_limit_and_progress() -> None:
    network, seen = small(), []
    parameters, gradients, _ = step(network)
    rconv_published(network, parameters, gradients, progress=lambda *news: seen.append(news))
    assert seen == [(1, 3, "5"), (2, 3, "2"), (3, 3, "0")]
    result = rconv_published(network, parameters, gradients, time_limit=0.0)
    assert (result.outcome, result.input) == (Outcome.OUT_OF_TIME, None)
    assert result.reason.startswith("time limit of 0 s of processor time reached in layer '2', row 1 of 36")


def test_the_seed_chooses_the_row_of_the_head() -> None:
    network = small()
    parameters, gradients, _ = step(network)
    rows = {rconv_published(network, parameters, gradients, seed=seed).steps[0] for seed in range(4)}
    assert len(rows) > 1
    again = [rconv_published(network, parameters, gradients, seed=3).input for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_networks_that_it_is_not_made_for_are_refused() -> None:
    refused = [
        ca.Network((3, 8, 8), [ca.Conv2d(6, 3, groups=3), ca.ReLU(), ca.Flatten(), ca.Linear(5)]),
        ca.Network((3, 8), [ca.Conv1d(6, 3), ca.ReLU(), ca.Flatten(), ca.Linear(5)]),
        ca.Network((4,), [ca.Linear(5)]),
    ]
    for network in refused:
        with pytest.raises(ca.ShapeError, match=r"use constraint_algebra\.reconstruct"):
            rconv_published(network, {}, {})
    without = ca.Network((3, 8, 8), [ca.Conv2d(6, 3), ca.ReLU(), ca.Flatten(), ca.Linear(5, bias=False)])
    with pytest.raises(ca.MissingBiasError, match="has no bias"):
        rconv_published(without, {}, {})
    with pytest.raises(ca.ParameterError, match="missing"):
        rconv_published(small(), {}, {})


GEOMETRIES = [
    ((2, 7, 6), ca.Conv2d(3, 3, stride=2, padding=1)),
    ((1, 8, 8), ca.Conv2d(2, (3, 2), stride=(1, 2), padding=((2, 0), (0, 1)))),
    ((2, 9, 9), ca.Conv2d(2, 2, stride=3, dilation=2)),
]


@pytest.mark.parametrize(("shape", "conv"), GEOMETRIES)
def test_rows_are_those_of_automatic_differentiation(shape, conv) -> None:
    layer = conv.place(shape, "0", 0)
    rng = np.random.default_rng(0)
    W, x = rng.standard_normal(layer.weight_shape), rng.standard_normal(shape)
    truth = torch_layer(_Geometry(conv), W, None, x, rng.standard_normal)
    k, dW = truth["output gradient"], truth["weight gradient"]
    for f, i, j, row in gradient_rows(layer, k):
        np.testing.assert_allclose(x.reshape(shape[0], -1) @ row, dW[f, :, i, j], atol=1e-12)
    found = [row @ x.ravel() for row in weight_rows(layer, W)]
    np.testing.assert_allclose(found, truth["output"].ravel(), atol=1e-12)
    np.testing.assert_allclose(arrive(layer, W, k), truth["input gradient"], atol=1e-12)


class _Geometry:
    """A layer in the form that the oracle reads."""

    def __init__(self, conv: ca.Conv2d) -> None:
        self.axes, self.groups = 2, conv.groups
        self.stride, self.padding, self.dilation = conv.strides, conv.paddings, conv.dilations


def test_only_rows_that_raise_the_rank_are_kept() -> None:
    rows = [[1.0, 0, 0], [2, 0, 0], [0, 0, 0], [1, 1, 0], [3, 5, 0], [0, 0, 4], [1, 1, 1]]
    values = [[float(n)] for n in range(7)]
    start = np.zeros((0, 3)), np.zeros((0, 1))
    A, b = independent_rows(*start, zip(map(np.array, rows), map(np.array, values), strict=True), Watch(), "a test")
    np.testing.assert_array_equal(A, [rows[0], rows[3], rows[5]])
    np.testing.assert_array_equal(b, [[0.0], [3.0], [5.0]])


def test_relu_counts_as_active_from_seven_digits_on() -> None:
    y = np.array([4e-8, 6e-8, 1e-7, 0.5, 0.0])
    np.testing.assert_array_equal(through(ca.ReLU(), y)[1], [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(through(ca.LeakyReLU(0.2), y)[1], [1, 1, 1, 1, 0.2])
