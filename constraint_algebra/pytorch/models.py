"""What stands around the layers of a model: wrappers, outputs besides the logits, arguments besides the input."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.optim.swa_utils import AveragedModel

from constraint_algebra.errors import ParameterError, ShapeError
from constraint_algebra.notes import note

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
WRAP = (
    "pass a module around it that returns the logits alone, such as one whose forward(self, x) is "
    "`return self.model(x)[1]`"
)


def inside(module: nn.Module) -> nn.Module | None:
    """Return the module that a wrapper passes its input on to, `None` for a module that is no wrapper."""
    compiled = vars(module).get("_modules", {}).get("_orig_mod")
    if isinstance(compiled, nn.Module):
        return compiled
    return module.module if isinstance(module, WRAPPERS) else None


def unwrapped(model: nn.Module | ExportedProgram) -> nn.Module:
    """Return the model inside `DataParallel`, `DistributedDataParallel`, `AveragedModel` and `torch.compile`.

    The wrappers compute the same function; what was taken off is said. An exported program gives its module.
    """
    taken = []
    if isinstance(model, ExportedProgram):
        model = model.module()
    while (inner := inside(model)) is not None:
        taken.append(type(model).__name__.replace("OptimizedModule", "torch.compile"))
        model = inner
    if taken:
        note(f"the model inside {' and '.join(taken)} is read, whose parameters bear no prefix")
    return model


def refuse_without_values(model: nn.Module) -> None:
    """Raise `ParameterError` where a parameter or a buffer has a shape and no values."""
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if parameter.is_meta:
            raise ParameterError(
                name,
                f"{name!r} is on the meta device, a shape without values; load them first, for example by"
                " model.to_empty(device='cpu') and load_state_dict",
            )


def further_arguments(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the arguments of the forward pass behind the first: those without a default, and those used at theirs."""
    try:
        arguments = list(inspect.signature(model.forward).parameters.values())[1:]
    except (TypeError, ValueError):  # compiled code tells nothing about itself
        return [], []
    arguments = [a for a in arguments if a.kind not in {a.VAR_POSITIONAL, a.VAR_KEYWORD}]
    code = getattr(inspect.unwrap(model.forward), "__code__", None)
    loaded = {i.argval for i in dis.get_instructions(code) if i.opname.startswith("LOAD")} if code else set()
    needed = [a.name for a in arguments if a.default is a.empty]
    used = [f"{a.name}={a.default!r}" for a in arguments if a.default is not a.empty and a.name in loaded]
    return needed, used


def outputs(output: object) -> list[Any]:
    """Return everything that a model returned, `None` left out."""
    if isinstance(output, Tensor):
        return [output]
    named = _named(output)
    values = list(named.values()) if named else list(output) if isinstance(output, tuple | list) else []
    return [value for value in values if value is not None]


def logits(output: object) -> tuple[Any, str]:
    """Return the output that a loss takes, and in words which of several it is.

    That is a single tensor, an entry called `logits`, or the first entry of a tuple or list.

    Raises:
        ShapeError: which output it is remains open.

    >>> logits({"logits": torch.zeros(1, 2), "features": torch.zeros(1, 8)})
    (tensor([[0., 0.]]), "its entry 'logits'")
    """
    if isinstance(output, Tensor):
        return output, ""
    named = _named(output)
    if isinstance(named.get("logits"), Tensor):
        return named["logits"], "its entry 'logits'"
    found = outputs(output)
    sequence = isinstance(output, tuple | list) and len(output) > 0 and output[0] is not None
    if found and isinstance(found[0], Tensor) and (sequence or len(found) == 1):
        return found[0], "its first entry" if len(found) > 1 else "its only entry"
    came = f"{type(output).__name__}"
    came += f" with the entries {', '.join(map(repr, named))}" if named else ""
    raise ShapeError(
        f"the model must return one tensor, an entry called 'logits', or a tuple that begins with the logits, got"
        f" {came}; {WRAP}"
    )


def _named(output: object) -> dict[str, Any]:
    """Return the entries of a dictionary, a dataclass or a named tuple by name, nothing for anything else."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    return dict(output._asdict()) if isinstance(output, tuple) and hasattr(output, "_asdict") else {}


def say_which(words: str, count: int) -> None:
    """Say which of several outputs is taken for the logits."""
    if words:
        several = (
            f"the model returns {count} outputs" if count > 1 else "the model returns its output within another object"
        )
        note(f"{several}, and {words} is taken for the logits")


def refuse_features_first(output: object, chosen: Tensor, parameters: list[Tensor]) -> None:
    """Raise `ShapeError` where a later output comes from the chosen one by further layers: that one is the features.

    A later output without layers of its own, such as the softmax of the logits, is no reason.
    """
    for other in outputs(output):
        if other is chosen or not isinstance(other, Tensor) or not other.requires_grad or not chosen.requires_grad:
            continue
        if torch.autograd.grad(other.sum(), chosen, retain_graph=True, allow_unused=True)[0] is None:
            continue
        own, its = (
            [g is not None for g in torch.autograd.grad(t.sum(), parameters, retain_graph=True, allow_unused=True)]
            for t in (chosen, other)
        )
        if any(there and not here for here, there in zip(own, its, strict=True)):
            raise ShapeError(features_first())


def features_first() -> str:
    """Return the refusal of an output that begins with features."""
    return f"the first output of the model goes through further layers to a later one, so it is no logits; {WRAP}"
