"""Zeros that are no accident: the right point or none, whatever the family."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog

from constraint_algebra.beyond_rank import vertices
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.beyond_rank.zeros import SparsePoint, sparsest
from tests.beyond_rank.family_cases import FLOAT32, FLOAT64, KINDS, convolution_case

Made = tuple[Family, np.ndarray]


def made(directions: np.ndarray, truth: np.ndarray, rng: np.random.Generator, noise: float = 1e-15) -> Made:
    """The family through a point along given directions, and the point; values as they come are off by the noise."""
    V = np.linalg.qr(directions)[0]
    seen = truth + noise * rng.standard_normal(len(truth)) * np.abs(truth).max()
    far = 0.3 * np.abs(truth).max() * rng.standard_normal(V.shape[1])
    return Family(seen + V @ far, V, np.full(len(truth), noise * np.abs(truth).max())), truth


def generic(rng: np.random.Generator, n: int = 24, d: int = 3, zeros: int = 12, noise: float = 1e-15) -> Made:
    truth = rng.random(n) + 0.05
    truth[rng.permutation(n)[:zeros]] = 0
    return made(rng.standard_normal((n, d)), truth, rng, noise)


def found(family: Family, seed: int = 0, levels: tuple[float, ...] = (0.0,), **limits: Any) -> SparsePoint | None:
    return sparsest(family, levels, rng=np.random.default_rng(seed), **limits)


def rates(kind: str, seeds: range, unit: float) -> tuple[int, int]:
    """Count families of convolutions and points certified; each of these has to be the truth, with its zeros."""
    families = certified = 0
    for seed in seeds:
        case = convolution_case(kind, seed, unit)
        if case is None:
            continue
        families += 1
        point = sparsest(case.family, rng=np.random.default_rng(seed), tries=8)
        if point is None:
            continue
        certified += 1
        assert np.abs(point.x - case.truth).max() < (1e-9 if unit == FLOAT64 else 1e-3), (kind, seed)
        assert not case.truth[~np.isnan(point.at)].any(), (kind, seed)
        assert (point.x[~np.isnan(point.at)] == 0).all()
        assert point.leverage < 1
    return families, certified


LEAST = {"half zeros": 0.2, "flat zeros": 0.1, "very sparse": 0.3}  # share that is certified; no other kind ever is


@pytest.mark.parametrize(
    ("kind", "unit"),
    [*((kind, FLOAT64) for kind in KINDS), *((kind, FLOAT32) for kind in ("dense", "half zeros", "flat zeros"))],
)
def test_a_family_of_a_convolution_gives_its_truth_or_nothing(kind: str, unit: float) -> None:
    families, certified = rates(kind, range(24), unit)
    assert families >= 8
    assert certified >= LEAST[kind] * families if kind in LEAST else certified == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [FLOAT64, FLOAT32], ids=["float64", "float32"])
def test_thousands_of_families_of_convolutions_give_their_truth_or_nothing(kind: str, unit: float) -> None:
    families, certified = rates(kind, range(1000, 2000), unit)
    assert certified >= LEAST[kind] * families if kind in LEAST else certified == 0


def conditions(V: np.ndarray) -> int:
    """How many rows say different things: other directions, or other sizes where there is one direction only."""
    kept: list[np.ndarray] = []
    for row in V:
        v = np.abs(row) if len(row) == 1 else row / np.linalg.norm(row)
        if all(min(np.abs(v - w).max(), np.abs(v + w).max()) > 1e-3 * np.abs(w).max() for w in kept):
            kept.append(v)
    return len(kept)


def brute_force(family: Family) -> list[tuple[int, np.ndarray]]:
    """All nonnegative points at which more different rows are zero than there are directions, the sparsest first."""
    d = family.dimension
    points: list[tuple[int, np.ndarray]] = []
    for rows in combinations(np.flatnonzero(np.linalg.norm(family.V, axis=1) > 1e-9), d):
        A, b = family.V[list(rows)], -family.p[list(rows)]
        if abs(np.linalg.det(A)) < 1e-12:
            continue
        x = family.p + family.V @ np.linalg.solve(A, b)
        zero = (np.abs(x) < 1e-9) & (np.linalg.norm(family.V, axis=1) > 1e-9)
        further = conditions(family.V[zero]) - d
        if x.min() > -1e-9 and further > 0 and all(np.abs(x - other).max() > 1e-6 for _, other in points):
            points.append((further, x))
    return sorted(points, key=lambda point: -point[0])


def supported(family: Family, x: np.ndarray) -> bool:
    """Whether every zero follows from the others: without any one of them the rank stays."""
    V = family.V[np.abs(x) < 1e-9]
    V = V[np.linalg.norm(V, axis=1) > 1e-9]
    return all(np.linalg.svd(np.delete(V, k, 0))[1][-1] > 1e-3 for k in range(len(V)))


def test_all_vertices_of_small_families_know_no_sparser_point_and_no_second_one() -> None:
    certified = both = 0
    for seed in range(28):
        rng = np.random.default_rng(seed)
        n, d = int(rng.integers(7, 12)), int(rng.integers(1, 4))
        one, two = (rng.random(n) * (rng.random(n) < 0.35) for _ in range(2))
        directions = rng.standard_normal((n, d))
        if seed % 2:
            directions[:, 0] = two - one  # a second sparse point is in the family
        family, _ = made(directions, one, rng, 1e-16)
        points = [(further, x) for further, x in brute_force(family) if supported(family, x)]
        point = found(family, seed)
        alone = points and (len(points) == 1 or 2 * points[1][0] < points[0][0])
        both += len(points) > 1
        if point is not None:
            certified += 1
            assert alone
            assert np.abs(point.x - points[0][1]).max() < 1e-8
            assert point.excess == points[0][0]
        elif alone:  # of few different rows one may be left on its own
            assert points[0][0] <= 2
    assert certified >= 8
    assert both >= 3


def test_relu6_knows_two_plateaus() -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        truth = 6 * rng.random(40) * (rng.random(40) < 0.5)
        truth[rng.permutation(40)[:8]] = 6
        family, _ = made(rng.standard_normal((40, 8)), truth, rng)
        point = found(family, seed, (0.0, 6.0), high=6.0)
        assert point is not None
        np.testing.assert_allclose(point.x, truth, atol=1e-10)
        np.testing.assert_array_equal(point.at, np.where(np.isin(truth, (0, 6)), truth, np.nan))


@pytest.mark.parametrize("low", [-np.inf, -0.375], ids=["either sign", "hardswish"])
def test_a_plateau_inside_the_range_is_no_bound(low: float) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        truth = rng.uniform(max(low, -1.0), 1, 40) * (rng.random(40) < 0.4)
        family, _ = made(rng.standard_normal((40, 8)), truth, rng)
        point = found(family, seed, low=low)
        assert point is not None
        np.testing.assert_allclose(point.x, truth, atol=1e-10)


def test_a_point_outside_the_range_is_none() -> None:
    family, truth = generic(np.random.default_rng(0))
    assert found(family) is not None
    assert found(family, high=0.9 * truth.max()) is None
    assert found(Family(-family.p, family.V, family.noise)) is None


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize(("n", "d"), [(24, 3), (64, 12)], ids=["all vertices", "programmes"])
def test_any_unit_will_do(scale: float, n: int, d: int) -> None:
    family, truth = generic(np.random.default_rng(1), n, d, n // 2)
    point = found(Family(scale * family.p, family.V, scale * family.noise))
    assert point is not None
    np.testing.assert_allclose(point.x, scale * truth, atol=1e-11 * scale)


def test_the_same_generator_gives_the_same_point() -> None:
    family, _ = generic(np.random.default_rng(2), 64, 12, 32)
    one, other = found(family, 5), found(family, 5)
    assert one is not None
    assert other is not None
    assert (one.x == other.x).all()


def test_failing_programmes_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    family, _ = generic(np.random.default_rng(2), 64, 12, 32)
    kept: Any = linprog
    calls: list[int] = []

    def fails_at_first(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) < 4:
            raise ValueError("no")
        more["options"] = {"maxiter": 0} if len(calls) < 6 else more["options"]
        return kept(*arguments, **more)

    monkeypatch.setattr(vertices, "linprog", fails_at_first)
    assert found(family) is not None
    assert len(calls) > 6


@pytest.mark.parametrize("noise", [1e-15, 1e-6])
def test_error_bars_hold_for_every_noise(noise: float) -> None:
    certified = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        family, truth = generic(rng, 40, 6, 24, noise)
        point = found(family, seed)
        if point is None:
            continue
        certified += 1
        bars = np.sqrt((point.moved(np.diag(family.noise)) ** 2).sum(axis=1))
        assert (np.abs(point.x - truth) <= 6 * bars + 1e-14).all()
    assert certified >= 3


def test_moved_is_what_the_point_of_a_perturbed_family_does() -> None:
    rng = np.random.default_rng(3)
    family, _ = generic(rng, 40, 5, 20)
    point = found(family)
    assert point is not None
    perturbation = family.V @ rng.standard_normal(5)  # the same family: nothing moves
    assert np.abs(point.moved(perturbation[:, None])).max() < 1e-12
    step = rng.standard_normal(40) * np.isnan(point.at)  # other values of what is not on a plateau: they move along
    moved = found(Family(family.p + 1e-3 * step, family.V, family.noise))
    assert moved is not None
    np.testing.assert_allclose(moved.x - point.x, point.moved(1e-3 * step[:, None])[:, 0], atol=1e-12)


def copies(rng: np.random.Generator, d: int, factors: np.ndarray, zeros: int, near: float = 0.0) -> Made:
    """Every row several times, at other sizes; truth in proportion, the first values zero."""
    rows, values = rng.standard_normal((12, d)), rng.random(12) + 0.1
    values[:zeros] = 0
    directions = np.concatenate([f[:, None] * rows + near * rng.standard_normal(rows.shape) for f in factors])
    return made(directions, np.concatenate([f * values for f in factors]), rng)


@pytest.mark.parametrize("near", [0.0, 1e-9, 1e-4, 1e-2])
def test_proportional_rows_are_one_condition(near: float) -> None:
    for seed in range(2):
        rng = np.random.default_rng(seed)
        family, _ = copies(rng, 2, rng.uniform(0.3, 3, (3, 12)), 0, near)
        assert found(family, seed) is None  # any two values could be zero, three times each


def test_equal_entries_are_one_condition() -> None:
    for seed in range(2):
        for d in (1, 2, 3):
            family, _ = copies(np.random.default_rng(seed), d, np.ones((3, 12)), 0)
            assert found(family, seed) is None
            family, truth = copies(np.random.default_rng(seed), d, np.ones((3, 12)), 7)
            point = found(family, seed)
            assert point is not None
            assert np.abs(point.x - truth).max() < 1e-12
            assert point.excess == 7 - d


@pytest.mark.parametrize("tie", [0.0, 1e-9, 1e-6])
def test_every_part_has_to_prove_itself(tie: float) -> None:
    for seed, zeros in ((0, 0), (1, 6)):
        rng = np.random.default_rng(seed)
        truth = rng.random(32) + 0.1
        truth[:10], truth[20 : 20 + zeros] = 0, 0
        directions = tie * rng.standard_normal((32, 5))
        directions[:20, :3] += rng.standard_normal((20, 3))
        directions[20:, 3:] += rng.standard_normal((12, 2))
        family, _ = made(directions, truth, rng)
        point = found(family, seed)
        assert (point is None) == (zeros == 0)
        assert point is None or np.abs(point.x - truth).max() < 1e-8


@pytest.mark.parametrize("d", [1, 3, 5])
def test_two_zeros_more_than_directions_are_the_least(d: int) -> None:
    for extra in range(4):
        family, truth = generic(np.random.default_rng(extra), 14, d, d + extra)
        point = found(family)
        assert (point is None) == (extra < 2)
        assert point is None or np.abs(point.x - truth).max() < 1e-10


@pytest.mark.parametrize("extra", [0, 1])
def test_an_accident_is_no_certificate(extra: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        truth, other = rng.random((2, 16)) + 0.1
        other[: 3 + extra] = 0
        directions = np.column_stack([other - truth, rng.standard_normal((16, 2))])
        assert found(made(directions, truth, rng)[0], seed) is None


def test_an_accident_in_one_part_is_not_made_up_for_by_the_other() -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        truth = rng.random(28) + 0.1
        truth[:10] = 0
        other = truth.copy()
        other[18:] = rng.random(10) + 0.1
        other[18:21] = 0  # one more than this part has directions
        directions = 1e-5 * rng.standard_normal((28, 4))
        directions[:18, :2] += rng.standard_normal((18, 2))
        directions[18:, 2:] += np.column_stack([(other - truth)[18:], rng.standard_normal(10)])
        directions[:, 2] = np.where(np.arange(28) < 18, 0, directions[:, 2])
        directions[18:, 2] = (other - truth)[18:]
        assert found(made(directions, truth, rng)[0], seed) is None


@pytest.mark.parametrize(("noise", "least"), [(1e-15, 5), (1e-8, 6), (1e-6, 8), (3e-5, 12)])
def test_the_more_noise_the_more_zeros_it_takes(noise: float, least: int) -> None:
    for zeros in (5, 6, 8, 12):  # of 24 values with 3 directions
        assert (found(generic(np.random.default_rng(1), zeros=zeros, noise=noise)[0]) is not None) == (zeros >= least)


@pytest.mark.parametrize(("n", "d"), [(16, 2), (64, 8), (96, 14)])
def test_a_second_point_with_as_many_zeros_leaves_the_question_open(n: int, d: int) -> None:
    for seed in range(2):
        rng = np.random.default_rng(seed)
        one, two = rng.random((2, n)) + 0.1
        one[rng.permutation(n)[: n // 2]] = 0
        two[rng.permutation(n)[: n // 2]] = 0
        directions = np.column_stack([two - one, rng.standard_normal((n, d - 1))])
        assert found(made(directions, one, rng)[0], seed) is None


def test_rows_that_move_less_than_the_noise_are_no_evidence() -> None:
    for seed in range(2):
        rng = np.random.default_rng(seed)
        truth = rng.random(40) + 0.1
        truth[:30] = 0
        directions = rng.standard_normal((40, 3))
        directions[:30] *= 1e-7  # zeros at every point of the family, to the noise
        assert found(made(directions, truth, rng, 1e-8)[0], seed) is None


def test_a_channel_of_zeros_needs_a_scale() -> None:
    V = np.linalg.qr(np.random.default_rng(0).standard_normal((24, 3)))[0]
    family = Family(np.zeros(24), V, np.full(24, 1e-12))
    assert found(family) is None
    point = found(family, scale=1.0)
    assert point is not None
    assert (point.x == 0).all()
    assert found(family, scale=1e-9) is None


def test_what_cannot_be_asked_has_no_answer() -> None:
    family, _ = generic(np.random.default_rng(0))
    assert found(Family(family.p, family.V[:, :0], family.noise)) is None
    assert found(Family(np.full(24, np.nan), family.V, family.noise)) is None
    assert found(family, 0, ()) is None
    assert found(Family(family.p, family.V, np.full(24, 1.0))) is None
