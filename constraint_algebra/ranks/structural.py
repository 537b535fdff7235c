"""The structural rank of a layer with partial knowledge: the size of a largest matching of its constraint graph.

It lies between the generic rank and a count: the rows that meet an unknown, in a residue class at most as many as it
has pixels. Where these agree no graph is needed. Else a maximum flow finds it, where the graph is small enough. Else
matchings inside single channels, in which each gradient row keeps only some of its edges, bound it from below; where
they reach the count it is known as well.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray
from constraint_algebra.equations.constraint_graph import structural_rank
from constraint_algebra.equations.systems import gradient_block, weight_equations
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.ranks.bounded import shares, split_groups
from constraint_algebra.ranks.closed_form import is_large, rank_bounds
from constraint_algebra.ranks.generic import KINDS
from constraint_algebra.ranks.knowledge import Knowledge, gradient_rows
from constraint_algebra.ranks.specialisation import Specialisation

EDGES = 3_000_000  # edges of a graph that a flow takes on, some seconds
KEPT = 24  # edges that each gradient row keeps in a thinned graph


def layer_structural_rank(
    layer: PlacedLayer, knowledge: Knowledge | None = None, *, generic_low: int = 0, edges: int = EDGES, seed: int = 0
) -> int | None:
    """Return the structural rank of a layer's equations, `None` where its graph is too large to tell.

    Args:
        layer: a convolution or linear layer at its place.
        knowledge: what is known at the outputs, by default everything.
        generic_low: a lower bound of the generic rank.
        edges: edges of the largest graph to take on.
        seed: of the choice of edges in a thinned graph.

    >>> from constraint_algebra.layers import Conv2d
    >>> layer_structural_rank(Conv2d(1, 3).place((1, 8, 8)))
    45
    """
    known = knowledge or Knowledge.of(layer)
    groups = list(split_groups(layer, known))
    if any(is_large(group) for group, _ in groups):
        most = sum(rank_bounds(*group, KINDS)[1] for group in groups)
        return generic_low if generic_low == most else None
    counts = [_most(*group) for group in groups]
    if generic_low == sum(counts):
        return generic_low
    total, seen = 0, dict[bytes, int | None]()
    for group, count in zip(groups, counts, strict=True):
        key = b"".join(np.packbits(mask).tobytes() for mask in vars(group[1]).values())
        if key not in seen:
            seen[key] = _of_group(*group, count, edges, seed)
        rank = seen[key]
        if rank is None:
            return None
        total += rank
    return total


def _most(layer: PlacedLayer, known: Knowledge) -> int:
    """Return the count: the rows that meet an unknown, within each residue class at most its pixels, and in all."""
    met = np.zeros(math.prod(layer.outputs), dtype=bool)
    met[incidence(layer).output] = True
    weight = int((known.output.reshape(layer.filters, -1) & met).sum())
    rows = gradient_rows(layer, known)
    classes = Specialisation.of(layer, known, rows).classes
    gradient = sum(min(int(rows[:, part.taps].sum()), len(part.pixels)) for part in classes)
    return min(weight + layer.channels * gradient, layer.unknowns)


def _of_group(layer: PlacedLayer, known: Knowledge, count: int, edges: int, seed: int) -> int | None:
    S, C = incidence(layer), layer.channels
    output = known.output.reshape(layer.filters, -1)
    rows, support = gradient_rows(layer, known), known.support.reshape(layer.filters, -1)
    per_tap = np.array([S.of_tap(tap).stop - S.of_tap(tap).start for tap in range(S.tap_count)])
    if C * (int(output.sum()) * S.tap_count + int((rows * per_tap).sum())) <= edges:
        A = _gradient_pattern(layer, rows, support, None, seed)
        return structural_rank(sp.vstack([_weight_pattern(layer, output), sp.block_diag([A] * C)], format="csr"))
    parts = shares(layer.filters, C)
    distinct = {output[part].tobytes() if part else b"": part for part in parts}
    if len(distinct) * (int((rows * np.minimum(per_tap, KEPT)).sum()) + len(S) * max(map(len, parts))) > edges:
        return None
    A = _gradient_pattern(layer, rows, support, KEPT, seed)
    one = {}
    for key, part in distinct.items():
        single = layer.with_filters(max(1, len(part))).bilinear.place((1, *layer.positions))
        weight = _weight_pattern(single, output[part] if part else np.zeros_like(output[:1]))
        one[key] = structural_rank(sp.vstack([weight, A], format="csr"))
    low = sum(one[output[part].tobytes() if part else b""] for part in parts)
    return low if low == count else None


def _weight_pattern(layer: PlacedLayer, output: BoolArray) -> sp.csr_array:
    return weight_equations(layer).pattern[np.flatnonzero(output)]


def _gradient_pattern(
    layer: PlacedLayer, rows: BoolArray, support: BoolArray, keep: int | None, seed: int
) -> sp.csr_array:
    """Return the pattern of the gradient rows of one channel that count, each with some of its entries."""
    if keep is None:
        A = gradient_block(layer)
        A.data = support.ravel()[A.data - 1].astype(np.intp)
        A.eliminate_zeros()
        return sp.csr_array(A[rows.ravel()])
    S, rng = incidence(layer), np.random.default_rng(seed)
    row, column = [], []
    for number, (f, tap) in enumerate(np.argwhere(rows).tolist()):
        run = S.of_tap(tap)
        pixels = S.position[run][support[f, S.output[run]]]
        some = rng.choice(pixels, size=min(keep, len(pixels)), replace=False)
        row.append(np.full(len(some), number))
        column.append(some)
    where = (np.concatenate([np.empty(0, dtype=np.intp), *row]), np.concatenate([np.empty(0, dtype=np.intp), *column]))
    return sp.csr_array((np.ones(len(where[0])), where), shape=(int(rows.sum()), S.position_count))
