"""Objectives of twins do what they say."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from tests.twin_cases import random_case

CASE = random_case(8)
FOUND = CASE.set()


def test_no_twin_changes_an_objective_more_than_its_own() -> None:
    region = np.zeros(CASE.image.shape, dtype=bool)
    region[0, :2, :3] = True
    measures = {
        "mean": ("mean", lambda n: abs(n.mean())),
        "pixel": ((0, 2, 3), lambda n: abs(n[0, 2, 3])),
        "region": (region, lambda n: abs(n[region].mean())),
    }
    twins = {name: FOUND.twin(objective) for name, (objective, _) in measures.items()}
    for name, (_, measure) in measures.items():
        own = measure(twins[name].difference)
        assert own > 1e-3
        assert all(measure(twin.difference) <= own + 1e-6 for twin in twins.values())
        assert CASE.verify(twins[name].image).equal


def test_the_nearest_twin_is_nearer_than_all_others() -> None:
    target = np.random.default_rng(1).random(CASE.image.shape)
    nearest = FOUND.twin(target)
    distance = np.linalg.norm(nearest.image - target)
    assert distance < np.linalg.norm(CASE.image - target)
    for seed in range(5):
        other = FOUND.twin("random", seed=seed).image
        for share in (0.1, 0.5, 1.0):  # the set is convex: all points between are twins
            mixed = nearest.image + share * (other - nearest.image)
            assert distance <= np.linalg.norm(mixed - target) + 1e-6
    assert "nearest" in repr(nearest)


def test_a_far_twin_is_about_as_far_as_any() -> None:
    far = FOUND.twin("far")
    others = [FOUND.twin("mean"), FOUND.twin((0, 2, 3)), *(FOUND.twin("random", seed=seed) for seed in range(3))]
    assert CASE.verify(far.image).equal
    assert FOUND.contains(far.image)
    assert np.abs(far.difference).mean() > 0.9 * max(np.abs(other.difference).mean() for other in others)
    assert far.distance == pytest.approx(np.linalg.norm(far.difference) / np.sqrt(far.difference.size))
    assert "as far as a search finds" in repr(far)


def test_random_twins_are_reproducible_and_differ_by_seed() -> None:
    first, again, other = (FOUND.twin("random", seed=seed).image for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(
    ("objective", "error", "words"),
    [
        ("largest", ca.UnknownNameError, "'largest'"),
        ((0, 0), ca.ShapeError, "a pixel is an index"),
        (np.zeros(CASE.image.shape, dtype=bool), ca.ShapeError, "at least one value"),
        (np.full(CASE.image.shape, np.nan), ca.ShapeError, "finite"),
        (np.ones((2, 2)), ca.ShapeError, "of shape"),
        (np.ones((2, 2), dtype=bool), ca.ShapeError, "an objective is"),
    ],
)
def test_objectives_that_make_no_sense(objective, error, words) -> None:
    with pytest.raises(error, match=words):
        FOUND.twin(objective)
