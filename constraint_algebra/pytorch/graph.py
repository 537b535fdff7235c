"""The graph of a model's forward pass: one run with real tensors, recorded call by call.

A run follows what no symbolic trace does: branches on shapes, modules made on the way, checks of types, and what other
tools made (exported programs, graph modules). It sees in-place operations for what they do. What a run cannot show, it
reports: branches on values, and derivatives that are not those of the operations.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from constraint_algebra import memory
from constraint_algebra.errors import LayerProblem, ShapeError, UnsupportedLayerError
from constraint_algebra.layers.base import Shape
from constraint_algebra.pytorch.models import inside, logits, outputs
from constraint_algebra.pytorch.operation import Operation
from constraint_algebra.pytorch.unsupported import AS_IT_IS, BY_HAND, PART

# What tells of a tensor nothing but its shape and kind.
_ABOUT = {
    "size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "is_floating_point", "is_complex",
    "is_signed", "element_size", "get_device", "data_ptr", "storage_offset", "is_pinned", "is_tensor", "result_type",
    "is_same_size", "can_cast", "type", "dim_order", "has_names", "sym_size", "is_inference", "is_shared",
    "__len__", "__hash__", "__repr__", "__str__", "__format__", "__dir__", "_assert", "retain_grad",
}  # fmt: skip
_MADE_ANEW = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_tensor"}
_LIKE = {"to", "type_as", "view_as", "reshape_as", "expand_as"}
_RANDOM = {
    "bernoulli", "bernoulli_", "multinomial", "normal", "normal_", "poisson", "uniform_", "exponential_", "geometric_",
    "log_normal_", "cauchy_", "random_", "empty", "empty_like", "new_empty",
}  # fmt: skip

_NORMALISING = {"batch_norm", "instance_norm", "group_norm"}


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that depends on the input, its shape with the batch axis of one."""

    shape: Shape
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Fixed:
    """A tensor that does not depend on the input.

    Attributes:
        kind: "parameter", "buffer", "computed" (from parameters), "random" or "constant".
        name: the path of a parameter or buffer.
        tensor: its values when it was read.
        differentiable: whether it has a gradient all the same, as a parameter has.
    """

    kind: str
    name: str
    tensor: Tensor
    differentiable: bool = False


@dataclass(frozen=True, eq=False)
class Call:
    """One operation of the forward pass.

    Attributes:
        function: PyTorch's name of it, without that of the module it lies in.
        args, kwargs: its arguments, tensors in them as `Value` or `Fixed`.
        outputs: the values that it makes.
        module: the module of PyTorch's own that it is a part of, `None` outside of all.
        path: the path of that module in the model, `None` for one that is not registered there.
        problem: reason and advice where the record itself shows a problem.
    """

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Value, ...]
    module: nn.Module | None = None
    path: str | None = None
    problem: tuple[str, str] | None = None

    @property
    def inputs(self) -> list[Value]:
        """The values that it reads."""
        return [leaf for leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Value)]

    @property
    def fixed(self) -> list[Fixed]:
        """The tensors that it reads and that do not depend on the input."""
        return [leaf for leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Fixed)]


@dataclass
class Record:
    """What one run showed.

    Attributes:
        input, output: the model's input, and its logits; `None` where these do not depend on the input.
        calls: the operations in order.
        others: further outputs of the model.
        words: which of several outputs the logits are.
        count: how many outputs there are.
        problems: what the run as a whole shows, such as derivatives of the model's own.
    """

    input: Value
    output: Value | None = None
    calls: list[Call] = field(default_factory=list)
    others: list[Value] = field(default_factory=list)
    words: str = ""
    count: int = 1
    problems: list[LayerProblem] = field(default_factory=list)

    def needed(self, values: Iterable[Value]) -> list[Call]:
        """Return the calls that values are computed by, in order."""
        wanted, found = set(values), []
        for call in reversed(self.calls):
            if wanted & set(call.outputs):
                found.append(call)
                wanted |= set(call.inputs)
        return found[::-1]


def leaves(tree: Any) -> Iterator[Any]:
    """Yield what lies in nested tuples, lists, dictionaries and slices."""
    if isinstance(tree, tuple | list):
        for part in tree:
            yield from leaves(part)
    elif isinstance(tree, dict):
        yield from leaves(list(tree.values()))
    elif isinstance(tree, slice):
        yield from (tree.start, tree.stop, tree.step)
    else:
        yield tree


def refusal(problems: Sequence[LayerProblem]) -> UnsupportedLayerError:
    """Return the error that names all problems and says what can be said of the model as it is."""
    return UnsupportedLayerError(problems, AS_IT_IS)


def recorded(model: nn.Module, shape: Shape) -> Record:
    """Return the record of a run on one sample of zeros; the model, its buffers and the random state stay as they are.

    Raises:
        ShapeError: the input shape does not fit; the message names the layer.
        UnsupportedLayerError: the forward pass cannot be followed at all.
    """
    example = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    size = 2.0 * math.prod(shape) * example.element_size()
    memory.demand(f"an input of {math.prod(shape):,} values", size, "give a smaller input shape")
    zeros = torch.zeros((1, *shape), dtype=example.dtype, device=example.device, requires_grad=True)
    x = zeros.clone()  # may be changed in place, which a leaf of the graph of derivatives may not
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    recorder = _Recorder(model, buffers, x)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch remarks on padding="same" with an even kernel
        try:
            with _calls_through(recorder), recorder:
                everything = torch.func.functional_call(model, buffers, (x,))
        except Exception as error:
            raise recorder.failed(error, shape) from error
    return recorder.finished(everything)


class _Recorder(TorchFunctionMode):
    """Writes down every operation that PyTorch's functions, methods and operators perform."""

    def __init__(self, model: nn.Module, buffers: dict[str, Tensor], x: Tensor) -> None:
        super().__init__()
        self.model = model
        self.paths = {module: path for path, module in model.named_modules()}
        self.record = Record(Value(tuple(x.shape), x.dtype))
        self.kept: list[Any] = [x]  # so that no two tensors ever have one id
        self.values: dict[int, tuple[Value, int]] = {id(x): (self.record.input, x._version)}
        self.fixed = {id(t): ("buffer", name) for name, t in buffers.items()}
        self.fixed |= {id(t): ("parameter", name) for name, t in model.named_parameters()}
        self.leaf: nn.Module | None = None
        self.at = ""  # the operation in progress, for messages
        self.problem: tuple[str, str] | None = None
        self.own_derivatives: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation, and write it down if it has a part in the values."""
        del types
        kwargs = kwargs or {}
        name = _name(func)
        reads = [t for t in leaves((args, kwargs)) if isinstance(t, Tensor)]
        if name in _LIKE:  # of the others nothing but the shape and kind counts
            reads = [t for t in leaves(args[:1]) if isinstance(t, Tensor)] or reads
        depends = any(id(t) in self.values for t in reads)
        taken = (self._taken(args), self._taken(kwargs)) if depends else None
        self.at = self._label(name)
        try:
            result = func(*args, **kwargs)
        except ValueError:
            if name not in _NORMALISING:
                raise
            result = args[0].clone()  # it refuses groups of one value, which is said with all other problems
        self.at = ""
        made = [t for t in leaves(result) if isinstance(t, Tensor)]
        if not depends or name in _RANDOM or name.startswith("rand"):
            self._not_of_the_input(name, reads, made)
        elif name in _MADE_ANEW or (not made and (name in _ABOUT or getattr(func, "__name__", "") == "__get__")):
            self.kept += made
        else:
            assert taken is not None
            self.write(name, taken, reads, made)
        return result

    def _label(self, name: str) -> str:
        path = self.paths.get(self.leaf) if self.leaf is not None else None
        return name if path is None else path

    def _not_of_the_input(self, name: str, reads: list[Tensor], made: list[Tensor]) -> None:
        """Remember where a tensor comes from that does not depend on the input."""
        kinds = {self.fixed[id(t)][0] for t in reads if id(t) in self.fixed}
        kind = "random" if name.startswith("rand") or name in _RANDOM or "random" in kinds else ""
        kind = kind or ("computed" if kinds & {"parameter", "computed"} else "")
        for tensor in made if kind else []:
            if id(tensor) not in self.fixed:
                self.fixed[id(tensor)] = (kind, name)
        self.kept += made

    def write(self, name: str, taken: tuple[Any, Any], reads: list[Tensor], made: list[Tensor]) -> None:
        """Write one call down, and know its outputs from now on."""
        problem, self.problem = self.problem, None
        if not made:
            problem = _no_tensor(name)
        elif any(t.requires_grad for t in reads) and not all(t.requires_grad for t in made if t.is_floating_point()):
            problem = ("its gradient stops here, by detach or no_grad", PART)
        found = []
        for tensor in made:
            value = Value(tuple(tensor.shape), tensor.dtype)
            self.values[id(tensor)] = (value, tensor._version)
            found.append(value)
        self.kept += made
        path = self.paths.get(self.leaf) if self.leaf is not None else None
        self.record.calls.append(Call(name, *taken, tuple(found), self.leaf, path, problem))

    def _taken(self, tree: Any) -> Any:
        """Return arguments with values and other tensors in place of tensors."""
        if isinstance(tree, tuple | list):
            return tuple(self._taken(part) for part in tree)
        if isinstance(tree, dict):
            return {key: self._taken(part) for key, part in tree.items()}
        if not isinstance(tree, Tensor):
            return tree
        if id(tree) in self.values:
            value, version = self.values[id(tree)]
            if tree._version != version:
                self.problem = ("what it reads was changed in place through another view of it", BY_HAND)
            return value
        kind, path = self.fixed.get(id(tree), ("constant", ""))
        # A copy, as it may be written into later; parameters are not, and may be large.
        values = tree.detach() if kind == "parameter" else tree.detach().clone()
        return Fixed(kind, path, values, tree.requires_grad)

    def failed(self, error: Exception, shape: Shape) -> Exception:
        """Return the error for a run that did not come to its end."""
        if self.at:
            return ShapeError(
                f"layer {self.at!r} does not take what an input of input_shape {shape} becomes there: {error}"
            )
        reason = f"its forward pass cannot be followed with an input of shape {(1, *shape)}"
        problem = LayerProblem(type(self.model).__name__, f"{reason} ({type(error).__name__}: {error})", BY_HAND)
        return refusal([problem])

    def finished(self, everything: Any) -> Record:
        """Return the record with its outputs."""
        record = self.record
        branching = [call.problem for call in record.calls if not call.outputs and call.problem]
        record.problems += [LayerProblem(type(self.model).__name__, *problem) for problem in branching[:1]]
        try:
            chosen, record.words = logits(everything)
        except ShapeError as error:
            raise refusal([LayerProblem("output", *str(error).split("; ", 1))]) from None
        tensors = outputs(everything)
        record.count = len(tensors)
        taken = [self._taken(t) for t in tensors if isinstance(t, Tensor) and t is not chosen]
        record.others = [value for value in taken if isinstance(value, Value)]
        output = self._taken(chosen)
        record.output = output if isinstance(output, Value) else None
        if self.problem:
            record.problems.append(LayerProblem("output", *self.problem))
        record.problems += [
            LayerProblem(name, "it is an autograd.Function of its own, whose derivative a run does not show", BY_HAND)
            for name in sorted(_own_functions(chosen))
        ]
        return record


def _name(func: Callable[..., Any]) -> str:
    """Return the name of a function, a method, an attribute or an operator, without its overload."""
    schema = getattr(func, "_schema", None)
    if schema is not None:
        return str(schema.name).partition("::")[2]
    name = getattr(func, "__name__", str(func))
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name


def _no_tensor(name: str) -> tuple[str, str]:
    """Return the problem of an operation that makes no tensor."""
    if name in {"__setitem__", "index_put_"}:
        return "it writes into a part of a tensor", PART
    reason = f"its forward pass takes a number out of its values ({name.strip('_')}), as a branch on values does"
    return f"{reason}, and the graph of one input is not that of another", BY_HAND


def _own_functions(output: Tensor) -> set[str]:
    """Return the names of the functions with derivatives of their own, from which a tensor comes."""
    found: set[str] = set()
    seen: set[Any] = set()
    todo: list[Any] = [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
            if isinstance(node, torch.autograd.function.BackwardCFunction):
                found.add(type(node).__name__.removesuffix("Backward"))
    return found


_PATCH = threading.Lock()


@contextmanager
def _calls_through(recorder: _Recorder) -> Iterator[None]:
    """Let the recorder see for a while which module an operation belongs to; other threads are not affected."""
    plain, owner = nn.Module.__call__, threading.get_ident()

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != owner:
            return plain(module, *args, **kwargs)
        while (inner := inside(module)) is not None:  # whatever the wrapper does on other devices
            module = inner
        if recorder.leaf is not None or not is_leaf(module):
            return module.forward(*args, **kwargs)
        recorder.leaf = module
        result = _leaf_result(recorder, module, args, kwargs)
        recorder.leaf = None
        return result

    with _PATCH:
        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = plain  # type: ignore[method-assign]


def _leaf_result(recorder: _Recorder, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a module of PyTorch's own makes, written down as one call where its inside would say less."""
    whole = isinstance(module, Operation | nn.Identity)
    reads = [t for t in leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not whole or not any(id(t) in recorder.values for t in reads):
        return module.forward(*args, **kwargs)
    taken = recorder._taken(args), recorder._taken(kwargs)
    recorder.at = recorder._label(type(module).__name__)
    with torch._C.DisableTorchFunction():
        result = args[0].view_as(args[0]) if isinstance(module, nn.Identity) else module.forward(*args, **kwargs)
    recorder.at = ""
    made = [t for t in leaves(result) if isinstance(t, Tensor)]
    recorder.write(type(module).__name__, taken, reads, made)
    return result


def is_leaf(module: nn.Module) -> bool:
    """Return whether a module is PyTorch's own, or a subclass that keeps its forward pass."""
    if isinstance(module, Operation):
        return True
    containers = nn.Sequential | nn.ModuleList | nn.ModuleDict
    if isinstance(module, containers) or "forward" in vars(module):
        return False
    passes = (type(module).forward, getattr(type(module), "_conv_forward", type(module).forward))
    return all((forward.__module__ or "").startswith("torch.nn") for forward in passes)
