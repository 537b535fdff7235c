"""The fewest filters with which each layer still determines its input.

Another filter only adds equations, and those that were there stay as they are: what F filters determine, F + 1 do as
well. So the fewest filters can be found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from constraint_algebra.arguments import checked
from constraint_algebra.display import Table, Tabular
from constraint_algebra.errors import ParameterError
from constraint_algebra.layers.kinds import Conv, Linear, PlacedLayer, Shape
from constraint_algebra.networks.description import shape_text
from constraint_algebra.networks.network import Network, NetworkLike
from constraint_algebra.ranks.bounded import bounded_rank
from constraint_algebra.theory.activity import active_masks, pattern_of
from constraint_algebra.theory.feasibility import fewest_filters_alone, filters_by_counting
from constraint_algebra.theory.propagation import start_layer

if TYPE_CHECKING:
    import pandas as pd


@checked
@dataclass(frozen=True)
class FilterCount:
    """The fewest filters of one layer; `None` where no number suffices or the number is not settled.

    Attributes:
        layer, kind, input_shape: the layer's name, class and input shape.
        filters: how many it has.
        by_counting: as many as give the gradient equations the number of unknowns; often too few.
        by_gradient: fewest whose gradient equations alone determine the input.
        by_both: fewest whose weight and gradient equations determine it.
        by_both_low, by_both_high: bounds of `by_both`, equal where it is settled.
    """

    layer: str
    kind: str
    input_shape: Shape
    filters: int
    by_counting: int
    by_gradient: int | None
    by_both: int | None
    by_both_low: int | None
    by_both_high: int | None

    @property
    def enough(self) -> bool | None:
        """Whether the layer has enough filters, by both kinds of equations; `None` where that is not settled."""
        if self.by_both_low is None or self.by_both_high is None or self.filters < self.by_both_low:
            return False
        return True if self.filters >= self.by_both_high else None


@checked
@dataclass(frozen=True, repr=False)
class MinimumFilters(Tabular):
    """The fewest filters of every layer with parameters, first layer first."""

    network: Network
    layers: tuple[FilterCount, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return all columns of `FilterCount`; what is not settled, or where no number suffices, is missing."""
        import pandas as pd

        frame = pd.DataFrame([vars(row) for row in self.layers])
        return frame.astype(dict.fromkeys(frame.columns.difference(["layer", "kind", "input_shape"]), "Int64"))

    @property
    def conclusion(self) -> str:
        """Which layers have too few, in a sentence; with all outputs active, where an activation cuts off."""
        active = active_masks(self.network)
        pattern = pattern_of(self.network, 1.0, active)
        return self._outcome(f", {pattern}" if pattern else "")

    def _outcome(self, pattern: str) -> str:
        few = [row.layer for row in self.layers if row.enough is False]
        unsettled = [row.layer for row in self.layers if row.enough is None]
        if few:
            return f"Too few filters to determine the input: layer {', '.join(few)}{pattern}."
        if unsettled:
            return f"Not settled: layer {', '.join(unsettled)}; all others have enough filters{pattern}."
        return f"Every layer has enough filters: the whole network is determined{pattern}."

    def _shown(self) -> Table:
        title = f"Fewest filters per layer, all outputs active: input {shape_text(self.network.input_shape)}"
        return Table(self.to_frame(), title, (self.conclusion,))


@checked
def minimum_filters(network: NetworkLike, *, seed: int = 0) -> MinimumFilters:
    """Return the fewest filters per layer that keep the network determined, from layer shapes alone.

    Each layer keeps the channels that the network gives it, every layer above it counts as determined and all outputs
    of activations as active. Fewer channels only remove unknowns: a network in which every layer has its fewest filters
    is determined as well.

    Raises:
        MissingBiasError: no layer gives its output gradient away.
        ParameterError: a network that is no chain.

    >>> from constraint_algebra import Conv2d, Flatten, LeakyReLU, Linear
    >>> net = Network((3, 8, 8), [Conv2d(4, 3, stride=2, padding=1), LeakyReLU(), Flatten(), Linear(4)])
    >>> [(row.by_counting, row.by_gradient, row.by_both) for row in minimum_filters(net).layers]
    [(8, 16, 6), (1, 1, 1)]
    """
    assert isinstance(network, Network)  # whatever stood for it
    if not network.is_chain:
        raise ParameterError(
            "network",
            "network: the fewest filters are those of one layer after the other, and this network is no chain: several"
            " layers may read one value, or an operation without a weight mix some; feasibility(network) says what its"
            " filters determine, and rank_against_filters(layer) what a layer of it would by itself",
        )
    start = start_layer(network)
    rows = []
    for layer in network.bilinear:
        alone = fewest_filters_alone(layer)
        weights_count = layer.index < start.index  # at the start and above it no z is known
        both = _fewest_by_both(layer.bilinear, layer.input_shape, seed) if weights_count else alone
        rows.append(
            FilterCount(
                layer=layer.name,
                kind=layer.kind,
                input_shape=layer.input_shape,
                filters=layer.filters,
                by_counting=filters_by_counting(layer),
                by_gradient=alone[0] if alone is not None and alone[0] == alone[1] else None,
                by_both=both[0] if both is not None and both[0] == both[1] else None,
                by_both_low=None if both is None else both[0],
                by_both_high=None if both is None else both[1],
            )
        )
    return MinimumFilters(network, tuple(rows))


def fewest_filters_by_both(layer: PlacedLayer, *, seed: int = 0) -> tuple[int, int] | None:
    """Return bounds, usually equal, of the fewest filters whose equations of both kinds determine the input.

    `None` where no number of filters suffices, because a pixel meets no tap.

    >>> from constraint_algebra.layers import Conv2d
    >>> fewest_filters_by_both(Conv2d(12, 5, stride=2, padding=2).place((12, 16, 16)))
    (10, 10)
    """
    return _fewest_by_both(layer.bilinear, layer.input_shape, seed)


@lru_cache(maxsize=256)
def _fewest_by_both(layer: Conv | Linear, input_shape: Shape, seed: int) -> tuple[int, int] | None:
    placed = layer.place(input_shape)
    alone = fewest_filters_alone(placed)
    if alone is None:
        return None
    groups, most = placed.groups, alone[1] // placed.groups

    @lru_cache(maxsize=256)
    def bounds(filters: int) -> tuple[int, int]:
        found = bounded_rank(placed.with_filters(groups * filters), seed=seed)
        return found.low, found.high

    unknowns = placed.unknowns
    per_filter = math.prod(placed.outputs) + (placed.channels // groups) * math.prod(placed.taps)
    least = -(-(unknowns // groups) // per_filter)  # counting both kinds
    high = _first(lambda filters: bounds(filters)[0] == unknowns, least, most)
    low = _first(lambda filters: bounds(filters)[1] == unknowns, least, high)
    return groups * low, groups * high


def _first(holds: Callable[[int], bool], least: int, most: int) -> int:
    """Return the first number for which a condition holds that holds from there on, and at `most`.

    >>> _first(lambda n: n * n > 50, 1, 100)
    8
    """
    step = 1
    while least < most:  # steps that double, then bisection: the answer is usually near the least
        middle = min(least + step - 1, (least + most) // 2)
        if holds(middle):
            most, step = middle, most
        else:
            least, step = middle + 1, 2 * step
    return least
