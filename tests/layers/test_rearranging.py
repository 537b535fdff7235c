"""Operations that only move values are PyTorch's, bit for bit; what cannot be moved so is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.layers.base import Affine
from tests.layers.test_joins import applied, values


def assert_moves(layer: Affine, x: np.ndarray, expected: torch.Tensor) -> None:
    assert layer.output_shape(x.shape) == tuple(expected.shape)
    np.testing.assert_array_equal(applied(layer, x), expected.numpy())


@pytest.mark.parametrize("shape", [(12, 5), (-1,), (2, -1, 3), (60, 1, 1)])
def test_reshapes(shape) -> None:
    (x,) = values(0, (3, 4, 5))
    assert_moves(ca.Reshape(shape), x, torch.tensor(x).reshape(shape))


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1), (0, 1, 2)])
def test_permutations(axes) -> None:
    (x,) = values(1, (3, 4, 5))
    assert_moves(ca.Permute(axes), x, torch.tensor(x).permute(axes))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("seed", range(3))
def test_paddings(axes, mode, seed) -> None:
    rng = np.random.default_rng([axes, seed])
    x = rng.standard_normal((2, *map(int, rng.integers(4, 7, axes))))
    sides = [tuple(map(int, rng.integers(-1 if mode == "zeros" else 0, 4, 2))) for _ in range(axes)]
    value = 0.5 if mode == "zeros" and seed else 0.0
    flat = [n for pair in reversed(sides) for n in pair]  # PyTorch begins with the last axis
    name = {"zeros": "constant"}.get(mode, mode)
    expected = functional.pad(torch.tensor(x)[None], flat, name, value if mode == "zeros" else None)[0]
    assert_moves(ca.Pad(tuple(sides), mode=mode, value=value), x, expected)


def test_one_number_pads_both_sides_and_leading_axes_may_be_left_out() -> None:
    (x,) = values(2, (2, 3, 4))
    assert_moves(ca.Pad((1, 2)), x, functional.pad(torch.tensor(x), (2, 2, 1, 1)))
    assert_moves(ca.Pad((1,)), x, functional.pad(torch.tensor(x), (1, 1)))


@pytest.mark.parametrize(
    "cut", [(slice(None), slice(1, 3)), (slice(0, 3, 2), slice(None), slice(-2, None)), (slice(None, None, -1),)]
)
def test_slices(cut) -> None:
    (x,) = values(3, (3, 4, 5))
    layer = ca.Slice(tuple((part.start, part.stop, part.step) for part in cut))
    assert_moves(layer, x, torch.tensor(x[cut].copy()))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_shuffles_between_channels_and_places(factor) -> None:
    (x,) = values(4, (2 * factor**2, 3, 4))
    up = functional.pixel_shuffle(torch.tensor(x), factor)
    assert_moves(ca.PixelShuffle(factor), x, up)
    assert_moves(ca.PixelUnshuffle(factor), up.numpy(), torch.tensor(x))
    np.testing.assert_array_equal(functional.pixel_unshuffle(up, factor).numpy(), x)


@pytest.mark.parametrize(("shape", "factor"), [((2, 5), 3), ((2, 3, 4), 2), ((2, 3, 4), (1, 3)), ((1, 2, 2, 3), 2)])
def test_enlargements(shape, factor) -> None:
    (x,) = values(5, shape)
    factors = factor if isinstance(factor, tuple) else (factor,) * (len(shape) - 1)
    expected = functional.interpolate(torch.tensor(x)[None], scale_factor=list(map(float, factors)), mode="nearest")[0]
    assert_moves(ca.Upsample(factor), x, expected)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ca.Reshape((-1, -1)), r"at most one size is -1, got \(-1, -1\)"),
        (lambda: ca.Reshape(12), "Reshape: shape must be a sequence with an entry for each axis, got 12"),
        (lambda: ca.Reshape((5,)).output_shape((3, 4)), r"\(3, 4\) has 12 values, which do not fit \(5,\)"),
        (lambda: ca.Reshape((-1, 24)).output_shape((3, 4)), "has 12 values, which do not fit"),
        (lambda: ca.Permute((0, 2)), r"axes must be each of 0 to 1 once, got \(0, 2\)"),
        (lambda: ca.Permute((0, 1)).output_shape((3,)), r"2 axes came for an input of shape \(3,\)"),
        (lambda: ca.Pad(1), "Pad: sides must be a sequence with an entry for each axis, got 1"),
        (lambda: ca.Pad(((1, 2, 3),)), r"sides must be \(before, after\) for each axis"),
        (lambda: ca.Pad(((8, 0),), mode="reflect").output_shape((3, 8)), "needs more values than the 8 of the axis"),
        (lambda: ca.Pad(((9, 0),), mode="circular").output_shape((3, 8)), "needs more values than the 8 of the axis"),
        (lambda: ca.Pad(((-5, -3),)).output_shape((3, 8)), r"leave nothing of an input of shape \(3, 8\)"),
        (lambda: ca.Pad((1, 1, 1)).output_shape((3, 8)), "sides of 3 axes came for an input"),
        (lambda: ca.Slice(3), "Slice: ranges must be a sequence with an entry for each axis, got 3"),
        (lambda: ca.Slice(((0, 2),)), r"ranges must be \(start, stop, step\) for each axis"),
        (lambda: ca.Slice((("a", 2, 1),)), r"ranges must be \(start, stop, step\) for each axis"),
        (lambda: ca.Slice(((0, 2, 0),)), "a step must not be zero"),
        (lambda: ca.Slice(((0, 0, 1),)).output_shape((3, 8)), "leaves nothing of an input"),
        (lambda: ca.Slice(((0, 2, 1),) * 3).output_shape((3, 8)), "3 ranges came for an input"),
        (lambda: ca.PixelShuffle(2).output_shape((3, 8, 8)), r"channels of 4s, got \(3, 8, 8\)"),
        (lambda: ca.PixelUnshuffle(2).output_shape((3, 7, 8)), r"sizes of 2s, got \(3, 7, 8\)"),
        (lambda: ca.Upsample(1.5), "factor must be a whole number of at least 1, got 1.5"),
        (lambda: ca.Upsample((2, 2)).output_shape((3, 8)), "one for each of 1 axes"),
    ],
)
def test_moves_that_cannot_be_are_refused(build, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        build()


def test_an_unknown_mode_of_padding_is_refused() -> None:
    with pytest.raises(ca.UnknownNameError, match="mode must be one of 'zeros', 'reflect', 'replicate', 'circular'"):
        ca.Pad(((1, 1),), mode="edge")
