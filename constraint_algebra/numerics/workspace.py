"""Arrays to work in, used again: the system's fresh pages cost more than the arithmetic of a small convolution."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Scratch:
    """Named arrays that grow as needed and are never given back; not for two threads at once.

    >>> scratch = Scratch()
    >>> first = scratch.array("product", (2, 3), float)
    >>> np.shares_memory(first, scratch.array("product", (5,), float))
    True
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._arrays: dict[tuple[str, np.dtype], NDArray[np.generic]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
        """Return an array of undefined values, whose memory the next array of that name and type takes over."""
        size, key = math.prod(shape), (name, np.dtype(dtype))
        if key not in self._arrays or self._arrays[key].size < size:
            self._arrays[key] = np.empty(size, dtype=dtype)
        return self._arrays[key][:size].reshape(shape)
