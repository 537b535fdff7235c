"""What a strategy of the recursion on a graph says of itself."""

from __future__ import annotations

from typing import Protocol

from constraint_algebra.ground import Ground
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.open_values import Beyond


class Strategy(Protocol):
    """A way to learn at a layer what no local rule tells.

    Attributes:
        ground: the strongest ground that what it finds may rest on; it is not asked in a pass that allows only stronger
            ones.
    """

    @property
    def ground(self) -> Ground:
        """On what its findings rest."""

    def concerns(self, layer: PlacedLayer) -> bool:
        """Return whether a layer is of the kind that it is made for, whatever is known."""

    def applies(self, knows: GraphKnowledge, layer: PlacedLayer) -> bool:
        """Return whether it could learn anything at a layer."""

    def cost(self, knows: GraphKnowledge, layer: PlacedLayer) -> float:
        """Return about how many multiplications it takes there, from shapes."""

    def learn(self, knows: GraphKnowledge, layer: PlacedLayer, beyond: Beyond | None) -> bool:
        """Take in what it finds; return whether that was anything new.

        Args:
            knows: what is known.
            layer: where it applies.
            beyond: what may be used beyond the equations; `None` in the first pass, by equations alone.
        """
