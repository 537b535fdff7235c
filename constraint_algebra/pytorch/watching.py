"""Every call of PyTorch in a forward pass, looked at: what reads the input of a model, directly or rearranged.

Tensors that hold values of the input are *marked*. Affine operations hand the mark on; a convolution or linear layer
ends it; anything else that reads a marked tensor, a branch in Python included, is a problem.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from constraint_algebra import layers as kinds
from constraint_algebra.layers import Layer
from constraint_algebra.pytorch.tensors import to_numpy

# What tells nothing of values.
_ABOUT = {
    *("shape", "ndim", "dtype", "device", "layout", "is_cuda", "is_cpu", "is_mps", "is_meta", "is_sparse", "is_mkldnn"),
    *("is_quantized", "is_nested", "is_leaf", "requires_grad", "grad_fn", "grad", "names", "itemsize", "nbytes"),
    *("size", "dim", "numel", "nelement", "ndimension", "stride", "element_size", "is_contiguous", "is_floating_point"),
    *(
        "is_complex",
        "__len__",
        "get_device",
        "type",
        "storage_offset",
        "is_same_size",
        "has_names",
        "is_conj",
        "is_neg",
    ),
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "result_type", "is_inference", "__hash__"),
}
# Affine functions of their first argument, which may be a list of tensors.
_AFFINE = {
    *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis"),
    *("squeeze", "unsqueeze", "expand", "expand_as", "repeat", "repeat_interleave", "tile", "contiguous", "clone"),
    *("detach", "to", "double", "alias", "view_as", "reshape_as", "type_as", "t", "T", "mT", "data", "ravel"),
    *("cat", "concat", "concatenate", "stack", "hstack", "vstack", "chunk", "split", "tensor_split", "unbind"),
    *("__getitem__", "select", "narrow", "index_select", "roll", "flip", "fliplr", "flipud", "rot90", "unfold", "fold"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "pad", "sum", "mean", "neg", "negative", "__neg__"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "interpolate", "requires_grad_", "as_tensor"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
}
_SUMS = {"add", "sub", "subtract", "rsub", "__add__", "__radd__", "__sub__", "__rsub__", "__iadd__", "__isub__"}
_PRODUCTS = {"mul", "multiply", "__mul__", "__rmul__", "__imul__"}
_QUOTIENTS = {"div", "divide", "true_divide", "__truediv__", "__itruediv__"}
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
_IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__"}
# What hands values to Python, which may then go another way for another input.
_TOLD = {"__bool__", "__int__", "__float__", "__index__", "__complex__", "__array__", "item", "tolist", "numpy"}

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_PARAMETRIC: dict[str, tuple[str, ...]] = {
    "linear": ("input", "weight", "bias"),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _CONVOLUTION),
}
_DEFAULTS: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_POOLS: dict[Any, Callable[..., Layer]] = {
    functional.max_pool1d: kinds.MaxPool1d,
    functional.max_pool2d: kinds.MaxPool2d,
    functional.max_pool3d: kinds.MaxPool3d,
    torch.max_pool1d: kinds.MaxPool1d,
    torch.max_pool2d: kinds.MaxPool2d,
    torch.max_pool3d: kinds.MaxPool3d,
}
_POOL_ARGUMENTS = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")


@dataclass(frozen=True, eq=False)
class Read:
    """The convolution or linear layer that read the input.

    Attributes:
        function: its name in PyTorch.
        input, weight, bias: what it was given.
        settings: stride, padding, dilation and groups of a convolution.
        output: a leaf with the values of what it made.
    """

    function: str
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    settings: dict[str, Any]
    output: Tensor


class Reached(BaseException):
    """The first operation was reached, with this input; no model that catches exceptions is to keep it."""

    def __init__(self, value: Tensor) -> None:
        """Keep what the operation reads."""
        self.value = value


class Watch(TorchFunctionMode):
    """Looks at every call.

    Args:
        replacement: the output that the first operation is to have.
        stop: whether to raise `Reached` there.

    Attributes:
        read: the operation that read the input, `None` before.
        problem: what else reads the input, `None` where nothing does.
    """

    def __init__(self, *, replacement: Tensor | None = None, stop: bool = False) -> None:
        """Start with nothing marked."""
        super().__init__()
        self.replacement, self.stop = replacement, stop
        self.read: Read | None = None
        self.problem: str | None = None
        self._marked: dict[int, Tensor] = {}
        self._behind: list[Tensor] = []  # the operation's output, and what each step made of it
        self._steps: list[Layer | None] = []
        self._open, self._branches = True, False
        self._reads: Counter[int] = Counter()

    @property
    def steps(self) -> tuple[Layer, ...]:
        """What alone reads the operation's output, and so on."""
        return tuple(step for step in self._steps if step is not None)

    def mark(self, x: Tensor) -> None:
        """Mark a tensor that holds the input."""
        self._marked[id(x)] = x  # kept, so that no other object gets its id

    def is_marked(self, value: object) -> bool:
        """Whether a tensor holds values of the input."""
        return id(value) in self._marked

    def owns(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether weight and bias of the operation are among some parameters, and nothing else ever reads them.

        A model that looks at values may read them for another input, and is not believed.
        """
        assert self.read is not None
        if self._branches:
            return False
        known = {id(p) for p in parameters}
        own = [p for p in (self.read.weight, self.read.bias) if p is not None]
        return all(id(p) in known and self._reads[id(p)] == 1 for p in own)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at one call."""
        kwargs = kwargs or {}
        name = name_of(func)
        if name in _ABOUT or (name == "__set__" and not any(map(self.is_marked, tensors(args)))):
            return func(*args, **kwargs)
        given = [*tensors(args), *tensors(kwargs)]
        self._branches |= name in _TOLD
        self._reads.update(id(t) for t in given if isinstance(t, nn.Parameter))
        if any(map(self.is_marked, given)):
            return self._on_marked(func, name, args, kwargs)
        result = func(*args, **kwargs)
        self._follow(func, name, args, kwargs, given, result)
        return result

    def _on_marked(self, func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
        if name in _PARAMETRIC:
            return self._parametric(func, name, args, kwargs)
        if not self._is_affine(name, args, kwargs):
            what = {"__bool__": "a branch", "__set__": "an attribute", "fn": "pooling"}.get(name, name)
            self._refuse(f"{what} reads the input before a convolution or linear layer does, or beside it")
        result = func(*args, **kwargs)
        for tensor in tensors(result):
            self.mark(tensor)
        return result

    def _refuse(self, reason: str) -> None:
        self.problem = self.problem or reason

    def _is_affine(self, name: str, args: Any, kwargs: Any) -> bool:
        """Whether an operation is an affine function of what is marked among its arguments, as its name tells."""
        plain = name.rstrip("_") if not name.startswith("__") and name not in _AFFINE else name
        in_place = plain != name or name in _IN_PLACE
        first, others = list(tensors(args[:1])), [*tensors(args[1:]), *tensors(kwargs)]
        if "out" in kwargs or (in_place and not any(map(self.is_marked, first))):
            return False
        if plain in _SUMS:  # the gradient of a parameter that is added does not move while k does not
            return True
        if any(t.requires_grad and not self.is_marked(t) for t in [*first, *others]):
            return False
        if plain in _PRODUCTS:
            return sum(map(self.is_marked, [*first, *others])) == 1
        if any(map(self.is_marked, others)):
            return False
        if plain in _DROPOUTS:
            return not _is_training(args, kwargs)
        return plain in _AFFINE or (plain in _QUOTIENTS and not kwargs.get("rounding_mode"))

    def _parametric(self, func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
        given = {**_DEFAULTS, **dict(zip(_PARAMETRIC[name], args, strict=False)), **kwargs}
        if any(self.is_marked(given[other]) for other in ("weight", "bias")):
            self._refuse(f"{name} takes its weights from the input")
        if self.read is not None:
            self._refuse("two convolutions or linear layers read the input")
            return func(*args, **kwargs)
        if self.stop:
            raise Reached(given["input"].detach())
        output = func(*args, **kwargs) if self.replacement is None else self.replacement
        leaf = output.detach().clone().requires_grad_()
        settings = {key: given[key] for key in _PARAMETRIC[name][3:]}
        self.read = Read(name, given["input"].detach().clone(), given["weight"], given["bias"], settings, leaf)
        result = leaf.clone()  # a model may overwrite what the layer made, and a leaf must not be overwritten
        self._behind = [result]
        return result

    def _follow(
        self, func: Callable[..., Any], name: str, args: Any, kwargs: Any, given: list[Tensor], result: Any
    ) -> None:
        """Note what reads the operation's output: one step more, or the end of what is followed."""
        places = [i for t in given if (i := self._place(t)) is not None]
        if not places:
            return
        if self._open and places == [len(self._behind) - 1] and isinstance(result, Tensor):
            known, step = _step(func, name, args, kwargs)
            if known:
                self._steps.append(step)
                self._behind.append(result)
                return
        self._open = False
        self._behind, self._steps = self._behind[: min(places) + 1], self._steps[: min(places)]

    def _place(self, tensor: Tensor) -> int | None:
        """Return which step made a tensor, the last where it was overwritten; `None` for any other."""
        return max((i for i, own in enumerate(self._behind) if own is tensor), default=None)


def follow(watch: Watch, model: nn.Module, batch: Tensor) -> Any:
    """Run a model on a batch under observation, compiled parts of it as they were before."""
    watch.mark(batch)
    # What compiles is loaded where something was compiled, and loading it takes seconds.
    loaded = "torch._dynamo" in sys.modules
    eager: Any = torch.compiler.set_stance("force_eager") if loaded else contextlib.nullcontext()
    with eager, watch:
        return model(batch)


def name_of(func: Callable[..., Any]) -> str:
    """Return the name of a function, a method, or an attribute that is read."""
    name = str(getattr(func, "__name__", func))
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return name


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors among arguments, within lists and dictionaries too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from tensors(entry)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def _step(func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> tuple[bool, Layer | None]:
    """Return whether an operation is one that is followed, and its layer; `None` where it changes nothing."""
    if name.rstrip("_") == "relu":
        return True, kinds.ReLU()
    if name in _DROPOUTS and not _is_training(args, kwargs):
        return True, None
    if func in _POOLS:
        given = dict(zip(_POOL_ARGUMENTS, args, strict=False)) | kwargs
        if given.pop("return_indices", False):
            return False, None
        kernel = given.pop("kernel_size")
        del given["input"]
        return True, _POOLS[func](kernel=kernel, **given)
    if func is functional.batch_norm:
        return _batch_norm(args, kwargs)
    return False, None


def _is_training(args: Any, kwargs: Any) -> bool:
    return bool(kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True)))


def _batch_norm(args: Any, kwargs: Any) -> tuple[bool, Layer | None]:
    """Return batch normalisation with given statistics as a factor and a shift for each channel."""
    bound = inspect.signature(functional.batch_norm).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    if given["training"] or given["running_mean"] is None:
        return False, None
    factor = (given["running_var"] + given["eps"]).rsqrt()
    shift = -given["running_mean"] * factor
    if given["weight"] is not None:
        factor, shift = factor * given["weight"], shift * given["weight"]
    if given["bias"] is not None:
        shift = shift + given["bias"]
    return True, kinds.Scale(tuple(to_numpy(factor).tolist()), tuple(to_numpy(shift).tolist()))
