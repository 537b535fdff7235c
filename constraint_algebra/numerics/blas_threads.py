"""One BLAS thread for many products of small matrices, between which several only wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread for a while, unless the environment states a number of threads: the user knows better.

    On two cores a reconstruction from CIFAR-10 gradients takes 1.4 s with two threads and 0.4 s with one; at 128
    pixels it is 22 s and 17 s. Several cores serve several reconstructions.

    >>> with one_blas_thread():
    ...     pass
    """
    with _limited(1):
        yield


@contextmanager
def all_blas_threads() -> Iterator[None]:
    """Let BLAS use every core for a while, unless the environment states a number: for one large factorisation."""
    with _limited(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1):
        yield


@contextmanager
def _limited(threads: int) -> Iterator[None]:
    if any(os.environ.get(name) for name in VARIABLES):
        yield
        return
    with _controller().limit(limits=threads, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401 -- loads SciPy's BLAS, so that the controller finds it

    return ThreadpoolController()  # looks through all libraries that the process has loaded
