"""Inputs from maxima: found where all windows are tight, and what is proven of them, beside HiGHS and all winners."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from constraint_algebra.beyond_rank.exact_proof import proves_exactly
from constraint_algebra.beyond_rank.maxima import Fitted, Maxima, point_of
from constraint_algebra.beyond_rank.no_room import NoRoom, no_room
from tests.beyond_rank.maxima_cases import Array, drawn, inputs_interval, interval

SEEDS = range(24)


def proof_at(problem: Maxima, x: Array, *, noise: float = 1e-15) -> NoRoom:
    """What the rows and bounds that are tight at x prove."""
    n = len(x)
    tight = np.flatnonzero(problem.cap - (problem.A @ x + problem.c) <= 1e-9)
    low, high = np.flatnonzero(x <= problem.lower + 1e-9), np.flatnonzero(x >= problem.upper - 1e-9)
    one = sp.eye_array(n, format="csr")
    rows = sp.csr_array(sp.vstack([problem.A[tight], -one[low], one[high]], format="csr"))
    ends = np.concatenate([(problem.cap - problem.c)[tight], -problem.lower[low], problem.upper[high]])
    noises = np.concatenate([np.full(len(tight), noise), np.zeros(len(low) + len(high))])
    return no_room(rows, ends, noises, sp.csr_array((0, n)), np.zeros(0), np.zeros(0), x)[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_point_that_is_found_has_all_maxima(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem, truth = drawn(rng)
    assert Fitted.of(problem, truth).tight
    x = point_of(problem, rng=rng)
    if x is not None:
        largest = np.maximum(np.where(problem.real, (problem.A @ x + problem.c)[problem.windows], -np.inf).max(1), 0)
        assert np.abs(largest - problem.v).max() < 1e-7
        assert (x >= problem.lower).all()
        assert (x <= problem.upper).all()


def test_most_points_are_found() -> None:
    found = [point_of(drawn(np.random.default_rng(seed))[0], rng=np.random.default_rng(0)) for seed in SEEDS]
    assert sum(x is not None for x in found) >= 0.9 * len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_values_without_width_are_those_of_highs(seed: int) -> None:
    problem, truth = drawn(np.random.default_rng([1, seed]))
    widths = proof_at(problem, truth).widths
    for value in range(len(truth)):
        ends = interval(problem, value)
        assert ends is not None
        assert (widths[value] < 1e-6) == (ends[1] - ends[0] < 1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_proven_holds_for_every_choice_of_winners(seed: int) -> None:
    problem, truth = drawn(np.random.default_rng([2, seed]))
    keep = np.flatnonzero(problem.live)[3:]  # few enough to try all
    live = problem.live.copy()
    live[keep] = False
    problem = Maxima(
        problem.A,
        problem.c,
        problem.windows,
        problem.v,
        problem.noise,
        live,
        problem.dead,
        problem.lower,
        problem.upper,
    )
    pinned = np.flatnonzero(proof_at(problem, truth).widths < 1e-6)
    for value in pinned.tolist():
        low, high = inputs_interval(problem, value)
        assert abs(low - truth[value]) < 1e-6
        assert abs(high - truth[value]) < 1e-6


@pytest.mark.parametrize("seed", range(12))
def test_proofs_hold_over_the_rationals(seed: int) -> None:
    problem, truth = drawn(np.random.default_rng([3, seed]), integer=True)
    proof = proof_at(problem, truth)
    determined = proof.widths < 1e-6
    # With a slack for each row, `rows x + s = ends` and s >= 0; x itself has no bounds here.
    rows, n, r = proof.rows.toarray(), len(truth), len(proof.ends)
    exact = [[Fraction(float(a)) for a in row] for row in np.hstack([rows, np.eye(r)])]
    x = [Fraction(float(a)) for a in truth] + [Fraction(0)] * r
    assert [sum(a * b for a, b in zip(row, x, strict=True)) for row in exact] == [
        Fraction(float(e)) for e in proof.ends
    ]
    far = Fraction(10**6)
    lower, upper = [-far] * n + [Fraction(0)] * r, [far] * (n + r)
    multipliers = np.concatenate([np.zeros(n), -proof.multipliers])
    assert proves_exactly(exact, x, lower, upper, multipliers, np.concatenate([determined, np.ones(r, bool)]))


def test_a_width_under_noise_covers_what_noise_does() -> None:
    sure = 0
    for seed in range(16):
        rng = np.random.default_rng([4, seed])
        problem, truth = drawn(rng)
        exact = proof_at(problem, truth)
        if not (exact.widths < 1e-6).all():
            continue
        sure += 1
        noise = 1e-5
        proof = NoRoom(
            exact.rows,
            exact.ends + noise * rng.standard_normal(len(exact.ends)),
            np.full(len(exact.ends), noise),
            exact.multipliers,
            exact.equations,
            exact.values,
            exact.equation_noise,
            exact.equation_multipliers,
            truth,
        )
        # All x with the true ends lie within the width of the truth; those of exact ends are the truth alone.
        assert (proof.widths > 0).all()
        assert (proof.slacks >= proof.ends - exact.ends - 6 * noise).all()
        assert proof.room >= abs(float(proof.multipliers @ (proof.ends - exact.ends)))
    assert sure >= 3


def test_equations_count_and_rows_with_room_do_not() -> None:
    nothing = sp.csr_array(np.array([[0.0, -1.0], [0.0, 1.0], [-1.0, 0.0]]))  # y is 0, x at least 0
    free = no_room(nothing, np.zeros(3), np.zeros(3), sp.csr_array((0, 2)), np.zeros(0), np.zeros(0), np.zeros(2))
    assert free[1].tolist() == [0, 1]
    assert np.isinf(free[0].widths[0])
    assert free[0].widths[1] < 1e-9
    sums = sp.csr_array(np.array([[1.0, 1.0]]))  # x + y = 0
    held = no_room(nothing, np.zeros(3), np.zeros(3), sums, np.zeros(1), np.zeros(1), np.zeros(2))
    assert (held[0].widths < 1e-9).all()
