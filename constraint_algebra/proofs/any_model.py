"""The set of all inputs that gradients cannot tell from a given one, of a network or of any model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import ParametersLike
from constraint_algebra.errors import ParameterError, UnsupportedLayerError
from constraint_algebra.networks.network import Network
from constraint_algebra.proofs import indistinguishable as of_networks
from constraint_algebra.proofs.indistinguishable import IndistinguishabilitySet
from constraint_algebra.proofs.opaque import first_layer_set, joined
from constraint_algebra.pytorch.gradients import load_parameters
from constraint_algebra.pytorch.models import unwrapped
from constraint_algebra.pytorch.tracing import from_torch
from constraint_algebra.pytorch.verification import Model
from constraint_algebra.solvers.null_space import RTOL, TOLERANCE


@checked
def indistinguishable(
    network: Network | str | Model,
    parameters: ParametersLike,
    input: ArrayLike,  # noqa: A002 -- the word for it
    target: int | None = None,
    *,
    loss: str | None = "cross_entropy",
    valid_range: tuple[float, float] = (0.0, 1.0),
    part: str | None = None,
    rtol: float = RTOL,
    tolerance: float = TOLERANCE,
) -> IndistinguishabilitySet:
    """Return the set of all inputs that the gradients of one sample cannot tell from `input`.

    With a bias at the head it is *all* of them in the activation region of `input` (`whole`), if every activation up to
    `Network.start` is linear in pieces. It is a part where one bends (`kept`), and without a target. Of a model that is
    no network here (attention, layer normalisation, GELU) it is the part that keeps the outputs of the first layer, if
    that is a convolution or a linear layer which alone reads the input: a `FirstLayerSet`.

    Limits: one sample; exact, noise-free equality of the gradients; the activation pattern of `input`; coefficients as
    float64 gives them, so that a softmax saturated to 1 - 1e-6 and beyond blurs them. `exact` has no rounding at all.

    Args:
        network: the architecture, or a name of the zoo, or a PyTorch model; only affine operations may precede its
            first layer with a weight.
        parameters: weights, biases and buffers by PyTorch's names; the model itself stands for its own.
        input: one sample in the network's input shape, inside the valid range.
        target: its class; without it the set of inputs whose gradients agree for every class, a subset.
        loss: "cross_entropy", "logistic", or `None`: any loss of the network's output (and then any target).
        valid_range: smallest and largest valid value.
        part: "whole" for the rows of all layers, "first layers" for the inputs that keep what leaves the first layers
            and their gradients: a part of the set, by sparse rows alone. By default the first, and the second for
            graphs where it would take more than minutes or more memory than there is; `part` of the set says which.
        rtol: singular values below this share of the largest count as zero.
        tolerance: share of a null vector up to which a value counts as fixed.

    Raises:
        ShapeError, ParameterError: input, parameters or class that do not fit, or a network without a weight.
        UnsupportedLayerError: a model of other layers whose input is not read by one layer alone.
        UnknownNameError: another loss.
        MemoryLimitError: what the first layer leaves open is too much to be held.

    >>> from constraint_algebra.layers import Conv1d, Flatten, Linear, ReLU
    >>> net = Network((1, 4), [Conv1d(1, 2, stride=2), ReLU(), Flatten(), Linear(2, bias=False)])
    >>> values = {"0.weight": [[[1.0, 1.0]]], "0.bias": [-1.0], "3.weight": [[1.0, 2.0], [2.0, 1.0]]}
    >>> found = indistinguishable(net, values, [[0.75, 0.5, 0.25, 0.5]], target=0)  # the second output is cut off
    >>> found.fixed, found.dimension
    (array([[ True,  True, False, False]]), 2)
    >>> found.twin((0, 2)).image.round(3)
    array([[0.75, 0.5 , 1.  , 0.  ]])
    """
    options: dict[str, Any] = {"valid_range": valid_range, "rtol": rtol, "tolerance": tolerance}
    if isinstance(network, Network | str):
        return of_networks.indistinguishable(network, parameters, input, target, loss=loss, part=part, **options)
    try:
        traced, _ = from_torch(network, np.shape(input))
        return of_networks.indistinguishable(traced, parameters, input, target, loss=loss, part=part, **options)
    except UnsupportedLayerError as error:
        return _by_first_layer(error, network, parameters, input, target, loss, options)


def _by_first_layer(
    refused: UnsupportedLayerError,
    model: Model,
    parameters: ParametersLike,
    values: ArrayLike,
    target: int | None,
    loss: str | None,
    options: dict[str, Any],
) -> IndistinguishabilitySet:
    """Return the twins that the first layer allows; where that is refused too, all reasons at once."""
    if target is None or loss is None:
        name = "target" if target is None else "loss"
        raise ParameterError(
            name, f"{name}: of this model only the first layer is looked into, at the gradient of one loss; give it"
        ) from refused
    try:
        return first_layer_set(_with(model, parameters), values, target, loss=loss, **options)
    except UnsupportedLayerError as error:
        raise joined(refused, error) from error


def _in_order(names: list[str], arrays: Any) -> Iterable[tuple[str, Any]]:
    return zip(names, arrays, strict=False)


def _with(model: Model, parameters: ParametersLike) -> Model:
    """Return a model with other parameters and buffers: a copy, or itself where they are its own."""
    if parameters is model:
        return model
    chosen = copy.deepcopy(unwrapped(model))
    names = [name for name, _ in chosen.named_parameters()]
    if isinstance(parameters, Model):
        arrays: dict[str, Any] = dict(parameters.state_dict())
    else:
        arrays = dict(parameters if isinstance(parameters, Mapping) else _in_order(names, parameters))
    buffers = dict(chosen.named_buffers())
    load_parameters(chosen, {name: values for name, values in arrays.items() if name not in buffers})
    chosen.load_state_dict({name: arrays[name] for name in buffers if name in arrays}, strict=False)
    return chosen
