"""The null space of a layer's rows against one dense singular value decomposition of the explicit equations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import constraint_algebra as ca
from constraint_algebra.numerics.rows import unit_rows
from constraint_algebra.solvers.null_space import NullSpace

RNG = np.random.default_rng(0)
LAYERS = {
    "stride 2": ca.Conv2d(2, 3, stride=2, padding=1).place((2, 7, 6)),
    "groups": ca.Conv2d(4, 2, groups=2).place((4, 5, 5)),
    "one axis, dilated": ca.Conv1d(3, 3, dilation=2).place((2, 11)),
    "linear": ca.Linear(3).place((7,)),
    "stride beyond the kernel": ca.Conv2d(1, 2, stride=3).place((1, 8, 8)),
}


def null_of(layer, share: float = 0.5, number: int = 1) -> tuple[NullSpace, np.ndarray]:
    """A null space of real equations with some outputs cut off, and the rows stacked by the public functions."""
    k = RNG.standard_normal((number, *layer.output_shape))
    passing = (RNG.random(layer.output_shape) < share).ravel()
    k = k * passing.reshape(layer.output_shape)
    B = ca.weight_equations(layer, RNG.standard_normal(layer.weight_shape)).matrix
    dense = np.vstack([*(ca.gradient_equations(layer, one).matrix.toarray() for one in k), B.toarray()[passing]])
    return NullSpace(layer, k, sp.csr_array(unit_rows(B)[0][passing])), dense


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_dimension_basis_and_fixed_unknowns_are_those_of_a_dense_decomposition(layer, share, number) -> None:
    null, dense = null_of(layer, share, number)
    s, vectors = np.linalg.svd(dense)[1:] if dense.any() else (np.zeros(0), np.eye(layer.unknowns))
    expected = vectors[int((s > 1e-10).sum()) :].T
    assert null.nullity == expected.shape[1]
    np.testing.assert_allclose(null.basis.T @ null.basis, np.eye(null.nullity), atol=1e-12)
    np.testing.assert_allclose(dense @ null.basis, 0, atol=1e-11)
    np.testing.assert_array_equal(null.fixed.ravel(), np.linalg.norm(expected, axis=1) < 1e-8)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_multipliers_explain_whatever_is_orthogonal_to_the_null_space(layer) -> None:
    null, _ = null_of(layer)
    vectors = RNG.standard_normal((layer.unknowns, 4))
    orthogonal = vectors - null.project(vectors)
    np.testing.assert_allclose(null.matrix.T @ null.multipliers(vectors), orthogonal, atol=1e-9)
    np.testing.assert_allclose(np.sqrt((null.matrix.toarray() ** 2).sum(axis=1)), 1, rtol=1e-12)


def test_a_row_counts_only_where_all_its_output_gradients_are_known() -> None:
    layer = ca.Conv1d(1, 2).place((1, 3))  # rows k0 k1 0 and 0 k0 k1, both need both
    k, none = np.array([[[1.0, 2.0]]]), sp.csr_array((0, 3))
    assert NullSpace(layer, k, none).nullity == 1
    assert NullSpace(layer, k, none, np.array([[[True, False]]])).nullity == 3


def test_rows_of_rounding_do_not_count() -> None:
    layer = ca.Conv1d(2, 1).place((1, 2))
    k = np.array([[[1.0, 0.0], [0.0, 1e-16]]])
    assert NullSpace(layer, k, sp.csr_array((0, 2))).nullity == 1
    assert NullSpace(layer, 1e-200 * k[:, :1].repeat(2, axis=1), sp.csr_array((0, 2))).nullity == 1  # no underflow
