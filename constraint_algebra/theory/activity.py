"""Which outputs of the activations that cut off are active: assumed, or seen in data.

A ReLU that is inactive hides its z, and its derivative there is zero; Hardtanh and ReLU6 do so on both sides. The other
activations hide nothing. From shapes alone nobody can know which outputs are active, so it is an assumption, stated
as one number (all, or an independent fraction) or as masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.errors import ParameterError
from constraint_algebra.layers.activations import formulas
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network

Activity = float | Mapping[str, ArrayLike] | Sequence[ArrayLike]


def cutting(network: Network) -> tuple[PlacedLayer, ...]:
    """Return the activations that cut off, in order.

    >>> from constraint_algebra.layers import ELU, Linear, ReLU
    >>> [layer.name for layer in cutting(Network((3,), [Linear(2), ELU(), Linear(2), ReLU()]))]
    ['3']
    """
    return tuple(layer for layer in network if layer.is_activation and formulas(layer.activation).plateaus)


def active_masks(network: Network, activity: Activity = 1.0, *, seed: int = 0) -> dict[str, BoolArray]:
    """Return which outputs are active, one mask by name for every activation that cuts off, in its output shape.

    Args:
        network: the layers.
        activity: 1.0 for all outputs; another fraction, at which each output is active independently of the others; or
            masks, by the activation's name or in order.
        seed: of the fraction.

    Raises:
        ParameterError: a fraction outside 0 to 1, or masks that do not fit the network.
    """
    layers = cutting(network)
    if isinstance(activity, Mapping):
        given = dict(activity)
    elif isinstance(activity, Sequence) and not isinstance(activity, str):
        if len(activity) != len(layers):
            raise ParameterError(
                "activity",
                f"activity: {len(layers)} activations cut off ({_names(layers)}), {len(activity)} masks came",
            )
        given = {layer.name: mask for layer, mask in zip(layers, activity, strict=True)}
    else:
        return _drawn(layers, activity, seed)
    missing = [layer.name for layer in layers if layer.name not in given]
    unknown = [name for name in given if name not in {layer.name for layer in layers}]
    if missing or unknown:
        raise ParameterError(
            "activity",
            f"activity: expected one mask for each activation that cuts off ({_names(layers)});"
            f" missing: {', '.join(missing) or 'none'}; unknown: {', '.join(map(str, unknown)) or 'none'}",
        )
    return {layer.name: _mask(layer, given[layer.name]) for layer in layers}


def activity_of(network: Network, parameters: Mapping[str, FloatArray], x: ArrayLike) -> dict[str, BoolArray]:
    """Return which outputs are active at an input, in the form that `feasibility` takes.

    Args:
        network: the layers.
        parameters: weights and biases by name.
        x: one sample in the network's input shape.

    >>> from constraint_algebra.layers import Linear, ReLU
    >>> net = Network((2,), [Linear(3, bias=False), ReLU()])
    >>> activity_of(net, {"0.weight": np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])}, [1.0, 2.0])
    {'1': array([ True,  True, False])}
    """
    values = network.forward(parameters, np.asarray(x, dtype=float))
    return {
        layer.name: np.isfinite(formulas(layer.activation).inverse(values[layer.index + 1]))
        for layer in cutting(network)
    }


def describe_activity(activity: Activity, masks: Mapping[str, BoolArray]) -> str:
    """Return the assumption in words."""
    if not masks:
        return "no activation cuts off: every pre-activation follows from its output"
    active = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.size for mask in masks.values())
    if active == total:
        return "all outputs of activations that cut off (ReLU and the like) are active"
    share = f"{active:,} of {total:,} outputs of activations that cut off (ReLU and the like) are active"
    drawn = isinstance(activity, int | float)
    return f"{share}, {f'each with probability {activity:g}, independently' if drawn else 'by the masks given'}"


def _drawn(layers: Sequence[PlacedLayer], fraction: object, seed: int) -> dict[str, BoolArray]:
    if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number) or not 0 <= fraction <= 1:
        raise ParameterError(
            "activity", f"activity must be a fraction from 0 to 1, or masks by layer name or in order, got {fraction!r}"
        )
    rng = np.random.default_rng(seed)
    return {layer.name: rng.random(layer.output_shape) < fraction for layer in layers}


def _mask(layer: PlacedLayer, mask: ArrayLike) -> BoolArray:
    array = np.asarray(mask)
    if array.dtype != bool or array.shape != layer.output_shape:
        raise ParameterError(
            "activity",
            f"activity: the mask of layer {layer.name!r} ({layer.kind}) must be boolean in the layer's output shape"
            f" {layer.output_shape}, got {array.dtype} of shape {array.shape}",
        )
    return array


def _names(layers: Sequence[PlacedLayer]) -> str:
    return ", ".join(f"{layer.name!r}" for layer in layers) or "none"
