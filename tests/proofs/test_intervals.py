"""Intervals of single values: HiGHS agrees, the truth lies inside, a time limit costs width and not soundness."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from tests.twin_cases import random_case


@pytest.mark.parametrize("seed", [5, 8, 42])
def test_both_solvers_find_the_same_ends_and_the_truth_between_them(seed: int) -> None:
    c = random_case(seed)
    found = c.set()
    for pixel in map(tuple, np.random.default_rng(seed).integers(0, c.image.shape, (4, 3)).tolist()):
        one, other = found.interval(pixel), found.interval(pixel, solver="highs")
        for interval in (one, other):
            assert interval.contains(c.image[pixel])
            assert interval.lower_outer <= interval.lower_inner <= c.image[pixel] <= interval.upper_inner
            assert interval.upper_inner <= interval.upper_outer <= 1
            assert interval.lower_outer >= 0
        assert one.width == pytest.approx(other.width, abs=1e-4)
        assert one.outer_width == pytest.approx(other.outer_width, abs=1e-4)
        early = found.interval(pixel, time_limit=0.0)
        assert early.lower_outer <= one.lower_inner
        assert early.upper_outer >= one.upper_inner
        assert early.contains(c.image[pixel])
        assert early.doubt >= one.doubt - 1e-9


def test_the_ends_are_reached_by_verified_twins() -> None:
    c = random_case(8)
    found, pixel = c.set(), (0, 1, 2)
    interval, twin = found.interval(pixel), found.twin(pixel)
    assert twin.image[pixel] == pytest.approx(interval.lower_inner, abs=1e-6) or twin.image[pixel] == pytest.approx(
        interval.upper_inner, abs=1e-6
    )
    assert c.verify(twin.image).equal


def test_a_pixel_outside_is_refused() -> None:
    found = random_case(5).set()
    for wrong in ((0, 0), (0, -1, 0), (9, 0, 0)):
        with pytest.raises(ca.ShapeError, match="a pixel is an index into an input of shape"):
            found.interval(wrong)
