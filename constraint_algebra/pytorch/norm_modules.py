"""Normalisations of a network as PyTorch's modules: which one several layers are together, and in which mode."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from constraint_algebra import layers as kinds
from constraint_algebra.layers.base import Compound, PlacedLayer, Shape
from constraint_algebra.layers.normalisation import BUFFERS, COUNTER, SUFFIX
from constraint_algebra.networks.network import Network

_BATCH: dict[int, type[Any]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}
_INSTANCE: dict[int, type[Any]] = {2: nn.InstanceNorm1d, 3: nn.InstanceNorm2d, 4: nn.InstanceNorm3d}


def norm_at(network: Network, first: PlacedLayer) -> tuple[nn.Module, str, PlacedLayer] | None:
    """Return the module that begins with a layer, its path, and the last layer in it; `None` where there is none."""
    if not isinstance(first.layer, kinds.OwnStatistics | kinds.Standardise):
        return None
    shape = first.input_shape
    for affine, bias in ((True, True), (True, False), (False, True)):
        base = first.name.removesuffix(SUFFIX) if affine else first.name
        for written in _written(first, affine=affine, bias=bias):
            wanted = [(f"{base}{suffix}", layer) for suffix, layer in written.parts(shape)]
            run = _run(network, first, len(wanted))
            if [(layer.name, layer.layer) for layer in run] == wanted:
                module = _module(written, shape)
                if module is not None:
                    buffered = getattr(module, "running_mean", None) is not None
                    return module, base.removesuffix(SUFFIX) if buffered else base, run[-1]
    return None


def _run(network: Network, first: PlacedLayer, length: int) -> list[PlacedLayer]:
    """Return a layer and those behind it, each of which alone reads the one before; at most so many."""
    run = [first]
    while len(run) < length:
        users = network.users(run[-1].number)
        if len(users) != 1 or users[0].inputs != (run[-1].number,):
            break
        run.append(users[0])
    return run


def _written(first: PlacedLayer, *, affine: bool, bias: bool) -> Iterator[Compound]:
    """Yield what may have been written where a layer stands."""
    shape, own = first.input_shape, first.layer
    assert isinstance(own, kinds.OwnStatistics | kinds.Standardise)
    settings: dict[str, Any] = {"eps": own.eps, "affine": affine}
    with_bias = settings | {"bias": bias}
    if isinstance(own, kinds.Standardise):
        yield kinds.BatchNorm(**with_bias)
        return
    count = own.count
    moving: dict[str, Any] = {"training": True, "tracked": own.tracked, "momentum": own.momentum}
    if own.across:
        yield kinds.BatchNorm(**with_bias, **moving)
        return
    if count == shape[0] and len(shape) in _INSTANCE and own.momentum is not None:
        yield kinds.InstanceNorm(**with_bias, **moving)
    if shape[0] % count == 0:
        yield kinds.GroupNorm(count, **with_bias)
    for axes in range(1, len(shape) + 1):
        if math.prod(shape[:-axes]) == count:
            yield kinds.LayerNorm(shape[-axes:], **with_bias)
            yield kinds.RMSNorm(shape[-axes:], **settings)


def _module(written: Any, shape: Shape) -> nn.Module | None:
    """Return PyTorch's module in its mode, `None` where it has none."""
    match written:
        case kinds.BatchNorm():
            kind = _BATCH.get(len(shape))
            module = kind and kind(shape[0], **_shared(written), track_running_stats=written.tracked)
        case kinds.InstanceNorm():
            module = _INSTANCE[len(shape)](shape[0], **_shared(written), track_running_stats=written.tracked)
        case kinds.GroupNorm():
            module = nn.GroupNorm(written.groups, shape[0], eps=written.eps, affine=written.affine, dtype=torch.float64)
        case kinds.LayerNorm() | kinds.RMSNorm():
            kind = getattr(nn, type(written).__name__, None)  # older PyTorch has no RMSNorm
            settings = {"eps": written.eps, "elementwise_affine": written.affine, "dtype": torch.float64}
            module = kind and kind(written.axes, **settings)
    if module is None:
        return None
    if written.affine and not getattr(written, "bias", True):
        module.register_parameter("bias", None)
    own: nn.Module = module.train(getattr(written, "training", True))
    return own


def _shared(written: Any) -> dict[str, Any]:
    return {"eps": written.eps, "momentum": written.momentum, "affine": written.affine, "dtype": torch.float64}


def evaluated(model: nn.Module) -> nn.Module:
    """Return a model in evaluation mode, but for normalisations that were built in training mode, and dropout."""
    modes = nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd  # in a network those that do something
    training = [module for module in model.modules() if module.training and isinstance(module, modes)]
    model.eval()
    for module in training:
        module.train()
    return model


def without_moving(model: nn.Module) -> nn.Module:
    """Return a model, changed in place, without the running statistics of norms in training mode.

    They change no value and no gradient, and where they are moved PyTorch has no forward derivative.
    """
    for module in model.modules():
        if module.training and isinstance(module, nn.modules.batchnorm._NormBase):
            module.track_running_stats = False
            for name in (*BUFFERS, COUNTER):
                module.register_buffer(name, None)
    return model
