"""Sides of an edge decided by evidence: odds against densities, choices against brute force, and what stays open."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from constraint_algebra.recursion.activation_sides import (
    DOUBTED,
    TAIL,
    WEIGHED,
    BiasCheck,
    _log_odds_by_bias,
    decide,
    log_odds_at_kink,
    log_odds_at_plateau,
)

MEMBERS = 8


def check(gradient, deviation=1e-9) -> BiasCheck:
    gradient = np.atleast_1d(np.asarray(gradient, dtype=float))
    return BiasCheck(gradient, np.full(gradient.shape, deviation), 0.0)


def still(odds) -> np.ndarray:
    return np.zeros((*np.shape(odds), MEMBERS))


def test_odds_are_the_ratio_of_two_densities() -> None:
    distances = np.array([-9.0, -1.0, 0.0, 0.5, 3.0, 30.0])
    expected = np.log(2.0 * 1e-4 * stats.norm.cdf(distances)) - stats.t.logpdf(distances, TAIL)
    np.testing.assert_allclose(log_odds_at_plateau(distances, np.full(6, 1e-4), 2.0), expected, atol=0.01)
    two = np.log(stats.norm.cdf(distances)) - np.log(stats.norm.sf(distances))
    np.testing.assert_allclose(log_odds_at_kink(distances[:5]), two[:5], rtol=1e-9)


def test_no_density_means_no_output_passes() -> None:
    assert (log_odds_at_plateau(np.array([0.0, 1e3]), np.ones(2), 0.0) == -np.inf).all()


@pytest.mark.parametrize("count", [1, 5, 10, 11, 14])
def test_the_choices_are_weighed_as_by_brute_force(count) -> None:
    rng = np.random.default_rng(count)
    odds, effect = 2 * rng.standard_normal(count), rng.standard_normal(count)
    misfit, noise, likely = 0.7, 0.2, odds > 0
    likelihood = {}
    for bits in product((0, 1), repeat=count):
        wrong = np.flatnonzero(np.array(bits) != likely)
        others = [j for j in wrong if j >= WEIGHED]
        several = len(others) > 1 or (others and any(DOUBTED <= j < WEIGHED for j in wrong))
        if several and any(bits):
            continue  # no hypothesis
        lacking = misfit - np.dot(bits - likely.astype(int), effect)
        prior = 2.0 ** likely.sum() if several else 1.0  # a dead filter is as likely as all other choices together
        fits = (1 + (lacking / noise) ** 2 / TAIL) ** (-(TAIL + 1) / 2)
        likelihood[bits] = prior * np.exp(np.dot(bits, odds)) * fits
    found = _log_odds_by_bias(odds, effect, misfit, noise)
    for j in range(count):
        one = sum(p for bits, p in likelihood.items() if bits[j])
        assert found[j] == pytest.approx(np.log(one / (sum(likelihood.values()) - one)), abs=1e-9)


def test_of_many_zeros_the_one_that_is_none_is_found_or_stays_open() -> None:
    """The error bars of all say zero; the bias equation that one passes, though not among the least certain."""
    rng = np.random.default_rng(0)
    dy = rng.uniform(0.5, 2, (1, 200))
    odds = -rng.uniform(8, 12, (1, 200))
    odds[0, 123] = -11.9
    found = decide(odds, dy, still(odds), (0.0, 1.0), check(dy[0, 123]))
    np.testing.assert_array_equal(np.flatnonzero(found.passes[0]), [123])
    assert found.decided.all()
    dy[0, 45] = dy[0, 123]  # as good an explanation
    odds[0, 45] = -11.9
    found = decide(odds, dy, still(odds), (0.0, 1.0), check(dy[0, 123]))
    np.testing.assert_array_equal(np.flatnonzero(~found.decided[0]), [45, 123])


def test_a_dead_filter_is_one_though_error_bars_decide_nothing() -> None:
    dy, odds = np.random.default_rng(0).standard_normal((1, 40)), np.full((1, 40), 0.3)
    found = decide(odds, dy, still(odds), (0.0, 1.0), check(0.0))
    assert not found.passes.any()
    assert found.decided.all()
    assert not decide(odds, dy, still(odds), (0.0, 1.0), check(1e9)).decided.any()  # which nothing explains


def test_what_nothing_explains_leaves_no_certainty_behind_that_was_not_there() -> None:
    odds = np.array([[-9.0, -10.0, -30.0]])
    found = decide(odds, np.ones((1, 3)), still(odds), (0.0, 1.0), check(1e6))
    assert not found.passes[0, 2]
    assert np.isfinite(found.doubt).all()


def test_the_bias_equation_decides_what_error_bars_leave_open() -> None:
    dy = np.array([[1.0, 2.0, 4.0, 8.0]])
    odds = np.array([[0.0, 0.5, -0.5, 100.0]])
    for truth in ([1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1]):
        found = decide(odds, dy, still(odds), (0.0, 1.0), check(dy @ truth))
        np.testing.assert_array_equal(found.passes[0], truth)
        assert found.decided.all()
        assert not found.doubt.any()


def test_it_overrules_error_bars_that_are_wrong() -> None:
    dy = np.array([[1.0, 2.0, 4.0]])
    odds = np.array([[12.0, -12.0, -12.0]])
    found = decide(odds, dy, still(odds), (0.0, 1.0), check(4.0))
    np.testing.assert_array_equal(found.passes[0], [False, False, True])


def test_two_choices_that_fit_alike_stay_open() -> None:
    dy = np.array([[3.0, 3.0, 1.0]])
    odds = np.array([[0.0, 0.0, 50.0]])
    found = decide(odds, dy, still(odds), (0.0, 1.0), check(4.0))
    np.testing.assert_array_equal(found.decided[0], [False, False, True])
    np.testing.assert_allclose(found.doubt[0], [0.5, 0.5, 0.0])


def test_without_a_bias_only_the_error_bars_speak() -> None:
    odds = np.array([[-20.0, 1.0, 20.0]])
    found = decide(odds, np.ones((1, 3)), still(odds), (0.0, 1.0), None)
    np.testing.assert_array_equal(found.decided[0], [True, False, True])
    np.testing.assert_array_equal(found.passes[0], [False, True, True])


def test_an_unknown_gradient_silences_the_bias_equation_of_its_filter_alone() -> None:
    odds = np.array([[0.0, 50.0], [0.0, 50.0]])
    dy = np.array([[1.0, np.nan], [1.0, 2.0]])
    found = decide(odds, dy, still(odds), (0.0, 1.0), check([3.0, 3.0]))
    np.testing.assert_array_equal(found.decided, [[False, True], [True, True]])
    assert found.passes[1].all()


def test_a_gradient_within_the_noise_of_the_sum_does_not_matter_and_is_doubted() -> None:
    odds = np.array([[0.0, 50.0]])
    found = decide(odds, np.array([[1e-4, 1.0]]), still(odds), (0.0, 1.0), check(1.0, deviation=1e-3))
    assert found.decided.all()
    np.testing.assert_allclose(found.doubt[0], [0.5, 0.0])


def test_a_leaky_edge_has_a_slope_on_both_sides() -> None:
    dy = np.array([[1.0, 2.0, 4.0]])
    odds = np.array([[0.3, -0.2, 50.0]])
    for truth in ([1, 0, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1]):
        sums = (dy * np.where(truth, 1.0, 0.2)).sum()
        found = decide(odds, dy, still(odds), (0.2, 1.0), check(sums))
        np.testing.assert_array_equal(found.passes[0], truth)
        assert found.decided.all()


def test_noise_in_what_arrives_weakens_the_bias_equation() -> None:
    odds = np.array([[0.0, 50.0, 50.0]])
    dy = np.array([[1.0, 2.0, 4.0]])
    rng = np.random.default_rng(0)
    for size, decided in ((1e-4, True), (3.0, False)):
        moved = size * rng.choice([-1.0, 1.0], (1, 3, MEMBERS))
        found = decide(odds, dy, moved, (0.0, 1.0), check(7.0))
        assert (abs(found.doubt[0, 0]) < 1e-9) == decided
