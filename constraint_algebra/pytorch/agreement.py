"""The network read from a model, compared with the model itself: the same outputs, the same gradients?

A recorded run sees what PyTorch's functions do with tensors. What goes past them shows here: compiled functions, values
written through `.data`, random branches, state that a forward pass keeps for the next one.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from constraint_algebra.errors import LayerProblem, UnsupportedLayerError
from constraint_algebra.networks.network import Network
from constraint_algebra.pytorch.graph import refusal
from constraint_algebra.pytorch.models import logits
from constraint_algebra.pytorch.modules import Step, steps_of
from constraint_algebra.pytorch.unsupported import BY_HAND, PART

_INPUT = "the input"
_OUTPUT = "the output"
_SEEDS = 16  # further runs of a model that draws random numbers: a branch of even odds is missed once in 65536
# What rounding may differ by, as a part of the largest entry of an array, and how small that is taken at most as a part
# of the largest entry of all gradients: what is zero but for rounding is rounding of something larger.
_TOLERANCES = {torch.float64: (1e-9, 1e-2), torch.float32: (1e-3, 1e-2)}
_LOOSE = (0.1, 1.0)

_Arrays = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class _Run:
    """What a model, or the network read from it, makes of one input."""

    output: Tensor
    gradients: _Arrays


def refuse_difference(model: nn.Module, network: Network, ending: str | None) -> None:
    """Raise `UnsupportedLayerError` where a network differs from the model that it was read from.

    Outputs, and gradients of one mean of them in all parameters and the input, are compared at two inputs, each under
    other random states. The model, its `.grad` fields and buffers, and the random states stay as they are.

    Args:
        model: the model.
        network: what was read.
        ending: the name of the softmax at the end that the network leaves to the loss, `None` without.
    """
    with torch.enable_grad(), quiet_generators(model), _eagerly():
        steps = steps_of(network)
        for seed, x in enumerate(_inputs(model, network)):
            ours, theirs, draws = _both(model, steps, x, ending, seed)
            difference = _difference(ours, theirs)
            if difference is None and draws:
                difference = _under_other_seeds(model, steps, x, ending)
            if difference is not None and not _agrees_in_double(model, steps, x, ending, seed):
                raise refusal([_problem(model, x, difference)])


def _agrees_in_double(model: nn.Module, steps: Sequence[Step], x: Tensor, ending: str | None, seed: int) -> bool:
    """Whether a difference is rounding alone, as where a normalisation makes zero of large numbers: none in float64."""
    if x.dtype is torch.float64:
        return False
    try:
        finer = copy.deepcopy(model).double()
        ours, theirs, draws = _both(finer, steps, x.double(), ending, seed)
    except (RuntimeError, TypeError, UnsupportedLayerError):  # it has its own number type, or cannot be copied
        return False
    return not draws and _difference(ours, theirs) is None


def _inputs(model: nn.Module, network: Network) -> Iterator[Tensor]:
    """Yield one input from 0 to 1, as of pictures, and one on both sides of 0."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(1)
    shape = (1, *network.input_shape)
    for draw in (torch.rand, torch.randn):
        yield draw(shape, generator=generator, dtype=torch.float64).to(like)


def _both(model: nn.Module, steps: Sequence[Step], x: Tensor, ending: str | None, seed: int) -> tuple[_Run, _Run, bool]:
    """Return what the network and the model make of one input, and whether the model draws random numbers.

    Both run under one seed, so that dropout draws the same.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    own, leaf = x.clone().requires_grad_(), x.clone().requires_grad_()
    _seed(seed, x.device)
    before = _states(x.device)
    theirs = _called(model, leaf)
    draws = _changed(before, x.device)
    _seed(seed, x.device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # a training mode moves them
    ours = _followed(steps, parameters | buffers, own, ending).reshape(theirs.shape)
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(theirs.shape, generator=generator, dtype=torch.float64).to(theirs)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return _run(ours, weights, trained, own), _run(theirs, weights, trained, leaf), draws


def _run(output: Tensor, weights: Tensor, trained: Mapping[str, Tensor], x: Tensor) -> _Run:
    """Return an output, and the gradients of a mean of its entries."""
    wanted = {_INPUT: x, **trained}
    if not output.requires_grad:  # values that nothing of it comes from
        return _Run(output.detach(), {})
    try:
        found = torch.autograd.grad(output, list(wanted.values()), weights, allow_unused=True)
    except RuntimeError:  # a number type that PyTorch has no derivatives in on this device
        return _Run(output.detach(), {})
    return _Run(output.detach(), {name: g for name, g in zip(wanted, found, strict=True) if g is not None})


def _called(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of a model; its buffers stay as they are, and what it does to its input in place is its own."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        output: Tensor = logits(torch.func.functional_call(model, buffers, (x.clone(),)))[0]
    except Exception as error:  # whatever a forward pass raises
        reason = f"its forward pass takes an input of zeros and not another one ({type(error).__name__}: {error})"
        raise refusal([LayerProblem(type(model).__name__, reason, BY_HAND)]) from error
    return output


def _followed(steps: Sequence[Step], state: Mapping[str, Tensor], x: Tensor, ending: str | None) -> Tensor:
    """Return the output of a network's modules with the model's own parameters and buffers."""
    values = {0: x.clone()}
    for step in steps:
        path = f"{step.path}." if step.path else ""
        names = [name for name, _ in (*step.module.named_parameters(), *step.module.named_buffers())]
        own = {name: state[path + name] for name in names if path + name in state}
        inputs = tuple(values[number] for number in step.reads)
        weight = own.get("weight")
        if weight is not None:  # the model may bring values to a finer number type on the way
            inputs = tuple(value.to(weight.dtype) for value in inputs)
        values[step.makes] = torch.func.functional_call(step.module, own, inputs)
    output = values[steps[-1].makes]
    if ending is None:
        return output
    rule = torch.log_softmax if ending == "log_softmax" else torch.softmax
    return rule(output, -1)


def _difference(ours: _Run, theirs: _Run) -> str | None:
    """Return in words the first thing in which network and model differ."""
    dtype = theirs.output.dtype
    tolerance, least = _TOLERANCES.get(dtype, _LOOSE)
    if _differ(ours.output, theirs.output, tolerance, 0.0):
        return "outputs"
    largest = max((_largest(g) for g in theirs.gradients.values()), default=0.0)
    for name in {**theirs.gradients, **ours.gradients}:
        one, other = ours.gradients.get(name), theirs.gradients.get(name)
        one, other = _zeros(other) if one is None else one, _zeros(one) if other is None else other
        if _differ(one, other, tolerance, least * largest):
            return f"gradients ({name if name == _INPUT else repr(name)})"
    return None


def _zeros(like: Tensor | None) -> Tensor:
    """Return the gradient of what has none, in the shape of the other side's."""
    return torch.zeros(()) if like is None else torch.zeros_like(like)


def _differ(one: Tensor, other: Tensor, tolerance: float, scale: float) -> bool:
    """Whether two arrays differ by more than a part of their largest entry, or of `scale` where that is larger."""
    if not torch.equal(torch.isfinite(one), torch.isfinite(other)):
        return True
    gap = _largest(one - other)
    return gap > tolerance * max(_largest(one), _largest(other), scale)


def _largest(values: Tensor) -> float:
    """Return the largest finite absolute value."""
    return float(torch.nan_to_num(values.detach(), 0.0, 0.0, 0.0).abs().max()) if values.numel() else 0.0


def _under_other_seeds(model: nn.Module, steps: Sequence[Step], x: Tensor, ending: str | None) -> str | None:
    """Return in words whether a model that draws random numbers makes more of them than the network's dropouts do."""
    tolerance = _TOLERANCES.get(x.dtype, _LOOSE)[0]
    state = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    for seed in range(10, 10 + _SEEDS):
        with torch.no_grad():
            _seed(seed, x.device)
            theirs = _called(model, x).detach()
            _seed(seed, x.device)
            moved = {name: value.clone() for name, value in state.items()}
            if _differ(_followed(steps, moved, x, ending).reshape(theirs.shape), theirs, tolerance, 0.0):
                return "outputs"
    return None


def _problem(model: nn.Module, x: Tensor, difference: str) -> LayerProblem:
    """Return the problem of a model that differs from what was read; one that differs from itself is random."""
    path = type(model).__name__
    with torch.no_grad():
        outputs = []
        for seed in range(10, 10 + _SEEDS):
            _seed(seed, x.device)
            outputs.append(_called(model, x).detach())
    if any(_differ(outputs[0], other, _TOLERANCES.get(x.dtype, _LOOSE)[0], 0.0) for other in outputs[1:]):
        reason = "its forward pass is random, or keeps something for the next one: two runs on one input differ"
        advice = "fix what it draws or keeps, for a step in evaluation mode by model.eval(), and read the model again"
        return LayerProblem(path, reason, advice)
    reason = (
        f"the network read from it gives other {difference} than the model itself: something in its forward pass was "
        "not seen (a compiled function, values changed through .data or within no_grad), or a clamp is on its bound"
    )
    return LayerProblem(path, reason, f"write that part with PyTorch's own operations on new tensors; else {PART}")


def _eagerly() -> AbstractContextManager[object]:
    """Keep compiled parts of a model from being compiled for two runs; older PyTorch compiles them."""
    # Where nothing was compiled, the compiler is not even imported, which takes seconds.
    stance: Any = getattr(torch.compiler, "set_stance", None) if "torch._dynamo" in sys.modules else None
    eager: AbstractContextManager[object] = nullcontext() if stance is None else stance("force_eager")
    return eager


@contextmanager
def quiet_generators(model: nn.Module) -> Iterator[None]:
    """Give the random states of PyTorch, on the model's devices too, NumPy and Python back as they were."""
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    numpy_state, state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(state)


def _seed(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which reaches devices that are not ours
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 -- the global state is what a model may draw from
    random.seed(seed)


def _states(device: torch.device) -> tuple[Tensor, bytes, object]:
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return torch.cat([torch.get_rng_state(), *own]), _numpy_state(), random.getstate()


def _numpy_state() -> bytes:
    _, keys, place, *_ = np.random.get_state()  # noqa: NPY002
    return np.asarray(keys).tobytes() + bytes(str(place), "ascii")


def _changed(before: tuple[Tensor, bytes, object], device: torch.device) -> bool:
    """Whether random numbers were drawn since."""
    now = _states(device)
    return not torch.equal(before[0], now[0]) or before[1:] != now[1:]
