"""Pools of every kind, with random geometries, are PyTorch's; of equal entries the first wins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import constraint_algebra as ca
from tests.layers.test_joins import applied

AXES = (1, 2, 3)
SEEDS = range(12)


def geometry(axes: int, seed: int) -> tuple[np.random.Generator, np.ndarray, dict[str, Any]]:
    """A generator, an input, and a window that fits it."""
    rng = np.random.default_rng([axes, seed])
    kernel = tuple(map(int, rng.integers(1, 4, axes)))
    options = {
        "stride": None if rng.random() < 0.3 else tuple(map(int, rng.integers(1, 4, axes))),
        "padding": tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel),
        "ceil_mode": bool(rng.random() < 0.5),
    }
    sizes = rng.integers(5, 9 if axes < 3 else 7, axes)
    x = rng.standard_normal((int(rng.integers(1, 4)), *map(int, sizes)))
    return rng, x, {"kernel": kernel, **options}


def of_torch(name: str, axes: int, x: np.ndarray, kernel: Any, **options: Any) -> Any:
    found = getattr(functional, f"{name}{axes}d")(torch.tensor(x)[None], kernel, **options)
    return tuple(part.numpy()[0] for part in found) if isinstance(found, tuple) else found.numpy()[0]


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("seed", SEEDS)
def test_average_pools(axes, seed) -> None:
    rng, x, options = geometry(axes, seed)
    options["count_include_pad"] = bool(rng.random() < 0.5)
    layer = getattr(ca, f"AvgPool{axes}d")(**options)
    expected = of_torch("avg_pool", axes, x, kernel=options.pop("kernel"), **options)
    assert layer.output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(applied(layer, x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("seed", SEEDS)
def test_winners_of_max_pools_even_of_equal_entries(axes, seed) -> None:
    rng, x, options = geometry(axes, seed)
    x = np.floor(2 * x) if seed % 2 else x  # many equal entries
    options["dilation"] = tuple(map(int, rng.integers(1, 3, axes)))
    place = getattr(ca, f"MaxPool{axes}d")(**options).place(x.shape)
    kernel = options.pop("kernel")
    expected, at = of_torch("max_pool", axes, x, kernel, **options, return_indices=True)
    assert_wins(place, x, expected, at)


def assert_wins(place: ca.PlacedLayer, x: np.ndarray, expected: np.ndarray, at: np.ndarray) -> None:
    """PyTorch counts the places of winners in each channel."""
    from constraint_algebra.networks import operations

    assert place.output_shape == expected.shape
    offset = np.arange(len(x)).reshape(-1, *(1,) * (x.ndim - 1)) * np.prod(x.shape[1:])
    np.testing.assert_array_equal(operations.winners(place, x), at + offset)
    np.testing.assert_array_equal(operations.value(place, {}, [x]), expected)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("seed", SEEDS)
def test_adaptive_pools(axes, seed) -> None:
    rng, x, _ = geometry(axes, seed)
    sizes: Any = tuple(None if rng.random() < 0.2 and axes > 1 else int(rng.integers(1, 8)) for _ in range(axes))
    sizes = sizes if seed % 3 else int(rng.integers(1, 6))
    mean = getattr(ca, f"AdaptiveAvgPool{axes}d")(sizes)
    expected = of_torch("adaptive_avg_pool", axes, x, sizes)
    assert mean.output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(applied(mean, x), expected, rtol=0, atol=1e-14)
    largest = getattr(ca, f"AdaptiveMaxPool{axes}d")(sizes).place(x.shape)
    assert_wins(largest, np.round(x), *of_torch("adaptive_max_pool", axes, np.round(x), sizes, return_indices=True))


def test_one_window_of_equal_entries_sends_its_gradient_to_the_first() -> None:
    net = ca.Network((1, 2, 2), [ca.MaxPool2d(2), ca.Flatten()])
    x = np.zeros((1, 2, 2))
    sent = net.output_gradients({}, net.forward({}, x), np.array([3.0]))[0]
    t = torch.tensor(x, requires_grad=True)
    (3 * functional.max_pool2d(t[None], 2)).sum().backward()
    np.testing.assert_array_equal(sent, t.grad.numpy())
    np.testing.assert_array_equal(sent.ravel(), [3, 0, 0, 0])


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_maxout_takes_the_largest_of_neighbouring_channels(pieces) -> None:
    from constraint_algebra.networks import operations

    x = np.random.default_rng(pieces).standard_normal((6, 3, 2))
    place = ca.Maxout(pieces).place(x.shape)
    expected = torch.tensor(x).reshape(6 // pieces, pieces, 3, 2).amax(1).numpy()
    np.testing.assert_array_equal(operations.value(place, {}, [x]), expected)


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2), 1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_means_over_axes(axes, keepdims) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    expected = torch.tensor(x).mean(axes, keepdim=keepdims).numpy()
    np.testing.assert_allclose(
        applied(ca.Mean(axes, keepdims=keepdims), x).reshape(expected.shape), expected, rtol=0, atol=1e-15
    )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ca.AvgPool2d(3, padding=2), "padding is at most half of the kernel, got 2 for a kernel of 3"),
        (lambda: ca.AvgPool2d(3).output_shape((2, 2, 2)), r"kernel 3 is larger than the padded input \(2 \+ 2\*0\)"),
        (lambda: ca.MaxPool2d(2, dilation=3).output_shape((2, 3, 3)), "MaxPool2d: kernel 2 is larger than the padded"),
        (lambda: ca.AvgPool2d(3).output_shape((2, 9)), r"an input with channels and 2 axes, got \(2, 9\)"),
        (lambda: ca.AdaptiveMaxPool2d(2).output_shape((2, 9)), "AdaptiveMaxPool2d needs an input with channels and 2"),
        (lambda: ca.AvgPool2d((3, 3, 3)), r"kernel needs one number, or one for each of 2 axes, got \(3, 3, 3\)"),
        (lambda: ca.MaxPool2d(0), "kernel must be a whole number of at least 1, got 0"),
        (lambda: ca.MaxPool2d(2, stride=0), "stride must be a whole number of at least 1, got 0"),
        (lambda: ca.MaxPool2d(2, ceil_mode=1), "ceil_mode must be True or False, got 1"),
        (lambda: ca.AvgPool1d(2, count_include_pad="no"), "count_include_pad must be True or False, got 'no'"),
        (lambda: ca.AdaptiveAvgPool2d((2,)), r"output_size needs one number, or one for each of 2 axes, got \(2,\)"),
        (lambda: ca.AdaptiveAvgPool2d(0), "output_size must be a whole number of at least 1, got 0"),
        (lambda: ca.Maxout(2).output_shape((3, 4)), "Maxout: 3 channels cannot be split into groups of 2"),
        (lambda: ca.Mean((1, 1)).output_shape((3, 4)), r"axes must be some of 0 to 1, each once, got \(1, 1\)"),
        (lambda: ca.Mean(5).output_shape((3,)), "axes must be some of 0 to 0"),
        (lambda: ca.Mean(()).output_shape((3,)), "axes must be some of 0 to 0"),
    ],
)
def test_windows_that_cannot_be_are_refused(build, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        build()
