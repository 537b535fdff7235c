"""Which outputs of the activations that cut off are active: assumed, or seen in data.

A ReLU that is inactive hides its z, and its derivative there is zero; Hardtanh and ReLU6 do so on both sides. The other
activations hide nothing. From shapes alone nobody can know which outputs are active, so it is an assumption, stated
as one number (all, or an independent fraction) or as masks.

LeakyReLU, PReLU, ELU, SELU and Softsign hide nothing, but have a formula on either side of zero, which the map of the
whole network needs: where nobody says on which side they work, either is as likely. Which entry a max-pool takes is
part of the pattern as well, see `winners`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, IntArray, ParametersLike
from constraint_algebra.errors import ParameterError, ShapeError
from constraint_algebra.layers.activations import ELU, SELU, LeakyReLU, PReLU, Softsign, formulas, has_two_branches
from constraint_algebra.layers.dropout import Dropout
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks import operations
from constraint_algebra.networks.network import Network, NetworkLike, bind
from constraint_algebra.networks.spans import cuts_off
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.theory.winners import selections, winner_of

DRAWN = 2**22  # random numbers at a time

Activity = float | Mapping[str, ArrayLike] | Sequence[ArrayLike]


def cutting(network: Network) -> tuple[PlacedLayer, ...]:
    """Return the activations that cut off, in order.

    >>> from constraint_algebra.layers import ELU, Linear, ReLU
    >>> [layer.name for layer in cutting(Network((3,), [Linear(2), ELU(), Linear(2), ReLU()]))]
    ['3']
    """
    return tuple(layer for layer in network if cuts_off(layer))


def two_sided(network: Network) -> tuple[PlacedLayer, ...]:
    """Return the activations that hide nothing and have another formula on either side of zero, in order."""
    kinds = LeakyReLU | PReLU | ELU | SELU | Softsign
    return tuple(layer for layer in network if layer.is_activation and isinstance(layer.activation, kinds))


def sides(network: Network, activity: Activity = 1.0, *, seed: int = 0) -> dict[str, BoolArray]:
    """Return which outputs of `two_sided` activations lie above zero, one mask by name.

    Args:
        network: the layers.
        activity: as for `active_masks`; masks of these activations may be among those by name, and are drawn where they
            are not, either side with equal probability.
        seed: of the sides that are drawn.
    """
    given = activity if isinstance(activity, Mapping) else {}
    rng = np.random.default_rng([seed, 1])
    return {
        layer.name: _mask(layer, given[layer.name]) if layer.name in given else _drawn_mask(layer, 0.5, rng)
        for layer in two_sided(network)
    }


def dropouts(network: Network) -> tuple[PlacedLayer, ...]:
    """Return the dropouts, in order."""
    return tuple(layer for layer in network if isinstance(layer.layer, Dropout))


def kept(network: Network, activity: Activity = 1.0, *, seed: int = 0) -> dict[str, BoolArray]:
    """Return which values dropouts keep, one mask by name for each.

    Args:
        network: the layers.
        activity: as for `active_masks`; masks of dropouts may be among those by name, and are drawn where they are not,
            each value, or each channel, kept with its own probability.
        seed: of the masks that are drawn.
    """
    given = activity if isinstance(activity, Mapping) else {}
    rng = np.random.default_rng([seed, 3])
    return {
        layer.name: _mask(layer, given[layer.name]) if layer.name in given else _kept(layer, layer.layer, rng)  # type: ignore[arg-type]
        for layer in dropouts(network)
    }


def _kept(layer: PlacedLayer, dropout: Dropout, rng: np.random.Generator) -> BoolArray:
    if not dropout.features:
        return _drawn_mask(layer, 1 - dropout.p, rng)
    channels = rng.random(layer.output_shape[0]) < 1 - dropout.p
    return np.broadcast_to(channels.reshape(-1, *(1,) * len(layer.output_shape[1:])), layer.output_shape)


def kept_text(network: Network, activity: Activity) -> str:
    """Return which masks of dropout were assumed, as a clause; nothing where nothing is dropped.

    >>> from constraint_algebra.layers import Dropout, Linear
    >>> kept_text(Network((4,), [Linear(4), Dropout(0.25), Linear(2)]), 1.0)
    'with masks of Dropout drawn at random'
    """
    given = activity if isinstance(activity, Mapping) else {}
    layers, clauses = dropouts(network), []
    for words, some in (
        ("as given", [layer for layer in layers if layer.name in given]),
        ("drawn at random", [layer for layer in layers if layer.name not in given]),
    ):
        if some:
            clauses.append(f"with masks of Dropout {words}")
    return " and ".join(clauses)


def branches_text(network: Network) -> str:
    """Return that the branches of activations with two are taken as known, as a clause; nothing where there are none.

    >>> from constraint_algebra.layers import Linear, SiLU
    >>> branches_text(Network((4,), [Linear(4), SiLU(), Linear(2)]))
    'with the branches of SiLU known'
    """
    kinds = dict.fromkeys(x.kind for x in network if x.is_activation and has_two_branches(x.activation))
    words = f"with the branches of {' and '.join(kinds)} known" if kinds else ""
    return f"{words} and its outputs between both cut-offs" if words and "Hardswish" in kinds else words


def branches_assumed(network: Network) -> str:
    """Return the same as an assumption: the output of such an activation does not tell all of its input."""
    words = branches_text(network).removeprefix("with ").replace(" known", " are known", 1)
    told = "below zero an output has two pre-images, and which of them it is shows in equations left over"
    return f"{words}: {told}" if words else ""


def settled(network: Network, activity: Activity) -> Activity:
    """Return an activity whose masks are checked copies by name: nobody can change them, and none is wrong unseen."""
    if is_fraction(activity):
        return activity
    given = activity if isinstance(activity, Mapping) else {}
    known = {layer.name: _mask(layer, given[layer.name]) for layer in two_sided(network) if layer.name in given}
    won = {layer.name: winner_of(layer, given[layer.name]) for layer in selections(network) if layer.name in given}
    masks = {layer.name: _mask(layer, given[layer.name]) for layer in dropouts(network) if layer.name in given}
    return {**active_masks(network, activity), **known, **won, **masks}


def active_masks(network: Network, activity: Activity = 1.0, *, seed: int = 0) -> dict[str, BoolArray]:
    """Return which outputs are active, one mask by name for every activation that cuts off, in its output shape.

    Args:
        network: the layers.
        activity: 1.0 for all outputs; another fraction, at which each output is active independently of the others; or
            masks, by the activation's name or in order; those of `two_sided` activations and of dropouts, and the
            winners of max-pools, are passed over.
        seed: of the fraction.

    Raises:
        ParameterError: a fraction outside 0 to 1, or masks that do not fit the network.
    """
    layers = cutting(network)
    if isinstance(activity, Mapping):
        others = {layer.name for layer in (*two_sided(network), *selections(network), *dropouts(network))}
        given = {name: mask for name, mask in activity.items() if name not in others}
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


@checked
def activity_of(
    network: NetworkLike, parameters: ParametersLike, x: ArrayLike, *, sides: bool = False
) -> dict[str, BoolArray | IntArray]:
    """Return which outputs are active at an input, and which entries max-pools take, in the form for `feasibility`.

    Args:
        network: the layers.
        parameters: weights and biases by name, and the statistics of batch norms.
        x: one sample in the network's input shape.
        sides: whether to add, for LeakyReLU, PReLU, ELU, SELU and Softsign, which cut nothing off, which outputs lie
            above zero: with them the pattern is complete.

    Returns:
        By name a mask for each activation and dropout, in its output shape, and for each max-pool the flat index into
        its input of the entry that each output takes.

    >>> from constraint_algebra.layers import Linear, ReLU
    >>> net = Network((2,), [Linear(3, bias=False), ReLU()])
    >>> activity_of(net, {"0.weight": np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])}, [1.0, 2.0])
    {'1': array([ True,  True, False])}
    """
    assert isinstance(network, Network)  # whatever stood for it
    image = np.asarray(x, dtype=float)
    if image.shape != network.input_shape:
        raise ShapeError(f"x has shape {image.shape}, expected the network's input shape {network.input_shape}")
    bound = bind(network, parameters, "parameters")
    values = network.forward(bound, image)
    read = {layer.name: layer.inputs[0] if isinstance(layer.layer, PReLU) else layer.number for layer in network}
    above = {layer.name: values[read[layer.name]] > 0 for layer in two_sided(network) if sides}
    active = {
        layer.name: np.isfinite(formulas(layer.activation).inverse(values[layer.number])) for layer in cutting(network)
    }
    won = {layer.name: operations.winners(layer, values[layer.inputs[0]]) for layer in selections(network)}
    masks = {layer.name: bound[operations.mask_name(layer)] > 0 for layer in dropouts(network)}
    found: dict[str, BoolArray | IntArray] = {**above, **active, **won, **masks}
    return {layer.name: found[layer.name] for layer in network if layer.name in found}


def describe_activity(activity: Activity, masks: Mapping[str, BoolArray], *, branches: str = "") -> str:
    """Return the assumption in words, with those of `branches_assumed`."""
    if branches:
        return f"{describe_activity(activity, masks)}; {branches}" if masks else branches
    if not masks:
        return "no activation cuts off: every pre-activation follows from its output"
    active = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.size for mask in masks.values())
    if active == total:
        return "all outputs of activations that cut off (ReLU and the like) are active"
    share = f"{active:,} of {total:,} outputs of activations that cut off (ReLU and the like) are active"
    drawn = f"each with probability {activity:g}, independently" if is_fraction(activity) else "by the masks given"
    return f"{share}, {drawn}"


def pattern_of(network: Network, activity: Activity, masks: Mapping[str, BoolArray]) -> str:
    """Return which pattern was assumed, as a clause; nothing where no activation cuts off.

    >>> from constraint_algebra.layers import Linear, ReLU
    >>> net = Network((2,), [Linear(3), ReLU(), Linear(2)])
    >>> pattern_of(net, 1.0, active_masks(net))
    'with every output of ReLU active'
    """
    if not masks:
        return ""
    kinds = " and ".join(dict.fromkeys(layer.kind for layer in cutting(network)))
    active, total = sum(int(mask.sum()) for mask in masks.values()), sum(mask.size for mask in masks.values())
    if active == total:
        return f"with every output of {kinds} active"
    source = "drawn at random" if is_fraction(activity) else "by the masks given"
    return f"with {active:,} of {total:,} outputs of {kinds} active, {source}"


def all_known(network: Network, layer: PlacedLayer, active: Mapping[str, BoolArray]) -> Knowledge:
    """Return what is known at a layer's outputs where all above it is known: the activations alone take away."""
    mask = np.ones(layer.output_shape, dtype=bool)
    for step in network.after(layer):
        if step.name in active:
            mask = mask & active[step.name].reshape(layer.output_shape)
    return Knowledge.of(layer, active=mask)


def is_fraction(activity: Activity) -> bool:
    """Whether an activity is one number instead of masks."""
    return isinstance(activity, int | float | np.number)


def _drawn(layers: Sequence[PlacedLayer], fraction: object, seed: int) -> dict[str, BoolArray]:
    if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number) or not 0 <= fraction <= 1:
        raise ParameterError(
            "activity", f"activity must be a fraction from 0 to 1, or masks by layer name or in order, got {fraction!r}"
        )
    rng = np.random.default_rng(seed)
    return {layer.name: _drawn_mask(layer, float(fraction), rng) for layer in layers}


def _drawn_mask(layer: PlacedLayer, fraction: float, rng: np.random.Generator) -> BoolArray:
    """Draw a mask, a part at a time: the random numbers take eight times its memory."""
    if fraction in {0.0, 1.0}:
        return np.full(layer.output_shape, fraction == 1.0)
    mask = np.empty(math.prod(layer.output_shape), dtype=bool)
    for first in range(0, len(mask), DRAWN):
        part = mask[first : first + DRAWN]
        part[:] = rng.random(len(part)) < fraction
    return mask.reshape(layer.output_shape)


def _mask(layer: PlacedLayer, mask: ArrayLike) -> BoolArray:
    array = np.asarray(mask)
    if array.dtype != bool or array.shape != layer.output_shape:
        raise ParameterError(
            "activity",
            f"activity: the mask of layer {layer.name!r} ({layer.kind}) must be boolean in the layer's output shape"
            f" {layer.output_shape}, got {array.dtype} of shape {array.shape}",
        )
    return np.array(array)


def _names(layers: Sequence[PlacedLayer]) -> str:
    return ", ".join(f"{layer.name!r}" for layer in layers) or "none"
