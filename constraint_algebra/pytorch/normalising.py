"""Normalisations read as layers, each in its mode: by buffers, or by the data's own statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from constraint_algebra import layers as kinds
from constraint_algebra.layers.base import Compound
from constraint_algebra.pytorch.graph import Fixed
from constraint_algebra.pytorch.place import Flow, Place, Reader
from constraint_algebra.pytorch.unsupported import BY_HAND, EVALUATION, PART, Unsupported
from constraint_algebra.pytorch.weighted import owned

OPERATOR = 8  # arguments of the operators besides the input, which always come all and by place


def _batch_norm(
    at: Place,
    x: Flow,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Flow:
    tracked = running_mean is not None
    settings = {"training": training, "tracked": tracked, "momentum": _momentum(at, momentum), "eps": eps}
    return _channelwise(at, x, kinds.BatchNorm, settings, (weight, bias), (running_mean, running_var))


def _instance_norm(
    at: Place,
    x: Flow,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Flow:
    tracked = running_mean is not None
    settings = {"training": use_input_stats, "tracked": tracked, "momentum": momentum, "eps": eps}
    return _channelwise(at, x, kinds.InstanceNorm, settings, (weight, bias), (running_mean, running_var))


def _in_either_order(read: Callable[..., Flow]) -> Reader:
    """Return the reader of the function that reads the operator of exported programs too.

    That has factor and shift before the buffers, and says last whether a GPU's own routine is allowed.
    """

    def either(at: Place, x: Flow, *args: Any, **kwargs: Any) -> Flow:
        if len(args) == OPERATOR:
            weight, bias, mean, var, *settings, _ = args
            args = (mean, var, weight, bias, *settings)
        return read(at, x, *args, **kwargs)

    return either


def _group_norm(
    at: Place, x: Flow, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, _: bool = True
) -> Flow:
    return _channelwise(at, x, kinds.GroupNorm, {"groups": num_groups, "eps": eps}, (weight, bias))


def _layer_norm(
    at: Place,
    x: Flow,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    _: bool = True,
) -> Flow:
    return _over_the_last(at, x, kinds.LayerNorm, normalized_shape, eps, {"weight": weight, "bias": bias})


def _rms_norm(at: Place, x: Flow, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Flow:
    if eps is None:
        eps = torch.finfo(at.call.inputs[0].dtype).eps
    return _over_the_last(at, x, kinds.RMSNorm, normalized_shape, eps, {"weight": weight})


def _momentum(at: Place, came: float) -> float | None:
    """Return the momentum of the module, which gives the function a number for that step where it has none."""
    module: Any = at.call.module
    return module.momentum if isinstance(module, nn.modules.batchnorm._NormBase) else came


def _channelwise(
    at: Place,
    x: Flow,
    kind: Callable[..., Compound],
    settings: dict[str, Any],
    factors: tuple[Any, Any],
    statistics: tuple[Any, Any] = (None, None),
) -> Flow:
    """Add a normalisation with a factor and a shift for each channel, and with running statistics if there are."""
    if not x.batched:
        raise Unsupported(f"it takes the channels of {x.tensor}, a tensor without batch axis, for samples", PART)
    if settings.get("training", True) or not settings["tracked"]:
        _refuse_single_values(at, x, settings)
    owner = _owner(at, *factors)
    if statistics[0] is not None:
        theirs = _statistics_owner(*statistics)
        if owner is not None and theirs != owner:
            raise Unsupported("its factor, shift and statistics are not those of one module", BY_HAND)
        owner = theirs
    return _added(at, owner, kind(**settings, **_affine(*factors)), x)


def _over_the_last(
    at: Place, x: Flow, kind: Callable[..., Compound], shape: Any, eps: float, factors: dict[str, Any]
) -> Flow:
    """Add a normalisation over the last axes."""
    axes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    return _added(at, _owner(at, **factors), kind(axes, eps=eps, **_affine(**factors)), x)


def _affine(weight: Any, bias: Any = True) -> dict[str, bool]:
    """Return whether there are factors, and shifts where a kind may lack them alone."""
    affine = weight is not None
    return {"affine": affine} if bias is True else {"affine": affine, "bias": bias is not None or not affine}


def _owner(at: Place, weight: Any, bias: Any = None) -> str | None:
    """Return the path of the module that owns factor and shift, `None` without them."""
    if weight is None and bias is not None:
        raise Unsupported("it has a shift without a factor", BY_HAND)
    return None if weight is None else at.owner(weight, bias)


def _added(at: Place, owner: str | None, layer: Compound, x: Flow) -> Flow:
    return at.add(layer, x) if owner is None else owned(at, owner, layer, x)


def _refuse_single_values(at: Place, x: Flow, settings: dict[str, Any]) -> None:
    """Refuse groups of one value, as PyTorch does."""
    if math.prod(x.shape) > settings.get("groups", x.shape[0]):
        return
    kind = type(at.call.module).__name__ if at.call.module else at.call.function
    raise Unsupported(
        f"{kind}: a sample of {x.shape} has one value for each {'group' if 'groups' in settings else 'channel'}, and "
        "statistics of the data itself need several; PyTorch refuses it as well",
        EVALUATION if settings.get("tracked") else PART,
    )


def _statistics_owner(mean: Any, var: Any) -> str:
    names = [fixed.name if isinstance(fixed, Fixed) and fixed.kind == "buffer" else "" for fixed in (mean, var)]
    owner, _, last = names[0].rpartition(".")
    wanted = [f"{owner}.{name}".lstrip(".") for name in ("running_mean", "running_var")]
    if last != "running_mean" or names != wanted:
        raise Unsupported("its statistics are not the buffers running_mean and running_var of one module", BY_HAND)
    return owner


READERS: dict[str, Reader] = {
    "batch_norm": _in_either_order(_batch_norm),
    "instance_norm": _in_either_order(_instance_norm),
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
}
