"""The observer's intervals contain the truth, in float64 and in float32, and are as narrow as the set itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from tests.some import some
from tests.twin_cases import case, random_case


def seen_by_an_observer(c, dtype, count: int = 2):
    gradients = c.gradients(dtype=dtype)
    kind = np.float32 if dtype == torch.float32 else np.float64
    parameters = {name: values.astype(kind) for name, values in c.parameters.items()}
    result = ca.reconstruct(c.network, parameters, gradients, search=0)
    pixels = result.determined.copy()
    open_ones = np.flatnonzero(~result.determined)
    pixels.ravel()[np.random.default_rng(0).choice(open_ones, min(count, len(open_ones)), replace=False)] = True
    return result, result.intervals(ca.first_layer_equations(c.network, parameters, gradients), pixels=pixels), pixels


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("block", some(2, range(5)))
def test_the_truth_lies_inside(block: int, dtype) -> None:
    for seed in range(8 * block, 8 * block + 8):
        c = random_case(seed)
        result, bounds, pixels = seen_by_an_observer(c, dtype)
        inside = (bounds.lower <= c.image) & (c.image <= bounds.upper)
        assert inside[pixels].all(), (seed, bounds)
        assert np.isnan(bounds.lower[~pixels]).all()
        np.testing.assert_array_equal(bounds.fixed, result.determined)
        np.testing.assert_array_equal(bounds.fixed ^ bounds.bounded ^ bounds.free, pixels)


@pytest.mark.parametrize("seed", [0, 10, 30])
def test_in_float64_the_observer_knows_as_much_as_the_set_says(seed: int) -> None:
    c = random_case(seed)
    _, bounds, pixels = seen_by_an_observer(c, torch.float64)
    found = c.set()
    for pixel in map(tuple, np.argwhere(pixels & ~bounds.fixed)):
        interval = found.interval(pixel)
        assert bounds.lower[pixel] <= interval.lower_inner + 1e-9
        assert bounds.upper[pixel] >= interval.upper_inner - 1e-9
        assert bounds.width[pixel] == pytest.approx(interval.width, abs=1e-4)


def test_error_bars_widen_with_noise_and_the_truth_stays_inside() -> None:
    net = ca.Network((2, 6, 6), [ca.Conv2d(2, 3, stride=2, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(5)])
    c = case(net, np.random.default_rng(1).random((2, 6, 6)))
    exact, rng, widths = c.gradients(), np.random.default_rng(2), []
    pixels = np.zeros(c.image.shape, dtype=bool)
    pixels[0, :2] = True
    for noise in (1e-12, 1e-6, 1e-4):
        noisy = {name: values + noise * rng.standard_normal(values.shape) for name, values in exact.items()}
        result = ca.reconstruct(net, c.parameters, noisy, noise=noise, search=0)
        first = ca.first_layer_equations(net, c.parameters, noisy, noise=noise)
        bounds = result.intervals(first, pixels=pixels)
        assert ((bounds.lower <= c.image) & (c.image <= bounds.upper))[pixels].all()
        widths.append(np.nanmean(bounds.width))
    assert widths[0] < widths[2]


def test_progress_time_limit_and_repr() -> None:
    c, seen = random_case(8), []
    gradients = c.gradients()
    result = ca.reconstruct(c.network, c.parameters, gradients, search=0)
    first = ca.first_layer_equations(c.network, c.parameters, gradients)
    pixels = np.zeros(c.image.shape, dtype=bool)
    pixels[0, 0] = True
    early = result.intervals(first, pixels=pixels, time_limit=0.0, progress=lambda *args: seen.append(args))
    full = result.intervals(first, pixels=pixels)
    assert (early.width[pixels] >= full.width[pixels] - 1e-9).all()
    assert ((early.lower <= c.image) & (c.image <= early.upper))[pixels].all()
    assert seen[-1][0] == seen[-1][1]
    assert "standard deviations" in repr(full)
