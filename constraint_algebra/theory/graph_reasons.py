"""Why the input of a layer of a graph is determined, or is not: one sentence that is true of this very case."""

from __future__ import annotations

from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.layers.normalisation import Standardise
from constraint_algebra.networks.network import Network
from constraint_algebra.theory.graph_moving import shared_statistics
from constraint_algebra.theory.graph_state import GraphState, Solved


def reason_on_graph(state: GraphState, layer: PlacedLayer) -> str:
    """Return the sentence for the value that a layer reads."""
    number = layer.inputs[0]
    found, left = state.values[number], int((~state.values[number]).sum())
    how = _how(state, number)
    if not left:
        return how
    part = f"{int(found.sum()):,} values are found ({how}); " if found.any() else ""
    if number in state.stops:
        return f"{part}{state.stops[number]}"
    if state.skipped:
        return f"{part}what equations too many to eliminate would tell is undecided"
    solved = state.solved.get(number)
    if solved is not None and solved.weight_rows + solved.gradient_rows:
        return part + _equations(solved, found.size)
    return part + _nothing(state, layer)


def _how(state: GraphState, number: int) -> str:
    """Return by which rules the entries of a value were found, the most frequent first."""
    rules = state.reasons.get(number)
    if not rules:
        return "no rule says anything"
    ordered = rules.most_common()
    if len(ordered) == 1:
        return ordered[0][0]
    return "; ".join(f"{count:,} {rule}" for rule, count in ordered)


def _equations(solved: Solved, unknowns: int) -> str:
    names = " and ".join(map(repr, solved.readers))
    rows = f"{solved.weight_rows:,} weight and {solved.gradient_rows:,} gradient equations of layer {names}"
    left = unknowns - solved.low
    return f"the {rows} have rank {solved.low:,} with what is known before, and leave {left:,} dimensions open"


def _nothing(state: GraphState, layer: PlacedLayer) -> str:
    k = state.gradients[layer.number]
    if k.all() and not state.support(layer.number).any():
        return "the output gradient is zero throughout and no output is known: no equation is left"
    if not k.any():
        return "neither its output nor its output gradient is known, and it is no place for a blind start"
    return "no equation is left: no output is known, and every gradient row has an unknown k or none but zeros"


def by_own_statistics(network: Network, *, buffers: bool) -> str:
    """Return what is assumed of normalisations, by their mode; empty where none takes statistics of the values."""
    own = [layer for layer in network if layer.is_normalisation]
    if not own:
        return ""
    fixed = sum(isinstance(layer.layer, Standardise) for layer in network)
    tracked = len(shared_statistics(network))
    clauses = [f"{len(own)} normalisations take the data's own statistics, their eps taken as zero"]
    if fixed:
        clauses.append(f"{fixed} take known ones, in evaluation mode")
    if tracked and buffers:
        clauses.append(f"the client's buffers after the step give those of {tracked} away")
    elif tracked:
        clauses.append("the client's buffers after the step are not shared")
    return ", ".join(clauses)


def what_buffers_do(state: GraphState, other: GraphState | None) -> str:
    """Return in a sentence which layers' inputs are known with the client's buffers and not without them.

    Args:
        state: what is found.
        other: what is found the other way round; `None` where that was not asked.
    """
    if other is None:
        return ""
    rich, poor = (state, other) if state.shared else (other, state)
    readers = [layer for layer in state.drawn.network.bilinear if not _whole(poor, layer) and _whole(rich, layer)]
    if not readers:
        return "Whether the client shares its buffers after the step makes no difference to what the recursion finds."
    names = [repr(layer.name) for layer in readers]
    shown = ", ".join(names if len(names) < 6 else [*names[:3], "...", names[-1]])
    say = "give" if state.shared else "would give (buffers=True)"
    return (
        f"The client's buffers after the step {say} the inputs of {len(names)} layers that are open without: {shown}."
    )


def _whole(state: GraphState, layer: PlacedLayer) -> bool:
    return bool(state.values[layer.inputs[0]].all())
