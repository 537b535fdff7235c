"""All intervals: the same as one by one, resumed after an interruption, and never mixed up with another set."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from tests.twin_cases import random_case

CASE = random_case(8)
FOUND = CASE.set()
FEW = np.zeros(CASE.image.shape, dtype=bool)
FEW[0, :2, :3] = True


def test_they_are_those_of_single_values() -> None:
    seen = []
    found = ca.interval_map(FOUND, FEW, progress=lambda *args: seen.append(args[:2]))
    for pixel in map(tuple, np.argwhere(FEW)):
        one = FOUND.interval(pixel)
        assert found[pixel].width == pytest.approx(one.width, abs=1e-9)
        assert found[pixel].outer_width == pytest.approx(one.outer_width, abs=1e-9)
        assert found[pixel].contains(CASE.image[pixel])
    assert np.isnan(found.width[~FEW]).all()
    assert np.isnan(found.outer_width[~FEW]).all()
    assert seen == [(i, 6) for i in range(1, 7)]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path) -> None:
    path, done = tmp_path / "intervals.npz", []

    def interrupt(number: int, *_) -> None:
        done.append(number)
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ca.interval_map(FOUND, FEW, path=path, workers=1, progress=interrupt)
    assert np.isfinite(ca.load(path)["lower_outer"]).sum() == 3
    resumed = []
    found = ca.interval_map(FOUND, FEW, path=path, progress=lambda number, *_: resumed.append(number))
    assert resumed == [4, 5, 6]
    np.testing.assert_allclose(found.width[FEW], ca.interval_map(FOUND, FEW).width[FEW], atol=1e-12)


def test_the_file_of_another_set_is_refused(tmp_path) -> None:
    path = tmp_path / "intervals.npz"
    ca.interval_map(FOUND, FEW, path=path)
    other = ca.indistinguishable(CASE.network, CASE.parameters, CASE.image, 3 - CASE.label)
    with pytest.raises(ca.StorageError, match="another input or network"):
        ca.interval_map(other, FEW, path=path)
    with pytest.raises(ca.ShapeError, match="mask must have"):
        ca.interval_map(FOUND, FEW[0])


@pytest.mark.slow
def test_two_processes_find_the_same() -> None:
    one, two = ca.interval_map(FOUND, FEW), ca.interval_map(FOUND, FEW, workers=2)
    np.testing.assert_array_equal(one.lower_outer, two.lower_outer)
    np.testing.assert_array_equal(one.upper_inner, two.upper_inner)
