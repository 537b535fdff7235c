"""What buffers from before and after a step tell, and what they are refused for: PyTorch moves them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.errors import NonFiniteError, ParameterError
from constraint_algebra.networks.network import bind
from constraint_algebra.recursion.buffers import shared
from tests.recursion.normalised_models import model, step, written

SIZE = 5


def moved(momentum: float | None, dtype: torch.dtype = torch.float64) -> tuple[ca.Network, Any, Any, Any]:
    """A network, the state before and after the third step, and what its first batch norm read."""
    made = model(nn.ReLU, (2, 4, 6), SIZE)
    for layer in made:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = momentum
    made.to(dtype)
    for _ in range(2):
        made(torch.rand(1, 2, SIZE, SIZE, dtype=dtype))
    s = step(made, SIZE, dtype=dtype)
    return written(made, (2, SIZE, SIZE)), s.before, s.after, s.values[1]


def statistics(network: ca.Network, before: Any, after: Any) -> Any:
    parameters = bind(network, before, "parameters")
    return shared(network, parameters, after)[network.named("1.normalised").index]


@pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0, None])
def test_they_are_the_statistics_of_the_step(momentum: float | None) -> None:
    network, before, after, z = moved(momentum)
    found = statistics(network, before, after)
    np.testing.assert_allclose(found.mean, z.mean(axis=(1, 2)), rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.variance, z.var(axis=(1, 2)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_their_noise_is_that_of_the_type_they_came_in(dtype: torch.dtype) -> None:
    network, before, after, z = moved(0.1, dtype)
    found = statistics(network, before, after)
    misses = [
        (found.mean - z.mean(axis=(1, 2))) / found.of_mean,
        (found.variance - z.var(axis=(1, 2))) / found.of_variance,
    ]
    assert 0.05 < np.sqrt(np.mean(np.square(misses))) < 2


def test_names_of_wrappers_and_whole_states_are_read() -> None:
    network, before, after, _ = moved(0.1)
    found = statistics(network, before, {f"module.{name}": array.numpy() for name, array in after.items()})
    np.testing.assert_array_equal(found.mean, statistics(network, before, after).mean)


def refused(network: ca.Network, before: Any, after: Any) -> str:
    with pytest.raises(ParameterError) as caught:
        statistics(network, before, after)
    return str(caught.value)


def test_what_is_wrong_is_said_with_what_to_do() -> None:
    network, before, after, _ = moved(0.1)
    less = {name: array for name, array in after.items() if name != "4.running_var"}
    assert "'4.running_var'" in refused(network, before, less)
    assert "after its step" in refused(network, before, less)
    fresh = {name: array for name, array in before.items() if name != "1.running_mean"}
    assert "'1.running_mean' is missing" in refused(network, fresh, after)
    assert "before its step" in refused(network, fresh, after)
    assert "negative" in refused(network, before, {**after, "1.running_var": 0 * after["1.running_var"]})
    assert "shape" in refused(network, before, {**after, "1.running_var": torch.ones(7)})
    assert "mapping" in refused(network, before, list(after.values()))
    with pytest.raises(NonFiniteError, match=r"1\.running_mean"):
        statistics(network, before, {**after, "1.running_mean": float("nan") * after["1.running_mean"]})


def test_a_network_that_moves_no_buffers_has_none_to_share() -> None:
    network = ca.Network((2, 4, 4), [ca.Conv2d(3, 3), ca.BatchNorm(), ca.ReLU(), ca.Flatten(), ca.Linear(3)])
    with pytest.raises(ParameterError, match="leave buffers out"):
        shared(network, {}, {"1.running_mean": np.zeros(3)})


def test_without_momentum_the_number_of_steps_is_needed() -> None:
    network, before, after, _ = moved(None)
    less = {name: array for name, array in after.items() if not name.endswith("num_batches_tracked")}
    assert "num_batches_tracked" in refused(network, before, less)
    assert "at least 1" in refused(network, before, {**after, "1.num_batches_tracked": torch.tensor(0)})


def test_momentum_of_zero_tells_nothing() -> None:
    network, before, after, _ = moved(0.0)
    assert "do not move" in refused(network, before, after)
