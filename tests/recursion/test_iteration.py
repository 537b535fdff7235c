"""Fixed points: where an iteration comes to stand, how fast, and that it says so when it does not."""

import numpy as np
import pytest

from constraint_algebra.recursion.iteration import fixed_point


@pytest.mark.parametrize("factor", [0.9, 0.3, -0.6, -1.8, -5.0])
def test_linear_maps_of_one_slope(factor: float) -> None:
    found = fixed_point(lambda x: factor * x + 1, np.zeros(3), rounds=400)
    assert found is not None
    assert np.abs(found.point - 1 / (1 - factor)).max() < 1e-12
    assert (found.share < 1) == (factor < -1)
    if factor > 0:
        assert abs(found.contraction - factor) < 0.02


def test_none_where_it_runs_away_or_goes_on() -> None:
    assert fixed_point(lambda x: 2 * x + 1, np.ones(1)) is None
    assert fixed_point(lambda x: x + 0.5, np.ones(1)) is None
    assert fixed_point(lambda _: None, np.ones(1)) is None
    assert fixed_point(lambda x: x * np.nan, np.ones(1)) is None
