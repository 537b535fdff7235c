"""Singular values where LAPACK's fast driver gives up: as it does on some finite matrices, which are large."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as la

from constraint_algebra.numerics import singular


@pytest.mark.parametrize("full", [True, False])
def test_where_the_fast_driver_gives_up_the_other_answers(full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    A = np.random.default_rng(0).standard_normal((7, 4)) @ np.diag([1.0, 1e-3, 1e-9, 0.0])
    real, asked = la.svd, []

    def gives_up(matrix, *, lapack_driver="gesdd", **options):
        asked.append(lapack_driver)
        if lapack_driver == "gesdd":
            raise la.LinAlgError("SVD did not converge")
        return real(matrix, lapack_driver=lapack_driver, **options)

    expected = singular.svd(A, full_matrices=full)[1]
    monkeypatch.setattr(la, "svd", gives_up)
    U, s, Vt = singular.svd(A, full_matrices=full)
    assert asked == ["gesdd", "gesvd"]
    np.testing.assert_allclose(s, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose((U[:, :4] * s) @ Vt, A, atol=1e-14)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises((la.LinAlgError, ValueError)):
        singular.svd(np.array([[np.nan, 1.0], [1.0, 2.0]]))
