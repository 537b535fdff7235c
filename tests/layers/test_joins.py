"""Sums, differences and concatenations are PyTorch's; what cannot be joined is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.base import Affine


def applied(layer: Affine, *inputs: FloatArray) -> FloatArray:
    """What an affine operation makes of values: `sum of M x`, and c, in the shape that it states."""
    shapes = [np.shape(x) for x in inputs]
    maps, c = layer.maps(*shapes), layer.constant(*shapes)
    assert [M.shape[1] for M in maps] == [x.size for x in inputs]
    y = sum(M @ x.ravel() for M, x in zip(maps, inputs, strict=True))
    return np.asarray(y if c is None else y + c).reshape(layer.output_shape(*shapes))


def values(seed: int, *shapes: tuple[int, ...]) -> list[FloatArray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (2, 3, 2, 2)])
def test_sums_and_differences(shape) -> None:
    a, b, c = values(0, shape, shape, shape)
    np.testing.assert_allclose(applied(ca.Add(), a, b, c), a + b + c, rtol=1e-15)
    np.testing.assert_array_equal(applied(ca.Subtract(), a, b), a - b)


@pytest.mark.parametrize(
    ("one", "other"), [((3, 4, 5), (3, 1, 1)), ((3, 1, 1), (3, 4, 5)), ((3, 4), (4,)), ((1,), (7,))]
)
def test_shapes_are_broadcast_as_pytorch_does(one, other) -> None:
    a, b = values(1, one, other)
    np.testing.assert_array_equal(applied(ca.Add(), a, b), (torch.tensor(a) + torch.tensor(b)).numpy())
    np.testing.assert_array_equal(applied(ca.Subtract(), a, b), (torch.tensor(a) - torch.tensor(b)).numpy())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenation_along_each_axis(axis) -> None:
    shapes = [tuple(size + extra * (axis == number) for number, size in enumerate((2, 3, 4))) for extra in range(3)]
    parts = values(2, *shapes)
    np.testing.assert_array_equal(
        applied(ca.Concatenate(axis), *parts), torch.cat([torch.tensor(x) for x in parts], axis).numpy()
    )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ca.Add().output_shape((3,)), "Add joins at least two values, got 1; name its inputs"),
        (lambda: ca.Add().output_shape((3, 4), (3, 5)), r"inputs of one shape, got \(3, 4\) and \(3, 5\)"),
        (lambda: ca.Subtract().output_shape((3,), (3,), (3,)), "Subtract takes two values, got 3"),
        (lambda: ca.Concatenate(-1), "axis must be a whole number of at least 0, got -1"),
        (lambda: ca.Concatenate().output_shape((3, 4), (3, 5)), r"differ along axis 0 alone, got \(3, 4\) and"),
        (lambda: ca.Concatenate(2).output_shape((3, 4), (3, 4)), "differ along axis 2 alone"),
        (lambda: ca.Concatenate().output_shape((3, 4), (3,)), "differ along axis 0 alone"),
    ],
)
def test_what_cannot_be_joined_is_refused(build, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        build()
