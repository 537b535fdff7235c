"""A PyTorch model where a network is expected, if the model itself says what its input is."""

from __future__ import annotations

from torch import nn

from constraint_algebra.errors import ArgumentError
from constraint_algebra.networks.network import Network
from constraint_algebra.pytorch.tracing import from_torch

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def network_of(model: nn.Module) -> Network:
    """Return the network of a model whose first layer is linear and so states the shape of the input.

    Raises:
        ArgumentError: the shape of the input does not follow from the model.
        UnsupportedLayerError: as `from_torch`.
    """
    shaped = (nn.Flatten, nn.Linear, *_CONVS)
    first = next((module for module in model.modules() if isinstance(module, shaped)), None)
    if isinstance(first, nn.Linear):
        return from_torch(model, (first.in_features,))[0]
    shape = "(channels, height, width)"
    if isinstance(first, _CONVS):
        shape = f"({first.in_channels}, {', '.join(('depth', 'height', 'width')[-len(first.kernel_size) :])})"
    raise ArgumentError(
        "network",
        f"network: a {type(model).__name__} does not say how large its input is; "
        f"write network, parameters = ca.from_torch(model, {shape})",
    )
