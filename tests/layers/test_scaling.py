"""Scaling by known numbers."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from tests.layers.test_joins import applied, values

EACH = (2.0, -0.5, 3.0)


def column(numbers) -> np.ndarray:
    return np.reshape(numbers, (-1, 1, 1))


def test_one_number_for_all_or_one_for_each_channel() -> None:
    (x,) = values(0, (3, 4, 5))
    np.testing.assert_array_equal(applied(ca.Scale(2.5, 1.0), x), 2.5 * x + 1)
    np.testing.assert_allclose(applied(ca.Scale(EACH, (1, 0, 2)), x), column(EACH) * x + column([1, 0, 2]), rtol=1e-15)
    assert ca.Scale(2.5).constant((3,)) is None


def test_normalisation_is_that_of_image_pipelines() -> None:
    (x,) = values(1, (3, 4, 5))
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])
    np.testing.assert_allclose(applied(ca.Normalise(mean, std), x), (x - column(mean)) / column(std), atol=1e-14)
    np.testing.assert_allclose(applied(ca.Normalise(0.5, 0.25), x), (x - 0.5) / 0.25, atol=1e-14)
    assert hash(ca.Normalise(mean, std)) == hash(ca.Normalise(tuple(mean), tuple(std)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ca.Scale((1.0, 2.0)).output_shape((3, 8)), r"2 numbers came for the 3 channels of \(3, 8\)"),
        (lambda: ca.Normalise(0.5, (1.0, 2.0)).output_shape((3, 8)), "2 numbers came for the 3 channels"),
        (lambda: ca.Scale("a"), "factor must be a number, got 'a'"),
        (lambda: ca.Scale(1.0, np.inf), "shift must be finite, got inf"),
        (lambda: ca.Normalise(0.5, 0), "std must not be zero"),
        (lambda: ca.Normalise((0.5, 0.5), (1, 0)), "std must not be zero"),
        (lambda: ca.Normalise(0.5, float("nan")), "std must be finite, got nan"),
    ],
)
def test_numbers_that_scale_nothing_are_refused(build, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        build()
