"""What the gradients of a graph determine, from shapes alone: the report, by the recursion and by the limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import partial

from numpy.typing import ArrayLike

from constraint_algebra.arrays import BoolArray
from constraint_algebra.errors import MissingBiasError
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.ranks.modular_network import ModularNetwork
from constraint_algebra.ranks.whole_map import RESIDUES, WholeMap
from constraint_algebra.theory.activity import (
    Activity,
    active_masks,
    branches_assumed,
    branches_text,
    describe_activity,
    dropouts,
    is_fraction,
    kept,
    kept_text,
    pattern_of,
    sides,
    two_sided,
)
from constraint_algebra.theory.graph_cost import GraphCost, graph_cost, nearby_seconds
from constraint_algebra.theory.graph_limit import graph_limit, graph_limit_error, last_layer, most_rank, reaching
from constraint_algebra.theory.graph_moving import moves, shared_statistics
from constraint_algebra.theory.graph_reasons import by_own_statistics, reason_on_graph, what_buffers_do
from constraint_algebra.theory.graph_recursion import recursion
from constraint_algebra.theory.graph_solve import readers_of
from constraint_algebra.theory.graph_spaces import ValueEquations
from constraint_algebra.theory.graph_state import GraphState
from constraint_algebra.theory.report import FeasibilityReport, LayerFeasibility
from constraint_algebra.theory.winners import selections, winners, winners_text

COMPARED = 10.0  # seconds that the recursion may be estimated to take for it to be run a second time


def graph_feasibility(
    network: Network,
    activity: Activity,
    seed: int,
    filters: Callable[[PlacedLayer], tuple[int | None, int]],
    *,
    buffers: bool = False,
) -> FeasibilityReport:
    """Return the report of a network that is no chain.

    Args:
        network: the graph.
        activity: settled, see `activity.settled`.
        seed: of what is drawn.
        filters: the fewest filters of a layer alone, by its rank and by counting.
        buffers: whether the client's buffers after the step are shared.
    """
    if not network.bilinear:
        raise MissingBiasError("weight", "the network has no layer with a weight, and so no gradient; add one")
    drawn = drawn_network(network, activity, seed)
    cost = graph_cost(network)
    shared = [layer.name for layer in shared_statistics(network)] if buffers else []
    state = None if cost.beyond else recursion(drawn, shared)
    rows = tuple(_row(layer, state, cost.beyond, *filters(layer)) for layer in network.bilinear)
    determined = None if state is None else _determined(state)
    active = active_masks(network, activity, seed=seed)
    assumed = describe_activity(activity, active, branches=branches_assumed(network))
    error = 0.0 if state is None else state.error
    if determined is None or not determined.all():
        error = min(1.0, error + graph_limit_error(network))
    given = activity if isinstance(activity, Mapping) else {}
    clauses = (
        pattern_of(network, activity, active),
        branches_text(network),
        winners_text(network, given),
        kept_text(network, activity),
    )
    drawn_parts = (*selections(network), *dropouts(network))
    return FeasibilityReport(
        network=network,
        layers=rows,
        determined=determined,
        assumptions=_assumptions(network, state, assumed, given, error, buffers=buffers),
        error=error,
        active=active,
        seed=seed,
        pattern=" and ".join(filter(None, clauses)),
        assumed=(is_fraction(activity) and bool(active)) or any(layer.name not in given for layer in drawn_parts),
        most=partial(_most, network, activity, determined, seed, shared),
        nearby=state is not None and bool(state.nearby),
        on_buffers="" if state is None else what_buffers_do(state, _other(drawn, cost, state, buffers=buffers)),
    )


def _other(drawn: ModularNetwork, cost: GraphCost, state: GraphState, *, buffers: bool) -> GraphState | None:
    """Return what is found where buffers are shared and were not, or the other way round; `None` where they are alike.

    It is not asked where it would take long, and not where all is known without them.
    """
    tracked = [layer.name for layer in shared_statistics(drawn.network)]
    needless = state.values[0].all() and not buffers and not state.nearby
    if not tracked or needless or cost.seconds + nearby_seconds(drawn.network) > COMPARED:
        return None
    return recursion(drawn, () if buffers else tracked)


def drawn_network(network: Network, activity: Activity, seed: int, *, eps: bool = False) -> ModularNetwork:
    """Return a random network with a pattern, as the activity says or drawn; `eps` as for `ModularNetwork`."""
    active = active_masks(network, activity, seed=seed)
    given = activity if isinstance(activity, Mapping) else {}
    above = {**active, **sides(network, activity, seed=seed), **kept(network, activity, seed=seed)}
    return ModularNetwork(network, above, winners(network, given, active, seed=seed), seed, eps=eps)


def graph_whole_map(network: Network, activity: Activity, seed: int, shared: Collection[str] = ()) -> WholeMap | None:
    """Return the rank of the map of a whole graph at a pattern, `None` where it is too large.

    Args:
        network: the graph.
        activity: settled.
        seed: of what is drawn.
        shared: names of normalisations whose mean and variance the client's buffers give away.
    """
    found = graph_limit(drawn_network(network, activity, seed), shared)
    if found is None:
        return None
    by_eps = 0
    if not found.determined.all() and any(x.is_normalisation and x.normalisation.epsilon for x in network):
        with_eps = graph_limit(drawn_network(network, activity, seed, eps=True), shared)
        by_eps = 0 if with_eps is None else max(0, with_eps.rank - found.rank)
    return WholeMap(
        determined=found.determined,
        rank=found.rank,
        linear=_is_linear(network),
        arithmetic=RESIDUES,
        layers=found.rows,
        pattern=_pattern_below(network, activity, seed),
        error=found.error,
        by_eps=by_eps,
    )


def _most(
    network: Network, activity: Activity, determined: BoolArray | None, seed: int, shared: Collection[str]
) -> tuple[WholeMap | None, int | None]:
    """Return the limit, and an upper bound of its rank."""
    unknowns = math.prod(network.input_shape)
    if determined is not None and determined.all():
        pattern = _pattern_below(network, activity, seed)
        whole = WholeMap(
            determined=determined, rank=unknowns, linear=_is_linear(network), arithmetic=RESIDUES, pattern=pattern
        )
        return whole, unknowns
    found = graph_whole_map(network, activity, seed, shared)
    if found is not None:
        return found, found.rank
    return None, most_rank(drawn_network(network, activity, seed), seed)


def _is_linear(network: Network) -> bool:
    return not any(map(moves, reaching(network, last_layer(network))))


def _pattern_below(network: Network, activity: Activity, seed: int) -> str:
    """Return on which sides activations work and which entries win, as a clause."""
    given = activity if isinstance(activity, Mapping) else {}
    bent = two_sided(network)
    clauses = [
        pattern_of(network, activity, active_masks(network, activity, seed=seed)),
        branches_text(network),
        winners_text(network, given),
        kept_text(network, activity),
    ]
    for words, layers in (
        ("on the sides given", [layer for layer in bent if layer.name in given]),
        ("on either side of zero at random", [layer for layer in bent if layer.name not in given]),
    ):
        if layers:
            clauses.append(f"with outputs of {' and '.join(dict.fromkeys(layer.kind for layer in layers))} {words}")
    return " and ".join(filter(None, clauses))


def _determined(state: GraphState) -> BoolArray | None:
    """Return which input values are found; `None` where that is none and too much was left out to know."""
    found = state.values[0]
    return None if state.skipped and not found.any() else found


def _row(
    layer: PlacedLayer, state: GraphState | None, beyond: str, needed: int | None, counting: int
) -> LayerFeasibility:
    """Return the row of a layer: its own equations together with those of all layers that read the same value."""
    counts: dict[str, int | None] = dict.fromkeys(
        ("weight_rows", "gradient_rows", "counted", "generic", "generic_low", "generic_high", "generic_gradient")
    )
    determined, verdict, reason = None, "undecided", beyond
    if state is not None:
        counts |= _counts(state, layer)
        known = state.values[layer.inputs[0]]
        whole, undecided = bool(known.all()), bool(state.skipped)
        determined = int(known.sum()) if whole or not undecided else None
        verdict = "determined" if whole else "undecided" if undecided else "partial" if known.any() else "undetermined"
        reason = reason_on_graph(state, layer)
    return LayerFeasibility(
        layer=layer.name,
        kind=layer.kind,
        input_shape=layer.input_shape,
        unknowns=layer.unknowns,
        structural=None,
        generic_weight=None,
        determined=determined,
        filters_needed=needed,
        filters_by_counting=counting,
        verdict=verdict,
        reason=reason,
        **counts,
    )


def _counts(state: GraphState, layer: PlacedLayer) -> dict[str, int | None]:
    number = layer.inputs[0]
    solved = state.solved.get(number)
    if solved is None:
        equations = ValueEquations(state, number, readers_of(state, number) or (layer,))
        rows, by_gradient = (equations.weight_rows, equations.gradient_rows), None
        low = high = None
    else:
        rows, by_gradient, low, high = solved[1:3], solved.gradient_rank, solved.low, solved.high
    return {
        "weight_rows": rows[0],
        "gradient_rows": rows[1],
        "counted": min(sum(rows), layer.unknowns),
        "generic": low if low == high else None,
        "generic_low": low,
        "generic_high": high,
        "generic_gradient": by_gradient,
    }


def _assumptions(
    network: Network,
    state: GraphState | None,
    activity: str,
    given: Mapping[str, ArrayLike],
    error: float,
    *,
    buffers: bool,
) -> tuple[str, ...]:
    pools = winners_text(network, given)
    bounded = f"a rank is too small with probability at most {error:.0e}"
    return tuple(
        filter(
            None,
            (
                _at_hand(network, state),
                activity,
                f"max-pools work {pools}, and which entry wins is known" if pools else "",
                by_own_statistics(network, buffers=buffers),
                "masks of dropout are not known, and show in its outputs" if dropouts(network) else "",
                "weights are generic, as almost all are, and so is the head's output gradient; those below it follow",
                bounded if error < 1 else "how probable it is that a rank is too small is not bounded",
            ),
        )
    )


def _at_hand(network: Network, state: GraphState | None) -> str:
    """Return where output gradients are at hand."""
    own = [
        layer
        for layer in network.bilinear
        if math.prod(layer.outputs) == 1 and (layer.bias_name is not None or layer is network.head)
    ]
    by_bias = [repr(layer.name) for layer in own if layer.bias_name is not None]
    parts = []
    if by_bias:
        few = by_bias if len(by_bias) < 4 else [*by_bias[:2], "...", by_bias[-1]]
        parts.append(f"the output gradient of layer {', '.join(few)} is its bias gradient")
    if any(layer.bias_name is None for layer in own):
        parts.append("that of the head follows from the loss, up to the few roots of one equation")
    blind = [] if state is None else [r for c in state.gradient_reasons.values() for r in c if "blind start" in r]
    parts += [f"a blind start is made {reason.replace(' (blind start)', '')}" for reason in blind]
    return " and ".join(parts) if parts else "no output gradient is at hand"
