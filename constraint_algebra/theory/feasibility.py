"""What the gradients of a network determine, from layer shapes alone.

Two answers. What the recursion finds, from the head to the input: an input that is not wholly determined leaves part of
the next output gradient and of the next pre-activation unknown, and only equations with known coefficients count. And
the limit, the rank of the equations of all layers together, beyond which no method can know anything. See `steps` and
`propagation` for the rules, `bounded` and `composed` for the ranks, `limit` for the limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray
from constraint_algebra.layers.activations import is_piecewise_linear
from constraint_algebra.layers.kinds import Conv, Linear, PlacedLayer, Shape
from constraint_algebra.networks.network import Network, NetworkLike
from constraint_algebra.ranks.bounded import BoundedRank, bounded_rank
from constraint_algebra.ranks.polyphase import fewest_filters
from constraint_algebra.ranks.structural import layer_structural_rank
from constraint_algebra.ranks.whole_map import RESIDUES, RowsOfLayer, WholeMap
from constraint_algebra.theory.activity import (
    Activity,
    active_masks,
    all_known,
    describe_activity,
    is_fraction,
    pattern_of,
    settled,
)
from constraint_algebra.theory.beyond import check_trials, expected_beyond_rank
from constraint_algebra.theory.graph_feasibility import graph_feasibility
from constraint_algebra.theory.limit import limit, limit_error, pattern_below
from constraint_algebra.theory.propagation import at_start, nothing, start_layer
from constraint_algebra.theory.reasons import reason_of, reason_together, verdict_of
from constraint_algebra.theory.report import FeasibilityReport, LayerFeasibility
from constraint_algebra.theory.simulated_pattern import masks_of
from constraint_algebra.theory.steps import Step, falls_short, steps

WEIGHT_LIMIT = 2200  # reduced unknowns up to which weight equations alone are eliminated, where bounds do not meet


@checked
def feasibility(
    network: NetworkLike,
    *,
    activity: Activity = 1.0,
    seed: int = 0,
    at_bound: float | None = None,
    trials: int = 0,
    buffers: bool = False,
) -> FeasibilityReport:
    """Return what the gradients of a network determine, from layer shapes alone.

    Printed: `filters` is `filters_needed` of `LayerFeasibility`, `by count` its `filters_by_counting`.

    Args:
        network: the layers; no parameter values are needed.
        activity: which outputs of ReLU and the like are active: 1.0 for all, a fraction (each independently), or masks
            by the activation's name or in order; `activity_of` takes them from data. By a max-pool's name its winners:
            flat indices into its input in its output shape, or a boolean mask in its input shape; they are drawn
            uniformly where none are given.
        seed: of the fraction, of the winners, of the sides of LeakyReLU and the like where no mask says them, of the
            random residues behind generic ranks, and of the trials.
        at_bound: share of the input's values that lie at an end of their valid range, such as a dark background; the
            trials then say what the range determines. Each lies there independently, at either end.
        buffers: whether the client shares its buffers after the step, which give mean and variance of batch norms in
            training mode away; see `FeasibilityReport.on_buffers`.
        trials: how often to simulate what zeros of activations and the range decide of each layer that is short of
            rank, see `FeasibilityReport.beyond`; 0 for not at all. Simulated when it is first asked for.

    Raises:
        MissingBiasError: the network is a chain, and no layer gives its output gradient away, so that there is no place
            to start; or a graph without any weight.
        ParameterError: an activity that is no fraction and does not fit the network; a share at a bound that is none,
            or without trials.

    >>> from constraint_algebra import Conv2d, Flatten, LeakyReLU, Linear
    >>> net = Network((1, 6, 6), [Conv2d(2, 3, stride=2, padding=1), LeakyReLU(), Flatten(), Linear(4)])
    >>> report = feasibility(net)
    >>> report.layers[0].counted, report.layers[0].generic, report.layers[0].verdict
    (36, 32, 'undetermined')
    >>> report.limit.rank, report.limit.determined.any()
    (32, np.False_)
    >>> print(report.conclusion.partition("; the recursion")[0])
    Not determined: the gradient determines no value of the 1×6×6 input (rank 32 of 36)
    """
    assert isinstance(network, Network)  # whatever stood for it
    check_trials(at_bound, trials)
    activity = settled(network, activity)
    if network.is_chain:
        report = _report(network, activity, seed)
    else:
        report = graph_feasibility(network, activity, seed, _filters_alone, buffers=buffers)
    if not trials:
        return report
    return replace(report, simulate=partial(expected_beyond_rank, network, masks_of(activity), at_bound, trials, seed))


def _report(network: Network, activity: Activity, seed: int) -> FeasibilityReport:
    """Return the report of a chain."""
    active = active_masks(network, activity, seed=seed)
    start = start_layer(network)
    found = list(steps(network, start, active, seed))
    later = [layer for layer in network.bilinear if layer.index > start.index]
    rows = [*_rows(network, found, seed), *(_above_start(network, layer, found[0], active, seed) for layer in later)]
    last = found[-1]
    determined = last.found.determined if last.layer is network.bilinear[0] else None
    at_input = None if determined is None else _at_input(network, determined.reshape(last.layer.input_shape), active)
    beyond = 0.0 if at_input is not None and _says_all(network, found) else limit_error(network, start)
    error = min(sum(step.found.error for step in found) + beyond, 1.0)
    return FeasibilityReport(
        network=network,
        layers=tuple(rows),
        determined=at_input,
        assumptions=_assumptions(start, describe_activity(activity, active), error),
        error=error,
        active=active,
        seed=seed,
        pattern=pattern_of(network, activity, active),
        assumed=is_fraction(activity),
        most=partial(_most, network, activity, tuple(found), at_input, seed),
    )


def _rows(network: Network, found: Sequence[Step], seed: int) -> list[LayerFeasibility]:
    """Return the rows of all layers up to the start, first layer first."""
    rows, seen = list[LayerFeasibility](), dict[int, LayerFeasibility]()
    for step in found:
        if id(step.found) not in seen:  # a layer of the same kind, shape and knowledge shares it
            seen[id(step.found)] = _row(step, seed)
        rows.append(replace(seen[id(step.found)], layer=step.layer.name))
    rows = [_follows(row, step, found) for row, step in zip(rows, found, strict=True)]
    left = [layer for layer in network.bilinear if layer.index < found[-1].layer.index]
    for layer in reversed(left):
        rows.append(_undecided(layer, f"what layer {rows[-1].layer!r} leaves known is undecided"))
    return rows[::-1]


def _follows(row: LayerFeasibility, step: Step, found: Sequence[Step]) -> LayerFeasibility:
    """Return the row of a layer whose input follows after all, from that of a layer with which it was eliminated."""
    later = next((other for other in found if step.layer in other.above and other.is_whole), None)
    if later is None or step.is_whole:
        return row
    reason = f"it follows from the input of layer {later.layer.name!r}, with which it is eliminated together"
    return replace(row, determined=row.unknowns, verdict="determined", reason=reason)


def _most(
    network: Network, activity: Activity, found: tuple[Step, ...], at_input: BoolArray | None, seed: int
) -> tuple[WholeMap | None, int]:
    """Return the limit, and an upper bound of its rank: what the first layer determines if all above it were known."""
    most = _limit(network, activity, found, at_input, seed)
    if most is not None:
        return most, most.rank
    first, active = network.bilinear[0], active_masks(network, activity, seed=seed)
    return None, bounded_rank(first, knowledge=all_known(network, first, active), seed=seed).high


def _limit(
    network: Network, activity: Activity, found: tuple[Step, ...], at_input: BoolArray | None, seed: int
) -> WholeMap | None:
    """Return the limit; what the recursion found where that is all that there is."""
    short, last, first = falls_short(found), found[-1], network.bilinear[0]
    if at_input is None or not _says_all(network, found):
        top = short or last
        return limit(network, activity, top.layer, top.known, seed=seed)
    below = [layer for layer in network.layers[: last.topmost.index] if layer.is_activation]
    return WholeMap(
        determined=at_input,
        rank=last.found.low,
        linear=short is None or all(is_piecewise_linear(layer.activation) for layer in below),
        arithmetic=RESIDUES,
        layers=(RowsOfLayer(first.name, last.found.weight_rows + last.found.gradient_rows, last.found.low),),
        pattern=pattern_below(network, activity, last.topmost, seed),
        error=last.found.error,
    )


def _says_all(network: Network, found: Sequence[Step]) -> bool:
    """Return whether the last step has all equations: nothing above it is open that is not among them."""
    short, last, first = falls_short(found), found[-1], network.bilinear[0]
    before = any(layer.is_activation for layer in network.layers[: first.index])
    reached = last.layer is first and last.found.rank is not None and not before
    return reached and (short is None or last.topmost is short.layer)


def _filters_needed(layer: PlacedLayer) -> int | None:
    """Return the fewest filters for gradient equations alone, `None` where no number will do or bounds do not meet."""
    bounds = fewest_filters_alone(layer)
    return bounds[0] if bounds is not None and bounds[0] == bounds[1] else None


def _row(step: Step, seed: int) -> LayerFeasibility:
    """Return the row of a step; what is asked of a layer's own equations alone is open where others are among them."""
    layer, known, found = step.layer, step.known, step.found
    if step.above:
        return _row_of(layer, found, reason_together(step.above, found))
    return replace(
        _row_of(layer, found, reason_of(layer, known, found)),
        structural=layer_structural_rank(layer, known, generic_low=found.low, seed=seed),
        generic_gradient=found.gradient_rank if found.gradient_rank == found.gradient_high else None,
        generic_weight=bounded_rank(layer, knowledge=known, kinds=["weight"], limit=WEIGHT_LIMIT, seed=seed).rank,
    )


def _row_of(layer: PlacedLayer, found: BoundedRank, reason: str) -> LayerFeasibility:
    """Return the row of the rank found, without those that ask for more."""
    return LayerFeasibility(
        layer=layer.name,
        kind=layer.kind,
        input_shape=layer.input_shape,
        unknowns=layer.unknowns,
        weight_rows=found.weight_rows,
        gradient_rows=found.gradient_rows,
        counted=found.counted,
        structural=None,
        generic=found.rank,
        generic_low=found.low,
        generic_high=found.high,
        generic_gradient=None,
        generic_weight=None,
        determined=None if found.determined is None else int(found.determined.sum()),
        filters_needed=_filters_needed(layer),
        filters_by_counting=filters_by_counting(layer),
        verdict=verdict_of(found),
        reason=reason,
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


def _above_start(
    network: Network, layer: PlacedLayer, start: Step, active: Mapping[str, BoolArray], seed: int
) -> LayerFeasibility:
    """Return the row of a layer that the recursion does not need: its input follows from below, by computing."""
    if not start.is_whole:
        return _undecided(
            layer, f"the input of layer {start.layer.name!r}, where the recursion starts, is not determined"
        )
    own = layer.bias_name is not None and math.prod(layer.outputs) == 1
    known = at_start(network, layer, active) if own else nothing(layer)
    row = _row(Step(layer, known, bounded_rank(layer, knowledge=known, seed=seed), (), known), seed)
    reason = f"its input is computed forward from that of layer {start.layer.name!r}, where the recursion starts"
    return replace(row, determined=layer.unknowns, verdict="determined", reason=reason)


@lru_cache(maxsize=256)
def _fewest(layer: Conv | Linear, input_shape: Shape) -> tuple[int, int] | None:
    return fewest_filters(layer.place(input_shape), limit=1024)


def fewest_filters_alone(layer: PlacedLayer) -> tuple[int, int] | None:
    """Return `fewest_filters` of a layer, remembered by its shape; classes beyond 1,024 pixels are not eliminated."""
    return _fewest(replace(layer.bilinear, filters=layer.groups), layer.input_shape)


def _filters_alone(layer: PlacedLayer) -> tuple[int | None, int]:
    """Return the fewest filters for gradient equations alone, and by counting; factors of channels have no choice."""
    plain = isinstance(layer.layer, Conv | Linear)
    return _filters_needed(layer) if plain else None, filters_by_counting(layer)


def filters_by_counting(layer: PlacedLayer) -> int:
    """Return how many filters have as many gradient equations as there are unknowns.

    >>> from constraint_algebra.layers import Conv2d
    >>> filters_by_counting(Conv2d(12, 5, stride=2, padding=2).place((3, 32, 32)))
    41
    """
    return layer.groups * -(-math.prod(layer.positions) // math.prod(layer.taps))


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
        "weights are generic, as almost all are, and so is the head's output gradient; those below it follow",
        f"a rank is too small with probability at most {error:.0e}"
        if error < 1
        else "how probable it is that a rank is too small is not bounded, because of Softsign",
    )
