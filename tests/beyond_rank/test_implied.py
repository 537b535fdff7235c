"""What bounds imply: against linear programmes in the original space, exact arithmetic, and examples by hand."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import linprog

import constraint_algebra as ca
from constraint_algebra.beyond_rank.depth import deepest
from constraint_algebra.beyond_rank.exact_proof import proves_exactly
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.beyond_rank.implied import Implied, implied, proves
from constraint_algebra.beyond_rank.weak_duality import Proof
from constraint_algebra.numerics.null_space import null_space

Array = NDArray[np.float64]


class System(NamedTuple):
    """Equations `M x' = M x` between bounds, with the truth x."""

    M: Array
    lower: Array
    upper: Array
    x: Array


def drawn(rng: np.random.Generator, *, integer: bool = False) -> System:
    """A random system of up to nine values: dense, sparse or of small integers, with bounds of every kind."""
    n = int(rng.integers(2, 10))
    rows, kind = int(rng.integers(0, n + 1)), 1 if integer else int(rng.integers(3))
    M = rng.integers(-2, 3, (rows, n)).astype(float) if kind == 1 else rng.standard_normal((rows, n))
    if kind == 2:
        M *= rng.random((rows, n)) < 0.5
    lower, upper, bounds = np.zeros(n), np.ones(n), 0 if integer else int(rng.integers(4))
    if bounds == 1:
        upper[:] = np.inf
    if bounds == 2:
        lower[rng.random(n) < 0.3], upper[rng.random(n) < 0.3] = -np.inf, np.inf
    x = rng.integers(0, 5, n) / 4 if integer or rng.random() < 0.5 else rng.random(n)
    share = 1.1 * rng.random()
    for i in range(n):
        ends = [end for end in (lower[i], upper[i]) if np.isfinite(end)]
        if ends and rng.random() < share:
            x[i] = rng.choice(ends)
    if bounds == 3:
        same = rng.random(n) < 0.2
        lower[same] = upper[same] = x[same]
    return System(M, lower, upper, x)


def family_of(M: Array, x: Array, rng: np.random.Generator, noise: float = 0.0) -> Family:
    """All solutions of `M x' = M x`, from another one of them, with noise in what the equations say."""
    n = len(x)
    _, sigma, vectors = np.linalg.svd(M) if len(M) else (None, np.zeros(0), np.eye(n))
    rank = int((sigma > 1e-10 * sigma.max(initial=1e-300)).sum())
    V = vectors[rank:].T
    off = vectors[:rank].T @ rng.standard_normal(rank) * noise
    return Family(x + off + V @ rng.standard_normal(n - rank) * rng.random(), V, np.full(n, max(noise, 1e-15)))


def widths(system: System) -> Array:
    """How far each value moves, by two linear programmes each, in the original space."""
    found = np.zeros(len(system.x))
    equations = {"A_eq": system.M, "b_eq": system.M @ system.x} if len(system.M) else {}
    for i in range(len(found)):
        for sign in (1.0, -1.0):
            best = linprog(
                sign * np.eye(len(found))[i],
                bounds=np.column_stack([system.lower, system.upper]),
                method="highs-ds",
                **equations,
            )
            found[i] -= -np.inf if best.status == 3 else best.fun
    return np.abs(found)


def compare(seed: int, systems: int) -> int:
    """Compare with linear programmes; return how many values were determined by bounds."""
    rng, by_bounds = np.random.default_rng(seed), 0
    for number in range(systems):
        system = drawn(rng)
        family = family_of(system.M, system.x, rng)
        found = implied(family, system.lower, system.upper)
        assert found is not None, number
        width = widths(system)
        assert not (found.determined & (width > 1e-6)).any(), number
        assert not (~found.determined & (width < 1e-9)).any(), number
        assert np.abs(found.x - system.x)[found.determined].max(initial=0.0) < 1e-6
        at = ~np.isnan(found.at)
        np.testing.assert_allclose(found.at[at], system.x[at], atol=1e-6)
        assert (found.x >= system.lower - 1e-9).all()
        assert (found.x <= system.upper + 1e-9).all()
        np.testing.assert_allclose(np.abs(found.null[found.determined]), 0.0, atol=1e-8)
        assert proves(found, family, system.lower, system.upper)
        by_bounds += int((found.determined & family.moving).sum())
    return by_bounds


def test_small_systems_are_judged_as_by_linear_programmes() -> None:
    assert compare(seed=0, systems=30) > 25


@pytest.mark.slow
def test_five_thousand_small_systems_have_no_wrong_verdict() -> None:
    assert compare(seed=1, systems=5000) > 5000


def test_what_is_said_holds_in_exact_arithmetic() -> None:
    """Small integers and quarters: exact null space, exact positive multipliers, exact rank."""
    rng, beyond = np.random.default_rng(2), 0
    for _ in range(80):
        system = drawn(rng, integer=True)
        family = family_of(system.M, system.x, rng)
        found = implied(family, system.lower, system.upper)
        assert found is not None
        exact = (
            [[Fraction(value) for value in row] for row in system.M],
            *([Fraction(value) for value in values] for values in (system.x, system.lower, system.upper)),
        )
        assert proves_exactly(*exact, found.multipliers, found.determined)
        beyond += int((found.determined & family.moving).sum())
        if not found.determined.all():  # nor is one value more proven
            more = found.determined.copy()
            more[np.flatnonzero(~more)[0]] = True
            assert not proves_exactly(*exact, found.multipliers, more)
    assert beyond > 40


def picture(filters: int, seed: int, noise: float = 0.0) -> tuple[Family, Array]:
    """A dark picture of 12×12 under random sums: few equations, many values at 0 or 1."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(144) < 0.8, rng.integers(0, 2, 144), rng.random(144))
    M = rng.standard_normal((filters, 144))
    return family_of(M, x, rng, noise), x


def test_many_values_at_bounds_need_far_fewer_equations_than_values() -> None:
    lower, upper = np.zeros(144), np.ones(144)
    family, x = picture(110, seed=0)
    found = implied(family, lower, upper)
    assert found is not None
    assert found.determined.all()
    assert found.null.shape == (144, 0)
    np.testing.assert_allclose(found.x, x, atol=1e-10)
    np.testing.assert_array_equal(~np.isnan(found.at), (x == 0) | (x == 1))
    few, _ = picture(40, seed=0)
    open_ = implied(few, lower, upper)
    assert open_ is not None
    assert not open_.determined.any()
    assert open_.null.shape == (144, 104)


def test_with_noise_the_values_come_within_it_and_the_widths_say_how_far() -> None:
    for noise in (1e-8, 1e-6):
        family, x = picture(115, seed=3, noise=noise)
        found = implied(family, np.zeros(144), np.ones(144))
        assert found is not None
        assert found.determined.mean() > 0.9
        assert (np.abs(found.x - x) <= found.width + 5 * noise)[found.determined].all()
        assert found.width[found.determined].max() <= 1e-3
        assert np.abs(found.x - x)[found.determined].max() > noise / 100  # the noise is real


def test_a_width_of_the_size_of_the_noise_is_none_and_a_larger_one_is_one() -> None:
    """Two values that add up to 2 less a gap, each at most 1: their intervals are as wide as the gap."""
    V = np.sqrt(0.5) * np.array([[1.0], [-1.0]])
    for gap, noise, expected in ((0.0, 0.0, True), (1e-9, 0.0, False), (1e-7, 1e-7, True), (1e-4, 1e-7, False)):
        family = Family(np.full(2, 1 - gap / 2), V, np.full(2, noise))
        found = implied(family, np.zeros(2), np.ones(2))
        assert found is not None
        assert found.determined.all() == found.determined.any() == expected, gap


def test_nothing_open_and_nothing_possible() -> None:
    ones, none = np.ones(3), np.zeros(3)
    closed = implied(Family(np.array([0.0, 0.5, 1.0]), np.zeros((3, 0)), none), none, ones)
    assert closed is not None
    assert closed.determined.all()
    assert implied(Family(np.array([0.0, 0.5, 1.5]), np.zeros((3, 0)), none), none, ones) is None
    line = Family(
        np.array([1.5, 1.0, 0.5]), np.sqrt(0.5) * np.array([[1.0], [-1.0], [0.0]]), none
    )  # the sum of two is 2.5
    assert implied(line, none, ones) is None
    assert implied(line, ones, none) is None
    assert implied(line, np.full(3, -np.inf), np.full(3, np.inf)).null.shape == (3, 1)


def test_an_inequality_that_is_tight_everywhere_counts_and_another_only_helps() -> None:
    V = np.eye(3)[:, :2]
    family, low, high = Family(np.array([0.5, 0.5, 0.25]), V, np.zeros(3)), np.zeros(3), np.ones(3)
    rows = sp.csr_array(np.array([[1.0, 1.0, 0.0]]))
    tight = implied(family, low, high, cut=rows, slack=np.array([0.0]))  # the sum of two values is at most 0
    assert tight is not None
    np.testing.assert_array_equal(tight.at, [0.0, 0.0, np.nan])
    assert tight.cut_multipliers[0] > 0
    assert proves(tight, family, low, high, cut=rows, slack=np.array([0.0]))
    loose = implied(family, low, high, cut=rows, slack=np.array([0.3]))
    assert loose is not None
    assert not loose.determined[:2].any()
    assert loose.x[:2].sum() <= 0.3 + 1e-9
    assert implied(family, low, high, cut=rows, slack=np.array([-0.1])) is None


def test_multipliers_that_prove_nothing_are_seen_through() -> None:
    family, x = picture(110, seed=0)
    found = implied(family, np.zeros(144), np.ones(144))
    assert found is not None
    turned = np.where(np.arange(144) == np.flatnonzero(found.multipliers)[0], -1.0, 1.0) * found.multipliers
    for wrong in (turned, np.zeros(144), found.multipliers + 1e-3):
        lie = Implied(found.x, found.at, found.determined, found.width, wrong, found.cut_multipliers, found.null)
        assert not proves(lie, family, np.zeros(144), np.ones(144))
    inside = np.clip(x, 0.01, 0.99)  # nothing is at a bound there
    moved = Family(inside, family.V, family.noise)
    assert not Proof(moved, np.zeros(144), np.ones(144), found.multipliers).explained


def test_the_width_is_that_of_the_interval() -> None:
    """Two values that add up to 1.9, each at most 1: both reach from 0.9 to 1, and the third follows the first."""
    V = np.array([[1.0], [-1.0], [3.0]])
    proof = Proof(Family(np.array([0.95, 0.95, 0.0]), V, np.zeros(3)), np.full(3, -np.inf), np.ones(3), np.eye(3)[0])
    assert not np.isfinite(proof._left_over)  # one multiplier alone is none
    both = np.array([0.5, 0.5, 0.0])
    proof = Proof(proof.family, proof.lower, proof.upper, both)
    assert proof.room == pytest.approx(0.05)
    np.testing.assert_allclose(proof.widths, [0.1, 0.1, 0.3])
    blurred = Proof(Family(proof.family.p, V, np.full(3, 1e-3)), proof.lower, proof.upper, both)
    assert (blurred.widths > proof.widths + 1e-3).all()


def test_the_exact_proof_asks_where_x_lies_and_which_way_each_multiplier_holds() -> None:
    one, none = Fraction(1), Fraction(0)
    whole, sure, m = [[one, one]], np.array([True, True]), np.array([0.9, 0.9])
    assert proves_exactly(whole, [one, one], [none] * 2, [one] * 2, m, sure)
    assert not proves_exactly(whole, [one, Fraction(1, 2)], [none] * 2, [one] * 2, m, sure)
    assert not proves_exactly(whole, [one, one], [none] * 2, [one] * 2, -m, sure)
    assert not proves_exactly([[one, -one]], [one, one], [none] * 2, [one] * 2, m, sure)


def digit(name: str, filters: int, kernel: int, stride: int) -> tuple[Family, Array]:
    """One convolution with ReLU over a digit: weight equations of active outputs, gradient equations of all filters."""
    layer = ca.Conv2d(filters, kernel, stride=stride, padding=kernel // 2).place((1, 28, 28))
    rng, x = np.random.default_rng(0), ca.samples.load(name).image.astype(float).ravel()
    weight = rng.uniform(-0.5, 0.5, layer.weight_shape)
    rows = ca.weight_equations(layer, weight).matrix
    on = rows @ x + np.repeat(rng.uniform(-0.1, 0.1, filters), rows.shape[0] // filters) > 0
    k = (rng.standard_normal(rows.shape[0]) * on).reshape(layer.output_shape)
    V = null_space(sp.csr_array(sp.vstack([rows[on], ca.gradient_equations(layer, k).matrix]))).basis
    return Family(x + V @ rng.standard_normal(V.shape[1]) / 10, V, np.full(784, 1e-14)), x


def test_a_dark_digit_is_determined_by_its_range_long_before_full_rank() -> None:
    family, x = digit("mnist:0", 4, 5, 2)
    found = implied(family, np.zeros(784), np.ones(784))
    assert family.dimension > 100
    assert found is not None
    assert found.determined.all()
    np.testing.assert_allclose(found.x, x, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("filters", "kernel", "stride"), [(4, 5, 2), (3, 5, 2), (1, 5, 1), (5, 3, 2)])
def test_no_digit_has_a_wrong_value(filters: int, kernel: int, stride: int) -> None:
    for number in range(20):
        family, x = digit(f"mnist:{number}", filters, kernel, stride)
        found = implied(family, np.zeros(784), np.ones(784))
        assert found is not None, number
        assert np.abs(found.x - x)[found.determined].max(initial=0.0) < 1e-6


def test_time_that_is_up_is_no_verdict() -> None:
    family, _ = picture(110, seed=0)
    assert implied(family, np.zeros(144), np.ones(144), deadline=time.monotonic()) is None


def test_the_deepest_point_is_that_of_a_linear_programme() -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        m, d = int(rng.integers(8, 30)), int(rng.integers(2, 6))
        A = rng.standard_normal((m, d))
        A /= np.linalg.norm(A, axis=1)[:, None]
        lower, upper = -rng.random(m), rng.random(m)
        found = deepest(A, lower, upper, np.zeros(m), gap=1e-9, enough=np.inf)
        one = np.ones((m, 1))
        best = linprog(
            np.append(np.zeros(d), -1.0),
            A_ub=np.vstack([np.hstack([A, one]), np.hstack([-A, one])]),
            b_ub=np.concatenate([upper, -lower]),
            bounds=(None, None),
            method="highs",
        )
        assert found.depth == pytest.approx(-best.fun, abs=1e-7)
        np.testing.assert_allclose(A.T @ (found.at_upper - found.at_lower), 0.0, atol=1e-9)
