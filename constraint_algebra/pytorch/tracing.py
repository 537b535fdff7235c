"""A PyTorch model to a `Network`, by tracing its forward pass (`torch.fx`).

The order in which modules were registered is never trusted. What has no equations here is collected over the whole
model and refused at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from constraint_algebra import layers as kinds
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import Arrays
from constraint_algebra.errors import LayerProblem, ShapeError, UnsupportedLayerError
from constraint_algebra.layers.kinds import Shape, check_shape
from constraint_algebra.networks.network import Network
from constraint_algebra.notes import note
from constraint_algebra.pytorch.chain import Chain
from constraint_algebra.pytorch.graph import Root, propagate, refusal, traced
from constraint_algebra.pytorch.models import (
    further_arguments,
    outputs,
    refuse_without_values,
    say_which,
    unwrapped,
)
from constraint_algebra.pytorch.tensors import to_numpy
from constraint_algebra.pytorch.unsupported import PART


@checked
def from_torch(model: nn.Module, input_shape: Sequence[int]) -> tuple[Network, Arrays]:
    """Return the network that a model's forward pass is, and its parameters under PyTorch's names.

    The forward pass must be a plain chain; activations and reshapes may be modules, functions or methods. Layers keep
    the path of their module, and functions get the name of their node in the trace. Dropout in evaluation mode counts
    as nothing, and zero padding becomes part of the convolution after it. The parameters keep their dtype.

    What can be read in one way only is accepted, and said by an `AssumptionWarning` (`notes` says how to silence it):
    wrappers such as `DataParallel` and `torch.compile`; several outputs that begin with the logits or name them;
    further arguments of the forward pass at their defaults; parameters that the output does not depend on.

    Args:
        model: the model, which is neither changed nor trained.
        input_shape: shape of one sample, without a batch axis.

    Raises:
        ParameterError: a parameter is on the meta device, without values.
        UnsupportedLayerError: what has no equations, all of it at once.
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
    needed, used = further_arguments(model)
    if needed:
        advice = "pass a module around it that holds the other inputs and calls it with one"
        raise refusal([LayerProblem(name, "it is a second input of the model", advice) for name in needed])
    root = Root(model)
    chain = Chain(root, traced(root))
    if chain.problems:
        raise refusal(chain.problems)
    try:
        network = _network(chain, root, shape)
    except (ShapeError, UnsupportedLayerError) as error:
        _refuse_batch_axis(chain, root, shape, error)
        raise
    _say(chain, root, used)
    network.parameter_order = tuple(name for name, _ in model.named_parameters())
    return network, {name: to_numpy(model.get_parameter(name)) for name in network.parameter_shapes}


def _network(chain: Chain, root: Root, shape: Shape) -> Network:
    """Return the network for an input shape."""
    shapes = propagate(root, chain.graph, shape)
    problems, names, network_layers = [], [], []
    for node, name, layer in chain.layers:
        before, after = shapes[chain.before[node]], shapes[node]
        if isinstance(layer, kinds.Flatten) and not joins_all(before, after):
            if before == after:
                continue
            reason = (
                f"it reshapes {before} to {after}, batch axis first, and only joining all axes but the first is a chain"
            )
            problems.append(LayerProblem(name, reason, PART))
        names.append(name)
        network_layers.append(layer)
    if problems:
        raise refusal(problems)
    return Network(shape, network_layers, names)


def _refuse_batch_axis(chain: Chain, root: Root, shape: Shape, error: Exception) -> None:
    """Raise `ShapeError` where the model takes the shape without its first axis."""
    if len(shape) < 2:
        return
    try:
        _network(chain, root, shape[1:])
    except (ShapeError, UnsupportedLayerError):
        return
    raise ShapeError(
        f"input_shape: {shape} is a batch of {shape[0]} for this model; pass {shape[1:]}, the shape of one sample"
        " without the batch axis"
    ) from error


def _say(chain: Chain, root: Root, used: Sequence[str]) -> None:
    """Say what was read in one of several ways."""
    say_which(root.words, len(outputs(root.output)))
    if used:
        note(f"the forward pass is read at its defaults, {', '.join(used)}")
    if chain.unused:
        note(f"the output does not depend on {', '.join(chain.unused)}: parameters without a gradient, left out here")


def joins_all(before: Shape, after: Shape) -> bool:
    """Whether a reshape keeps the batch axis of one and joins all others, which keeps the order of the values."""
    return len(after) == 2 and after[0] == before[0] == 1
