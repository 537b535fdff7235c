"""Subsets found by their sums, against all subsets tried one by one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from constraint_algebra.numerics.subset_sums import MOST, subset_of_sum


@pytest.mark.parametrize("seed", range(40))
def test_it_is_the_one_that_trying_all_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 10))
    numbers = rng.integers(-20, 21, n) / 4.0  # few values, so that sums coincide
    total = float(rng.integers(-20, 21)) / 4.0
    fitting = [bits for bits in product((False, True), repeat=n) if abs(np.dot(bits, numbers) - total) <= 1e-9]
    found = subset_of_sum(numbers, total, 1e-9)
    assert (found is not None) == (len(fitting) == 1)
    if found is not None:
        assert tuple(found) == fitting[0]


def test_as_many_numbers_as_are_taken_and_one_more() -> None:
    rng = np.random.default_rng(0)
    numbers, chosen = rng.standard_normal(MOST), rng.random(MOST) < 0.5
    found = subset_of_sum(numbers, float(numbers @ chosen), 1e-14)
    np.testing.assert_array_equal(found, chosen)
    assert subset_of_sum(np.append(numbers, 1.0), float(numbers @ chosen), 1e-14) is None
