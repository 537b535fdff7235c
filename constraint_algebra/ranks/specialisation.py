"""A layer's equations at chosen values: ranks there bound the generic rank from below.

A rank never exceeds the generic one, and is cheap at values that take the equations apart. The output gradient k stays
random, and with it the gradient equations of one channel, which fall into residue classes of pixels. Weights are zero
but for blocks: some filters see some channels only, so that the weight equations fall apart as well.

- A block of *deltas*: each filter sees one channel through one tap. Its weight equations are pixels, read off; what
  remains are the gradient equations on the pixels not read, class by class.
- A *random* block: its filters see its channels through random weights. It is eliminated, after the gradient equations.

Where the rank at such a point is the generic one, what the equations leave open there they leave open generically: a
unit vector outside the row space here raises the rank here, hence everywhere. As the channels of a group are
interchangeable, a pixel that is open in one channel is open in all. And it opens others. Let a weight equation read
x[j] at such a point, and let b be open in the window of the same output. With the weight ε in front of x[b] it says
x[j] + ε x[b] = 0; the rank stays generic, so that every null vector n of ε = 0 continues to n(ε), and
n[j](ε) = -ε n[b] + O(ε²) is not zero for all ε: x[j] is open as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.incidence import Incidence, incidence
from constraint_algebra.layers.kinds import Conv, PlacedLayer
from constraint_algebra.numerics.modular import PROBES, Echelon, multiply, residues
from constraint_algebra.ranks.generic import FirstStage, second_stage
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.ranks.polyphase import polyphase_law

SPARE = 64  # columns sampled beyond the number of rows
DENSE = 3e10  # operations up to which all columns are eliminated where a sample does not settle the rank
BLOCK_PIXELS = 2100  # pixels of a channel up to which random blocks are tried


class PixelClass(NamedTuple):
    """A residue class of one channel: gradient rows of these taps meet these pixels and no others."""

    taps: IntArray
    pixels: IntArray


class ClassRank(NamedTuple):
    """Rank of gradient equations on some pixels.

    Attributes:
        low, high: its bounds.
        open: which of these pixels are surely not determined.
    """

    low: int
    high: int
    open: BoolArray


class BlockRank(NamedTuple):
    """Rank of the equations of a block of channels.

    Attributes:
        rank: of all equations together.
        open: the pixels that are surely open in at least one of the channels.
        reader: for each pixel the output whose weight equation reads it, -1 where there is none or more than one pixel
            is involved.
    """

    rank: int
    open: BoolArray
    reader: IntArray


@dataclass(frozen=True)
class Specialisation:
    """The equations of a layer without groups, at a random k.

    Attributes:
        layer: the layer; its groups must be one.
        output: where z is known, shape `(filters, outputs)`.
        rows: which gradient rows count, shape `(filters, taps)`.
        support: where k may be other than zero, shape `(filters, outputs)`.
        complete: whether all three masks are true everywhere.
        seed: of k and of the random weights.
    """

    layer: PlacedLayer
    output: BoolArray
    rows: BoolArray
    support: BoolArray
    complete: bool
    seed: int = 0

    @staticmethod
    def of(layer: PlacedLayer, known: Knowledge, rows: BoolArray, seed: int = 0) -> Specialisation:
        """Return the equations that count, given what is known."""
        flat = (layer.filters, math.prod(layer.outputs))
        complete = known.is_complete and bool(rows[:, np.unique(incidence(layer).tap)].all())
        return Specialisation(layer, known.output.reshape(flat), rows, known.support.reshape(flat), complete, seed)

    @cached_property
    def incidence(self) -> Incidence:
        """The layer's incidence."""
        return incidence(self.layer)

    @cached_property
    def k(self) -> FloatArray:
        """Random output gradient, shape `(filters, outputs)`."""
        return residues(self.support.shape, np.random.default_rng(self.seed)) * self.support

    @cached_property
    def classes(self) -> tuple[PixelClass, ...]:
        """The residue classes, those of the polyphase law in its order; tap and pixel of a triple share theirs."""
        conv, taps, pixels = self.layer.bilinear, self.incidence.tap_count, self.incidence.position_count
        of_tap, of_pixel = np.zeros(taps, dtype=np.intp), np.zeros(pixels, dtype=np.intp)
        if isinstance(conv, Conv):
            axes = zip(conv.strides, conv.paddings, conv.dilations, strict=True)
            tap, pixel = np.indices(conv.taps), np.indices(self.layer.positions)
            for a, (stride, (before, _), dilation) in enumerate(axes):
                of_tap = of_tap * stride + (tap[a].ravel() * dilation) % stride
                of_pixel = of_pixel * stride + (pixel[a].ravel() + before) % stride
        return tuple(
            PixelClass(np.flatnonzero(of_tap == r), np.flatnonzero(of_pixel == r)) for r in np.unique(of_pixel)
        )

    @cached_property
    def gradient_ranks(self) -> tuple[ClassRank, ...]:
        """Rank of the gradient equations of one channel, class by class."""
        closed = polyphase_law(self.layer, limit=0).classes if self.complete else ()
        ranks = []
        for number, part in enumerate(self.classes):
            if closed and (rank := closed[number].rank) is not None and rank == len(part.pixels):
                ranks.append(ClassRank(rank, rank, np.zeros(rank, dtype=bool)))
                continue
            found = self.rank_on(part, part.pixels, self.rows)
            if closed and closed[number].rank is not None:
                found = ClassRank(closed[number].low, closed[number].high, found.open)
            ranks.append(found)
        return tuple(ranks)

    @cached_property
    def first_stage(self) -> FirstStage:
        """The gradient equations of one channel, eliminated at this k."""
        return FirstStage.of(self.incidence, self.k, self.rows)

    @cached_property
    def null_space(self) -> FloatArray:
        """Null space of the gradient equations of one channel."""
        return self.first_stage.null_space()

    def rank_on(self, part: PixelClass, pixels: IntArray, rows: BoolArray) -> ClassRank:
        """Return the rank of gradient rows of a class on some of its pixels, from as few of them as settle it."""
        count = len(pixels)
        chosen = np.zeros_like(rows)
        chosen[:, part.taps] = rows[:, part.taps]
        most = int(self._meeting(chosen, pixels).sum())
        high = min(most, count)
        if high == 0:
            return ClassRank(0, 0, np.ones(count, dtype=bool))
        rng = np.random.default_rng(self.seed + 1)
        order = rng.permutation(count)
        width = min(count, most + SPARE)
        form = self._eliminated(chosen, pixels[order[:width]])
        if form.rank < high and width < count and float(count) * most**2 <= DENSE:
            width, form = count, self._eliminated(chosen, pixels[order])
        if width == count:
            high = form.rank
        is_open = np.zeros(count, dtype=bool)
        is_open[order[:width]] = ~form.determined(rng)
        is_open[order[width:]] = form.rank == high  # then they depend on the columns of the sample
        return ClassRank(form.rank, high, is_open)

    def deltas(self, filters: Sequence[int]) -> BlockRank:
        """Return the rank of one channel that these filters see, each through the tap that adds most."""
        reader = np.full(self.incidence.position_count, -1)
        missing = [len(part.pixels) - rank.low for part, rank in zip(self.classes, self.gradient_ranks, strict=True)]
        of_tap = {tap: number for number, part in enumerate(self.classes) for tap in part.taps.tolist()}
        for f in filters:
            gains = {tap: self._gain(f, tap, reader, missing[number]) for tap, number in of_tap.items()}
            tap = max(gains, key=lambda tap: gains[tap], default=-1)
            if tap < 0 or gains[tap][0] == 0:
                break
            outputs, pixels = self._seen(f, tap)
            new = reader[pixels] < 0
            reader[pixels[new]] = outputs[new]
            missing[of_tap[tap]] -= gains[tap][0]
        return self._with_pixels_read(reader)

    def _seen(self, f: int, tap: int) -> tuple[IntArray, IntArray]:
        """Return the weight equations of a filter, as outputs, and the pixels that they read through one tap."""
        run = self.incidence.of_tap(tap)
        known = self.output[f, self.incidence.output[run]]
        return self.incidence.output[run][known], self.incidence.position[run][known]

    def _gain(self, f: int, tap: int, reader: IntArray, missing: int) -> tuple[int, int]:
        """Return what a delta adds to the rank, and how many pixels it reads that are not read yet."""
        new = int(np.count_nonzero(reader[self._seen(f, tap)[1]] < 0))
        return min(new, missing), new

    def random_block(self, filters: Sequence[int], channels: int) -> BlockRank:
        """Return the rank of some channels that these filters see through random weights."""
        stage, N, Q = self.first_stage, self.null_space, self.incidence.position_count
        if not len(filters):
            return BlockRank(channels * stage.rank, np.asarray(N.any(axis=1)), np.full(Q, -1))
        rng = np.random.default_rng([self.seed, len(filters), channels])
        conv = self.layer.bilinear
        small = replace(conv, filters=len(filters)).place((channels, *self.layer.positions))
        form, columns = second_stage(small, N, self.output[list(filters)], rng)
        values = form.null(residues((form.columns - form.rank, PROBES), rng)).reshape(N.shape[1], channels * PROBES)
        x = multiply(N[:, columns], values).reshape(Q, channels * PROBES)
        return BlockRank(channels * stage.rank + form.rank, np.asarray(x.any(axis=1)), np.full(Q, -1))

    def spread(self, is_open: BoolArray, readers: Sequence[IntArray]) -> BoolArray:
        """Return the open pixels and those that open with them, at a point of generic rank; see the module."""
        S = self.incidence
        pairs = [reader * S.position_count + np.arange(S.position_count) for reader in readers]
        pairs = [pair[reader >= 0] for pair, reader in zip(pairs, readers, strict=True)]
        output, pixel = np.divmod(np.unique(np.concatenate(pairs)), S.position_count)
        while True:
            window = np.zeros(S.output_count, dtype=bool)
            window[S.output[is_open[S.position]]] = True
            more = is_open.copy()
            more[pixel[window[output]]] = True
            if np.array_equal(more, is_open):
                return is_open
            is_open = more

    def _with_pixels_read(self, reader: IntArray) -> BlockRank:
        """Return the rank of a channel with some pixels known."""
        total, is_open = 0, np.ones(len(reader), dtype=bool)
        for number, (part, alone) in enumerate(zip(self.classes, self.gradient_ranks, strict=True)):
            mine = reader[part.pixels] >= 0
            left = part.pixels[~mine]
            is_open[part.pixels] = False
            if alone.low == len(part.pixels) or not len(left):
                total += len(part.pixels)
                continue
            rest = alone if not mine.any() else self._remembered(number, left)
            total += int(mine.sum()) + rest.low
            is_open[left] = rest.open
        return BlockRank(total, is_open, reader)

    def _remembered(self, number: int, pixels: IntArray) -> ClassRank:
        key = number, pixels.tobytes()
        if key not in self._ranks:
            self._ranks[key] = self.rank_on(self.classes[number], pixels, self.rows)
        return self._ranks[key]

    @cached_property
    def _ranks(self) -> dict[tuple[int, bytes], ClassRank]:
        return {}

    def _meeting(self, rows: BoolArray, pixels: IntArray) -> BoolArray:
        """Return which rows have an entry other than zero on these pixels."""
        S, wanted = self.incidence, np.zeros(self.incidence.position_count, dtype=bool)
        wanted[pixels] = True
        meeting = np.zeros_like(rows)
        for tap in np.flatnonzero(rows.any(axis=0)).tolist():
            run = S.of_tap(tap)
            outputs = S.output[run][wanted[S.position[run]]]
            meeting[:, tap] = rows[:, tap] & (
                len(outputs) > 0 if self.complete else self.support[:, outputs].any(axis=1)
            )
        return meeting

    def _eliminated(self, rows: BoolArray, pixels: IntArray) -> Echelon:
        S, place = self.incidence, np.full(self.incidence.position_count, -1)
        place[pixels] = np.arange(len(pixels))
        form = Echelon(len(pixels))
        for some in np.array_split(np.flatnonzero(rows.any(axis=1)), max(1, rows.sum() // 500)):
            if form.rank == form.columns:
                break
            taps = np.flatnonzero(rows[some].any(axis=0))
            A = np.zeros((len(some), len(taps), len(pixels)))
            for number, tap in enumerate(taps.tolist()):
                run = S.of_tap(tap)
                at = place[S.position[run]]
                A[:, number, at[at >= 0]] = self.k[np.ix_(some, S.output[run][at >= 0])]
            form.absorb(A[rows[np.ix_(some, taps)]])
        return form
