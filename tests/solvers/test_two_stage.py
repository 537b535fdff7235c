"""Two-stage elimination against dense least squares and a singular value decomposition of all equations at once."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.solvers.choose_factor import PRECISIONS
from constraint_algebra.solvers.noisy_equations import LayerEquations, residual
from constraint_algebra.solvers.two_stage import TwoStage
from tests.rank_oracles import looped_rows


@pytest.fixture(autouse=True)
def in_stages(monkeypatch):
    """Layers as small as these would be solved at once; `test_by_dense` has that."""
    monkeypatch.setattr("constraint_algebra.solvers.by_dense.LARGEST", 0)


def all_rows(layer, W, k):
    """Weight rows in the order of the outputs, gradient rows in that of the weight: (f, c, *tap)."""
    if isinstance(layer.layer, ca.Linear):
        return W, np.kron(k[:, None], np.eye(layer.unknowns))
    everything = np.ones(layer.output_shape, dtype=bool)
    return looped_rows(layer, W, k, everything, everything)


class Dense(NamedTuple):
    """All equations that count, built by plain loops, rows in units of their noise."""

    matrix: np.ndarray
    rhs: np.ndarray

    @staticmethod
    def of(eq: LayerEquations) -> Dense:
        layer = eq.layer
        B, A = all_rows(layer, eq.weight, eq.output_gradient)
        noise = np.broadcast_to(eq.gradient_noise.reshape(layer.filters, 1, *layer.taps), layer.weight_shape).ravel()
        counts = np.broadcast_to(eq.gradient_rows.reshape(layer.filters, 1, *layer.taps), layer.weight_shape).ravel()
        known = eq.weight_rows.ravel()
        return Dense(
            np.vstack([(B / eq.output_noise.reshape(-1, 1))[known], (A / noise[:, None])[counts]]),
            np.concatenate(
                [(eq.output / eq.output_noise).ravel()[known], (eq.weight_gradient.ravel() / noise)[counts]]
            ),
        )


def equations(layer, seed=0, *, active=0.6, rows=1.0, noise=1e-9, exact=True, zeros=0.3) -> LayerEquations:
    """Random equations: a share of outputs and gradient rows counts, some k are zero, noise differs by row."""
    rng = np.random.default_rng(seed)
    W, x = rng.standard_normal(layer.weight_shape), rng.random(layer.input_shape)
    k = rng.standard_normal(layer.output_shape) * (rng.random(layer.output_shape) > zeros)
    z, dW = (rows @ x.ravel() for rows in all_rows(layer, W, k))
    output_noise = noise * rng.uniform(0.5, 2, layer.output_shape)
    gradient_noise = noise * rng.uniform(0.5, 2, (layer.filters, int(np.prod(layer.taps))))
    z, dW = z.reshape(layer.output_shape), dW.reshape(layer.weight_shape)
    if not exact:
        z = z + output_noise * rng.standard_normal(z.shape)
        dW = dW + gradient_noise.reshape(layer.filters, 1, *layer.taps) * rng.standard_normal(dW.shape)
    return LayerEquations(
        layer=layer,
        weight=W,
        output_gradient=k,
        gradient_rows=rng.random(gradient_noise.shape) < rows,
        gradient_noise=gradient_noise,
        weight_gradient=dW,
        output=np.where(rng.random(z.shape) < active, z, np.nan),
        output_noise=output_noise,
        scale=0.5,
    )


def solved(eq: LayerEquations):
    stages = TwoStage(eq)
    return stages, stages.solve(eq.weight_gradient[..., None], eq.output[..., None], share=0.01)[..., 0]


LAYERS = {
    "gradient equations suffice": ca.Conv2d(9, 3, padding=1).place((2, 6, 5)),
    "both kinds are needed": ca.Conv2d(4, 3, padding=1).place((2, 6, 6)),
    "stride": ca.Conv2d(6, 3, stride=2, padding=1).place((2, 7, 6)),
    "groups": ca.Conv2d(8, 3, padding=1, groups=2).place((4, 5, 5)),
    "depthwise": ca.Conv2d(9, 3, padding=1, groups=3).place((3, 5, 4)),
    "dilated, one axis": ca.Conv1d(5, 3, padding=2, dilation=2).place((2, 17)),
    "three axes": ca.Conv3d(5, 2, stride=(1, 2, 1)).place((2, 3, 4, 3)),
    "linear": ca.Linear(7).place((12,)),
    "too few equations": ca.Conv2d(2, 3, padding=1).place((3, 6, 6)),
    "a pixel that no tap meets": ca.Conv2d(4, 2, stride=3).place((2, 6, 6)),
}
KNOWN = {
    "most is known": {"active": 0.9},
    "gradient equations alone": {"active": 0.0},
    "weight equations alone": {"rows": 0.0, "active": 1.0},
    "rows are missing": {"rows": 0.6, "active": 0.6},
    "most k are zero": {"zeros": 0.8, "active": 0.3},
}


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_rank_and_determined_unknowns(layer, known) -> None:
    for seed in range(3):
        eq = equations(layer, seed, **known)
        dense = Dense.of(eq)
        _, s, Vt = np.linalg.svd(dense.matrix)
        rank = int(np.count_nonzero(s > 1e-10 * s[0])) if len(s) else 0
        shares = np.linalg.norm(Vt[rank:], axis=0).reshape(layer.input_shape)
        verdict = TwoStage(eq).verdict
        assert verdict.rank == rank
        np.testing.assert_array_equal(verdict.determined, shares < 1e-7)
        assert verdict.gap[0] < verdict.tolerance <= verdict.gap[1]


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_the_solution_is_that_of_dense_least_squares(layer, known) -> None:
    eq = equations(layer, seed=5, exact=False, noise=1e-6, **known)
    dense = Dense.of(eq)
    stages, x = solved(eq)
    expected = np.linalg.lstsq(dense.matrix, dense.rhs, rcond=1e-10)[0].reshape(layer.input_shape)
    determined = stages.verdict.determined
    # To a share of the standard deviation of the estimate itself: the iteration stops well below the noise.
    deviation = np.sqrt(
        np.diag(np.linalg.pinv(dense.matrix, rcond=1e-10) @ np.linalg.pinv(dense.matrix, rcond=1e-10).T)
    )
    allowed = 0.25 * deviation.reshape(layer.input_shape) + 1e-13
    assert (np.abs(x - expected) <= allowed)[determined].all()


@pytest.mark.parametrize("name", ["gradient equations suffice", "groups", "depthwise", "stride"])
@pytest.mark.parametrize("single", [False, True])
def test_few_weight_equations_correct_the_gradient_equations(name, single, monkeypatch) -> None:
    """By a factor where rounding allows one, by iteration where not: the same solution, that of dense least squares."""
    layer = LAYERS[name] if name != "stride" else ca.Conv2d(12, 3, stride=2, padding=1).place((2, 7, 6))
    eq = equations(layer, seed=2, exact=False, noise=1e-6, active=0.4, zeros=0.0)
    monkeypatch.setattr("constraint_algebra.solvers.by_correction.MILD", 1.0)
    dense = Dense.of(eq)
    expected = np.linalg.lstsq(dense.matrix, dense.rhs, rcond=1e-10)[0].reshape(layer.input_shape)
    inverse = np.linalg.pinv(dense.matrix)
    deviation = np.sqrt(np.diag(inverse @ inverse.T)).reshape(layer.input_shape)
    for precisions, factor in ((PRECISIONS, "CapacitanceFactor"), ((), "NoneType")):
        monkeypatch.setattr("constraint_algebra.solvers.choose_factor.PRECISIONS", precisions)
        stages = TwoStage(eq)
        x = stages.solve(eq.weight_gradient[..., None], eq.output[..., None], share=0.05, single=single)[..., 0]
        assert type(stages.solution.factor).__name__ == factor
        if not single:
            assert (np.abs(x - expected) <= 0.25 * deviation).all()
        # Single precision is for perturbations, a noise or so in size.
        moved = stages.solve(
            1e-6 * eq.weight_gradient[..., None], 1e-6 * eq.output[..., None], share=0.05, single=single
        )
        assert (np.abs(moved[..., 0] - 1e-6 * expected) <= 0.25 * deviation).all()


MANY = ca.Conv2d(40, 3, stride=2, padding=1).place((2, 16, 16))  # 512 unknowns, 2,560 weight equations


@pytest.mark.parametrize("single", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_many_weight_equations_are_solved_by_iteration_alone(single) -> None:
    eq = equations(MANY, seed=3, exact=False, noise=1e-6, zeros=0.0)
    dense = Dense.of(eq)
    expected = np.linalg.lstsq(dense.matrix, dense.rhs, rcond=None)[0].reshape(MANY.input_shape)
    inverse = np.linalg.pinv(dense.matrix)
    deviation = np.sqrt(np.diag(inverse @ inverse.T)).reshape(MANY.input_shape)
    stages = TwoStage(eq)
    assert type(stages.solution.factor).__name__ == "Diagonal"
    assert stages.verdict.rank == MANY.unknowns
    s = np.linalg.svd(dense.matrix, compute_uv=False)
    assert 0.5 < stages.verdict.condition / (s[0] / s[-1]) < 5
    scale = 1e-6 if single else 1.0  # single precision is for perturbations, a noise or so in size
    x = stages.solve(scale * eq.weight_gradient[..., None], scale * eq.output[..., None], share=0.05, single=single)[
        ..., 0
    ]
    assert (np.abs(x - scale * expected) <= 0.25 * deviation).all()


@pytest.mark.parametrize("rows", [0.0, pytest.param(0.02, marks=pytest.mark.slow)])
def test_many_weight_equations_do_not_hide_what_they_cannot_see(rows) -> None:
    """Two channels with the same weights: only their sum is known, but for what gradient equations tell."""
    eq = equations(MANY, seed=3, active=1.0, zeros=0.0, rows=rows)
    W = eq.weight.copy()
    W[:, 1] = W[:, 0]
    eq = replace(eq, weight=W)
    _, s, Vt = np.linalg.svd(Dense.of(eq).matrix)
    rank = int(np.count_nonzero(s > 1e-10 * s[0]))
    assert rank < MANY.unknowns
    verdict = TwoStage(eq).verdict
    assert verdict.rank == rank
    shares = np.linalg.norm(Vt[rank:], axis=0).reshape(MANY.input_shape)
    np.testing.assert_array_equal(verdict.determined, shares < 1e-7)


def test_gradient_equations_far_weaker_than_the_weight_equations_need_no_factor() -> None:
    """Their inverse would not fit single precision, nor their condition squared any."""
    layer = LAYERS["gradient equations suffice"]
    eq = equations(layer, active=0.4, zeros=0.0)
    for factor in (1e-8, 1e-60, 1e-160):
        weak = replace(eq, output_gradient=factor * eq.output_gradient, weight_gradient=factor * eq.weight_gradient)
        dense = Dense.of(weak)
        x = solved(weak)[1].ravel()
        known = np.abs(dense.matrix).max(axis=1) > 1e6  # the weight equations, divided by their noise
        np.testing.assert_allclose((dense.matrix @ x)[known], dense.rhs[known], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_what_gradient_equations_alone_determine_is_right_to_a_few_spacings(seed) -> None:
    """Small integers throughout, so that the right-hand sides hold no rounding at all; factors round off more."""
    layer, rng = ca.Conv2d(8, 3, padding=1).place((2, 6, 6)), np.random.default_rng(seed)
    k = rng.integers(-9, 10, layer.output_shape).astype(float)
    x = rng.integers(0, 3, (*layer.input_shape, 2)) * rng.integers(0, 100, (*layer.input_shape, 2)).astype(float)
    A = all_rows(layer, np.zeros(layer.weight_shape), k)[1]
    eq = replace(equations(layer, seed, active=0.0), output_gradient=k)
    found = TwoStage(eq).solve(
        (A @ x.reshape(-1, 2)).reshape(*layer.weight_shape, 2), np.zeros((*layer.output_shape, 2))
    )
    assert np.abs(found - x).max() <= 4 * np.finfo(float).eps * x.max()


def test_several_right_hand_sides_at_once_and_linearity() -> None:
    eq = equations(LAYERS["both kinds are needed"], active=0.9)
    stages = TwoStage(eq)
    x = np.random.default_rng(1).random((eq.layer.unknowns, 3))
    z, dW = (rows @ x for rows in all_rows(eq.layer, eq.weight, eq.output_gradient))
    dW, z = dW.reshape(*eq.weight_gradient.shape, 3), z.reshape(*eq.output.shape, 3)
    together = stages.solve(dW, z)
    for n in range(3):
        alone = stages.solve(dW[..., n, None], z[..., n, None])[..., 0]
        np.testing.assert_allclose(together[..., n], alone, rtol=1e-9, atol=1e-11)
    share = np.array([1.0, -2.0, 0.5])
    combined = stages.solve((dW @ share)[..., None], (z @ share)[..., None])[..., 0]
    np.testing.assert_allclose(combined, together @ share, rtol=1e-9, atol=1e-11)


def test_right_hand_sides_that_do_not_count_do_not_matter() -> None:
    eq = equations(LAYERS["groups"], rows=0.7, active=0.7)
    stages, x = solved(eq)
    dW = np.where(eq.gradient_rows.reshape(8, 1, 3, 3), eq.weight_gradient, 1e6)
    z = np.where(eq.weight_rows, eq.output, 1e6)
    np.testing.assert_array_equal(stages.solve(dW[..., None], z[..., None])[..., 0], x)


def test_the_condition_number_is_about_that_of_the_matrix() -> None:
    # An estimate: few steps of a power iteration see most of the spread, not all. Where the gradient equations alone
    # determine everything it is an upper bound, since theirs is the smallest singular value at hand.
    for name, alone in (
        ("gradient equations suffice", True),
        ("both kinds are needed", True),
        ("stride", False),
        ("three axes", True),
        ("too few equations", False),
    ):
        eq = equations(LAYERS[name], active=1.0, zeros=0.0)
        s = np.linalg.svd(Dense.of(eq).matrix, compute_uv=False)
        stages = TwoStage(eq)
        assert (stages.stage.open == 0) == alone, name
        if not alone and not stages.verdict.determined.all():
            continue
        least = min(block.singular.min() for block in stages.stage.blocks) / stages.stage.unit if alone else s[-1]
        assert stages.verdict.condition / (s[0] / s[-1]) > 0.1, name
        assert stages.verdict.condition / (s[0] / least) < 10, name


def test_the_residual_is_relative_to_the_right_hand_side() -> None:
    eq = equations(LAYERS["both kinds are needed"], active=0.9)
    _, x = solved(eq)
    assert residual(eq, x) < 1e-12
    # Twice the input gives twice both sides: the residual is as large as the right-hand side.
    assert residual(eq, 2 * x) == pytest.approx(1.0)


@pytest.mark.parametrize("active", [0.0, 1.0])
def test_noise_above_the_signal_leaves_nothing_determined(active) -> None:
    verdict = TwoStage(equations(LAYERS["gradient equations suffice"], noise=1e3, active=active)).verdict
    assert not verdict.determined.any()
    assert verdict.rank == 0
