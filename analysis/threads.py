"""One BLAS thread a process: the matrices are small, and threads on few cores only wait for each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from constraint_algebra.numerics.blas_threads import VARIABLES


@contextmanager
def one_thread() -> Iterator[None]:
    """Let BLAS and PyTorch use one thread for a while."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


@cache
def keep_one_thread() -> None:
    """Let BLAS and PyTorch use one thread for the rest of the process, and in those that it starts.

    PyTorch takes seconds to load and not every study needs it: where it comes later, it reads the environment.
    """
    import numpy as np

    os.environ |= dict.fromkeys(VARIABLES, "1")
    np.linalg.norm(np.eye(2))  # loads BLAS, which the limit needs to find
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    threadpool_limits(1)
