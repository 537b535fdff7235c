"""Points of a random walk lie in the set, get far, and are the same for the same seed."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.proofs.hit_and_run import hit_and_run
from tests.twin_cases import case, random_case


@pytest.mark.parametrize("seed", [1, 5, 8, 11, 21, 44])  # 1 and 44 begin on the edge of their sets
def test_all_points_are_twins_and_get_far(seed: int) -> None:
    c = random_case(seed)
    P = c.set().polytope
    points = list(islice(hit_and_run(P, 0), 40))
    for n in points:
        assert ((n >= P.lower) & (n <= P.upper)).all()
        assert (P.cut @ n <= P.slack + 1e-12).all()
    for n in points[::13]:
        assert c.verify(c.image + n.reshape(c.image.shape)).equal
    far = np.abs(points).max()
    assert far > 0.05 * np.abs(c.set().twin("mean").difference).max()
    np.testing.assert_array_equal(points, list(islice(hit_and_run(P, 0), 40)))
    assert not np.allclose(points[-1], next(islice(hit_and_run(P, 1), 39, None)))


def test_a_set_without_room_has_no_points() -> None:
    net = ca.Network((1, 3), [ca.Conv1d(8, 2), ca.Flatten(), ca.Linear(2)])
    assert not list(hit_and_run(case(net, np.full((1, 3), 0.5)).set().polytope, 0))
