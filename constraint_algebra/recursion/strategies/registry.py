"""All strategies of the recursion on a graph, and the order in which they are tried."""

from __future__ import annotations

from constraint_algebra.ground import Ground
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.open_values import Beyond
from constraint_algebra.recursion.strategies.branches import ByBranches
from constraint_algebra.recursion.strategies.own_statistics import BY_KNOWN
from constraint_algebra.recursion.strategies.pool_alternation import PoolAlternation
from constraint_algebra.recursion.strategies.pool_values import NoRoomBelow, TightWindows
from constraint_algebra.recursion.strategies.strategy import Strategy
from constraint_algebra.recursion.strategies.unknown_statistics import BY_EQUATIONS, BY_ITERATION
from constraint_algebra.recursion.strategies.upwards import Upwards

STRATEGIES: tuple[Strategy, ...] = (
    NoRoomBelow(),
    TightWindows(),
    PoolAlternation(),
    BY_EQUATIONS,
    BY_KNOWN,
    BY_ITERATION,
    ByBranches(),
    Upwards(),
)


def grounds(network: Network) -> tuple[Ground, ...]:
    """Return the grounds on which strategies may find anything in a network, the strongest first."""
    return tuple(sorted({s.ground for s in STRATEGIES if any(s.concerns(layer) for layer in network)}))


class Tried:
    """Tries strategies, each again only where anything was learnt since, in whichever pass.

    Args:
        knows: what is known.
        strategies: by default all.
    """

    def __init__(self, knows: GraphKnowledge, strategies: tuple[Strategy, ...] = STRATEGIES) -> None:
        """Begin."""
        self.knows, self.strategies = knows, strategies
        self._seen: dict[tuple[int, int], object] = {}

    def __call__(self, beyond: Beyond | None) -> bool:
        """Try those that apply, the cheapest first, those nearest to the output first; return whether one learnt.

        Args:
            beyond: what may be used beyond the equations.
        """
        weakest = Ground.EQUATIONS if beyond is None else beyond.weakest
        those = [strategy for strategy in self.strategies if strategy.ground <= weakest]
        places = [(s, layer) for layer in self.knows.network.layers[::-1] for s in those if s.concerns(layer)]
        some = [(s, layer) for s, layer in places if not self._is_old(s, layer) and s.applies(self.knows, layer)]
        for strategy, layer in sorted(some, key=lambda place: place[0].cost(self.knows, place[1])):
            self._seen[id(strategy), layer.index] = self._around()
            if strategy.learn(self.knows, layer, None if beyond is None else beyond.renewed()):
                return True
        return False

    def _is_old(self, strategy: Strategy, layer: PlacedLayer) -> bool:
        return self._seen.get((id(strategy), layer.index)) == self._around()

    def _around(self) -> object:
        """Return how much was learnt in all: a strategy may look at more than its layer."""
        return tuple(sorted(self.knows.news.items()))
