"""The limit, and the recursion below it, against Jacobians by automatic differentiation."""

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


@pytest.mark.parametrize("part", range(10))
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


@pytest.mark.parametrize("part", range(4))
def test_where_activations_bend_the_limit_is_that_of_the_neighbourhood(part) -> None:
    rng = np.random.default_rng(100 + part)
    for _ in range(20):
        network = random_network(rng, BENT)
        pattern = random_pattern(network, rng)
        found = generic_whole_map(network, activity=pattern)
        rank, determined, _ = judged(network, pattern)
        assert found.rank == rank, network
        np.testing.assert_array_equal(found.determined.ravel(), determined)
