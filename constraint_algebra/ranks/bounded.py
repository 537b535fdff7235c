"""The generic rank of a layer from both sides, without eliminating it where both sides meet.

From below: the rank at chosen values (see `specialisation`), for block after block of the channels, the blocks growing
until the bounds meet or elimination becomes too dear. From above: the ranks of both kinds of equations, less the
dimension of what they share,

    rank [W; G] = rank W + rank G - dim (row space of W ∩ row space of G).

For filters f, f' let v(f, f') be the gradient equations of f contracted with the weights of f'; where all these rows
count, and all weight equations of f' with a k[f] other than zero, it is also the weight equations of f' contracted with
k[f], and lies in both row spaces. The rank of these vectors at any particular values is a lower bound of the dimension:
with deltas as filters they are gradient rows. And rank W is at most the number of weight rows, for each output at most
as many as there are values in its window.

Where the bounds do not meet the layer is eliminated, if it is small enough; else both bounds are given.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import Conv, PlacedLayer
from constraint_algebra.numerics.modular import PRIME
from constraint_algebra.ranks.closed_form import is_large, rank_bounds, settled
from constraint_algebra.ranks.generic import KINDS, GenericRank, generic_rank, joined
from constraint_algebra.ranks.knowledge import Knowledge, gradient_rows
from constraint_algebra.ranks.polyphase import polyphase_law
from constraint_algebra.ranks.specialisation import BLOCK_PIXELS, BlockRank, Specialisation

LIMIT = 3600  # reduced unknowns that are eliminated where the bounds do not meet, about 5 s
EFFORT = 1e11  # operations to spend on random blocks of one size


@checked
@dataclass(frozen=True)
class BoundedRank(GenericRank):
    """The generic rank of a layer's equations, as `GenericRank`, with what the gradient equations alone reach.

    Attributes:
        gradient_high: upper bound of their rank; `gradient_rank` is the lower one.
        short: how many independent equations they lack in each residue class, over all channels; classes in the order
            of the polyphase law.
    """

    gradient_high: int = 0
    short: tuple[int, ...] = ()


@checked
def bounded_rank(
    layer: PlacedLayer,
    *,
    knowledge: Knowledge | None = None,
    kinds: Collection[str] = KINDS,
    limit: int = LIMIT,
    seed: int = 0,
) -> BoundedRank:
    """Return the generic rank of a layer's equations, or bounds of it, and the unknowns that they determine.

    As `generic_rank`, and as exact where `low == high`; but faster, and with bounds that usually meet for large layers.
    Gradient rows that are zero throughout do not count.

    Args:
        layer: a convolution or linear layer at its place.
        knowledge: what is known at the outputs, by default everything.
        kinds: "weight", "gradient" or both.
        limit: the most reduced unknowns per group that are eliminated where the bounds do not meet.
        seed: of the random residues.

    >>> from constraint_algebra.layers import Conv2d
    >>> found = bounded_rank(Conv2d(64, 3, padding=1).place((64, 112, 112)))
    >>> found.low, found.high, bool(found.determined.all())
    (802816, 802816, True)
    """
    known = knowledge or Knowledge.of(layer)
    groups: list[BoundedRank] = []
    seen: dict[bytes, BoundedRank] = {}
    for one, masks in split_groups(layer, known):
        key = b"".join(np.packbits(mask).tobytes() for mask in (masks.output, masks.gradient, masks.support))
        if key not in seen:
            seen[key] = _Group(one, masks, tuple(kind for kind in KINDS if kind in kinds), limit, seed).bounded()
        groups.append(seen[key])
    whole = joined(layer, list(groups))
    assert isinstance(whole, BoundedRank)
    short = tuple(int(sum(values)) for values in zip(*(g.short for g in groups), strict=True))
    return replace(whole, gradient_high=sum(g.gradient_high for g in groups), short=short)


def split_groups(layer: PlacedLayer, known: Knowledge) -> Iterator[tuple[PlacedLayer, Knowledge]]:
    """Return every group as a layer of its own, with what is known of it."""
    if layer.groups == 1 or not isinstance(layer.layer, Conv):
        yield layer, known
        return
    G = layer.groups
    F, C = layer.filters // G, layer.channels // G
    one = replace(layer.layer, filters=F, groups=1).place((C, *layer.positions), layer.name, layer.index)
    for g in range(G):
        mine = slice(g * F, (g + 1) * F)
        yield one, Knowledge(known.output[mine], known.gradient[mine], known.support[mine])


@dataclass(frozen=True)
class _Group:
    layer: PlacedLayer
    known: Knowledge
    kinds: tuple[str, ...]
    limit: int
    seed: int

    def bounded(self) -> BoundedRank:
        if is_large(self.layer):
            return self._by_closed_form()
        layer, C, Q = self.layer, self.layer.channels, math.prod(self.layer.positions)
        rows = gradient_rows(layer, self.known)
        if "gradient" not in self.kinds:
            rows = np.zeros_like(rows)
        point = Specialisation.of(layer, self.known, rows, self.seed)
        alone = point.gradient_ranks
        weight_rows = int(point.output.sum()) if "weight" in self.kinds else 0
        low, high = C * sum(r.low for r in alone), C * sum(r.high for r in alone)
        result = BoundedRank(
            kinds=self.kinds,
            weight_rows=weight_rows,
            gradient_rows=C * int(rows.sum()),
            unknowns=C * Q,
            gradient_rank=low,
            reduced=C * Q - low,
            low=low,
            high=high,
            determined=None,
            error=0.0,
            gradient_high=high,
            short=tuple(C * (len(p.pixels) - r.low) for p, r in zip(point.classes, alone, strict=True)),
        )
        open_pixels = np.ones(Q, dtype=bool)
        for part, rank in zip(point.classes, alone, strict=True):
            open_pixels[part.pixels] = rank.open
        if weight_rows:
            most = np.bincount(incidence(layer).output, minlength=point.output.shape[1])  # taps that meet a pixel
            weight_rank = int(np.minimum(point.output.sum(axis=0), C * most).sum())
            high = min(C * Q, high + weight_rank)
            low, open_pixels = self._raised(point)
            if low < high and high + _shared(point) > low:  # something may be shared
                high = min(high, C * sum(r.high for r in alone) + weight_rank - _shared(point))
                low, open_pixels = self._raised_by_blocks(point, low, high, open_pixels)
        return self._judged(replace(result, low=low, high=high), point, open_pixels)

    def _by_closed_form(self) -> BoundedRank:
        """Return what shapes alone prove; nothing of the layer's size is built but masks."""
        layer, known = self.layer, self.known
        weight = int(known.output.sum()) if "weight" in self.kinds else 0
        rows = layer.channels * int(gradient_rows(layer, known).sum()) if "gradient" in self.kinds else 0
        low, high, alone = rank_bounds(layer, known, self.kinds)
        high, alone = min(high, weight + rows), (alone[0], min(alone[1], rows))
        low = min(low, high)
        classes = polyphase_law(layer, limit=0).classes
        return BoundedRank(
            kinds=self.kinds,
            weight_rows=weight,
            gradient_rows=rows,
            unknowns=layer.unknowns,
            gradient_rank=alone[0],
            reduced=layer.unknowns - alone[0],
            low=low,
            high=high,
            determined=settled(low, high, layer.unknowns),
            error=0.0,
            gradient_high=alone[1],
            short=tuple(layer.channels * (c.pixels - (c.low if alone[0] else 0)) for c in classes),
        )

    def _judged(self, result: BoundedRank, point: Specialisation, open_pixels: BoolArray) -> BoundedRank:
        """Add which unknowns are determined, or eliminate the layer where that or the rank is not settled yet."""
        C = self.layer.channels
        result = replace(result, error=min(1.0, result.unknowns / (PRIME - 1)))
        if result.low == result.high == result.unknowns:
            return replace(result, determined=np.ones(result.unknowns, dtype=bool))
        if result.low == result.high:
            surely = np.zeros(len(open_pixels), dtype=bool)
            for part, rank in zip(point.classes, point.gradient_ranks, strict=True):
                surely[part.pixels] = rank.low == len(part.pixels)
            if np.array_equal(surely, ~open_pixels):
                return replace(result, determined=np.tile(surely, C))
        if result.reduced <= self.limit and len(open_pixels) <= BLOCK_PIXELS:
            exact = generic_rank(self.layer, kinds=self.kinds, knowledge=self.known, limit=self.limit, seed=self.seed)
            if exact.determined is not None:
                return replace(
                    result, low=exact.low, high=exact.high, determined=exact.determined.ravel(), error=exact.error
                )
        return result

    def _raised(self, point: Specialisation) -> tuple[int, BoolArray]:
        """Return the rank with deltas, and the pixels that are open if this is the generic rank."""
        seen: dict[bytes, BlockRank] = {}
        alike, total = bool(point.output.all()), 0
        for filters in shares(self.layer.filters, self.layer.channels):
            key = len(filters).to_bytes(4) if alike else point.output[filters].tobytes()
            if key not in seen:
                seen[key] = point.deltas(filters)
            total += seen[key].rank
        is_open = np.logical_or.reduce([r.open for r in seen.values()])
        return total, point.spread(is_open, [r.reader for r in seen.values()])

    def _raised_by_blocks(
        self, point: Specialisation, low: int, high: int, open_pixels: BoolArray
    ) -> tuple[int, BoolArray]:
        """Return the best rank with random blocks, from one channel or one filter in each to ever larger ones."""
        F, C = self.layer.filters, self.layer.channels
        if math.prod(self.layer.positions) > BLOCK_PIXELS:
            return low, open_pixels
        reduced = point.first_stage.reduced
        counts = sorted({min(F, C), math.gcd(F, C), *(n for n in (8, 4, 2) if n < min(F, C))} - {1}, reverse=True)
        for count in counts:
            if low == high:
                break
            channels, filters = np.array_split(np.arange(C), count), np.array_split(np.arange(F), count)
            keys = [
                (len(c), len(f).to_bytes(4) if point.output.all() else point.output[f].tobytes())
                for c, f in zip(channels, filters, strict=True)
            ]
            if sum(float(reduced * c) ** 3 for c, _ in set(keys)) > EFFORT:
                break
            seen = {
                key: point.random_block(f.tolist(), key[0]) for key, f in dict(zip(keys, filters, strict=True)).items()
            }
            total = sum(seen[key].rank for key in keys)
            if total >= low:
                is_open = np.logical_or.reduce([seen[key].open for key in keys])
                low, open_pixels = total, is_open if total > low else is_open | open_pixels
        return low, open_pixels


def shares(filters: int, channels: int) -> list[list[int]]:
    """Return the filters of each channel: as many for each as there are, or one each as far as they go.

    >>> shares(5, 2), shares(2, 3)
    ([[0, 1, 2], [3, 4]], [[0], [1], []])
    """
    if filters < channels:
        return [[f] if f < filters else [] for f in range(channels)]
    return [part.tolist() for part in np.array_split(np.arange(filters), channels)]


def _shared(point: Specialisation) -> int:
    """Return a lower bound of the dimension of what both row spaces share, see the module."""
    S, rows, support = point.incidence, point.rows, point.support
    taps = np.unique(S.tap)
    met = np.zeros(S.output_count, dtype=bool)
    met[S.output] = True
    missing = (support & met).astype(np.float32) @ (~point.output).astype(np.float32).T
    complete = np.array([rows[f, taps].sum() for f in range(len(rows))]) == _meeting_rows(point, taps)
    pairs = (missing == 0) & (complete & rows.any(axis=1))[:, None]
    total, seen = 0, dict[bytes, int]()
    for filters in shares(*point.layer.weight_shape[:2]):
        chosen = np.zeros_like(rows)
        for number, f in enumerate(filters):
            chosen[:, _spread(point)[number % len(taps)]] |= pairs[:, f]
        key = np.packbits(chosen).tobytes()
        if key not in seen:
            seen[key] = sum(point.rank_on(part, part.pixels, chosen & rows).low for part in point.classes)
        total += seen[key]
    return total


def _meeting_rows(point: Specialisation, taps: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return how many gradient rows of each filter are not zero, known or not."""
    S = point.incidence
    counts = np.zeros(len(point.support), dtype=np.intp)
    for tap in taps.tolist():
        counts += point.support[:, S.output[S.of_tap(tap)]].any(axis=1)
    return counts


def _spread(point: Specialisation) -> list[int]:
    """Return the taps so that the first ones lie in classes with room for another row of every filter."""
    left = {number: part.taps.tolist() for number, part in enumerate(point.classes)}
    room = {number: len(part.pixels) for number, part in enumerate(point.classes)}
    order = []
    while any(left.values()):
        best = max((n for n in left if left[n]), key=lambda n: room[n])
        tap = left[best]
        order.append(tap.pop(len(tap) // 2))
        room[best] -= point.layer.filters
    return order
