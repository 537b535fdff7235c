"""How many threads BLAS gets, and that the number comes back."""

from __future__ import annotations

import os

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import constraint_algebra as ca
from constraint_algebra.numerics.blas_threads import VARIABLES, all_blas_threads, one_blas_thread


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def free(monkeypatch):
    """An environment that states no number of threads, and a process with two of them."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with threadpool_limits(2, user_api="blas"):
        assert threads() == {2}
        yield


@pytest.mark.usefixtures("free")
def test_one_for_a_while() -> None:
    with one_blas_thread():
        assert threads() == {1}
    assert threads() == {2}


@pytest.mark.usefixtures("free")
def test_all_for_a_while_within_one(monkeypatch) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with one_blas_thread():
        with all_blas_threads():
            assert threads() == {cores}
        assert threads() == {1}
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        with all_blas_threads():
            assert threads() == {1}


@pytest.mark.usefixtures("free")
def test_the_number_comes_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        raise ZeroDivisionError
    assert threads() == {2}


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("name", VARIABLES)
def test_a_number_in_the_environment_is_respected(monkeypatch, name) -> None:
    monkeypatch.setenv(name, "2")
    with one_blas_thread():
        assert threads() == {2}


@pytest.mark.usefixtures("free")
def test_reconstruction_runs_with_one() -> None:
    network = ca.Network((3,), [ca.Linear(2)])
    W, x = np.array([[1.0, 2.0, 0.5], [0.5, -1.0, 1.0]]), np.array([0.2, 0.4, 0.6])
    k = np.array([0.3, -0.3])
    seen = []
    result = ca.reconstruct(
        network,
        {"0.weight": W, "0.bias": np.zeros(2)},
        {"0.weight": np.outer(k, x), "0.bias": k},
        progress=lambda *_: seen.append(threads()),
    )
    np.testing.assert_allclose(result.input, x)
    assert seen == [{1}]
    assert threads() == {2}
