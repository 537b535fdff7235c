"""What the gradients of a graph determine, from shapes alone: the report, by the recursion and by the limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from numpy.typing import ArrayLike

from constraint_algebra.arrays import BoolArray
from constraint_algebra.errors import MissingBiasError
from constraint_algebra.layers.activations import is_piecewise_linear
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.ranks.modular_network import ModularNetwork
from constraint_algebra.ranks.whole_map import RESIDUES, WholeMap
from constraint_algebra.theory.activity import (
    Activity,
    active_masks,
    describe_activity,
    is_fraction,
    pattern_of,
    sides,
    two_sided,
)
from constraint_algebra.theory.graph_cost import graph_cost
from constraint_algebra.theory.graph_limit import graph_limit, graph_limit_error, last_layer, most_rank, reaching
from constraint_algebra.theory.graph_reasons import reason_on_graph
from constraint_algebra.theory.graph_recursion import recursion
from constraint_algebra.theory.graph_solve import readers_of
from constraint_algebra.theory.graph_spaces import ValueEquations
from constraint_algebra.theory.graph_state import GraphState
from constraint_algebra.theory.report import FeasibilityReport, LayerFeasibility
from constraint_algebra.theory.winners import selections, winners, winners_text


def graph_feasibility(
    network: Network, activity: Activity, seed: int, filters: Callable[[PlacedLayer], tuple[int | None, int]]
) -> FeasibilityReport:
    """Return the report of a network that is no chain.

    Args:
        network: the graph.
        activity: settled, see `activity.settled`.
        seed: of what is drawn.
        filters: the fewest filters of a layer alone, by its rank and by counting.
    """
    if not network.bilinear:
        raise MissingBiasError("weight", "the network has no layer with a weight, and so no gradient; add one")
    drawn = drawn_network(network, activity, seed)
    cost = graph_cost(network)
    state = None if cost.beyond else recursion(drawn)
    rows = tuple(_row(layer, state, cost.beyond, *filters(layer)) for layer in network.bilinear)
    determined = None if state is None else _determined(state)
    active = active_masks(network, activity, seed=seed)
    error = 0.0 if state is None else state.error
    if determined is None or not determined.all():
        error = min(1.0, error + graph_limit_error(network))
    given = activity if isinstance(activity, Mapping) else {}
    pattern = " and ".join(filter(None, (pattern_of(network, activity, active), winners_text(network, given))))
    return FeasibilityReport(
        network=network,
        layers=rows,
        determined=determined,
        assumptions=_assumptions(network, state, describe_activity(activity, active), given, error),
        error=error,
        active=active,
        seed=seed,
        pattern=pattern,
        assumed=is_fraction(activity) or any(layer.name not in given for layer in selections(network)),
        most=partial(_most, network, activity, determined, seed),
    )


def drawn_network(network: Network, activity: Activity, seed: int) -> ModularNetwork:
    """Return a random network with a pattern, as the activity says or drawn."""
    active = active_masks(network, activity, seed=seed)
    given = activity if isinstance(activity, Mapping) else {}
    above = {**active, **sides(network, activity, seed=seed)}
    return ModularNetwork(network, above, winners(network, given, active, seed=seed), seed)


def graph_whole_map(network: Network, activity: Activity, seed: int) -> WholeMap | None:
    """Return the rank of the map of a whole graph at a pattern, `None` where it is too large."""
    found = graph_limit(drawn_network(network, activity, seed))
    if found is None:
        return None
    return WholeMap(
        determined=found.determined,
        rank=found.rank,
        linear=_is_linear(network),
        arithmetic=RESIDUES,
        layers=found.rows,
        pattern=_pattern_below(network, activity, seed),
        error=found.error,
    )


def _most(
    network: Network, activity: Activity, determined: BoolArray | None, seed: int
) -> tuple[WholeMap | None, int | None]:
    """Return the limit, and an upper bound of its rank."""
    unknowns = math.prod(network.input_shape)
    if determined is not None and determined.all():
        pattern = _pattern_below(network, activity, seed)
        whole = WholeMap(
            determined=determined, rank=unknowns, linear=_is_linear(network), arithmetic=RESIDUES, pattern=pattern
        )
        return whole, unknowns
    found = graph_whole_map(network, activity, seed)
    if found is not None:
        return found, found.rank
    return None, most_rank(drawn_network(network, activity, seed), seed)


def _is_linear(network: Network) -> bool:
    below = reaching(network, last_layer(network))
    return all(is_piecewise_linear(layer.activation) for layer in below if layer.is_activation)


def _pattern_below(network: Network, activity: Activity, seed: int) -> str:
    """Return on which sides activations work and which entries win, as a clause."""
    given = activity if isinstance(activity, Mapping) else {}
    bent = two_sided(network)
    clauses = [pattern_of(network, activity, active_masks(network, activity, seed=seed)), winners_text(network, given)]
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
    network: Network, state: GraphState | None, activity: str, given: Mapping[str, ArrayLike], error: float
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
