"""Precisions, and error bars against the spread of repeated noise."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.recursion import noise
from tests.recursion.test_result import client

TYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.mark.parametrize("name", TYPES)
def test_the_precision_is_that_of_the_type(name) -> None:
    # The next number after 1 and the first after 0, from the bits themselves.
    kind = np.dtype(TYPES[name])
    bits = np.dtype(f"u{kind.itemsize}")
    after_one = (np.ones(1, kind).view(bits) + bits.type(1)).view(kind).astype(float)[0] - 1
    after_zero = np.ones(1, bits).view(kind).astype(float)[0]
    found = noise.precision({"a": np.zeros(3, kind)})
    assert (found.epsilon, found.smallest) == (after_one, after_zero)


@pytest.mark.parametrize("name", TYPES)
def test_the_coarsest_type_counts(name) -> None:
    mixed = {"a": np.zeros(2), "b": np.zeros(2, TYPES[name])}
    assert noise.precision(mixed) == noise.precision({"b": mixed["b"]})


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_the_deviation_is_that_of_rounding_once(name) -> None:
    values = np.random.default_rng(0).standard_normal(20_000) * 3
    error = values.astype(TYPES[name]).astype(float) - values
    stated = noise.precision({"a": np.zeros(1, TYPES[name])}).deviation(values)
    assert 0.5 < np.sqrt((error**2).mean() / (stated**2).mean()) < 1.5


@pytest.mark.parametrize("kind", ["int32", "complex64", "bool", "longdouble"])
def test_other_types_are_refused(kind) -> None:
    with pytest.raises(ca.ParameterError, match=r"'b' has type .*, expected one of float64") as raised:
        noise.precision({"a": np.zeros(2), "b": np.zeros(2, kind)})
    assert raised.value.parameter == "b"


def test_stated_noise_adds_to_rounding() -> None:
    gradients = {"a": np.full(3, 2.0), "b": np.full((2, 2), 1.0)}
    rounding = noise.precision(gradients)
    everywhere = noise.deviations_of(gradients, rounding, 0.25)
    np.testing.assert_allclose(everywhere["b"], np.full((2, 2), 0.25))
    some = noise.deviations_of(gradients, rounding, {"a": [0.0, 1.0, 2.0]})
    np.testing.assert_allclose(some["a"], [rounding.deviation(np.array(2.0)), 1, 2])
    np.testing.assert_allclose(some["b"], rounding.deviation(gradients["b"]))


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"c": 1.0}, "'c' is no parameter of the network; it has a, b"),
        ({"a": [1.0, 2.0]}, r"'a' needs one number or shape \(3,\), got \(2,\)"),
        ({"b": -1.0}, "'b' must be a standard deviation, finite and not negative"),
        (np.nan, "'a' must be a standard deviation"),
    ],
)
def test_noise_that_cannot_be(stated, words) -> None:
    gradients = {"a": np.ones(3), "b": np.ones(2)}
    with pytest.raises(ca.ParameterError, match=words):
        noise.deviations_of(gradients, noise.precision(gradients), stated)


NETWORKS = {
    "LeakyReLU": [ca.LeakyReLU(0.2), ca.Conv2d(8, 5, padding=2), ca.LeakyReLU(0.2)],
    "tanh": [ca.Tanh(), ca.Conv2d(8, 5, padding=2), ca.Tanh()],
    "ReLU": [ca.ReLU(), ca.Conv2d(16, 5, padding=2), ca.ReLU()],
}


def small(name: str) -> ca.Network:
    return ca.Network((2, 8, 7), [ca.Conv2d(16, 3, padding=1), *NETWORKS[name], ca.Flatten(), ca.Linear(6)])


@pytest.mark.parametrize(
    ("name", "dtype", "least"),
    [
        *[(name, "float32", 0.3) for name in NETWORKS],
        # To first order in errors of a few percent, the bars come out too long.
        *[pytest.param(name, "bfloat16", 0.1, marks=pytest.mark.slow) for name in ("LeakyReLU", "tanh")],
    ],
)
def test_error_bars_agree_with_the_errors_of_rounding(name, dtype, least) -> None:
    squares = []
    for seed in range(10):
        image = np.random.default_rng(seed).random((2, 8, 7))
        result = client(small(name), image, seed=seed, init="default", dtype=dtype).reconstruct()
        known = result.determined
        if result.status is ca.Status.DETERMINED and result.error_bar.max() < 0.1:
            # The client rounded the image, too, which is no error of the reconstruction.
            sent = image.astype(TYPES[dtype]).astype(float)
            squares.append([((result.input - sent)[known] ** 2).mean(), (result.error_bar[known] ** 2).mean()])
    assert len(squares) >= 3
    ratio = np.exp(np.log(np.array(squares)).mean(axis=0) / 2)  # geometric: no single draw dominates
    assert least < ratio[0] / ratio[1] < 3


@pytest.mark.parametrize("name", NETWORKS)
def test_error_bars_agree_with_the_spread_of_stated_noise(name) -> None:
    image = np.random.default_rng(1).random((2, 8, 7))
    c = client(small(name), image, seed=1, init="default")
    gradients, parameters = c.gradients, c.parameters
    size = {k: 1e-7 * float(np.sqrt((g**2).mean())) for k, g in gradients.items()}
    errors, bars = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        noisy = {k: g + size[k] * rng.standard_normal(g.shape) for k, g in gradients.items()}
        result = ca.reconstruct(c.network, parameters, noisy, noise=size)
        assert result.status is ca.Status.DETERMINED
        errors.append(result.input - image)
        bars.append(result.error_bar)
    rms = np.sqrt((np.array(errors) ** 2).mean())
    assert 0.5 < rms / np.sqrt((np.array(bars) ** 2).mean()) < 2
    # Value by value, as far as twelve draws and twelve members tell.
    each = np.sqrt((np.array(errors) ** 2).mean(axis=0) / (np.array(bars) ** 2).mean(axis=0))
    assert 0.6 < np.median(each) < 1.6
