"""The kernel of sparse rows is that of dense singular values."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra.regions.sparse_kernel import SparseKernel
from constraint_algebra.regions.sparse_rows import SparseRows


def drawn_rows(seed: int) -> sp.csr_array:
    """Sparse rows, some twice, some sums of others, one of zeros, some that nearly depend on others."""
    rng = np.random.default_rng(seed)
    plain = sp.random_array((18, 40), density=0.15, rng=rng, format="csr")
    sums = sp.csr_array(rng.standard_normal((4, 18)) @ plain.toarray())
    near = sp.csr_array(plain[:3].toarray() + 1e-7 * rng.standard_normal((3, 40)))
    return sp.csr_array(sp.vstack([plain, plain[:5], sums, near, sp.csr_array((1, 40))], format="csr"))


@pytest.mark.parametrize("seed", range(6))
def test_it_is_that_of_dense_singular_values(seed: int) -> None:
    rows, found = drawn_rows(seed), SparseKernel(drawn_rows(seed), (5, 8))
    unit = rows.toarray()[np.diff(rows.indptr) > 0]
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    s, vectors = np.linalg.svd(unit)[1:]
    rank = int((s > 1e-11 * s[0]).sum())
    kernel = vectors[rank:]
    assert found.nullity == 40 - rank
    assert found.gap[0] < 1e-6  # rows that nearly depend count
    assert found.gap[1] < 1e-12
    np.testing.assert_allclose(found.norms.ravel(), np.linalg.norm(kernel, axis=0), atol=1e-8)
    x = np.random.default_rng(seed).standard_normal(40)
    np.testing.assert_allclose(found.project(x), kernel.T @ (kernel @ x), atol=1e-8)
    assert np.abs(unit @ found.project(x)).max() < 1e-14 * np.abs(x).max() * 10
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(found.nullity), atol=1e-10)
    np.testing.assert_allclose(found.matrix @ found.basis, 0, atol=1e-8)
    explained = found.multipliers(x[:, None])
    np.testing.assert_allclose(found.matrix.T @ explained[:, 0], x - found.project(x), atol=1e-7)


def test_without_rows_everything_is_open() -> None:
    found = SparseKernel(sp.csr_array((0, 3)), (3,))
    assert (found.nullity, found.fixed.any()) == (3, False)
    np.testing.assert_array_equal(found.project(np.ones(3)), np.ones(3))


def test_rows_cut_in_blocks_have_the_same_kernel() -> None:
    rows = drawn_rows(3)[:22]
    found = SparseRows(rows, (5, 8), 1e-12)
    N, kernel = found.from_open(np.eye(found.open_count)), la.null_space(rows.toarray(), rcond=1e-10)
    assert N.shape == kernel.shape
    np.testing.assert_allclose(N @ N.T, kernel @ kernel.T, atol=1e-10)
    x = np.random.default_rng(0).standard_normal((40, 2))
    np.testing.assert_allclose(found.matrix.T @ found.multipliers(x), x - N @ (N.T @ x), atol=1e-10)
    np.testing.assert_allclose(found.combined(found.compressed(x)).reshape(40, 2), found.matrix.T @ (found.matrix @ x))
