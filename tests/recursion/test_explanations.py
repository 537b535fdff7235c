"""Several explanations of the same gradients: only what all possible ones agree on is determined."""

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.layers.kinds import Flatten
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.explanations import is_out_of_range
from tests.some import some


def without_bias(activation, stride, seed):
    """A model whose head has no bias, its input, and the gradients: the label equation has two roots."""
    rng = np.random.default_rng(seed)
    middle = [] if activation is None else [activation]
    model = nn.Sequential(nn.Conv1d(1, 1, 1, stride, bias=False), *middle, nn.Flatten(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[-1].weight.copy_(torch.from_numpy(rng.uniform(0.5, 2, (1, 3))))
    x = rng.random((1, 3 * stride))
    return model.double(), x, ca.torch_gradients(model.double(), x, 1, "logistic")


@pytest.mark.parametrize("activation", [None, nn.LeakyReLU(0.2), nn.Sigmoid()])
@pytest.mark.parametrize("stride", some(1, [2, 1]))
def test_no_value_that_a_rival_has_otherwise_is_determined(stride, activation) -> None:
    open_cases = 0
    for seed in range(8):
        model, x, gradients = without_bias(activation, stride, seed)
        network, parameters = ca.from_torch(model, x.shape)
        result = ca.reconstruct(network, parameters, gradients, loss="logistic", batch=1, search=0)
        known = result.determined
        np.testing.assert_allclose(result.input[known], x[known], atol=1e-9)
        assert np.isinf(result.error_bar[~known]).all()
        open_cases += not known[:, ::stride].all()
        bounds = result.intervals(ca.first_layer_equations(network, parameters, gradients, loss="logistic"))
        assert ((x >= bounds.lower - 1e-9) & (x <= bounds.upper + 1e-9)).all()
    # Rivals of a sigmoid lie outside of what it can put out, and are none.
    assert (open_cases == 0) == isinstance(activation, nn.Sigmoid)


def test_an_open_rival_is_said() -> None:
    model, x, gradients = without_bias(None, 2, 0)
    network, parameters = ca.from_torch(model, x.shape)
    result = ca.reconstruct(network, parameters, gradients, loss="logistic", batch=1, search=0)
    assert result.status is ca.Status.UNDETERMINED
    assert "allows another output gradient" in result.conclusion


@pytest.mark.parametrize(
    ("activation", "inside", "outside"),
    [
        (ca.Sigmoid(), [0.0, 1.0], [-0.1]),
        (ca.Tanh(), [-1.0, 1.0], [1.1]),
        (ca.ReLU(), [0.0, 9.0], [-0.1]),
        (ca.ReLU6(), [0.0, 6.0], [6.1]),
        (ca.ELU(), [-1.0, 5.0], [-1.1]),
        (ca.Softplus(), [0.0, 5.0], [-0.1]),
    ],
)
def test_outputs_that_an_activation_never_has(activation, inside, outside) -> None:
    between = [activation.place((2,)), Flatten().place((2,))]

    def estimate(values):
        value = np.resize(np.array(values), 2)
        return Estimate(value, np.ones(2, dtype=bool), np.zeros((2, 4)))

    assert not is_out_of_range(between, estimate(inside))
    assert is_out_of_range(between, estimate(outside))
    noisy = Estimate(np.resize(np.array(outside), 2), np.ones(2, dtype=bool), np.resize([-0.1, 0.1], (2, 4)))
    assert not is_out_of_range(between, noisy)
    assert not is_out_of_range([Flatten().place((2,))], estimate(outside))


def test_a_search_says_what_of_it_is_unique_everywhere() -> None:
    layers = [ca.Conv1d(8, 2, groups=2), ca.Tanh(), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(3)]
    rng, local = np.random.default_rng(0), 0
    for seed in range(6):
        network = ca.Network((2, 4), layers)
        model, x = ca.to_torch(network, seed=seed, dtype="float64"), rng.random((2, 4))
        network, parameters = ca.from_torch(model, x.shape)
        gradients = ca.torch_gradients(model, x, 1)
        before = ca.reconstruct(network, parameters, gradients, batch=1, search=0)
        after = ca.reconstruct(network, parameters, gradients, batch=1)
        assert np.array_equal(before.everywhere, before.determined)
        if after.status is ca.Status.LOCAL:
            local += 1
            np.testing.assert_array_equal(after.everywhere, before.determined)
    assert local


def test_ranges_in_the_wrong_order_are_refused() -> None:
    model, x, gradients = without_bias(None, 1, 0)
    network, parameters = ca.from_torch(model, x.shape)
    for valid_range in ((1.0, 0.0), (np.nan, 1.0), (0.5, 0.5)):
        with pytest.raises(ca.ArgumentRangeError, match="smallest, largest"):
            ca.reconstruct(network, parameters, gradients, loss="logistic", valid_range=valid_range)


def test_on_the_jump_of_softplus_nothing_crashes() -> None:
    network = ca.Network((1, 5), [ca.Conv1d(8, 2), ca.Softplus(1.0, 0.5), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(3)])
    refusals = []
    for seed in range(8):
        model, x = ca.to_torch(network, seed=seed, dtype="float64"), np.random.default_rng(seed).random((1, 5))
        _, parameters = ca.from_torch(model, x.shape)
        result = ca.reconstruct(network, parameters, ca.torch_gradients(model, x, 1), batch=1)
        assert np.abs(result.input - x)[result.determined].max(initial=0.0) < 1e-6
        try:
            ca.whole_map(network, parameters, x, 1)
        except ca.NonFiniteError as error:
            refusals.append(str(error))
    assert refusals
    assert all("does not determine the slope" in words for words in refusals)
