"""The cheapest subset with a given sum, against all subsets one by one."""

from itertools import product

import numpy as np
import pytest

from constraint_algebra.numerics.cheapest_subsets import cheapest_subset


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_only_one_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers, costs = rng.normal(size=11), rng.uniform(0.5, 2, 11)
    chosen = rng.random(11) < 0.4
    total = float(numbers[chosen].sum())
    found = cheapest_subset(numbers, costs, total, 1e-12)
    every = [s for s in product((False, True), repeat=11) if abs(numbers @ s - total) < 1e-9]
    assert len(every) == 1
    assert found is not None
    assert (found == every[0]).all()


def test_few_of_many() -> None:
    rng = np.random.default_rng(0)
    numbers, chosen = rng.normal(size=100), np.zeros(100, dtype=bool)
    chosen[[3, 40, 77, 90]] = True
    found = cheapest_subset(numbers, np.ones(100), float(numbers[chosen].sum()), 1e-14)
    assert found is not None
    assert (found == chosen).all()


def test_cost_says_where_to_look() -> None:
    rng = np.random.default_rng(0)
    numbers, costs, chosen = rng.normal(size=60), np.full(60, 5.0), np.zeros(60, dtype=bool)
    chosen[:20], costs[:24] = rng.random(20) < 0.6, 0.1
    total = float(numbers[chosen].sum())
    found = cheapest_subset(numbers, costs, total, 1e-13, listed=2**13)
    assert found is not None
    assert (found == chosen).all()
    assert cheapest_subset(numbers, np.ones(60), total, 1e-13, listed=2**13) is None


def test_a_sum_that_many_meet_names_none() -> None:
    numbers = np.random.default_rng(0).normal(size=60)
    chosen = np.arange(60) % 3 == 0
    assert cheapest_subset(numbers, np.ones(60), float(numbers[chosen].sum()), 1e-3) is None
    assert cheapest_subset(numbers, np.ones(60), 1e6, 1e-12) is None
    assert cheapest_subset(np.ones(200), np.ones(200), 3.0, 1e-12) is None


@pytest.mark.parametrize("tolerance", [1e-13, 1e-6, 1e-3])
def test_no_other_subset_is_returned_by_chance(tolerance: float) -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(30):
        numbers = rng.normal(size=40)
        total = float(numbers @ (rng.random(40) < 0.5))  # dear: twenty of forty, among the cheap it is not seen
        found = cheapest_subset(numbers, np.ones(40), total, tolerance, listed=2**12)
        wrong += found is not None
    assert wrong <= 2
