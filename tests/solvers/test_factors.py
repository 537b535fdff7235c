"""Factors of the normal equations against dense inverses of matrices built by plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import constraint_algebra as ca
from constraint_algebra.layers import trilinear
from constraint_algebra.solvers.banded_factor import BandedFactor
from constraint_algebra.solvers.capacitance_factor import GATHERED, CapacitanceFactor, operations
from constraint_algebra.solvers.dense_factor import DenseFactor
from constraint_algebra.solvers.gradient_blocks import gradient_blocks
from constraint_algebra.solvers.normal_equations import Bands, all_normal_equations, bands, normal_blocks
from constraint_algebra.solvers.operators import StackedEquations
from tests.cases import geometries
from tests.rank_oracles import looped_rows

LAYERS = {
    "stride": ca.Conv2d(6, 5, stride=2, padding=2).place((2, 13, 11)),
    "dilated, in groups": ca.Conv2d(4, 3, padding=2, dilation=2, groups=2).place((4, 9, 7)),
    "stride beyond the kernel": ca.Conv2d(3, 2, stride=3).place((2, 8, 8)),
    "one axis": ca.Conv1d(3, 3).place((2, 70)),
    "three axes": ca.Conv3d(3, 2).place((2, 5, 4, 4)),
    "kernel as large as the picture": ca.Conv2d(5, 4).place((2, 4, 4)),
    "kernel larger than the picture": ca.Conv2d(4, 5, padding=3).place((2, 3, 2)),
    "kernel larger than the line": ca.Conv1d(3, 7, padding=6, dilation=2, stride=2).place((2, 5)),
    "more outputs than positions": ca.Conv2d(2, 2, padding=4, stride=1).place((3, 4, 2)),
}


def setup(layer, seed=0):
    rng = np.random.default_rng(seed)
    W, k = rng.standard_normal(layer.weight_shape), rng.standard_normal(layer.output_shape)
    whiten = rng.uniform(0.5, 2, layer.output_shape) * (rng.random(layer.output_shape) < 0.8)
    rows = rng.random((layer.filters, int(np.prod(layer.taps)))) < 0.8
    one = np.ones(layer.output_shape, dtype=bool)
    B, A = looped_rows(layer, W, k, one, one)
    B = B * whiten.reshape(-1, 1)
    A = A[np.broadcast_to(rows.reshape(layer.filters, 1, *layer.taps), layer.weight_shape).ravel()]
    return W, gradient_blocks(layer, k, rows, np.ones(rows.shape)), whiten, B.T @ B, A.T @ A


def order(layer):
    """Unknowns in the order (*position, channel), as indices into the order (channel, *position)."""
    return np.arange(layer.unknowns).reshape(layer.channels, -1).T.ravel()


@pytest.mark.parametrize("factor", [BandedFactor, DenseFactor])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_the_factor_inverts_the_normal_equations(layer, factor) -> None:
    W, blocks, whiten, BB, AA = setup(layer)
    equations = StackedEquations(layer, W, blocks, whiten)
    ridge = 1e-4
    diagonal = BB.diagonal().max() if factor is BandedFactor else (BB + AA).diagonal().max()
    H = BB + AA + ridge * diagonal * np.eye(layer.unknowns)
    x = np.random.default_rng(1).standard_normal((*layer.input_shape, 3))
    expected = np.linalg.solve(H, x.reshape(-1, 3)).reshape(x.shape)
    found = factor(equations, ridge, np.float64)(x)
    np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())
    alone = factor(equations, ridge, np.float64)(x[..., :1])
    np.testing.assert_allclose(alone, expected[..., :1], atol=1e-8 * np.abs(expected).max())
    single = factor(equations, ridge, np.float32)(x)
    np.testing.assert_allclose(single, expected, atol=2e-2 * np.abs(expected).max())
    # What the type cannot hold is scaled, column by column of nothing but zeros included.
    np.testing.assert_allclose(
        factor(equations, ridge, np.float32)(1e-60 * x),
        1e-60 * single,
        rtol=1e-5,
        atol=1e-66,
    )


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("per_block", [1, 2, 3])
def test_block_rows_of_the_normal_equations(layer, per_block) -> None:
    W, _, whiten, BB, _ = setup(layer)
    whole = BB[np.ix_(order(layer), order(layer))]
    b = bands(layer)
    height = layer.bilinear.dilations[0] * (layer.bilinear.taps[0] - 1)
    b = Bands(b.lines, b.width, per_block, -(-height // per_block))
    rows = normal_blocks(layer, W, whiten, b)
    assert sum(len(row) for row in rows) == layer.unknowns
    start = 0
    for row in rows:
        stop = start + len(row)
        first = stop - row.shape[1]
        lower = np.tri(*row.shape, row.shape[1] - len(row), dtype=bool)
        expected = whole[start:stop, first:stop]
        np.testing.assert_allclose(row[lower], expected[lower], atol=1e-10)
        assert not whole[start:stop, :first].any()  # nothing lies beyond the band
        start = stop
    np.testing.assert_allclose(all_normal_equations(layer, W, whiten), whole, atol=1e-10)


@given(geometries(largest=3))
def test_normal_equations_of_any_geometry(geometry) -> None:
    layer, weight = geometry.layer, geometry.values()[0]
    whiten = np.random.default_rng(geometry.seed).uniform(0, 2, layer.output_shape)
    unit_vectors = np.eye(layer.unknowns)[:, order(layer)].reshape(*layer.input_shape, -1)
    B = whiten.reshape(-1, 1) * trilinear.forward(layer, weight, unit_vectors).reshape(-1, layer.unknowns)
    found = all_normal_equations(layer, weight, whiten)
    np.testing.assert_allclose(found, B.T @ B, atol=1e-11 * max(1.0, float(np.abs(B).max()) ** 2))


def test_equations_that_are_not_there_break_no_factor_down_but_show() -> None:
    layer = ca.Conv2d(2, 3, padding=1).place((3, 6, 6))
    W, blocks, whiten, BB, AA = setup(layer)
    H = BB + AA
    assert np.linalg.matrix_rank(H, 1e-9) < layer.unknowns
    null = np.linalg.svd(H)[2][-1].reshape(*layer.input_shape, 1)
    for factor in (BandedFactor, DenseFactor):
        grown = factor(StackedEquations(layer, W, blocks, whiten), 1e-6, np.float64)(null)
        assert np.linalg.norm(grown) > 1e4 / np.linalg.norm(H, 2)


def test_a_linear_layer_has_no_lines() -> None:
    layer = ca.Linear(5).place((7,))
    W = np.random.default_rng(0).standard_normal((5, 7))
    np.testing.assert_allclose(all_normal_equations(layer, W, np.full(5, 2.0)), 4 * W.T @ W)
    with pytest.raises(TypeError, match="no lines"):
        bands(layer)


DETERMINED = {
    "stride": ca.Conv2d(20, 5, stride=2, padding=2).place((2, 13, 11)),
    "dilated, in groups": ca.Conv2d(40, 3, padding=2, dilation=2, groups=2).place((4, 9, 7)),
    "one axis": ca.Conv1d(40, 3).place((2, 70)),
    "three axes": ca.Conv3d(14, 2).place((2, 5, 4, 4)),
    "depthwise": ca.Conv2d(24, 3, padding=1, groups=3).place((3, 6, 6)),
}


@pytest.mark.parametrize("gathered", [1, GATHERED])
@pytest.mark.parametrize("layer", DETERMINED.values(), ids=DETERMINED)
def test_weight_equations_correct_the_gradient_equations(layer, gathered, monkeypatch) -> None:
    monkeypatch.setattr("constraint_algebra.solvers.capacitance_factor.GATHERED", gathered)
    W, blocks, whiten, BB, AA = setup(layer)
    assert np.linalg.matrix_rank(AA) == layer.unknowns
    x = np.random.default_rng(1).standard_normal((*layer.input_shape, 3))
    expected = np.linalg.solve(AA + BB, x.reshape(-1, 3)).reshape(x.shape)
    found = CapacitanceFactor(StackedEquations(layer, W, blocks, whiten), 0.0, np.float64)(x)
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())
    single = CapacitanceFactor(StackedEquations(layer, W, blocks, whiten), 0.0, np.float32)(1e-60 * x)
    np.testing.assert_allclose(single, 1e-60 * expected, rtol=0, atol=2e-2 * 1e-60 * np.abs(expected).max())


def test_groups_without_weight_equations_keep_their_gradient_equations() -> None:
    layer = DETERMINED["depthwise"]
    W, blocks, whiten, _, AA = setup(layer)
    x = np.random.default_rng(1).standard_normal((*layer.input_shape, 2))
    whiten[:16] = 0  # two groups of three
    B, _ = looped_rows(layer, W, np.ones(layer.output_shape), *[np.ones(layer.output_shape, dtype=bool)] * 2)
    B = B * whiten.reshape(-1, 1)
    expected = np.linalg.solve(AA + B.T @ B, x.reshape(-1, 2)).reshape(x.shape)
    found = CapacitanceFactor(StackedEquations(layer, W, blocks, whiten), 0.0, np.float64)(x)
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


def test_operations_of_the_capacitance_matrix() -> None:
    """Residue classes of 9, 6, 6 and 4 taps for stride 2, one of 25 for stride 1."""
    assert operations(ca.Conv2d(16, 5, stride=2, padding=2).place((12, 16, 16)), 600) == 1024**2 * 169 + 600**3 / 6
    assert operations(ca.Conv2d(4, 5, padding=2, groups=2).place((4, 8, 8)), 6) == 2 * 128**2 * 625 + 36
