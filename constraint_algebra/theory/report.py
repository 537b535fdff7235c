"""The report of `feasibility`: what the recursion finds layer by layer, and the limit of what any method can know."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray
from constraint_algebra.display import Table, Tabular, draw
from constraint_algebra.layers.kinds import Conv, Shape
from constraint_algebra.networks.description import shape_text
from constraint_algebra.networks.network import Network
from constraint_algebra.ranks.bounded import bounded_rank
from constraint_algebra.ranks.whole_map import WholeMap
from constraint_algebra.theory.activity import all_known
from constraint_algebra.theory.beyond import BeyondRank

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


THREAT_MODEL = (
    "an honest-but-curious observer who knows the architecture, the weights and the gradient of one step on one sample"
)


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
@dataclass(frozen=True, repr=False, eq=False)
class FeasibilityReport(Tabular):
    """What the gradients of a network determine; `print` it, or take `.to_frame()`.

    Attributes:
        network: the network.
        layers: one row for each layer with parameters, first layer first.
        determined: which input values the recursion determines, in the input shape; `None` where undecided.
        assumptions: what the answer rests on, a sentence each.
        error: upper bound of the probability that a rank is too small.
        active: mask of every activation that cuts off, by name.
        seed: of the random residues.
        pattern: which outputs were assumed active, as a clause; empty where no activation cuts off.
        assumed: whether the pattern was assumed, and not given as masks.
        nearby: whether what the recursion determines rests on steps that hold in a neighbourhood alone, to first order.
        on_buffers: what the client's buffers after its step decide, in a sentence; empty where that is nothing, or
            was not asked.
        most: computes `limit` and `limit_high`, when they are first asked for.
        simulate: computes `beyond`, when it is first asked for; `None` where no trials were asked for.
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
    nearby: bool = False
    on_buffers: str = ""
    most: Callable[[], tuple[WholeMap | None, int | None]] = lambda: (None, None)
    simulate: Callable[[], tuple[BeyondRank, ...]] | None = None

    @property
    def limit(self) -> WholeMap | None:
        """The rank of all equations together, and the input values that they determine.

        No method can know more, given the pattern; `None` where they are too many to eliminate.
        """
        return self._most[0]

    @property
    def limit_high(self) -> int | None:
        """Upper bound of the rank of all equations together, `None` where there is none."""
        return self._most[1]

    @cached_property
    def _most(self) -> tuple[WholeMap | None, int | None]:
        return self.most()

    @cached_property
    def beyond(self) -> tuple[BeyondRank, ...]:
        """What zeros and the range decided in simulations of the layers that are short of rank, the head first.

        Empty where no trials were asked for, where no layer is short of rank by itself in any of them, and where no
        activation makes zeros below one that is and no share of values at a bound was stated.
        """
        return () if self.simulate is None else self.simulate()

    @property
    def verdict(self) -> str:
        """The outcome for the network's input in a word or a few.

        "determined" and "partial" by the recursion; "determined, but not by the recursion" and "partial" where all
        equations together say so; "undetermined" where these determine nothing, so that no method can; "undecided".
        Where an activation bends, or statistics of the values move with them, so that all equations together speak of a
        neighbourhood alone, "nearby" follows.
        """
        if self.determined is not None and self.determined.all():
            return "determined nearby" if self.nearby else "determined"
        if self.limit is None:
            return "partial" if self.determined is not None and self.determined.any() else "undecided"
        nearby = "" if self.limit.linear else " nearby"
        if self.limit.full:
            return f"determined{nearby}, but not by the recursion"
        return ("partial" if self.limit.determined.any() else "undetermined") + nearby

    @property
    def conclusion(self) -> str:
        """The outcome in one sentence: determined, or where it stops and why.

        Where it rests on which outputs are active it says so, and a second sentence names who knows better. Where
        trials were asked for, a last one says what zeros and the range are expected to decide.
        """
        return " ".join(filter(None, (self._conclusion, self.on_buffers))) + self._beyond_rank

    @property
    def _beyond_rank(self) -> str:
        """Return what is expected beyond rank as a sentence of its own."""
        if self.simulate is None:
            return ""
        if not self.beyond:
            return (
                " Beyond rank: in the draws looked at no layer was by itself short of equations, all above it known,"
                " where zeros or a stated share would help."
            )
        return f" Expected beyond rank, all above the layer known: {'; '.join(one.words for one in self.beyond)}."

    @property
    def _conclusion(self) -> str:
        """Return what equations alone say."""
        whole = self.determined is not None and bool(self.determined.all())
        pattern = self.pattern if whole or self.limit is None else self.limit.pattern
        outcome = self._outcome(f", {pattern}" if pattern else "")
        if not pattern:
            return outcome
        certain = "certify(model, x, target) proves what the gradient of one input x fixes"
        sides = ", sides=True" if "at random" in pattern.partition("either side")[2] else ""
        if not self.assumed:
            return f"{outcome} Another input may have another pattern; {certain}."
        takes = f"activity=activity_of(network, parameters, x{sides}) takes those of x"
        return f"{outcome} Which outputs are active depends on the input: {takes}; {certain}."

    def _outcome(self, pattern: str) -> str:
        """Return the outcome as a sentence that ends its first clause with the pattern."""
        stops = [row for row in self.layers if row.verdict != "determined"]
        shape, found = shape_text(self.network.input_shape), self.determined
        if found is not None and found.all():
            scope = " in a neighbourhood, to first order" if self.nearby else ""
            return f"Determined{scope}: the gradient determines every value of the {shape} input{pattern}."
        if not stops and found is not None and not found.any():
            return f"Not determined: {self._before()} every value of the {shape} input."
        if not stops:
            outcome = f"Partly determined: the gradient determines {_share(found)}{pattern}"
            return f"{outcome}; {self._before()} the others."
        where = f"the recursion first falls short at layer {stops[-1].layer!r} ({stops[-1].kind})"
        by_limit = self._open_limit(shape, pattern) if self.limit is None else self._limit(self.limit, shape, pattern)
        return f"{by_limit}; {where}: {stops[-1].reason}."

    def _before(self) -> str:
        """Return what stands before the first layer with a weight, and does to values."""
        before = self.network.layers[: self.network.bilinear[0].index]
        if any(layer.is_normalisation for layer in before):
            return "the statistics that a normalisation before the first layer takes away are a part of"
        return "an activation before the first layer cuts off"

    def _limit(self, limit: WholeMap, shape: str, pattern: str) -> str:
        """Return what all equations together determine, and what of it the recursion finds."""
        scope = "" if limit.linear else " nearby, to first order"
        eps = f"; {limit.words_on_eps}" if limit.by_eps else ""
        rank = f" (rank {limit.rank:,} of {limit.unknowns:,}{eps})"
        by_recursion = "; whether the recursion determines them is undecided"
        if self.determined is not None:
            some = bool(self.determined.any())
            by_recursion = f"; the recursion determines {_share(self.determined) if some else 'none of them'}"
        if limit.full:
            return (
                f"Determined{scope}, but not by the recursion: all equations together determine every value of the"
                f" {shape} input{rank}{pattern}{by_recursion}"
            )
        if not limit.determined.any():
            return f"Not determined{scope}: the gradient determines no value of the {shape} input{rank}{pattern}"
        same = self.determined is not None and np.array_equal(self.determined, limit.determined)
        more = "" if same else by_recursion
        return f"Partly determined{scope}: the gradient determines {_share(limit.determined)}{rank}{pattern}{more}"

    def _open_limit(self, shape: str, pattern: str) -> str:
        """Return what the recursion determines, where all equations together are too many to eliminate."""
        left = 0 if self.limit_high is None else math.prod(self.network.input_shape) - self.limit_high
        rest = f"; at least {left:,} dimensions of the input stay open" if left > 0 else ""
        if self.determined is not None and self.determined.any():
            part = f"Partly determined: the recursion determines {_share(self.determined)}{pattern}"
            return f"{part}; whether all equations together determine more is open{rest}"
        return f"Undecided: whether the {shape} input is determined is open{pattern}{rest}"

    @property
    def security_index(self) -> int | None:
        """The index of Chen and Campbell (2021, arXiv 2111.10178): 0 is determined, more negative is safer.

        For d convolutions it is the sum over i = 1..d of (d - i + 1) / d * (rank - unknowns), each term rounded. Each
        layer counts by itself, as if all above it were known. `None` where the rank of a layer is not settled, or
        where the network is no chain.
        """
        if not self.network.is_chain:
            return None
        layers = [layer for layer in self.network.bilinear if isinstance(layer.layer, Conv)]
        depth, index = len(layers), 0
        for number, layer in enumerate(layers):
            rank = bounded_rank(layer, knowledge=all_known(self.network, layer, self.active), seed=self.seed).rank
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


def _share(mask: BoolArray | None) -> str:
    """Return how many of all input values a mask holds, in words."""
    assert mask is not None
    return f"{int(mask.sum()):,} of {mask.size:,} input values"
