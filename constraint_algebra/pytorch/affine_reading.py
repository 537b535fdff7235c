"""The matrix of an affine function of the input that is only given as a program."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from constraint_algebra import memory
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.pytorch.tensors import to_numpy

Before = Callable[[Tensor], Tensor]

AGREES = 1e-10  # relative difference of an affine function and its matrix
ZERO = 1e-14  # coefficients that are a smaller share of the largest are rounding
CHUNK = 256  # directions at a time


def affine_map(before: Before, x: Tensor) -> sp.csr_array:
    """Return M of an affine function `M x + c`, over flat values.

    A function that only moves and scales values is found by three of its values, any other by one for each input.

    Args:
        before: the function, of a batch of inputs; its batch axis may come out anywhere.
        x: an input, without a batch axis.

    Raises:
        ShapeError: the function is not affine, or gives no float64.
        MemoryLimitError: the matrix of one that mixes values would not fit.

    >>> affine_map(lambda batch: 2 * batch.flip(1) - 1, torch.zeros(2, dtype=torch.float64)).toarray()
    array([[0., 2.],
           [2., 0.]])
    """
    constant = _value(before, torch.zeros_like(x))
    found = _scaled_places(before, x, constant)
    if found is None:
        found = _by_columns(before, x, constant)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        probe = torch.rand(x.shape, generator=generator, dtype=x.dtype)
        seen, expected = _value(before, probe), found @ to_numpy(probe).ravel() + constant
        if not np.allclose(seen, expected, rtol=AGREES, atol=AGREES * max(1.0, float(np.abs(seen).max(initial=0)))):
            raise ShapeError("what the model does to its input before its first layer is not affine; certify the rest")
    return found


def _value(before: Before, image: Tensor) -> FloatArray:
    value = before(image[None])
    if value.dtype != torch.float64:
        raise ShapeError(
            f"the model casts its input to {value.dtype}; certificates need a model that keeps it in float64"
        )
    return np.asarray(to_numpy(value).ravel(), dtype=float)


def _scaled_places(before: Before, x: Tensor, constant: FloatArray) -> sp.csr_array | None:
    """Return M where each of its rows has one entry at most, `None` where that is not so."""
    n = x.numel()
    one = _value(before, torch.ones_like(x)) - constant
    count = torch.arange(1, n + 1, dtype=x.dtype).reshape(x.shape) / n
    moved = np.abs(one) > ZERO * max(1.0, float(np.abs(one).max(initial=0)))
    rank = (_value(before, count) - constant) * n / np.where(moved, one, 1.0)
    column = np.rint(rank).astype(np.intp) - 1
    if ((column < 0) | (column >= n) | (np.abs(rank - column - 1) > 1e-3))[moved].any():
        return None
    rows = np.flatnonzero(moved)
    found = sp.csr_array((one[moved], (rows, column[moved])), shape=(len(one), n))
    probe = torch.rand(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    seen = _value(before, probe) - constant
    return found if np.allclose(seen, found @ to_numpy(probe).ravel(), rtol=AGREES, atol=AGREES) else None


def _by_columns(before: Before, x: Tensor, constant: FloatArray) -> sp.csr_array:
    """Return M column by column, several as one batch where the function takes them so."""
    n, size = x.numel(), len(constant)
    memory.demand(f"the map of {n:,} input values before the first layer,", 8.0 * n * size, "take a smaller input")
    together, columns = _takes_batches(before, x, constant), []
    for a in range(0, n, CHUNK):
        count = min(CHUNK, n - a)
        batch = torch.zeros(count, n, dtype=x.dtype)
        batch[range(count), range(a, a + count)] = 1.0
        images = batch.reshape(count, *x.shape)
        values = (
            to_numpy(before(images)).reshape(count, size)
            if together
            else np.stack([_value(before, image) for image in images])
        )
        some = values.T - constant[:, None]
        some[np.abs(some) <= ZERO * max(1.0, float(np.abs(constant).max(initial=0)))] = 0.0
        columns.append(sp.csr_array(some))
    return sp.csr_array(sp.hstack(columns, format="csr"))


def _takes_batches(before: Before, x: Tensor, constant: FloatArray) -> bool:
    """Whether the function of two inputs is that of each, one after the other."""
    two = torch.rand(2, *x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    try:
        value = to_numpy(before(two))
    except (RuntimeError, ValueError, IndexError, ShapeError):
        return False
    if value.size != 2 * len(constant):
        return False
    expected = np.stack([_value(before, image) for image in two])
    return bool(np.allclose(value.reshape(2, -1), expected, rtol=AGREES, atol=AGREES))
