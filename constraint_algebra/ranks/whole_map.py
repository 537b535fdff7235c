"""The rank of the map from a network's input to all of its gradients, and the input values that it determines.

Fix the side of its kink on which each activation works (the *pattern*) and the output gradient at the head. Where all
activations are linear in pieces, every output gradient k is then a constant and every layer's input is an affine
function of the network's input x: `h_l = M_l x + c_l`. The gradients are affine in x as well. Their linear part has the
rows

    A_l(k_l) M_l    for every layer l with a weight     (bias gradients are constants: no rows)

and with k of the head known they contain those of its logits. Two inputs of one region have the same gradients exactly
if their difference lies in the kernel: the rank is the *limit* of what any method can know there. Where an activation
bends, k moves with x; the same rows with the terms of that movement are the Jacobian at one input, and its rank speaks
of a neighbourhood of that input, to first order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.display import Table, Tabular

if TYPE_CHECKING:
    import pandas as pd

RESIDUES, RATIONALS, FLOATS = "modulo a prime", "over the rationals", "in float64"


class RowsOfLayer(NamedTuple):
    """What one layer adds: its name, how many rows it has, and the rank of all rows up to these."""

    layer: str
    rows: int
    rank: int


@checked
@dataclass(frozen=True, eq=False, repr=False)
class WholeMap(Tabular):
    """The rank of the map of a whole network, and what it determines.

    Attributes:
        determined: which input values are the same wherever the gradients are, in the input shape.
        rank: rank of the map.
        linear: whether the map is linear in its region, as it is if every activation is linear in pieces; else `rank`
            and `determined` speak of a neighbourhood of one input, to first order.
        arithmetic: "modulo a prime", "over the rationals" or "in float64".
        layers: rows and rank in the order in which the layers were taken, until the rank was full or no layer was left.
        pattern: which side of their kinks the activations work on, as a clause; empty where none has a kink.
        error: upper bound of the probability that the rank is too small, where it was drawn at random; a full rank is
            never wrong by chance. That a given value is wrongly called determined is at most twice as likely.
        gap: smallest singular value that counted and largest that did not, relative to their matrix; NaN where there is
            none, or where nothing was rounded.
        by_eps: how many dimensions that count as open here the eps of normalisations by the data's own statistics would
            fix; it is taken as zero.
        basis: the kernel: in float64 orthonormal columns, shape `(unknowns, nullity)`; `None` where it is not kept.
    """

    determined: BoolArray
    rank: int
    linear: bool
    arithmetic: str
    layers: tuple[RowsOfLayer, ...] = ()
    pattern: str = ""
    error: float = 0.0
    gap: tuple[float, float] = (np.nan, np.nan)
    basis: FloatArray | None = None
    by_eps: int = 0

    @property
    def unknowns(self) -> int:
        """Number of input values."""
        return int(self.determined.size)

    @property
    def nullity(self) -> int:
        """Dimension of the kernel: how many directions no gradient notices."""
        return self.unknowns - self.rank

    @property
    def full(self) -> bool:
        """Whether the map determines every input value."""
        return self.rank == self.unknowns

    @property
    def scope(self) -> str:
        """Of which inputs the rank speaks, as a clause."""
        if self.linear and not self.pattern:
            return "for every input"
        return "in the activation region" if self.linear else "in a neighbourhood, to first order"

    @property
    def conclusion(self) -> str:
        """The outcome in one sentence."""
        pattern = f", {self.pattern}" if self.pattern else ""
        fixed = f"{int(self.determined.sum()):,} of {self.unknowns:,} input values are determined"
        eps = f"; {self.words_on_eps}" if self.by_eps else ""
        return f"Rank {self.rank:,} of {self.unknowns:,} ({self.arithmetic}): {fixed} {self.scope}{pattern}{eps}."

    @property
    def words_on_eps(self) -> str:
        """What eps would fix, as a clause; empty where that is nothing."""
        if not self.by_eps:
            return ""
        which = "one dimension" if self.by_eps == 1 else f"{self.by_eps:,} dimensions"
        return f"{which} of what is open the eps of normalisations would fix, which is taken as zero"

    def to_frame(self) -> pd.DataFrame:
        """Return rows and rank layer by layer, in the order in which they were taken."""
        import pandas as pd

        return pd.DataFrame(self.layers, columns=["layer", "rows", "rank"])

    def _shown(self) -> Table:
        notes = [f"The rank is too small with probability at most {self.error:.0e}."] if self.error else []
        if np.isfinite(self.gap).any():
            notes.append(f"Singular values at the cut: {self.gap[0]:.1e} counted, {self.gap[1]:.1e} not.")
        return Table(self.to_frame(), f"Map of the whole network: {self.conclusion}", tuple(notes))
