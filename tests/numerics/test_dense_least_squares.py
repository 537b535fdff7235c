"""Small dense least-squares problems against NumPy's pseudo-inverse and singular values."""

from __future__ import annotations

import numpy as np
import pytest

from constraint_algebra.numerics.dense_least_squares import Reduced


@pytest.mark.parametrize(
    ("rows", "unknowns", "rank"),
    [(30, 20, 20), (30, 20, 13), (20, 30, 20), (20, 30, 11), (20, 20, 20), (20, 20, 3), (5, 5, 0), (1, 4, 1)],
)
def test_solution_rank_and_null_space(rows, unknowns, rank) -> None:
    rng = np.random.default_rng(rows + rank)
    matrix = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, unknowns))
    rhs = rng.standard_normal((rows, 3))
    found = Reduced(matrix.copy(), 1e-9)
    assert found.rank == rank
    assert found.null.shape == (unknowns, unknowns - rank)
    np.testing.assert_allclose(found.null.T @ found.null, np.eye(unknowns - rank), atol=1e-13)
    np.testing.assert_allclose(matrix @ found.null, 0, atol=1e-12)
    np.testing.assert_allclose(found.solve(rhs), np.linalg.pinv(matrix, rcond=1e-10) @ rhs, atol=1e-9)


def test_singular_values_that_count() -> None:
    rng = np.random.default_rng(0)
    for shape in ((40, 25), (25, 40)):
        matrix = rng.standard_normal(shape)
        values = np.linalg.svd(matrix, compute_uv=False)
        kept = Reduced(matrix.copy(), 1e-9).kept  # estimates from inside
        assert 0.9 * values[0] <= kept[0] <= values[0]
        assert values[-1] <= kept[-1] * (1 + 1e-9) <= 1.1 * values[-1]
        cut = float(np.sqrt(values[9] * values[10]))  # the ten largest are above it
        cut_off = Reduced(matrix.copy(), cut)
        assert cut_off.rank == 10
        np.testing.assert_allclose(cut_off.kept, values[:10])
