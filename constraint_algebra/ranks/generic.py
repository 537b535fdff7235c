"""The generic rank of a layer's equations and the unknowns that they determine, by elimination in two stages.

The gradient equations of one channel, `A(k)`, are the same for all channels of a group. So eliminate them once, each
connected component of their constraint graph by itself: their null space N leaves few unknowns y, or none, with
x[c] = N y[c] for every channel c. The weight equations then are `B(W) (I_C ⊗ N) y = 0`, and

    rank = channels * rank A + rank of B(W) (I_C ⊗ N),          x[c, q] is determined where N y[c] is zero at q

All this at random residues for k and W modulo a prime (see `modular`), which makes the rank exact but for a stated
probability: generic means for almost all values of the independent indeterminates. Between weight and gradient
equations there are dependences that no count of rows and no sparsity pattern shows, but that the shared residues do:
for all pairs of filters f, f' of a group, contracting the gradient equations of f with the weights of f' gives the same
combination of unknowns as contracting the weight equations of f' with the output gradient of f.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.equations.constraint_graph import components
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers.incidence import Incidence, incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.modular import BLOCK, PRIME, PROBES, Echelon, multiply, residues
from constraint_algebra.ranks.knowledge import Knowledge, usable_rows
from constraint_algebra.ranks.polyphase import polyphase_law

KINDS = ("weight", "gradient")


@checked
@dataclass(frozen=True)
class GenericRank:
    """The generic rank of a layer's equations.

    Attributes:
        kinds: the kinds of equations counted.
        weight_rows, gradient_rows: number of equations of each kind.
        unknowns: number of input values.
        gradient_rank: rank of the gradient equations alone, 0 where they are not counted.
        reduced: unknowns that the gradient equations leave for the second stage.
        low, high: bounds of the rank, equal unless `reduced` exceeds the limit of the elimination.
        determined: which input values the equations determine, in the input's shape; `None` where undecided.
        error: upper bound of the probability that the rank given is too small; that the verdict on any one unknown is
            wrong is at most about twice as likely.
    """

    kinds: tuple[str, ...]
    weight_rows: int
    gradient_rows: int
    unknowns: int
    gradient_rank: int
    reduced: int
    low: int
    high: int
    determined: BoolArray | None
    error: float

    @property
    def rank(self) -> int | None:
        """The generic rank, `None` where undecided."""
        return self.low if self.low == self.high else None

    @property
    def counted(self) -> int:
        """What counting rows says: the smaller of rows and unknowns."""
        return min(self.weight_rows + self.gradient_rows, self.unknowns)

    def __repr__(self) -> str:
        """Return one line: rank, rows, determined unknowns, probability of an error."""
        rank = self.low if self.rank is not None else f"between {self.low} and {self.high}"
        known = "undecided" if self.determined is None else int(self.determined.sum())
        kinds, rows = " and ".join(self.kinds), self.weight_rows + self.gradient_rows
        return (
            f"<generic rank {rank} of {kinds} equations: {rows} rows, {self.unknowns} unknowns, "
            f"{known} determined, error probability at most {self.error:.1e}>"
        )


@checked
def generic_rank(
    layer: PlacedLayer,
    *,
    kinds: Collection[str] = KINDS,
    active: ArrayLike | None = None,
    knowledge: Knowledge | None = None,
    limit: int = 6000,
    seed: int = 0,
) -> GenericRank:
    """Return the generic rank of a layer's equations and the unknowns that they determine.

    Args:
        layer: a convolution or linear layer at its place.
        kinds: "weight", "gradient" or both.
        active: mask in the output shape, the outputs that a ReLU lets pass; by default all.
        knowledge: what is known at the outputs; on top of `active`.
        limit: the most unknowns per group that the second stage eliminates, about 15 s and 300 MB if they are so many;
            above it only bounds are given.
        seed: of the random residues.

    Raises:
        ShapeError: an unknown kind, or a mask of another shape than the layer's output.

    >>> from constraint_algebra.layers import Conv2d
    >>> layer = Conv2d(2, 3).place((1, 8, 8))
    >>> generic_rank(layer, kinds=["weight"])
    <generic rank 56 of weight equations: 72 rows, 64 unknowns, 0 determined, error probability at most 7.6e-06>
    """
    if not kinds or not set(kinds) <= set(KINDS):
        raise ShapeError(f'kinds must be "weight", "gradient" or both, got {tuple(kinds)}')
    known = knowledge or Knowledge.of(layer)
    known = Knowledge.of(
        layer, active=active, output=known.output, gradient=known.gradient, support=known.support
    )  # the shapes are checked, too
    rng = np.random.default_rng(seed)
    ordered = tuple(kind for kind in KINDS if kind in kinds)
    if known.is_complete:  # all groups are alike
        one = _too_large(layer, ordered, limit) or _group_rank(layer, ordered, known, 0, limit, rng)
        groups = [one] * layer.groups
    else:
        groups = [_group_rank(layer, ordered, known, g, limit, rng) for g in range(layer.groups)]
    return joined(layer, groups)


def _too_large(layer: PlacedLayer, kinds: tuple[str, ...], limit: int) -> GenericRank | None:
    """Return the bounds of one group where the polyphase law says that the second stage is beyond the limit."""
    law, C = polyphase_law(layer, limit=0), layer.channels // layer.groups
    reduced = C * (math.prod(layer.positions) - law.low)
    if kinds != KINDS or law.rank is None or reduced <= limit:
        return None
    filters, known = layer.filters // layer.groups, C * law.rank
    rows = filters * math.prod(layer.outputs), C * filters * math.prod(layer.taps)
    unknowns = C * math.prod(layer.positions)
    high = min(unknowns, known + rows[0])
    return GenericRank(kinds, *rows, unknowns, known, reduced, known, high, None, 0.0)


def joined(layer: PlacedLayer, groups: list[GenericRank]) -> GenericRank:
    """Return the groups, which share neither equations nor unknowns, as one."""
    masks = [g.determined for g in groups if g.determined is not None]
    whole = np.concatenate(masks).reshape(layer.input_shape) if len(masks) == len(groups) else None
    counts = ("weight_rows", "gradient_rows", "unknowns", "gradient_rank", "reduced", "low", "high")
    sums = {name: sum(getattr(g, name) for g in groups) for name in counts}
    return replace(groups[0], **sums, determined=whole, error=min(1.0, sum(g.error for g in groups)))


def _group_rank(
    layer: PlacedLayer, kinds: tuple[str, ...], known: Knowledge, group: int, limit: int, rng: np.random.Generator
) -> GenericRank:
    S, F, C = incidence(layer), layer.filters // layer.groups, layer.channels // layer.groups
    mine = slice(group * F, (group + 1) * F)
    output, gradient, support = (
        mask[mine].reshape(F, S.output_count) for mask in (known.output, known.gradient, known.support)
    )
    usable = usable_rows(S, gradient) if "gradient" in kinds else np.zeros((F, S.tap_count), dtype=bool)
    stage = FirstStage.of(S, residues(output.shape, rng) * support, usable)
    weight_rows = int(output.sum()) if "weight" in kinds else 0
    gradient_rank, unknowns, gradient_rows = C * stage.rank, C * S.position_count, C * int(usable.sum())
    low, high, determined = gradient_rank, min(unknowns, gradient_rank + weight_rows), None
    if weight_rows == 0:
        determined = np.tile(stage.determined(rng), C)
    elif C * stage.reduced <= limit:
        N = stage.null_space()
        form, columns = second_stage(layer, N, output, rng)
        low = high = gradient_rank + form.rank
        values = form.null(residues((form.columns - form.rank, PROBES), rng)).reshape(stage.reduced, C * PROBES)
        x = multiply(N[:, columns], values).reshape(S.position_count, C, PROBES)
        determined = ~x.any(axis=2).T.ravel()
    return GenericRank(
        kinds=kinds,
        weight_rows=weight_rows,
        gradient_rows=gradient_rows,
        unknowns=unknowns,
        gradient_rank=gradient_rank,
        reduced=C * stage.reduced,
        low=low,
        high=high,
        determined=determined,
        error=min(weight_rows + gradient_rows, unknowns) / (PRIME - 1),
    )


@dataclass(frozen=True)
class FirstStage:
    """The gradient equations of one channel, eliminated: for each component its pixels and its echelon form."""

    parts: tuple[tuple[IntArray, Echelon], ...]
    pixels: int

    @staticmethod
    def of(S: Incidence, k: FloatArray, usable: BoolArray) -> FirstStage:
        """Eliminate the rows (f, tap) that are usable at output gradients k, shape `(filters, outputs)`."""
        shape = (S.tap_count, S.position_count)
        parts = []
        for taps, pixels in components(sp.csr_array((np.ones(len(S)), (S.tap, S.position)), shape=shape)):
            if len(taps) == 0:
                continue  # a pixel that meets no tap
            form = Echelon(len(pixels))
            mine = np.isin(S.tap, taps)
            tap, pixel = np.searchsorted(taps, S.tap[mine]), np.searchsorted(pixels, S.position[mine])
            together = max(1, BLOCK // len(taps))
            for first in range(0, len(k), together):
                if form.rank == form.columns:
                    break
                filters = slice(first, first + together)
                rows = np.zeros((len(k[filters]), len(taps), len(pixels)))
                rows[:, tap, pixel] = k[filters][:, S.output[mine]]
                form.absorb(rows[usable[filters][:, taps]])
            parts.append((pixels, form))
        return FirstStage(tuple(parts), S.position_count)

    @property
    def rank(self) -> int:
        """Rank of the equations."""
        return sum(form.rank for _, form in self.parts)

    @property
    def reduced(self) -> int:
        """Number of pixels that stay free."""
        return self.pixels - self.rank

    def null_space(self) -> FloatArray:
        """Return N, one column for every free pixel, in the order of the pixels."""
        N = np.eye(self.pixels)
        pivots = np.zeros(self.pixels, dtype=bool)
        for columns, form in self.parts:
            N[np.ix_(columns, columns[form.free])] = form.null_space()
            pivots[np.delete(columns, form.free)] = True
        return N[:, ~pivots]

    def determined(self, rng: np.random.Generator) -> BoolArray:
        """Return the pixels that the gradient equations alone determine."""
        mask = np.zeros(self.pixels, dtype=bool)
        for columns, form in self.parts:
            mask[columns] = form.determined(rng)
        return mask


def second_stage(
    layer: PlacedLayer, N: FloatArray, output: BoolArray, rng: np.random.Generator
) -> tuple[Echelon, IntArray]:
    """Return the echelon form of the weight equations in the unknowns y, and the order of the free pixels in it.

    The columns are (free pixel, channel) and the rows (output, filter), both along the longest axis first: rows that
    follow one another reach columns that lie close together, as far as N lets them.
    """
    S = incidence(layer)
    F, C = output.shape[0], layer.channels // layer.groups
    W = residues((F, C, S.tap_count), rng)
    along = _longest_axis_first(S.positions)
    free = np.argmax(N != 0, axis=0) if N.size else np.empty(0, dtype=np.intp)
    columns = np.argsort(np.argsort(along)[free], kind="stable")
    N = N[:, columns]
    form = Echelon(C * N.shape[1])
    waiting: list[FloatArray] = []
    for rows in _reduced_rows(S, W, N, output):
        waiting.append(rows)
        if sum(map(len, waiting)) >= BLOCK:
            form.absorb(np.concatenate(waiting))
            waiting = []
        if form.rank == form.columns:
            return form, columns
    return (form.absorb(np.concatenate(waiting)) if waiting else form), columns


def _reduced_rows(S: Incidence, W: FloatArray, N: FloatArray, output: BoolArray) -> Iterator[FloatArray]:
    """Return, output by output, the rows of `B(W) (I_C ⊗ N)` for the filters whose output is known there."""
    order = np.argsort(S.output, kind="stable")
    ends = np.searchsorted(S.output[order], np.arange(S.output_count + 1))
    for o in _longest_axis_first(S.outputs):
        run = order[ends[o] : ends[o + 1]]
        # Filters over a window of C * len(run) values: any more rows than that depend on the first, if W is generic.
        filters = np.flatnonzero(output[:, o])[: W.shape[1] * len(run)]
        if len(run) and len(filters):
            window = W[filters][:, :, S.tap[run]].reshape(-1, len(run))  # (filter, channel) × tap
            rows = multiply(window, N[S.position[run]]).reshape(len(filters), W.shape[1], -1)
            yield rows.transpose(0, 2, 1).reshape(len(filters), -1)


def _longest_axis_first(shape: tuple[int, ...]) -> IntArray:
    """Return the flat indices of an array in the order that runs through its longest axis slowest."""
    axes = np.argsort([-size for size in shape], kind="stable")
    return np.arange(math.prod(shape)).reshape(shape).transpose(axes).ravel()
