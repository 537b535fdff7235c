"""What a result does not claim bears a mark: values that are not determined, and results that do not fit."""

from __future__ import annotations

import numpy as np

import constraint_algebra as ca

SMALL = ca.Network((3, 8, 8), [ca.Conv2d(2, 3, stride=2, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(5)])


def step(network, seed=0):
    model = ca.to_torch(network, seed=seed, init="default", dtype="float64")
    image = np.random.default_rng(seed).random(network.input_shape)
    _, parameters = ca.from_torch(model, network.input_shape)
    return parameters, ca.torch_gradients(model, image, 1), image


def test_values_that_are_not_determined_are_nan_and_the_guess_stands_elsewhere() -> None:
    parameters, gradients, image = step(SMALL)
    result = ca.reconstruct(SMALL, parameters, gradients)
    assert result.status is ca.Status.UNDETERMINED
    assert np.isnan(result.input).all()
    assert np.isfinite(result.guess).all()
    assert 0.01 < np.abs(result.guess - image).max() < 1.5  # a guess, as finite as it is wrong


def test_a_part_that_is_determined_is_the_part_that_is_given() -> None:
    network = ca.Network(
        (3, 9, 8), [ca.ReLU(), ca.Conv2d(12, 3, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(5)]
    )
    model = ca.to_torch(network, seed=0, dtype="float64")
    image = np.random.default_rng(0).standard_normal(network.input_shape)
    _, parameters = ca.from_torch(model, network.input_shape)
    result = ca.reconstruct(network, parameters, ca.torch_gradients(model, image, 0))
    np.testing.assert_array_equal(np.isfinite(result.input), result.determined)
    np.testing.assert_array_equal(result.input[result.determined], result.guess[result.determined])


def test_the_conclusion_says_which_pattern_counts_and_where_more_is_said() -> None:
    parameters, gradients, _ = step(SMALL)
    conclusion = ca.reconstruct(SMALL, parameters, gradients).conclusion
    assert "activations as this gradient shows them" in conclusion
    assert "activity_of" in conclusion
    assert "certify" in conclusion


def test_of_a_result_that_does_not_fit_nothing_is_determined() -> None:
    """A gradient with one layer's values of another step, as when files are mixed up."""
    network = ca.Network((3, 8, 8), [ca.Conv2d(12, 3, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(5)])
    parameters, gradients, _ = step(network)
    _, others, _ = step(network, seed=1)
    result = ca.reconstruct(network, parameters, gradients | {"0.weight": others["0.weight"]})
    assert result.status is ca.Status.INCONSISTENT
    assert not result.determined.any()
    assert np.isnan(result.input).all()
    assert np.isinf(result.error_bar).all()
    assert "0 of 192 values" in result.conclusion
    assert np.isfinite(result.guess).all()
