"""Why a layer's input is determined, or is not: one sentence that is true of this very case."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from constraint_algebra.arrays import BoolArray
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.layers.trilinear import touched
from constraint_algebra.ranks.bounded import BoundedRank
from constraint_algebra.ranks.knowledge import Knowledge, gradient_rows
from constraint_algebra.ranks.polyphase import polyphase_law


def verdict_of(found: BoundedRank) -> str:
    """Return "determined", "partial", "undetermined" or "undecided"."""
    if found.rank is None or found.determined is None:
        return "undecided"
    if found.determined.all():
        return "determined"
    return "partial" if found.determined.any() else "undetermined"


def reason_of(layer: PlacedLayer, known: Knowledge, found: BoundedRank) -> str:
    """Return the sentence for a layer whose equations are those that `known` leaves, with the ranks found."""
    if found.rank is None:
        return f"the bounds of the generic rank, {found.low:,} and {found.high:,}, do not meet"
    if found.determined is None:
        return f"the generic rank is {found.rank:,}, but which unknowns that determines is undecided"
    if found.determined.all():
        return _why_determined(layer, found)
    return _why_not(layer, known, found, found.determined)


def reason_together(above: Sequence[PlacedLayer], found: BoundedRank) -> str:
    """Return the sentence for a layer whose equations were taken together with those of layers above it."""
    names = ", ".join(repr(upper.name) for upper in above)
    which = f"its equations and those of layer {names}, with no activation between,"
    if found.rank is None or found.determined is None:
        return f"{which} are too many to eliminate together: their rank is between {found.low:,} and {found.high:,}"
    if found.determined.all():
        return f"{which} determine every input value"
    left = found.unknowns - found.rank
    return f"{which} have rank {found.rank:,} and leave {left:,} dimensions open"


def _why_determined(layer: PlacedLayer, found: BoundedRank) -> str:
    if found.gradient_rank == found.unknowns:
        return "the gradient equations alone determine every input value"
    gap = found.unknowns - found.gradient_rank
    if not found.gradient_rows:
        return "the weight equations determine every input value; no gradient equation counts"
    return f"{_short(layer, found)}; the weight equations close the gap of {gap:,}"


def _why_not(layer: PlacedLayer, known: Knowledge, found: BoundedRank, determined: BoolArray) -> str:
    if not found.weight_rows and not found.gradient_rows:
        if not known.gradient.any() and not known.output.any():
            return "nothing is known at its outputs, because the input of the layer above is not determined"
        if known.gradient.all() and not known.support.any():
            return "the output gradient is zero throughout and no output is known: no equation is left"
        return "no equation is left: no output is known, and every gradient row has an unknown k or none but zeros"
    covered = touched(layer, known.output) | _met_by_gradient_rows(layer, known)
    unmet = int((~covered).sum())
    if np.array_equal(covered, determined):
        return (
            f"{unmet:,} values meet no equation: no output that they touch is known or has a k other than zero;"
            " all others are determined"
        )
    dead = f"; {unmet:,} values meet no equation at all" if unmet else ""
    rows, left = found.weight_rows + found.gradient_rows, found.unknowns - found.low
    if rows < found.unknowns:
        return f"{rows:,} equations for {found.unknowns:,} unknowns leave {left:,} dimensions open{dead}"
    if not found.weight_rows:
        return f"{_short(layer, found)}, and no output is known, so that there are no weight equations{dead}"
    closed = found.low - found.gradient_rank
    gap = found.unknowns - found.gradient_rank
    if not found.gradient_rows:
        return f"no gradient equation counts, and the weight equations reach {closed:,} of {gap:,}{dead}"
    return f"{_short(layer, found)}; the weight equations close only {closed:,} of {gap:,}{dead}"


def _short(layer: PlacedLayer, found: BoundedRank) -> str:
    """Return where the gradient equations are short and by how much."""
    residues = [c.residue for c in polyphase_law(layer, limit=0).classes]
    missing = [(r, n) for r, n in zip(residues, found.short, strict=True) if n]
    many = "channels" if layer.channels > 1 else "channel"
    over = f"over {layer.channels:,} {many}"
    if len(residues) == 1 or not layer.taps:
        return f"the gradient equations are short by {missing[0][1]:,} {over}"
    shown = [f"{n:,} in residue class {','.join(map(str, r))}" for r, n in missing[:4]]
    rest = len(missing) - len(shown)
    more = f" and {sum(n for _, n in missing[4:]):,} in {rest} others" if rest else ""
    return f"the gradient equations are short by {', '.join(shown)}{more}, {over}"


def _met_by_gradient_rows(layer: PlacedLayer, known: Knowledge) -> BoolArray:
    """Return which input values have a coefficient other than zero in a gradient row that counts."""
    S, rows = incidence(layer), gradient_rows(layer, known)
    support = known.support.reshape(layer.groups, -1, S.output_count)
    counts = rows.reshape(layer.groups, -1, S.tap_count)
    met = np.zeros((layer.groups, S.position_count), dtype=bool)
    for tap in range(S.tap_count):
        run = S.of_tap(tap)
        met[:, S.position[run]] |= np.logical_or.reduce(support[:, :, S.output[run]] & counts[:, :, tap, None], axis=1)
    return np.repeat(met, layer.channels // layer.groups, axis=0).reshape(layer.input_shape)
