"""What the gradients of a network determine, from layer shapes alone.

From the head to the input, what is known propagates: an input that is not wholly determined leaves part of the next
output gradient and of the next pre-activation unknown, and only equations with known coefficients count. See
`propagation` for the rules, `bounded` for the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray
from constraint_algebra.display import Table, Tabular, draw
from constraint_algebra.layers.kinds import Conv, Linear, PlacedLayer, Shape
from constraint_algebra.networks.network import Network, NetworkLike, shape_text
from constraint_algebra.ranks.bounded import BoundedRank, bounded_rank
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.ranks.polyphase import fewest_filters
from constraint_algebra.ranks.structural import layer_structural_rank
from constraint_algebra.theory.activity import Activity, active_masks, describe_activity, is_fraction, pattern_of
from constraint_algebra.theory.propagation import at_start, below, nothing, start_layer
from constraint_algebra.theory.reasons import reason_of, verdict_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


THREAT_MODEL = (
    "an honest-but-curious observer who knows the architecture, the weights and the gradient of one step on one sample"
)
WEIGHT_LIMIT = 2200  # reduced unknowns up to which weight equations alone are eliminated, where bounds do not meet


@checked
@dataclass(frozen=True)
class LayerFeasibility:
    """What the equations of one layer determine of its input; `None` where not settled.

    Attributes:
        layer, kind, input_shape: the layer's name, class and input shape.
        unknowns: number of its input values.
        weight_rows, gradient_rows: equations with known coefficients.
        counted: the smaller of their number and of the unknowns.
        structural: size of a largest matching of the constraint graph.
        generic: rank for almost all weights and output gradients.
        generic_low, generic_high: its bounds, equal where it is settled.
        generic_gradient, generic_weight: the same for each kind of equation alone.
        determined: number of determined unknowns.
        filters_needed: fewest filters whose gradient equations alone would do, all outputs active and all known; the
            column `filters` of the printed table.
        filters_by_counting: as many as have a gradient equation for each unknown, which is what counting says in its
            place, often too little; the column `by count`.
        verdict: "determined", "partial", "undetermined" or "undecided".
        reason: why, in a sentence.
    """

    layer: str
    kind: str
    input_shape: Shape
    unknowns: int
    weight_rows: int | None
    gradient_rows: int | None
    counted: int | None
    structural: int | None
    generic: int | None
    generic_low: int | None
    generic_high: int | None
    generic_gradient: int | None
    generic_weight: int | None
    determined: int | None
    filters_needed: int | None
    filters_by_counting: int
    verdict: str
    reason: str


@checked
@dataclass(frozen=True, repr=False)
class FeasibilityReport(Tabular):
    """What the gradients of a network determine; `print` it, or take `.to_frame()`.

    Attributes:
        network: the network.
        layers: one row for each layer with parameters, first layer first.
        determined: which input values are determined, in the input shape; `None` where undecided.
        assumptions: what the answer rests on, a sentence each.
        error: upper bound of the probability that a rank is too small.
        active: mask of every activation that cuts off, by name.
        seed: of the random residues.
        pattern: which outputs were assumed active, as a clause; empty where no activation cuts off.
        assumed: whether the pattern was assumed, and not given as masks.
    """

    network: Network
    layers: tuple[LayerFeasibility, ...]
    determined: BoolArray | None
    assumptions: tuple[str, ...]
    error: float
    active: Mapping[str, BoolArray]
    seed: int = 0
    pattern: str = ""
    assumed: bool = True

    @property
    def verdict(self) -> str:
        """The outcome for the network's input, in one word."""
        if self.determined is None:
            return "undecided"
        if self.determined.all():
            return "determined"
        return "partial" if self.determined.any() else "undetermined"

    @property
    def conclusion(self) -> str:
        """The outcome in one sentence: determined, or where it stops and why.

        Where it rests on which outputs are active it says so, and a second sentence names who knows better.
        """
        if not self.pattern:
            return self._outcome("")
        certain = "certify(model, x, target) proves what the gradient of one input x fixes"
        if not self.assumed:
            return f"{self._outcome(f', {self.pattern}')} Another input may have another pattern; {certain}."
        return (
            f"{self._outcome(f', {self.pattern}')} Which outputs are active depends on the input:"
            f" activity=activity_of(network, parameters, x) takes those of x; {certain}."
        )

    def _outcome(self, pattern: str) -> str:
        """Return the outcome as a sentence that ends its first clause with the pattern."""
        stops = [row for row in self.layers if row.verdict != "determined"]
        shape = shape_text(self.network.input_shape)
        if self.determined is not None and self.determined.all():
            partly = f", although not every input of layer {stops[-1].layer!r} is" if stops else ""
            return f"Determined: the gradient determines every value of the {shape} input{pattern}{partly}."
        if self.determined is None:
            outcome = f"Undecided: whether the {shape} input is determined is open"
        elif self.determined.any():
            share = f"{int(self.determined.sum()):,} of {self.determined.size:,} input values"
            outcome = f"Partly determined: the gradient determines {share}"
        else:
            outcome = f"Not determined: the gradient determines no value of the {shape} input"
        outcome += pattern
        if not stops:
            return f"{outcome}; an activation before the first layer cuts off the others."
        where = f"the recursion first falls short at layer {stops[-1].layer!r} ({stops[-1].kind})"
        return f"{outcome}; {where}: {stops[-1].reason}."

    @property
    def security_index(self) -> int | None:
        """The index of Chen and Campbell (2021, arXiv 2111.10178): 0 is determined, more negative is safer.

        For d convolutions it is the sum over i = 1..d of (d - i + 1) / d * (rank - unknowns), each term rounded. Each
        layer counts by itself, as if all above it were known. `None` where the rank of a layer is not settled.
        """
        layers = [layer for layer in self.network.bilinear if isinstance(layer.layer, Conv)]
        depth, index = len(layers), 0
        for number, layer in enumerate(layers):
            rank = bounded_rank(layer, knowledge=_all_known(self.network, layer, self.active), seed=self.seed).rank
            if rank is None:
                return None
            index += round((depth - number) / depth * (rank - layer.unknowns))
        return index

    def to_frame(self) -> pd.DataFrame:
        """Return all columns of `LayerFeasibility`, first layer first; what is not settled is missing."""
        import pandas as pd

        frame = pd.DataFrame([vars(row) for row in self.layers])
        counts = frame.columns.difference(["layer", "kind", "input_shape", "verdict", "reason"])
        return frame.astype(dict.fromkeys(counts, "Int64"))

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw counted, structural and generic rank of every layer, see `plotting.layer_ranks`."""
        drawn: Axes = draw(self, ax)
        return drawn

    def _shown(self) -> Table:
        shape = shape_text(self.network.input_shape)
        title = f"Feasibility from shapes alone: input {shape}, {len(self.layers)} layers with parameters"
        assumed = f"Assumed: {'; '.join(self.assumptions)}."
        return Table(self._short(), title, (f"Threat model: {THREAT_MODEL}.", assumed, self.conclusion), width=116)

    def _short(self) -> pd.DataFrame:
        """Return the columns that fit a terminal."""
        import pandas as pd

        def shown(value: int | None) -> str:
            return "?" if value is None else str(value)

        rows = []
        for row in self.layers:
            generic = shown(row.generic)
            if row.generic is None and row.generic_low is not None:
                generic = f"{row.generic_low}..{row.generic_high}"
            counts = (row.unknowns, row.weight_rows, row.gradient_rows, row.counted, row.structural)
            alone = (row.determined, row.filters_needed, row.filters_by_counting)
            rows.append((row.layer, row.kind, *map(shown, counts), generic, *map(shown, alone), row.verdict))
        columns = ["layer", "kind", "unknowns", "rows W", "rows G", "counted", "structural", "generic", "determined"]
        return pd.DataFrame(rows, columns=[*columns, "filters", "by count", "verdict"])


@checked
def feasibility(network: NetworkLike, *, activity: Activity = 1.0, seed: int = 0) -> FeasibilityReport:
    """Return what the gradients of a network determine, from layer shapes alone.

    Printed: `filters` is `filters_needed` of `LayerFeasibility`, `by count` its `filters_by_counting`.

    Args:
        network: the layers; no parameter values are needed.
        activity: which outputs of ReLU and the like are active: 1.0 for all, a fraction (each independently), or masks
            by the activation's name or in order; `activity_of` takes them from data.
        seed: of the fraction and of the random residues behind generic ranks.

    Raises:
        MissingBiasError: no layer gives its output gradient away, so that there is no place to start.
        ParameterError: an activity that is no fraction and does not fit the network.

    >>> from constraint_algebra import Conv2d, Flatten, LeakyReLU, Linear
    >>> net = Network((1, 6, 6), [Conv2d(2, 3, stride=2, padding=1), LeakyReLU(), Flatten(), Linear(4)])
    >>> report = feasibility(net)
    >>> report.layers[0].counted, report.layers[0].generic, report.layers[0].verdict
    (36, 32, 'undetermined')
    >>> print(report.conclusion.partition(": the gradient equations")[0])
    Not determined: the gradient determines no value of the 1×6×6 input; the recursion first falls short at layer
    '0' (Conv2d)
    """
    assert isinstance(network, Network)  # whatever stood for it
    active = active_masks(network, activity, seed=seed)
    start, bilinear = start_layer(network), network.bilinear
    rows: list[LayerFeasibility] = []
    error, seen = 0.0, dict[tuple[object, ...], tuple[LayerFeasibility, BoundedRank]]()
    known: Knowledge | None = at_start(start)
    determined: BoolArray | None = None
    for number, layer in reversed(list(enumerate(bilinear))):
        if layer.index > start.index:
            rows.append(_above_start(layer, start, seed))
            continue
        if known is None:
            rows.append(_undecided(layer, f"what layer {rows[-1].layer!r} leaves known is undecided"))
            determined = None
            continue
        key = (layer.layer, layer.input_shape, *(np.packbits(mask).tobytes() for mask in vars(known).values()))
        if key not in seen:
            found = bounded_rank(layer, knowledge=known, seed=seed)
            seen[key] = _row(layer, known, found, seed), found
        row, found = seen[key]
        rows.append(replace(row, layer=layer.name))
        error, determined = error + found.error, found.determined
        if number:
            lower = bilinear[number - 1]
            known = None if determined is None else below(network, layer, lower, known, determined, active)
    return FeasibilityReport(
        network=network,
        layers=tuple(reversed(rows)),
        determined=None if determined is None else _at_input(network, determined, active),
        assumptions=_assumptions(start, describe_activity(activity, active), min(error, 1.0)),
        error=min(error, 1.0),
        active=active,
        seed=seed,
        pattern=pattern_of(network, activity, active),
        assumed=is_fraction(activity),
    )


def _filters_needed(layer: PlacedLayer) -> int | None:
    """Return the fewest filters for gradient equations alone, `None` where no number will do or bounds do not meet."""
    bounds = fewest_filters_alone(layer)
    return bounds[0] if bounds is not None and bounds[0] == bounds[1] else None


def _row(layer: PlacedLayer, known: Knowledge, found: BoundedRank, seed: int) -> LayerFeasibility:
    weight = bounded_rank(layer, knowledge=known, kinds=["weight"], limit=WEIGHT_LIMIT, seed=seed).rank
    return LayerFeasibility(
        layer=layer.name,
        kind=layer.kind,
        input_shape=layer.input_shape,
        unknowns=layer.unknowns,
        weight_rows=found.weight_rows,
        gradient_rows=found.gradient_rows,
        counted=found.counted,
        structural=layer_structural_rank(layer, known, generic_low=found.low, seed=seed),
        generic=found.rank,
        generic_low=found.low,
        generic_high=found.high,
        generic_gradient=found.gradient_rank if found.gradient_rank == found.gradient_high else None,
        generic_weight=weight,
        determined=None if found.determined is None else int(found.determined.sum()),
        filters_needed=_filters_needed(layer),
        filters_by_counting=filters_by_counting(layer),
        verdict=verdict_of(found),
        reason=reason_of(layer, known, found),
    )


def _undecided(layer: PlacedLayer, reason: str) -> LayerFeasibility:
    nothing_settled = dict.fromkeys(
        ("weight_rows", "gradient_rows", "counted", "structural", "generic", "generic_low", "generic_high"), None
    ) | dict.fromkeys(("generic_gradient", "generic_weight", "determined"), None)
    return LayerFeasibility(
        layer=layer.name,
        kind=layer.kind,
        input_shape=layer.input_shape,
        unknowns=layer.unknowns,
        filters_needed=_filters_needed(layer),
        filters_by_counting=filters_by_counting(layer),
        verdict="undecided",
        reason=reason,
        **nothing_settled,
    )


def _above_start(layer: PlacedLayer, start: PlacedLayer, seed: int) -> LayerFeasibility:
    """Return the row of a layer that the recursion does not need: its input follows from below, by computing."""
    own = layer.bias_name is not None and math.prod(layer.outputs) == 1
    known = at_start(layer) if own else nothing(layer)
    row = _row(layer, known, bounded_rank(layer, knowledge=known, seed=seed), seed)
    reason = f"its input is computed forward from that of layer {start.name!r}, where the recursion starts"
    return replace(row, determined=layer.unknowns, verdict="determined", reason=reason)


@lru_cache(maxsize=256)
def _fewest(layer: Conv | Linear, input_shape: Shape) -> tuple[int, int] | None:
    return fewest_filters(layer.place(input_shape), limit=1024)


def fewest_filters_alone(layer: PlacedLayer) -> tuple[int, int] | None:
    """Return `fewest_filters` of a layer, remembered by its shape; classes beyond 1,024 pixels are not eliminated."""
    return _fewest(replace(layer.bilinear, filters=layer.groups), layer.input_shape)


def filters_by_counting(layer: PlacedLayer) -> int:
    """Return how many filters have as many gradient equations as there are unknowns.

    >>> from constraint_algebra.layers import Conv2d
    >>> filters_by_counting(Conv2d(12, 5, stride=2, padding=2).place((3, 32, 32)))
    41
    """
    return layer.groups * -(-math.prod(layer.positions) // math.prod(layer.taps))


def _all_known(network: Network, layer: PlacedLayer, active: Mapping[str, BoolArray]) -> Knowledge:
    """Return what is known at a layer's outputs where all above it is known: the activations alone take away."""
    mask = np.ones(layer.output_shape, dtype=bool)
    for step in network.after(layer):
        if step.name in active:
            mask = mask & active[step.name].reshape(layer.output_shape)
    return Knowledge.of(layer, active=mask)


def _at_input(network: Network, determined: BoolArray, active: Mapping[str, BoolArray]) -> BoolArray:
    """Return which values of the network's input follow, back through what precedes the first layer with a weight."""
    for step in reversed(network.layers[: network.bilinear[0].index]):
        if step.name in active:
            determined = determined & active[step.name]
        determined = determined.reshape(step.input_shape)
    return determined


def _assumptions(start: PlacedLayer, activity: str, error: float) -> tuple[str, ...]:
    at_hand = (
        f"the output gradient of layer {start.name!r} is its bias gradient"
        if start.bias_name is not None
        else f"the output gradient of layer {start.name!r} follows from the loss, up to the few roots of one equation"
    )
    return (
        at_hand,
        activity,
        "weights and output gradients are generic, as almost all are, the latter independent of each other",
        f"a rank is too small with probability at most {error:.0e}",
    )
