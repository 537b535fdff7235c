"""The recursion on a graph, from shapes alone: knowledge flows until nothing changes, then equations go on.

In this order: a value by the equations of the layers that read it, output gradients by the dual equations of a layer
whose input is known, those that bias gradients sum, a blind start, several sources together, and last what
normalisations by the data's own statistics say to first order. After each the knowledge flows again. It is the twin of
the recursion with numbers, and applies the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from constraint_algebra.ranks.modular_network import ModularNetwork
from constraint_algebra.theory.graph_flow import flow, seed
from constraint_algebra.theory.graph_joint import solve_nearby, solve_together
from constraint_algebra.theory.graph_resting import solve_at_rest
from constraint_algebra.theory.graph_solve import solve_gradient, solve_value
from constraint_algebra.theory.graph_start import start_blind, start_by_sums
from constraint_algebra.theory.graph_state import GraphState


def recursion(drawn: ModularNetwork, shared: Collection[str] = ()) -> GraphState:
    """Return what the recursion finds on a random network with a pattern.

    Args:
        drawn: the random network.
        shared: names of normalisations whose mean and variance the client's buffers give away.
    """
    state = GraphState(drawn, frozenset(shared))
    seed(state)
    flow(state)
    while not state.values[0].all() and any(attempt() for attempt in _attempts(state)):
        flow(state)
    return state


def _attempts(state: GraphState) -> Iterator[Callable[[], bool]]:
    """Yield what may be tried, in order; each returns whether it found anything."""
    network = state.drawn.network
    layers = network.bilinear[::-1]
    for number in range(len(network.layers) - 1, -1, -1):
        yield lambda number=number: solve_value(state, number)  # type: ignore[misc]
    for attempt in (solve_gradient, start_by_sums, start_blind):
        for layer in layers:
            yield lambda layer=layer, attempt=attempt: attempt(state, layer)  # type: ignore[misc]
    yield lambda: solve_together(state)
    for number in range(len(network.layers) - 1, -1, -1):
        yield lambda number=number: solve_at_rest(state, number)  # type: ignore[misc]
    yield lambda: solve_nearby(state)
