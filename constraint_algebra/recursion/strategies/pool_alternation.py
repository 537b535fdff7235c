"""The winners of a selection by robust alternation, where the gradient that it gets is known.

Known are the largest output v of each window and its gradient k, not which entry won. `WindowEquations` states that as
a problem of `beyond_rank.alternation`; what comes out counts if `SolvedWindows` confirms it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.beyond_rank.alternation import Answer, alternate
from constraint_algebra.ground import Ground
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks.spans import Span
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.open_values import Beyond, origin
from constraint_algebra.recursion.pooled import Pooled, pooled
from constraint_algebra.recursion.solved_windows import SolvedWindows, is_counted
from constraint_algebra.recursion.window_equations import WindowEquations

NAME = "robust alternation"
POSITIONS, ENTRIES = 1200, 2**24  # of a channel, and of the gradient rows: up to which it is tried
SOLUTIONS = 70  # of one start
STARTS = 12  # at LeNet-5 35 of 40 digits needed up to 6, most of them one; the others found nothing in 12
CORRECTIONS = 4  # times that winners are replaced by those that the input solved with them has


class PoolAlternation:
    """Finds the winners of a selection by robust alternation."""

    ground = Ground.WINNERS  # the winners that fit

    def concerns(self, layer: PlacedLayer) -> bool:
        """Return whether it is a selection."""
        return layer.is_selection

    def applies(self, knows: GraphKnowledge, layer: PlacedLayer) -> bool:
        """Return whether k is known of all windows, what the layer below reads is not, and equations are enough."""
        if not (knows.gradients[layer.number].known.any() and knows.values[layer.number].known.any()):
            return False
        view = pooled(knows, layer)
        if view is None or not view.direct or not view.k.known.all() or knows.values[view.layer.inputs[0]].known.all():
            return False
        asked = (view.k.value != 0) & (knows.winners[layer.index].ravel() < 0)
        return bool(asked.any()) and _is_small(view.layer) and is_counted(view)

    def cost(self, knows: GraphKnowledge, layer: PlacedLayer) -> float:
        """Return the multiplications of the products of all rows, and of the factorisations."""
        view = pooled(knows, layer)
        assert view is not None
        rows, positions = _rows(view.layer)
        return float(SOLUTIONS * view.layer.groups * (rows * positions**2 + positions**3 / 3))

    def learn(self, knows: GraphKnowledge, layer: PlacedLayer, beyond: Beyond | None) -> bool:
        """Learn the winners of windows that get a gradient, if some fit all that is known."""
        view = pooled(knows, layer)
        assert view is not None
        assert beyond is not None  # no winners are asked for by equations alone
        number = view.layer.inputs[0]
        made = origin(knows.network, number, beyond.valid_range) or Span(-np.inf, np.inf)
        problem = _Winners(knows, view, WindowEquations(knows.observed, view, made, knows.values[number]))
        begun = time.monotonic()
        found = alternate(problem, rng=np.random.default_rng(beyond.seed), deadline=beyond.end, starts=STARTS)
        knows.vain.pop((NAME, layer.index), None)
        if found is None:
            knows.vain[NAME, layer.index] = (
                f"no winners of the {len(problem.equations.asked):,} windows of layer {layer.name!r} that get a"
                f" gradient were found to fit all equations ({NAME}, {time.monotonic() - begun:.1f} s)"
            )
            return False
        return knows.learn_winners(layer, view.winners(problem.sure))


def _rows(layer: PlacedLayer) -> tuple[int, int]:
    """Return the number of gradient rows of a channel, and of positions."""
    return layer.filters // layer.groups * math.prod(layer.taps), math.prod(layer.positions)


def _is_small(layer: PlacedLayer) -> bool:
    rows, positions = _rows(layer)
    return positions <= POSITIONS and layer.groups * rows * positions <= ENTRIES


@dataclass
class _Winners:
    """The winners as a problem of robust alternation, with those that were confirmed.

    Attributes:
        knows: what is known.
        view: the windows.
        equations: what they are found by.
        sure: the place of the winner of each window, once confirmed, -1 where it is open or does not matter.
    """

    knows: GraphKnowledge
    view: Pooled
    equations: WindowEquations
    sure: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.intp))

    def __post_init__(self) -> None:
        """Take over how entries and blocks belong together."""
        self.kinds, self.block = self.equations.kinds, self.equations.block

    def start(self) -> FloatArray:
        """Return the shares to start from."""
        return self.equations.start()

    def solve(self, shares: FloatArray, weights: FloatArray) -> Answer:
        """Return what the input solved for says of the winners."""
        return self.equations.solve(shares, weights)

    def confirmed(self, chosen: IntArray) -> IntArray | None:
        """Return the winners if they, or those that the input solved with them has, fit all equations."""
        asked = self.equations.asked
        winners = np.full(len(self.view.windows), -1)
        winners[asked] = chosen
        for _ in range(CORRECTIONS):
            solved = SolvedWindows.of(self.knows, self.view, winners)
            own = solved.own_winners()
            if (own == winners).all():
                return self._taken(solved, asked)
            winners = own
        return None

    def _taken(self, solved: SolvedWindows, asked: IntArray) -> IntArray | None:
        """Take the winners that are sure, of those solved with or of the first of equal ones; `None` if there are none.

        Args:
            solved: with winners that are its own.
            asked: the windows that count.
        """
        self.sure, earlier = solved.sure(), solved.earlier()
        if not (self.sure >= 0).any():
            return None
        if (earlier != solved.winners).any():
            again = SolvedWindows.of(self.knows, self.view, earlier)
            others = again.sure()
            if (again.own_winners() == earlier).all() and (others >= 0).sum() > (self.sure >= 0).sum():
                self.sure, solved = others, again
        return solved.winners[asked]
