"""Tensors and arrays, one made from the other in the same number type, and tensors from files."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from constraint_algebra import memory
from constraint_algebra.arrays import Arrays
from constraint_algebra.errors import MemoryLimitError, MissingPackageError, ShapeError, StorageError

# What NumPy has as well, bfloat16 with ml_dtypes; complex numbers are refused where gradients are needed.
_TYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
}


def input_tensor(values: ArrayLike | Tensor, name: str) -> Tensor:
    """Return an input as a tensor; `ShapeError` for 8-bit integers, whose scale nobody said."""
    x = to_tensor(values)
    if x.dtype == torch.uint8:
        top = int(x.max()) if x.numel() else 0
        raise ShapeError(
            f"{name}: 8-bit integers up to {top} came, and the model may have been trained on them or on their 255th "
            "parts; pass x / 255.0 for values from 0 to 1, or x.astype(float) for values as they are"
        )
    return x


def load_torch_file(path: str | Path) -> Arrays:
    """Return the tensors of a PyTorch file of names and tensors, such as a `state_dict`; nothing in it is executed.

    Raises:
        StorageError: the file is damaged, contains anything but tensors that arrays can hold, or needs code to open; or
            its tensors, some of which may repeat the same values, would take more memory than may be taken.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the pickle protocol of files that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StorageError(
            f"{path}: this file needs code to open, or is no PyTorch file, and is refused; save a state_dict instead"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise StorageError(f"{path}: not a PyTorch file, or damaged ({error}); write it again") from error
    nothing = [name for name, value in content.items() if value is None] if isinstance(content, Mapping) else []
    if nothing:
        raise StorageError(
            f"{path}: {nothing[0]!r} is None, as the gradient of a frozen parameter is, and every parameter's is"
            " needed: take it again after model.requires_grad_(True)"
        )
    if isinstance(content, tuple | list):
        raise StorageError(
            f"{path}: expected a dictionary of tensors by parameter name, got a {type(content).__name__} of "
            f"{len(content)}, which bears no names; save dict(zip(dict(model.named_parameters()), gradients))"
        )
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise StorageError(
            f"{path}: expected a dictionary of tensors by parameter name, got {type(content).__name__}; "
            "save model.state_dict(), or {name: p.grad for name, p in model.named_parameters()}"
        )
    for name, value in content.items():
        _check_plain(path, str(name), value)
    whole = sum(value.numel() * value.element_size() for value in content.values())
    try:
        memory.demand("the tensors in it", 2.0 * whole, "split it")  # repeated values are written out, and copied
        return {str(name): to_numpy(value.resolve_conj().resolve_neg()) for name, value in content.items()}
    except (MemoryLimitError, MemoryError, RuntimeError) as error:
        raise StorageError(f"{path}: {error}") from error


def _check_plain(path: str | Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor that no array can hold: NumPy has neither its layout nor its type, or it comes without values."""
    if tensor.is_meta:
        what, advice = "has a shape and no values (device meta)", "save the tensor itself"
    elif tensor.is_nested or tensor.layout != torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        what, advice = f"has the layout {layout}", "save it dense, with to_dense()"
    elif tensor.is_quantized or tensor.dtype not in _TYPES:
        what, advice = f"has the type {tensor.dtype}", "save it as float32, with dequantize() or float()"
    else:
        return
    raise StorageError(f"{path}: {name!r} {what}, which no array can hold; {advice}")


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """Return a copy of a tensor as an array of the same dtype; bfloat16 through ml_dtypes."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype != torch.bfloat16:
        return np.array(tensor.numpy())
    try:
        import ml_dtypes
    except ImportError as error:
        raise MissingPackageError(
            'bfloat16 arrays need ml_dtypes, which is not installed; pip install "constraint-algebra[torch]"'
        ) from error
    return np.array(tensor.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)


def to_tensor(values: ArrayLike | Tensor) -> Tensor:
    """Return values as a tensor of the same dtype; an array is copied, a tensor detached."""
    if isinstance(values, Tensor):
        return values.detach()
    array = np.array(values, order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"expected an array of numbers, got values of type {array.dtype}")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
