"""A PyTorch model to a `Network`, by recording its forward pass.

The order in which modules were registered is never trusted. What has no equations here is collected over the whole
model and refused at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.export import ExportedProgram

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import Arrays
from constraint_algebra.errors import LayerProblem, ShapeError, UnsupportedLayerError
from constraint_algebra.layers.base import Shape, check_shape
from constraint_algebra.networks.network import Network
from constraint_algebra.notes import note
from constraint_algebra.pytorch.agreement import quiet_generators, refuse_difference
from constraint_algebra.pytorch.graph import Record, recorded, refusal
from constraint_algebra.pytorch.models import (
    further_arguments,
    refuse_without_values,
    say_which,
    unwrapped,
)
from constraint_algebra.pytorch.reader import Reading, problems_before
from constraint_algebra.pytorch.tensors import to_numpy

_LOSS_PARTS = {
    "log_softmax": "the network ends in the logits, and NLLLoss of the model's output is their cross-entropy",
    "softmax": (
        "the network ends in the logits, whose cross-entropy is the negative logarithm of the model's output; where "
        "CrossEntropyLoss takes that output, a softmax of a softmax, give loss=None"
    ),
}


@checked
def from_torch(model: nn.Module | ExportedProgram, input_shape: Sequence[int]) -> tuple[Network, Arrays]:
    """Return the network that a model's forward pass is, with its parameters and buffers under PyTorch's names.

    The model runs once on zeros, and what it does is read: a chain, or a graph with branches and joins. Then the
    network's outputs and gradients are compared with the model's own at two other inputs, under other random
    states. Operations may be modules, functions, methods or operators, branches on shapes are followed, and results
    that nothing uses are dropped. Layers keep the path of the module that owns their parameters, or of their
    module, and functions get their own name, numbered from the second on. Dropout in evaluation mode counts as
    nothing, in training mode it is a layer whose mask nobody else sees; zero padding becomes part of the convolutions
    after it. Arrays keep their dtype; the statistics of batch norm come with them. A clamp is read as `ReLU` or
    `Hardtanh`, from which PyTorch's differs on the bound
    itself alone, where its slope is 1.

    What can be read in one way only is accepted, and said by an `AssumptionWarning` (`notes` says how to silence it):
    wrappers such as `DataParallel` and `torch.compile`; several outputs that begin with the logits or name them;
    further arguments of the forward pass at their defaults; parameters that the output does not depend on; a softmax
    or log_softmax at the end, which is left to the loss.

    Args:
        model: the model, which is neither changed nor trained, or an exported program.
        input_shape: shape of one sample, without a batch axis.

    Raises:
        ParameterError: a parameter or a buffer is on the meta device, without values.
        UnsupportedLayerError: what has no equations, all of it at once; or the network differs from the model, whose
            forward pass is random or does what a run does not show.
        ShapeError: the input shape does not fit; the message names the layer.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> network, parameters = from_torch(model, (1, 4, 4))
    >>> [layer.kind for layer in network], list(parameters)
    (['Conv2d', 'ReLU', 'Flatten', 'Linear'], ['0.weight', '0.bias', '3.weight', '3.bias'])
    """
    if hasattr(input_shape, "shape"):
        shape = tuple(input_shape.shape)
        raise ShapeError(
            f"input_shape: an array of shape {shape} came; pass the shape of one sample, without batch axis"
        )
    shape = check_shape(input_shape)
    model = unwrapped(model)
    refuse_without_values(model)
    _refuse_compiled(model)
    needed, used = further_arguments(model)
    if needed:
        advice = "pass a module around it that holds the other inputs and calls it with one"
        raise refusal([LayerProblem(name, "it is a second input of the model", advice) for name in needed])
    try:
        network, reading, record = _read(model, shape)
    except (ShapeError, UnsupportedLayerError) as error:
        _refuse_batch_axis(model, shape, error)
        raise
    refuse_difference(model, network, reading.loss_part)
    _say(reading, record, used)
    network.parameter_order = tuple(name for name, _ in model.named_parameters())
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    names = [*network.parameter_shapes, *network.buffer_shapes, *network.tracked_shapes]
    return network, {name: to_numpy(state[name]) for name in names}


def _read(model: nn.Module, shape: Shape) -> tuple[Network, Reading, Record]:
    """Return the network for an input shape, and what it was read from."""
    problems = problems_before(model)
    if any("no shape yet" in problem.reason for problem in problems):
        raise refusal(problems)
    with quiet_generators(model):
        record = recorded(model, shape)
    reading = Reading(model, record)
    if reading.problems and reading.only_shapes and not problems:
        first = reading.problems[0]
        raise ShapeError(f"layer {first.path!r} does not take what input_shape {shape} becomes there: {first.reason}")
    known = {problem.path for problem in problems}
    problems += [problem for problem in reading.problems if problem.path not in known]
    if problems:
        raise refusal(problems)
    return reading.network(shape), reading, record


def _refuse_compiled(model: nn.Module) -> None:
    """Refuse modules that torch.jit made, whose operations no run shows; `UnsupportedLayerError`."""
    paths = [path for path, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    outer = [path for path in paths if not any(path != other and _within(path, other) for other in paths)]
    if outer:
        reason = "torch.jit compiled it, and what it runs cannot be followed"
        advice = "pass the module that torch.jit.script or torch.jit.trace was given, with its state_dict loaded"
        raise refusal([LayerProblem(path or "model", reason, advice) for path in outer])


def _within(path: str, other: str) -> bool:
    return not other or path.startswith(f"{other}.")


def _refuse_batch_axis(model: nn.Module, shape: Shape, error: Exception) -> None:
    """Raise `ShapeError` where the model takes the shape without its first axis."""
    if len(shape) < 2 or _takes_places(model, shape):
        return
    try:
        _read(model, shape[1:])
    except (ShapeError, UnsupportedLayerError):
        return
    raise ShapeError(
        f"input_shape: {shape} is a batch of {shape[0]} for this model; pass {shape[1:]}, the shape of one sample"
        " without the batch axis"
    ) from error


def _takes_places(model: nn.Module, shape: Shape) -> bool:
    """Whether a model makes one row of a sample of this shape, which then is no batch."""
    try:
        with quiet_generators(model):
            output = recorded(model, shape).output
    except (ShapeError, UnsupportedLayerError, ValueError):  # of lazy modules the last
        return False
    return output is not None and len(output.shape) < 3


def _say(reading: Reading, record: Record, used: Sequence[str]) -> None:
    """Say what was read in one of several ways."""
    say_which(record.words, record.count)
    if used:
        note(f"the forward pass is read at its defaults, {', '.join(used)}")
    if reading.loss_part:
        note(f"{reading.loss_part} at the end is read as part of the loss: {_LOSS_PARTS[reading.loss_part]}")
    if reading.unused:
        note(f"the output does not depend on {', '.join(reading.unused)}: parameters without a gradient, left out here")
