"""MSE, PSNR and SSIM against sums written out and the published formula."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from constraint_algebra import MissingPackageError, ShapeError
from constraint_algebra.experiments.metrics import mse, psnr, ssim


def noisy(shape: tuple[int, ...], seed: int = 0, amount: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """A random sample in [0, 1] and a noisy copy."""
    rng = np.random.default_rng(seed)
    a = rng.random(shape)
    return a, np.clip(a + amount * rng.standard_normal(shape), 0, 1)


def ssim_by_hand(a: np.ndarray, b: np.ndarray, side: int, span: float) -> float:
    """Wang et al. 2004, equation 13, uniform windows that lie inside, sample (co)variances, mean over channels."""
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    scores = []
    for x, y in zip(a, b, strict=True):
        for corner in itertools.product(*(range(n - side + 1) for n in x.shape)):
            window = tuple(slice(i, i + side) for i in corner)
            u, v = x[window].ravel(), y[window].ravel()
            (uu, uv), (_, vv) = np.cov(u, v)
            top = (2 * u.mean() * v.mean() + c1) * (2 * uv + c2)
            scores.append(top / ((u.mean() ** 2 + v.mean() ** 2 + c1) * (uu + vv + c2)))
    return float(np.mean(scores))


@given(st.integers(0, 1000), st.floats(0.1, 300))
def test_mse_and_psnr_are_their_sums_written_out(seed, span) -> None:
    a, b = noisy((2, 3, 4), seed)
    expected = sum((float(x) - float(y)) ** 2 for x, y in zip(a.flat, b.flat, strict=True)) / 24
    assert mse(a, b) == pytest.approx(expected, rel=1e-12)
    assert psnr(a, b, data_range=span) == pytest.approx(10 * math.log10(span**2 / expected), rel=1e-12)


def test_the_range_is_part_of_the_psnr() -> None:
    """The same picture in [0, 1] and in [0, 255] has the same PSNR if its range is stated: 48.13 dB is a slip."""
    a, b = noisy((3, 8, 8))
    assert psnr(255 * a, 255 * b, data_range=255) == pytest.approx(psnr(a, b), rel=1e-12)
    assert psnr(a, b, data_range=255) - psnr(a, b) == pytest.approx(48.1308, abs=1e-4)


def test_equal_arrays_are_infinitely_close() -> None:
    a = noisy((3, 8, 8))[0]
    assert (mse(a, a), psnr(a, a), ssim(a, a)) == (0.0, math.inf, 1.0)


def test_errors_near_the_last_bit_are_neither_lost_nor_infinite() -> None:
    a = np.full((1, 4, 4), 0.5)
    assert psnr(a, a + 1e-15) == pytest.approx(300, abs=1)


@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((3, 9, 11), 7),
        ((1, 8, 8), 7),
        ((2, 6, 10), 5),  # an axis shorter than the window: largest odd side that fits
        ((3, 3, 3), 3),
        ((2, 12), 7),  # 1-D
        ((1, 5, 4, 6), 3),  # 3-D
    ],
)
def test_ssim_is_the_published_formula_in_any_number_of_axes(shape, side) -> None:
    a, b = noisy(shape)
    for span in (1.0, 2.5):
        assert ssim(a, b, data_range=span) == pytest.approx(ssim_by_hand(a, b, side, span), abs=1e-9)
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-12)


@pytest.mark.parametrize("shape", [(12,), (3, 2, 8), (3, 1, 1)])
def test_ssim_is_not_a_number_where_there_is_no_structure(shape) -> None:
    assert math.isnan(ssim(*noisy(shape)))


@pytest.mark.parametrize("metric", [mse, psnr, ssim])
def test_different_shapes_are_refused(metric) -> None:
    with pytest.raises(ShapeError, match=r"same shape are compared, got \(3, 8, 8\) and \(1, 8, 8\)"):
        metric(np.ones((3, 8, 8)), np.ones((1, 8, 8)))
    with pytest.raises(ShapeError, match="same shape"):
        metric(np.ones((0, 8)), np.ones((0, 8)))


@pytest.mark.parametrize("span", [0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_impossible_ranges_are_refused(metric, span) -> None:
    with pytest.raises(ShapeError, match="data_range is the largest minus the smallest"):
        metric(np.ones((1, 8, 8)), np.zeros((1, 8, 8)), data_range=span)


def test_a_missing_scikit_image_is_named_with_its_remedy(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingPackageError, match=r"pip install .constraint-algebra\[images\]"):
        ssim(*noisy((3, 8, 8)))
