"""Stage one: blocks against the dense matrix of the gradient equations, built by plain loops."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.solvers.gradient_blocks import gradient_blocks
from tests.rank_oracles import looped_rows, random_layers


def setup(layer, seed, zeros=0.3, rows=0.8):
    rng = np.random.default_rng(seed)
    k = rng.standard_normal(layer.output_shape) * (rng.random(layer.output_shape) > zeros)
    shape = (layer.filters, int(np.prod(layer.taps)))
    return k, rng.random(shape) < rows, rng.uniform(0.5, 2, shape)


def dense(layer, k, rows, scale):
    """The gradient equations of one channel of each group: shape (groups, rows of a group, positions)."""
    one = np.ones(layer.output_shape, dtype=bool)
    _, A = looped_rows(layer, np.zeros(layer.weight_shape), k, one, one)
    C, taps = layer.channels // layer.groups, rows.shape[1]
    A = A.reshape(layer.groups, -1, C, taps, layer.channels, int(np.prod(layer.positions)))
    A = np.stack([A[g, :, 0, :, g * C] for g in range(layer.groups)])
    factors = (scale * rows).reshape(layer.groups, -1, taps, 1)
    return (A * factors).reshape(layer.groups, -1, A.shape[-1])


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 1.0])
def test_the_blocks_put_together_are_the_gradient_equations(zeros, compress) -> None:
    for seed, layer in enumerate(random_layers(25, seed=7)):
        k, rows, scale = setup(layer, seed, zeros)
        expected = dense(layer, k, rows, scale)
        found = np.zeros_like(expected)
        columns = []
        for b in gradient_blocks(layer, k, rows, scale, compress=compress):
            assert compress or b.left is None
            found[b.group][np.ix_(b.rows, b.columns)] += b.core if b.left is None else b.left @ b.core
            columns += [(b.group, int(q)) for q in b.columns]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        # Every position lies in exactly one block of its group.
        assert sorted(columns) == [(g, q) for g in range(layer.groups) for q in range(expected.shape[-1])]


def test_singular_values_and_the_null_space() -> None:
    for seed, layer in enumerate(random_layers(25, seed=8)):
        k, rows, scale = setup(layer, seed)
        matrices = dense(layer, k, rows, scale)
        blocks = gradient_blocks(layer, k, rows, scale)
        for group, A in enumerate(matrices):
            s = np.linalg.svd(A, compute_uv=False)
            s = s[s > 1e-12 * max(s.max(initial=0), 1e-300)]
            mine = [b for b in blocks if b.group == group]
            np.testing.assert_allclose(np.sort(np.concatenate([b.singular for b in mine]))[::-1], s, rtol=1e-8)
            assert sum(b.weak_count(0.0) for b in mine) == A.shape[1] - len(s)
        for b in blocks:
            for strong in (0.0, float(np.median(b.singular)) if len(b.singular) else 0.0, np.inf):
                N = b.weak_basis(strong)
                assert N.shape == (len(b.columns), b.weak_count(strong))
                np.testing.assert_allclose(N.T @ N, np.eye(N.shape[1]), atol=1e-10)
                image = matrices[b.group][:, b.columns] @ N
                gains = np.linalg.svd(image, compute_uv=False) if image.size else np.zeros(1)
                assert gains.max(initial=0) <= strong * (1 + 1e-9) + 1e-10


def test_a_stride_cuts_the_equations_into_residue_classes() -> None:
    layer = ca.Conv2d(6, 3, stride=2, padding=1).place((1, 9, 9))
    k = np.random.default_rng(0).standard_normal(layer.output_shape)
    blocks = gradient_blocks(layer, k, np.ones((6, 9), dtype=bool), np.ones((6, 9)))
    # Odd and even pixels along each axis: 4 and 5 of 9; two taps reach the odd ones, one the even ones.
    assert sorted((len(b.columns), len(b.rows)) for b in blocks) == [(16, 24), (20, 12), (20, 12), (25, 6)]
