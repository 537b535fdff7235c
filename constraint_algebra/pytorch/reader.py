"""A recorded forward pass read as the layers of a network, or the problems that keep it from being one."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from constraint_algebra.errors import LayerProblem, ShapeError
from constraint_algebra.layers import Compound, Parametric, PReLU
from constraint_algebra.layers.base import Shape
from constraint_algebra.layers.convolutions import Conv
from constraint_algebra.layers.rearranging import Pad
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.placing import INPUT
from constraint_algebra.pytorch import moving, normalising, pointwise, weighted
from constraint_algebra.pytorch.graph import Call, Record, Value, refusal
from constraint_algebra.pytorch.models import features_first
from constraint_algebra.pytorch.place import Entries, Flow, Made, Place, Reader, along
from constraint_algebra.pytorch.unsupported import BY_HAND, PART, Unfitting, Unsupported, is_refused_whole, unsupported

_READERS: dict[str, Reader] = {**weighted.READERS, **normalising.READERS, **pointwise.READERS, **moving.READERS}
_PRODUCTS = {"matmul", "mm", "mv", "addmm", "bmm", "einsum", "rmatmul"}
_TRAINED = {"parameter", "computed"}
_NUMPYS = {"axis": "dim", "keepdims": "keepdim", "axis0": "dim0", "axis1": "dim1"}  # other words for PyTorch's
_OWN = "<input>"  # the network's own input, whatever its layers are called
_LOST = "?"  # the name of a value behind a problem


class Reading:
    """A recorded forward pass, read.

    Attributes:
        entries: the layers by name, with the names of what they read.
        problems: what is not supported, in the order of the forward pass.
        only_shapes: whether all of these are shapes that do not fit.
        unused: names of parameters that the output does not depend on.
        loss_part: the name of a softmax at the end that is left to the loss, `None` without.
        output: the name of the value that the model returns.
    """

    def __init__(self, model: nn.Module, record: Record) -> None:
        """Read all calls that the output needs."""
        self.entries: Entries = {}
        self.problems: list[LayerProblem] = list(record.problems)
        self.only_shapes = not self.problems
        self.loss_part: str | None = None
        self.output = _OWN
        self._record = record
        shape = record.input.shape
        self._flows = {record.input: Flow(_OWN, shape[1:] or (1,), shape)}
        self._used: set[str] = set()
        self._names: set[str] = set()
        paths = {call.path for call in record.calls if call.path is not None}
        self._paths = paths | {fixed.name.rpartition(".")[0] for call in record.calls for fixed in call.fixed}
        needed = record.needed([record.output]) if record.output is not None else []
        self._read(set(needed))
        self._finish(record, needed)
        found = {fixed.name for call in needed for fixed in call.fixed} | self._used
        self.unused = [name for name, _ in model.named_parameters() if name not in found]

    def _read(self, needed: set[Call]) -> None:
        """Read call by call; what is not needed has a name all the same, as its like behind it counts on."""
        refused: set[str] = set()
        read = frozenset(value for call in needed for value in call.inputs)
        for call in self._record.calls:
            name = self._named(call)
            if call not in needed:
                continue
            place = Place(call, name, self.entries, self._used, self._record.output in call.outputs, read)
            try:
                made = self._converted(place)
            except Unsupported as refusal:
                if call.path is None or call.path not in refused:  # of a module once, whatever its inside does
                    path = name if call.path is None else call.path
                    self.problems.append(LayerProblem(path or "model", *refusal.args))
                    self.only_shapes &= isinstance(refusal, Unfitting)
                refused |= {call.path} if call.path is not None else set()
                made = tuple(_lost(value) for value in call.outputs)
            self._flows |= dict(zip(call.outputs, made, strict=True))
            self.loss_part = place.loss_part or self.loss_part

    def _named(self, call: Call) -> str:
        """Return the path of a module, or the name of a function, numbered from the second time on."""
        base = call.path
        if base is None:
            base = call.function.strip("_") if call.function.startswith("__") else call.function
        taken = self._names if call.path is not None else self._names | self._paths
        if base not in taken:
            self._names.add(base)
            return base
        stem, number = base.replace(".", "_") or "model", 1
        while f"{stem}_{number}" in taken:
            number += 1
        self._names.add(f"{stem}_{number}")
        return f"{stem}_{number}"

    def _converted(self, at: Place) -> tuple[Flow, ...]:
        """Return what a call makes; `Unsupported` where it is no layer."""
        call = at.call
        if call.problem:
            raise Unsupported(*call.problem)
        name = call.function
        kind = type(call.module).__name__ if call.module is not None else name
        reader = _READERS.get(name) or _READERS.get(name.removesuffix("_"))
        if reader is None and name.strip("_") in _PRODUCTS and any(f.kind in _TRAINED for f in call.fixed):
            raise Unsupported(
                f"{name.strip('_')}: it multiplies values with a parameter by hand, which is not read as a layer",
                "write F.linear(x, self.weight, self.bias), which computes the same and is read, or use nn.Linear",
            )
        if reader is None or (call.module is not None and is_refused_whole(kind)):
            raise unsupported(kind, "operation" if call.module is None else "module")
        try:
            args, kwargs = self._flowing(call.args), _in_pytorchs_words(self._flowing(call.kwargs))
            first = (kwargs.pop("input"),) if "input" in kwargs else ()
            made: Made = reader(at, *first, *args, **kwargs)
        except (ShapeError, TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
            # Arguments that the reader does not know: another form of the operation.
            raise Unsupported(f"{name}: this form of it is not read ({error})", PART) from error
        flows = made if isinstance(made, tuple) else (made,)
        if len(flows) != len(call.outputs):
            raise Unsupported(f"{name}: it makes {len(call.outputs)} values, and only one is read", PART)
        return tuple(along(flow, value) for flow, value in zip(flows, call.outputs, strict=True))

    def _flowing(self, tree: Any) -> Any:
        """Return arguments with flows in place of values."""
        if isinstance(tree, tuple):
            return tuple(self._flowing(part) for part in tree)
        if isinstance(tree, dict):
            return {key: self._flowing(part) for key, part in tree.items() if key not in {"inplace", "_stacklevel"}}
        return self._flows[tree] if isinstance(tree, Value) else tree

    def _finish(self, record: Record, needed: list[Call]) -> None:
        """Look at the output: whether it is the logits, and on what it depends."""
        if record.output is None:
            self._problem("output", "it does not depend on the input", BY_HAND)
            return
        theirs = [call for other in record.others for call in record.needed([other]) if call not in needed]
        own = any(fixed.kind == "parameter" for call in theirs for fixed in call.fixed)
        if own and any(record.output in call.inputs or self._behind(call) for call in theirs):
            self._problem("output", *features_first().split("; ", 1))
        self.output = self._flows[record.output].name
        if not self.entries and not self.problems:
            self._problem("output", "it is the input itself, without any layer", BY_HAND)
        if not self.problems:
            _without_unread(self.entries, self.output)
            _pads_into_pads(self.entries)
            _pads_into_convolutions(self.entries)

    def _behind(self, call: Call) -> bool:
        """Whether a call needs the output of the model."""
        output = self._record.output
        return any(output in before.outputs for before in self._record.needed(call.inputs))

    def _problem(self, path: str, reason: str, advice: str) -> None:
        self.only_shapes = False
        self.problems.append(LayerProblem(path, reason, advice))

    def network(self, shape: Shape) -> Network:
        """Return the network, a plain sequence where each layer reads the one before."""
        names = list(self.entries)
        before = [_OWN, *names]
        if all(reads == (name,) for name, (_, reads) in zip(before, self.entries.values(), strict=False)):
            return Network(shape, [layer for layer, _ in self.entries.values()], names)
        named = {_OWN: INPUT} | {name: name for name in names}
        if INPUT in names:
            named[INPUT] = self._other_name()
        entries = self.entries.items()
        return Network(
            shape, {named[name]: (layer, *(named[read] for read in reads)) for name, (layer, reads) in entries}
        )

    def _other_name(self) -> str:
        """Return what a layer of the name of the network's input is called in a graph."""
        layer = self.entries[INPUT][0]
        if isinstance(layer, Parametric | Compound | PReLU):
            reason = f"a layer called {INPUT!r} in a model with branches, where that is the name of the model's input"
            advice = f"rename the attribute, for example self.{INPUT} to self.stem, and so its names in a state_dict"
            raise refusal([LayerProblem(INPUT, reason, advice)])
        return next(name for n in count(1) if (name := f"{INPUT}_{n}") not in self.entries)


def _in_pytorchs_words(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments under PyTorch's names where NumPy's came, which it takes as well."""
    return {_NUMPYS.get(name, name): value for name, value in kwargs.items()}


def _lost(value: Value) -> Flow:
    return Flow(_LOST, value.shape[1:] or (1,), value.shape)


def _without_unread(entries: Entries, output: str) -> None:
    """Take out what the output does not need, such as the other pieces of a split."""
    needed = {output}
    for name in reversed(list(entries)):
        if name in needed:
            needed |= set(entries[name][1])
        else:
            del entries[name]


def _users(entries: Entries, name: str) -> list[str]:
    return [user for user, (_, reads) in entries.items() if name in reads]


def _plain(layer: object) -> bool:
    """Whether a layer only adds zeros."""
    added = isinstance(layer, Pad) and all(side >= 0 for pair in _pairs(layer) for side in pair)
    return isinstance(layer, Pad) and added and layer.mode == "zeros" and not layer.value


def _pairs(layer: Pad) -> list[tuple[int, int]]:
    return list(layer.sides)  # type: ignore[arg-type]


def _joined(inner: list[tuple[int, int]], outer: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return the zeros of two paddings together, the last axes being the common ones."""
    length = max(len(inner), len(outer))
    both = [[(0, 0)] * (length - len(pairs)) + pairs for pairs in (inner, outer)]
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(*both, strict=True))


def _pads_into_pads(entries: Entries) -> None:
    """Make one padding of two that follow each other."""
    for name in list(entries):
        layer, reads = entries[name]
        users = _users(entries, name)
        if not _plain(layer) or len(users) != 1 or not _plain(entries[users[0]][0]):
            continue
        assert isinstance(layer, Pad)
        outer = entries[users[0]][0]
        assert isinstance(outer, Pad)
        entries[users[0]] = (Pad(_joined(_pairs(layer), _pairs(outer))), reads)
        del entries[name]


def _pads_into_convolutions(entries: Entries) -> None:
    """Make zero padding a part of the convolutions that read it, where nothing else does."""
    for name in list(entries):
        layer, reads = entries[name]
        users = _users(entries, name)
        if not _plain(layer) or not users:
            continue
        assert isinstance(layer, Pad)
        convs = [entries[user][0] for user in users]
        if not all(isinstance(conv, Conv) and len(_pairs(layer)) <= conv.axes for conv in convs):
            continue
        for user, conv in zip(users, convs, strict=True):
            assert isinstance(conv, Conv)
            entries[user] = (replace(conv, padding=_joined(list(conv.paddings), _pairs(layer))), reads)
        del entries[name]


def problems_before(model: nn.Module) -> list[LayerProblem]:
    """Return what no run of the model shows: hooks, parametrisations, compiled code, parameters without a shape."""
    on_a_copy = "where they leave values and gradients as they are, read a copy.deepcopy of the model without them"
    found: list[LayerProblem] = []
    lazy = {
        path
        for path, module in model.named_modules()
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in module._parameters.values())
    }
    for path, module in model.named_modules():
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        if path in lazy:
            reason = "its parameters have no shape yet"
            found.append(LayerProblem(path or "model", reason, "run the model once before analysing it"))
        elif any(_changes(hook) for name in hooks for hook in getattr(module, name).values()):
            found.append(
                LayerProblem(path or "model", "it has hooks, which can change values and gradients", on_a_copy)
            )
        if parametrize.is_parametrized(module):
            reason = "its parameters are computed from others (parametrize), and have gradients of their own"
            advice = (
                "on a copy, torch.nn.utils.parametrize.remove_parametrizations leaves the outputs as they are, and "
                "torch_gradients of the copy gives the gradients of what was computed"
            )
            found.append(LayerProblem(path or "model", reason, advice))
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks:
            found.append(LayerProblem(name, "it has hooks, which can change its gradient", on_a_copy))
    return found


def _changes(hook: object) -> bool:
    """Whether a hook may change something: that of an exported program only checks the input's shape."""
    return not str(getattr(hook, "__module__", "")).startswith("torch.export")
