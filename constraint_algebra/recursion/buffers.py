"""What a client's buffers tell: mean and variance of the step that moved them.

A normalisation that tracks statistics moves its buffers in every step in training mode,

    running_mean = (1 - m) old + m mean,        running_var = (1 - m) old + m var N / (N - 1),

with m its momentum, or one over the number of steps so far where it has none, over N values (`torch.nn.BatchNorm2d`).
Who has the buffers from before and after one step has mean and variance of that step, to rounding over m.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from constraint_algebra.arrays import FloatArray, Parameters
from constraint_algebra.errors import ParameterError
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.normalisation import COUNTER
from constraint_algebra.layers.own_statistics import OwnStatistics
from constraint_algebra.networks import binding
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.operations import buffer_names, counter_name
from constraint_algebra.recursion.noise import ONE_ROUNDING, precision

ROUNDINGS = 2.0  # of a buffer: the statistic itself is stored before it is mixed in, and the sum is
CLEARLY = 30.0  # deviations below zero at which a variance is none
BEFORE = "give the client's state_dict() from before its step as parameters"
AFTER = "give the client's state_dict() from after its step"


@dataclass(frozen=True)
class Shared:
    """Mean and variance of each group in the step that moved the buffers, with the standard deviations of their noise.

    Attributes:
        mean, variance: `(groups,)`, the variance over N.
        of_mean, of_variance: their noise.
    """

    mean: FloatArray
    variance: FloatArray
    of_mean: FloatArray
    of_variance: FloatArray


def shared(network: Network, parameters: Parameters, buffers: Mapping[str, Any] | None) -> dict[int, Shared]:
    """Return the statistics that buffers give away, by the layer's index.

    Args:
        network: the architecture.
        parameters: as bound, with the buffers from before the step.
        buffers: from after it, by name; of a state dict all else is left out. `None` for none.

    Raises:
        ParameterError: the network tracks no statistics, buffers are missing before or after, have another shape, or
            are not those of one step.
        NonFiniteError: NaN or infinity among them.
    """
    if buffers is None:
        return {}
    tracking = [layer for layer in network if isinstance(layer.layer, OwnStatistics) and layer.layer.tracked]
    if not tracking:
        raise ParameterError(
            "buffers",
            "buffers: no layer of the network tracks statistics in training mode, so that none of its buffers moves in"
            " a step; leave buffers out, or write the network in the mode in which the client computed",
        )
    after, spacing = _after(network, tracking, buffers)
    return {layer.index: _of(layer, parameters, after, spacing) for layer in tracking}


def _after(
    network: Network, tracking: list[PlacedLayer], buffers: Mapping[str, Any]
) -> tuple[dict[str, FloatArray], float]:
    """Return the buffers from after the step by the network's names, and the spacing of their numbers next to 1."""
    if not isinstance(buffers, Mapping):
        raise ParameterError(
            "buffers", f"buffers: expected a mapping of arrays by name, got {type(buffers).__name__}; {AFTER}"
        )
    shapes = network.tracked_shapes
    came = {str(name): array for name, array in buffers.items()}
    named = {name: came[theirs] for theirs, name in binding.meant_by(list(came), shapes).items()}
    for layer in tracking:
        for name in _names(layer):
            if named.get(name) is None:
                others = ", ".join(map(repr, came)) or "nothing"
                raise ParameterError(
                    name, f"buffers: {name!r} of shape {shapes[name]} is missing; {others} came; {AFTER}"
                )
    moving = {name: array for name, array in named.items() if not name.endswith(COUNTER)}
    bound = {name: binding.as_float(name, array, shapes[name], "buffers") for name, array in named.items()}
    return bound, precision(moving, "buffers").epsilon


def _names(layer: PlacedLayer) -> Iterator[str]:
    """Yield the names of the buffers that tell a layer's statistics."""
    assert isinstance(layer.layer, OwnStatistics)
    yield from buffer_names(layer)
    if layer.layer.momentum is None:
        yield counter_name(layer)


def _of(layer: PlacedLayer, parameters: Parameters, after: Mapping[str, FloatArray], spacing: float) -> Shared:
    operation = layer.layer
    assert isinstance(operation, OwnStatistics)
    m = _share(layer, operation, after)
    mean, of_mean = _moved(buffer_names(layer)[0], m, parameters, after, spacing)
    name = buffer_names(layer)[1]
    unbiased, of_variance = _moved(name, m, parameters, after, spacing)
    N = layer.unknowns // operation.count
    variance, of_variance = unbiased * (N - 1) / N, of_variance * (N - 1) / N
    worst = int((variance + CLEARLY * of_variance).argmin())
    if variance[worst] + CLEARLY * of_variance[worst] < 0:
        raise ParameterError(
            name,
            f"buffers: {name!r} says that the variance of group {worst} was {variance[worst]:.3g} in this step, which"
            f" is negative; buffers and parameters must be those after and before the same step, with momentum {m:g}:"
            f" {BEFORE}",
        )
    return Shared(mean, variance, of_mean, of_variance)


def _share(layer: PlacedLayer, operation: OwnStatistics, after: Mapping[str, FloatArray]) -> float:
    """Return the share of the step's own statistics in the buffers."""
    if operation.momentum is None:
        name = counter_name(layer)
        steps = float(after[name])
        if steps < 1:
            raise ParameterError(name, f"buffers: {name!r} is {steps:g}, and after a step it is at least 1; {AFTER}")
        return 1 / steps
    if operation.momentum <= 0:
        raise ParameterError(
            buffer_names(layer)[0],
            f"buffers: layer {layer.name!r} has momentum {operation.momentum:g}, so that its buffers do not move and"
            " tell nothing; leave buffers out",
        )
    return float(operation.momentum)


def _moved(
    name: str, m: float, parameters: Parameters, after: Mapping[str, FloatArray], spacing: float
) -> tuple[FloatArray, FloatArray]:
    """Return the statistic that moved a buffer, and its noise: that of its roundings, over m."""
    if m != 1 and name not in parameters:
        raise ParameterError(
            name,
            f"parameters: {name!r} is missing, the buffer from before the step, without which that from after it does"
            f" not tell the step's own statistics; {BEFORE}, in a fresh model zeros for means and ones for variances",
        )
    old = parameters[name] if name in parameters else np.zeros_like(after[name])
    kept, new = (1 - m) * old, after[name] - (1 - m) * old
    size = np.sqrt(after[name] ** 2 + kept**2 + new**2)
    return new / m, ROUNDINGS * ONE_ROUNDING * spacing * size / m
