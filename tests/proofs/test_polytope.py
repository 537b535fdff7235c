"""Bounds from both sides: valid for any multipliers, any solver, and however early the solver stops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

import constraint_algebra as ca
from constraint_algebra.proofs.polytope import Polytope
from tests.twin_cases import case, random_case

SEEDS = [1, 5, 8, 27, 42, 44]  # 1 and 44 begin on the edge of their sets, 44 with nearly dependent equations


def exactly(P: Polytope, c: np.ndarray) -> float:
    """The largest `c·n` by HiGHS on explicit dense equations: nothing of the library's null space."""
    solved = linprog(
        -c,
        A_ub=P.cut.toarray(),
        b_ub=P.slack,
        A_eq=P.null.matrix.toarray(),
        b_eq=np.zeros(len(P.margin)),
        bounds=np.column_stack([P.lower, P.upper]),
    )
    return float(-solved.fun)


def feasible(P: Polytope, n: np.ndarray, tolerance: float = 1e-12) -> bool:
    inside = (n >= P.lower).all() and (n <= P.upper).all() and (P.cut @ n <= P.slack + 1e-15).all()
    return bool(inside and np.abs(P.null.matrix @ n).max(initial=0) < tolerance)


@pytest.mark.parametrize("seed", [1, 5, 8, 27, 42])
@pytest.mark.parametrize("solver", ["interior-point", "highs"])
def test_the_optimum_lies_between_inner_and_outer(seed: int, solver: str) -> None:
    P = random_case(seed).set().polytope
    for number in range(3):
        c = np.random.default_rng(number).standard_normal(len(P.lower))
        found, best = P.maximise(c, solver=solver), exactly(P, c)
        assert feasible(P, found.difference)
        assert found.inner == pytest.approx(c @ found.difference, abs=1e-12)
        assert found.inner <= best + 1e-6
        assert best <= found.outer + 1e-6  # HiGHS itself is off by that much
        assert found.outer - found.inner < 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_stopped_at_once_both_bounds_still_hold(seed: int) -> None:
    P = random_case(seed).set().polytope
    c = np.random.default_rng(seed).standard_normal(len(P.lower))
    early, best = P.maximise(c, time_limit=0.0), P.maximise(c)
    assert feasible(P, early.difference)
    assert early.inner <= best.outer
    assert early.outer >= best.inner


@pytest.mark.parametrize("seed", SEEDS)
def test_weak_duality_holds_for_any_multipliers(seed: int) -> None:
    P, rng = random_case(seed).set().polytope, np.random.default_rng(seed)
    c = rng.standard_normal(len(P.lower))
    inside = P.maximise(c).inner
    for size in (0.0, 0.1, 1.0, 100.0):
        equations = size * rng.standard_normal((len(P.margin), 5))
        cut = size * rng.standard_normal((len(P.slack), 5))  # negative ones count as zero
        assert (P.outer(np.tile(c[:, None], 5), equations, cut) >= inside).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_every_point_drawn_in_is_feasible(seed: int) -> None:
    P = random_case(seed).set().polytope
    for number in range(5):
        far = P.null.project(np.random.default_rng(number).standard_normal(len(P.lower)))
        assert feasible(P, P.draw_in(far))


def test_a_value_on_its_bound_costs_the_dimension_that_it_closes() -> None:
    """Values that may only move against each other: with both at zero, neither moves."""
    net = ca.Network((1, 4), [ca.Conv1d(1, 2, stride=2), ca.LeakyReLU(0.1), ca.Flatten(), ca.Linear(2, bias=False)])
    W = {"0.weight": [[[1.0, 1.0]]], "0.bias": [0.0], "3.weight": [[1.0, 0.0], [2.0, 0.0]]}  # the second k is zero
    free = ca.indistinguishable(net, W, [[0.5, 0.5, 0.5, 0.5]], target=0)
    closed = ca.indistinguishable(net, W, [[0.5, 0.5, 0.0, 0.0]], target=0)
    assert (free.nullity, free.dimension) == (1, 1)
    assert (closed.nullity, closed.dimension) == (1, 0)
    assert closed.twin() is None
    assert closed.interval((0, 3)).outer_width < 1e-9


def test_reach_is_rounding_where_values_are_fixed_and_bounds_all_twins() -> None:
    found = random_case(8).set()
    reach = found.polytope.reach(np.arange(found.input.size)).reshape(found.input.shape)
    assert found.fixed.any()
    assert reach[found.fixed].max() < 1e-6
    moved = np.abs(found.twin("random").difference)
    assert (moved <= reach).all()


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(ca.UnknownNameError, match=r"'interior-point' or 'highs', got 'simplex'"):
        random_case(5).set().interval((0, 0, 0), solver="simplex")


@pytest.mark.slow
def test_a_set_without_an_interior_is_bounded_from_both_sides() -> None:
    """A digit on black, no bias: every value and many outputs are at their edge, and together they leave no room."""
    net = ca.Network(
        (1, 28, 28), [ca.Conv2d(3, 5, stride=2, padding=2, bias=False), ca.ReLU(), ca.Flatten(), ca.Linear(10)]
    )
    sample = ca.samples.load("mnist:2")
    c = case(net, sample.image, sample.label, seed=2)
    found = c.set()
    assert found.nullity > 600
    assert found.dimension == 0
    assert found.twin() is None
    for pixel in ((0, 13, 14),):
        assert found.interval(pixel).outer_width < 1e-4
