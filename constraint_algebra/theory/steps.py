"""The recursion from shapes alone: step by step from the head to the input, which equations each layer's input has.

Where an activation lies between two layers the upper one's input is solved for by itself, or nothing is known of the
output gradient below. Where none does, the output gradient below is known whether or not the upper layer's input is,
but then it is not generic: eight filters below one have eight multiples of one map. So layers with no activation
between them are taken together wherever the upper one alone does not determine its input (see `composed`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from constraint_algebra.arrays import BoolArray
from constraint_algebra.layers.activations import Identity
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.ranks.bounded import BoundedRank, bounded_rank
from constraint_algebra.ranks.closed_form import settled
from constraint_algebra.ranks.generic import KINDS
from constraint_algebra.ranks.knowledge import Knowledge, gradient_rows
from constraint_algebra.theory.composed import Composed, composed_rank
from constraint_algebra.theory.propagation import at_start, below

# What `bounded_rank` found for layers of the same kind, shape and knowledge.
Remembered = dict[tuple[object, ...], BoundedRank]


@dataclass(frozen=True)
class Step:
    """The equations that a layer's input has.

    Attributes:
        layer: the layer.
        known: what is known at its outputs.
        found: rank of the equations, and what they determine.
        above: layers above it whose equations are among them, the nearest first.
        top: what is known at the outputs of the topmost of these layers, or of the layer itself.
    """

    layer: PlacedLayer
    known: Knowledge
    found: BoundedRank
    above: tuple[PlacedLayer, ...]
    top: Knowledge

    @property
    def topmost(self) -> PlacedLayer:
        """The topmost layer whose equations are among them."""
        return self.above[-1] if self.above else self.layer

    @property
    def is_whole(self) -> bool:
        """Whether every value is determined."""
        return self.found.determined is not None and bool(self.found.determined.all())


def steps(network: Network, start: PlacedLayer, active: Mapping[str, BoolArray], seed: int) -> Iterator[Step]:
    """Yield the steps from a layer down to the first with a weight, or to one whose outcome is undecided.

    Args:
        network: the layers.
        start: the layer where the recursion starts.
        active: mask of every activation that cuts off, by name.
        seed: of the random residues.
    """
    layers = [layer for layer in network.bilinear if layer.index <= start.index]
    seen: Remembered = {}
    known = top = at_start(network, start, active)
    above: tuple[PlacedLayer, ...] = ()
    for number, layer in reversed(list(enumerate(layers))):
        if above:
            found = _together(network, layer, above, known, top, seed)
        else:
            found, top = _alone(layer, known, seed, seen), known
        step = Step(layer, known, found, above, top)
        yield step
        if found.determined is None or number == 0:
            return
        lower = layers[number - 1]
        above = (layer, *above) if not step.is_whole and _joined(network, lower, layer) else ()
        known = below(network, layer, lower, known, found.determined.reshape(layer.input_shape), active)


def _joined(network: Network, lower: PlacedLayer, upper: PlacedLayer) -> bool:
    """Return whether nothing but reshapes lies between two layers."""
    between = network.between(lower, upper)
    return not any(step.is_activation and not isinstance(step.activation, Identity) for step in between)


def _alone(layer: PlacedLayer, known: Knowledge, seed: int, seen: Remembered) -> BoundedRank:
    key = (layer.layer, layer.input_shape, *(np.packbits(mask).tobytes() for mask in vars(known).values()))
    if key not in seen:
        seen[key] = bounded_rank(layer, knowledge=known, seed=seed)
    return seen[key]


def _together(
    network: Network, layer: PlacedLayer, above: tuple[PlacedLayer, ...], known: Knowledge, top: Knowledge, seed: int
) -> BoundedRank:
    """Return the rank of a layer's equations and those of layers above it, in the layer's input."""
    inside = network.layers[layer.index : above[-1].index + 1]
    slopes = {step.name: np.ones(step.output_shape) for step in inside if step.is_activation}
    weight_rows, rows = int(top.output.sum()), _gradient_count(layer, known)
    arriving = top
    for upper, next_lower in zip(reversed(above), [*reversed(above[:-1]), layer], strict=True):
        rows += _gradient_count(upper, arriving)
        arriving = below(network, upper, next_lower, arriving, np.ones(upper.input_shape, dtype=bool), {})
    bounds = BoundedRank(
        kinds=KINDS,
        weight_rows=weight_rows,
        gradient_rows=rows,
        unknowns=layer.unknowns,
        gradient_rank=0,
        reduced=layer.unknowns,
        low=0,
        high=min(layer.unknowns, weight_rows + rows),
        determined=None,
        error=0.0,
        gradient_high=min(layer.unknowns, rows),
    )
    found = composed_rank(inside, top, slopes, seed)
    return _bounded(layer, above, known, top, bounds, seed) if found is None else _exact(bounds, found)


def _exact(bounds: BoundedRank, found: Composed) -> BoundedRank:
    return replace(bounds, low=found.rank, high=found.rank, determined=found.determined, error=found.error)


def _bounded(
    layer: PlacedLayer,
    above: tuple[PlacedLayer, ...],
    known: Knowledge,
    top: Knowledge,
    bounds: BoundedRank,
    seed: int,
) -> BoundedRank:
    """Return bounds for layers too large to eliminate together.

    From below: with the other channels of the upper layer left out, those that its equations determine have a generic
    output gradient below, so that the lower layer counts with as many filters.
    """
    upper = above[0]
    if len(above) > 1 or upper.groups > 1 or layer.groups > 1:
        return bounds

    def determined(channels: int) -> bool:
        fewer = upper.bilinear.place((channels, *upper.input_shape[1:]))
        rank = bounded_rank(fewer, knowledge=top, seed=seed)
        return rank.low == rank.unknowns

    least, most = 0, min(layer.filters, upper.channels)
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if determined(middle) else (least, middle - 1)
    if not least:
        return bounds
    some = Knowledge(np.zeros_like(known.output[:least]), known.gradient[:least], known.support[:least])
    low = bounded_rank(layer.with_filters(least), knowledge=some, kinds=["gradient"], seed=seed).low
    return replace(bounds, low=low, determined=settled(low, bounds.high, layer.unknowns))


def _gradient_count(layer: PlacedLayer, known: Knowledge) -> int:
    return int(gradient_rows(layer, known).sum()) * (layer.channels // layer.groups)


def falls_short(found: Sequence[Step]) -> Step | None:
    """Return the first step whose equations do not determine every value, and that no later one makes up for."""
    for step in found:
        if not step.is_whole and not any(step.layer in later.above and later.is_whole for later in found):
            return step
    return None
