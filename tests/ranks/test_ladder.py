"""The rank ladder: its order on random layers, and each rung by other means."""

import numpy as np
import pytest
from scipy.optimize import linprog

import constraint_algebra as ca
from tests.rank_oracles import exact_rank, random_layers, random_rows, svd_rank

SMALL = {1: 9, 2: 4, 3: 3}


def systems(layer, rng, shapes_only=False):
    W, k = rng.normal(size=layer.weight_shape), rng.normal(size=layer.output_shape)
    B = ca.weight_equations(layer, None if shapes_only else W)
    A = ca.gradient_equations(layer, None if shapes_only else k)
    return {"weight": B, "gradient": A, "both": ca.stack(B, A)}


@pytest.mark.slow
def test_each_rung_bounds_the_next_on_random_layers():
    rng = np.random.default_rng(0)
    falls = {"structural": 0, "generic": 0}
    for layer in random_layers(120, seed=1):
        for kind, system in systems(layer, rng).items():
            ladder = ca.rank_ladder(system, noise=1e-3)
            rungs = (ladder.counted, ladder.structural, ladder.generic, ladder.numerical, ladder.usable)
            assert list(rungs) == sorted(rungs, reverse=True), (layer, kind, ladder)
            falls["structural"] += ladder.structural < ladder.counted
            falls["generic"] += ladder.generic < ladder.structural
    assert min(falls.values()) > 10  # the rungs do differ


def test_generic_is_exact_and_numerical_is_that_of_a_dense_svd():
    rng = np.random.default_rng(2)
    certain = 0
    for layer in random_layers(100, seed=3, largest=SMALL):
        rows = dict(zip(("weight", "gradient"), random_rows(layer, rng), strict=True))
        rows["both"] = np.concatenate(list(rows.values()))
        for kind, system in systems(layer, rng).items():
            ladder = ca.rank_ladder(system)
            assert ladder.generic == exact_rank(rows[kind]), (layer, kind)
            rank, gap = svd_rank(system.matrix.toarray())
            if gap > 1e3:
                assert ladder.numerical == rank
                certain += 1
    assert certain > 290


def test_a_layer_and_its_explicit_system_agree():
    rng = np.random.default_rng(4)
    for layer in random_layers(60, seed=5, largest=SMALL):
        explicit = systems(layer, rng, shapes_only=True)
        for kind, kinds in {"weight": ["weight"], "gradient": ["gradient"], "both": ["weight", "gradient"]}.items():
            fast, slow = ca.generic_rank(layer, kinds=kinds), ca.rank_ladder(explicit[kind])
            assert (fast.rank, fast.counted) == (slow.generic, slow.counted)


def test_without_values_the_lower_rungs_are_not_defined():
    ladder = ca.rank_ladder(ca.weight_equations(ca.Conv1d(2, 2).place((1, 4))))
    assert (ladder.numerical, ladder.usable, ladder.gap) == (None, None, None)


def test_the_numerical_rank_states_the_gap_at_its_cut():
    system = ca.weight_equations(ca.Linear(3).place((3,)), np.diag([1.0, 1.0, 1.0]) + np.eye(3, k=1) * 0)
    singular = ca.weight_equations(ca.Linear(3).place((3,)), [[1, 0, 0], [0, 1, 0], [1, 1e-9, 0]])
    assert ca.rank_ladder(system).gap[0] == pytest.approx(1)
    assert np.isnan(ca.rank_ladder(system).gap[1])
    fine, coarse = ca.rank_ladder(singular), ca.rank_ladder(singular, rtol=1e-6)
    assert (fine.numerical, coarse.numerical) == (2, 2)
    assert coarse.gap[1] < coarse.tolerance < coarse.gap[0]


def test_filters_on_very_different_scales_lose_no_rank():
    rng = np.random.default_rng(6)
    layer = ca.Conv2d(16, 5, stride=2, padding=2).place((1, 16, 16))
    k = rng.normal(size=layer.output_shape) * np.logspace(0, -12, 16)[:, None, None]
    assert ca.rank_ladder(ca.gradient_equations(layer, k)).numerical == 256


def test_zeros_of_an_inactive_relu_count_on_every_rung():
    rng = np.random.default_rng(7)
    layer = ca.Conv2d(3, 3, stride=2, padding=1).place((2, 6, 6))
    active = rng.random(layer.output_shape) < 0.4
    weight = ca.weight_equations(layer, rng.normal(size=layer.weight_shape)).select(active.ravel())
    gradient = ca.gradient_equations(layer, rng.normal(size=layer.output_shape) * active)
    ladder = ca.rank_ladder(ca.stack(weight, gradient))
    assert ladder.generic == ladder.numerical == ca.generic_rank(layer, active=active).rank
    dense = ca.rank_ladder(ca.stack(weight, ca.gradient_equations(layer).at_random(0)))
    assert ladder.structural < dense.structural


def test_usable_counts_what_stands_out_of_the_noise():
    """Singular values 1, 1e-2, 1e-4, 1e-6 of rows of unit norm, and noise between them."""
    rng = np.random.default_rng(8)
    U, V = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (30, 4))
    layer = ca.Linear(30).place((4,))
    W = U[:, :4] * np.logspace(0, -6, 4) @ V
    system = ca.weight_equations(layer, W)
    norms = np.linalg.norm(W, axis=1)
    sigma = np.linalg.svd(W / norms[:, None], compute_uv=False)
    for relative in (0, 1e-9, 1e-6, 1e-4, 1e-2, 1):
        expected = int(np.sum(sigma > max(relative, 1e-15) * (np.sqrt(30) + np.sqrt(4))))
        assert ca.rank_ladder(system, noise=relative * norms).usable == expected
    # The matrix of pure noise has no usable rank, or close to none.
    noise = ca.weight_equations(layer, rng.normal(size=(30, 4)))
    assert ca.rank_ladder(noise, noise=1.0).usable <= 1


@pytest.mark.parametrize(
    ("noise", "message"),
    [(-1.0, "not negative"), (np.nan, "finite"), (np.ones(3), "one for each of 4 rows")],
    ids=["negative", "not finite", "shape"],
)
def test_wrong_noise_is_refused(noise, message):
    layer = ca.Linear(4).place((2,))
    with pytest.raises(ca.ParameterError, match=message):
        ca.rank_ladder(ca.weight_equations(layer, np.ones((4, 2))), noise=noise)


def test_noise_needs_values():
    with pytest.raises(ca.ParameterError, match="without values"):
        ca.rank_ladder(ca.weight_equations(ca.Linear(4).place((2,))), noise=1.0)


def test_the_range_adds_what_it_implies_and_no_more() -> None:
    """Against linear programming: an unknown without width in the range is one more equation."""
    rng, above = np.random.default_rng(0), 0
    for _ in range(25):
        n, rows = int(rng.integers(3, 9)), int(rng.integers(1, 6))
        W = rng.integers(-2, 4, size=(rows, n)).astype(float)
        x = np.where(rng.random(n) < 0.7, rng.integers(0, 2, n), rng.random(n))
        ladder = ca.rank_ladder(ca.weight_equations(ca.Linear(rows).place((n,)), weight=W), at=x)
        fixed = []
        for j in range(n):
            ends = [linprog(s * np.eye(n)[j], A_eq=W, b_eq=W @ x, bounds=(0, 1), method="highs") for s in (1, -1)]
            if ends[0].fun + ends[1].fun > -1e-7:
                fixed.append(np.eye(n)[j])
        assert ladder.ranged == np.linalg.matrix_rank(np.vstack([W, *fixed]))
        assert ladder.numerical <= ladder.ranged <= n
        above += ladder.ranged > ladder.numerical
        assert "range from 0 to 1" in repr(ladder)
    assert above > 5


def test_the_rung_of_the_range_needs_unknowns_that_fit() -> None:
    system = ca.weight_equations(ca.Linear(1).place((2,)), weight=np.ones((1, 2)))
    assert ca.rank_ladder(system).ranged is None
    assert "ranged" not in repr(ca.rank_ladder(system))
    assert ca.rank_ladder(system, at=[1.0, 1.0], valid_range=(0, 2)).ranged == 1
    for wrong, words in (([1.0], "2 unknowns, got 1"), ([0.5, 1.5], "valid range from 0 to 1"), ([np.nan, 0], "valid")):
        with pytest.raises(ca.ParameterError, match=words):
            ca.rank_ladder(system, at=wrong)
    with pytest.raises(ca.ParameterError, match="at must hold finite numbers"):
        ca.rank_ladder(system, at=[np.inf, np.inf], valid_range=(-np.inf, np.inf))
    with pytest.raises(ca.ParameterError, match=r"valid_range must be \(smallest, largest\)"):
        ca.rank_ladder(system, at=[1.0, 1.0], valid_range=(1.0, 0.0))
    with pytest.raises(ca.ParameterError, match="without values"):
        ca.rank_ladder(ca.weight_equations(ca.Linear(1).place((2,))), at=[1.0, 1.0])
