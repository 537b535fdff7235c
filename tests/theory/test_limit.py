"""The limit, and the recursion below it, against Jacobians by automatic differentiation."""

import pickle

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.theory.limit import generic_whole_map
from tests.whole_map_oracle import jacobian, random_network, random_pattern, rank_and_determined

LINEAR = (ca.ReLU(), ca.ReLU(), ca.LeakyReLU(0.2), ca.ReLU6(), ca.Identity())
BENT = (ca.Tanh(), ca.Sigmoid(), ca.ELU(), ca.ReLU(), ca.Softsign(), ca.Softplus())
CLEAR = 1e5  # a last singular value so many times the next one leaves no doubt about the rank


def judged(network, pattern):
    """Return rank and determined values by the first random weights that leave no doubt about the rank."""
    for seed in range(5):
        found = rank_and_determined(jacobian(network, pattern, seed))
        if found[2] > CLEAR:
            return found
    raise AssertionError(f"no clear rank for {network}")


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 10))])
def test_feasibility_is_what_the_jacobian_says_on_random_networks(part) -> None:
    rng = np.random.default_rng(part)
    for number in range(50):
        network = random_network(rng, LINEAR)
        pattern = random_pattern(network, rng)
        report = ca.feasibility(network, activity=pattern, seed=number)
        rank, determined, _ = judged(network, pattern)
        assert report.limit is not None
        assert report.limit.linear
        assert report.limit.rank == rank, network
        np.testing.assert_array_equal(report.limit.determined.ravel(), determined)
        assert not (report.determined & ~report.limit.determined).any(), network
        words = {True: "determined", False: "partial" if determined.any() else "undetermined"}[bool(determined.all())]
        assert report.verdict.startswith(words), (report.verdict, words)


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 4))])
def test_where_activations_bend_the_limit_is_that_of_the_neighbourhood(part) -> None:
    rng = np.random.default_rng(100 + part)
    for _ in range(20):
        network = random_network(rng, BENT)
        pattern = random_pattern(network, rng)
        found = generic_whole_map(network, activity=pattern)
        rank, determined, _ = judged(network, pattern)
        assert found.rank == rank, network
        np.testing.assert_array_equal(found.determined.ravel(), determined)


def chain(activation, bias, size):
    """Convolutions whose many outputs see padding alone, or a dead pixel: equal inputs of activations that bend."""
    return ca.Network(
        (1, size),
        [
            ca.Conv1d(1, 1, padding=[(size, 2 * size)], bias=bias),
            activation,
            ca.Conv1d(4, 1, dilation=1, stride=size, bias=bias),
            activation,
            ca.Conv1d(5, 1, stride=2, bias=bias),
            activation,
            ca.Flatten(),
            ca.Linear(2),
        ],
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [ca.Tanh(), ca.Sigmoid(), ca.Softplus(), ca.Softsign(), ca.ELU()])
def test_equal_inputs_of_an_activation_have_equal_outputs(activation, bias) -> None:
    rng = np.random.default_rng(0)
    for network in (chain(activation, bias, 5), padded(activation, bias)):
        pattern = random_pattern(network, rng)
        found = generic_whole_map(network, activity=pattern)
        rank, determined, _ = judged(network, pattern)
        assert found.rank == rank
        np.testing.assert_array_equal(found.determined.ravel(), determined)


def padded(activation, bias):
    """Three layers that were called determined while outputs at equal inputs were drawn apart."""
    return ca.Network(
        (1, 10),
        [
            ca.Conv1d(1, 1, padding=[(10, 20)], bias=bias),
            activation,
            ca.Conv1d(1, 4, dilation=10, bias=bias),
            activation,
            ca.Conv1d(1, 5, stride=5, bias=bias),
            activation,
            ca.Flatten(),
            ca.Linear(2),
        ],
    )


def test_masks_are_checked_at_once_and_copied() -> None:
    net = ca.Network((4,), [ca.Linear(6), ca.LeakyReLU(), ca.Linear(3), ca.ReLU(), ca.Linear(2)])
    with pytest.raises(ca.ParameterError, match="shape"):
        ca.feasibility(net, activity={"1": np.ones(5, dtype=bool), "3": np.ones(3, dtype=bool)})
    masks = {"1": np.ones(6, dtype=bool), "3": np.ones(3, dtype=bool)}
    report = ca.feasibility(net, activity=masks)
    masks["3"][:] = False
    assert report.active["3"].all()
    assert report.limit.full


def test_nothing_is_known_above_a_start_whose_gradient_is_zero() -> None:
    net = ca.Network((4,), [ca.Linear(6), ca.ReLU(), ca.Linear(5), ca.ReLU(), ca.Linear(2)])
    report = ca.feasibility(net, activity={"1": np.ones(6, dtype=bool), "3": np.zeros(5, dtype=bool)})
    assert [row.verdict for row in report.layers] == ["undetermined", "undecided", "undecided"]
    assert report.verdict == "undetermined"
    assert report.limit.rank == 0


def test_an_activation_before_the_first_layer_that_cuts_everything_off() -> None:
    net = ca.Network((4,), [ca.ReLU(), ca.Linear(6), ca.Tanh(), ca.Linear(2)])
    assert ca.feasibility(net, activity=0.0).conclusion.startswith("Not determined: an activation before the first")


def test_a_report_travels_with_its_limit() -> None:
    report = ca.feasibility(
        ca.Network((1, 12), [ca.Conv1d(8, 2, stride=2), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(10)])
    )
    again = pickle.loads(pickle.dumps(report))
    assert again.limit.rank == report.limit.rank == 7
    assert again != report  # arrays compare value by value, so that reports are compared as objects
    assert report.layers[0].reason == (
        "its equations and those of layer '1', with no activation between, have rank 7 and leave 5 dimensions open"
    )


def test_layers_too_large_to_eliminate_together_have_bounds() -> None:
    net = ca.Network((3, 64, 64), [ca.Conv2d(8, 3, padding=1), ca.Conv2d(2, 1), ca.Flatten(), ca.Linear(10)])
    report = ca.feasibility(net)
    first = report.layers[0]
    assert (first.verdict, report.verdict) == ("undecided", "undecided")
    assert 0 < first.generic_low < first.generic_high
    assert "too many to eliminate together" in first.reason
    assert report.limit is None
    assert report.conclusion.startswith("Undecided: whether the 3×64×64 input is determined is open")
