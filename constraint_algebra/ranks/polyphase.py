"""The polyphase law: from the shapes of a layer to the rank of its gradient equations, class by class.

Along one axis, tap t meets pixel q in output o where q + padding = o * stride + t * dilation. Hence t and q have the
same residue modulo the stride, that of t * dilation and of q + padding: a stride splits the gradient equations of one
channel into residue classes that share neither rows nor pixels (those of a polyphase filter bank). Only multiples of
gcd(stride, dilation) occur as the residue of a tap; pixels of any other class meet no equation. In several axes a class
is a product of classes of the axes. Within a class, let F be the filters per group, a the taps that meet a pixel, p the
pixels that meet a tap. Its F * a equations have p unknowns, so that for any output gradient

    rank <= min(F * a, p),        and     rank G = sum over the classes of min(F * a, p)

is the closed form for a generic one. That the bound is reached is shown by specialisation: the generic rank is at least
the rank at any particular values. Let the gradient of a filter be zero but for one output o. Its equations then read
off the pixels that o meets, one each. Along an axis, choose outputs greedily, each by the number of pixels that it adds
to those already met; over the grid of the outputs so chosen the pixels added multiply. The F largest of these products
sum to a lower bound, and where it equals min(F * a, p) the closed form is proved. That is so for most layers in use: if
F * a <= p it takes room for F disjoint windows, else filters enough for a cover.

Else the class is eliminated modulo a prime, because the closed form can fail: two filters of 2×2 taps over 3×3 pixels
have eight equations of rank 7, since contracting the equations of the first filter with the output gradient of the
second gives the same as the other way round. Such dependences (syzygies of the output gradients, read as polynomials)
appear where a class has hardly more outputs than taps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import IntArray
from constraint_algebra.display import Table, Tabular
from constraint_algebra.layers.incidence import axis_triples
from constraint_algebra.layers.kinds import Conv, PlacedLayer
from constraint_algebra.numerics.modular import BLOCK, Echelon, residues

LONG = 2**16  # positions of an axis above which its triples are not listed
MOST = 2**20  # gains that are listed of such an axis; with more filters than that a bound is lower than it could be


class AxisClass(NamedTuple):
    """A residue class along one axis: its triples, and what a greedy choice of outputs adds.

    Attributes:
        residue: of `q + padding` modulo the stride.
        pixels: number of input positions in the class, met by a tap or not.
        taps: number of taps that meet a pixel.
        met: number of pixels that meet a tap.
        cover: number of chosen outputs, which together meet all these pixels.
        gains: pixels that each chosen output adds, the largest first; of a long axis not all of them.
        triples: tap, output and position of each, renumbered from 0 but for the output; `None` for a long axis.
    """

    residue: int
    pixels: int
    taps: int
    met: int
    cover: int
    gains: IntArray
    triples: tuple[IntArray, IntArray, IntArray] | None


@checked
@dataclass(frozen=True)
class ResidueClass:
    """A residue class of one channel.

    Attributes:
        residue: along each axis.
        taps: taps that meet a pixel of the class.
        pixels: unknowns of the class.
        met: pixels that meet a tap.
        filters: filters per group.
        low, high: bounds of the generic rank, equal unless the class is too large to eliminate.
        proof: "closed form" or "elimination", or "bounds" where they differ.
    """

    residue: tuple[int, ...]
    taps: int
    pixels: int
    met: int
    filters: int
    low: int
    high: int
    proof: str

    @property
    def rows(self) -> int:
        """Number of equations that meet a pixel."""
        return self.filters * self.taps

    @property
    def rank(self) -> int | None:
        """The generic rank, `None` where its bounds differ."""
        return self.low if self.low == self.high else None

    @property
    def short(self) -> int | None:
        """How many independent equations the class lacks."""
        return None if self.rank is None else self.pixels - self.rank


@checked
@dataclass(frozen=True, repr=False)
class PolyphaseLaw(Tabular):
    """The residue classes of a layer's gradient equations, for one channel.

    >>> from constraint_algebra.layers import Conv2d
    >>> polyphase_law(Conv2d(12, 5, stride=2, padding=2).place((12, 16, 16)))
    gradient equations of layer 'layer', each of 12 channels: rank 240 of 256
    class  taps  rows  pixels  rank  short  proof
      0,0     9   108      64    64      0  closed form
      0,1     6    72      64    64      0  closed form
      1,0     6    72      64    64      0  closed form
      1,1     4    48      64    48     16  closed form
    """

    layer: PlacedLayer
    classes: tuple[ResidueClass, ...]

    @property
    def low(self) -> int:
        """Lower bound of the generic rank for one channel."""
        return sum(c.low for c in self.classes)

    @property
    def high(self) -> int:
        """Upper bound of the generic rank for one channel."""
        return sum(c.high for c in self.classes)

    @property
    def rank(self) -> int | None:
        """Generic rank for one channel, `None` where a class is undecided."""
        return self.low if self.low == self.high else None

    def _shown(self) -> Table:
        rank = self.low if self.rank is not None else f"{self.low} to {self.high}"
        channels, pixels = self.layer.channels, math.prod(self.layer.positions)
        title = f"gradient equations of layer {self.layer.name!r}, each of {channels} channels: rank {rank} of {pixels}"
        lines = [f"{'class':>5}  {'taps':>4}  {'rows':>4}  {'pixels':>6}  {'rank':>4}  {'short':>5}  proof"]
        for c in self.classes:
            name = ",".join(map(str, c.residue)) or "-"
            shown = ("?" if value is None else value for value in (c.rank, c.short))
            lines.append("{:>5}  {:>4}  {:>4}  {:>6}  {:>4}  {:>5}  {}".format(
                name, c.taps, c.rows, c.pixels, *shown, c.proof
            ))  # fmt: skip
        return Table("\n".join(lines), title)


@checked
def polyphase_law(layer: PlacedLayer, *, limit: int = 4096, seed: int = 0) -> PolyphaseLaw:
    """Return the generic rank of the gradient equations of one channel, class by class.

    Args:
        layer: a convolution or linear layer at its place.
        limit: classes with more pixels are not eliminated; where the closed form is not proved, both bounds are given.
        seed: of the random residues, where a class is eliminated.

    Raises:
        ShapeError: the layer has no equations.
    """
    filters = layer.filters // layer.groups
    classes = []
    for axes in _classes(layer):
        low, high, proof = _rank(axes, filters, limit, seed)
        taps, pixels, met = (math.prod(getattr(a, name) for a in axes) for name in ("taps", "pixels", "met"))
        residue = tuple(a.residue for a in axes)
        classes.append(ResidueClass(residue, taps, pixels, met, filters, low, high, proof))
    return PolyphaseLaw(layer, tuple(classes))


@checked
def fewest_filters(layer: PlacedLayer, *, limit: int = 4096, seed: int = 0) -> tuple[int, int] | None:
    """Return bounds, usually equal, of the fewest filters whose gradient equations alone determine the input.

    By the polyphase law these are `max over the classes of ceil(p / a)` filters per group; a class whose closed form is
    not proved at that number is searched. `None` where no number of filters suffices, because a pixel meets no tap.

    >>> from constraint_algebra.layers import Conv2d
    >>> fewest_filters(Conv2d(12, 5, stride=2, padding=2).place((3, 32, 32)))
    (64, 64)
    >>> fewest_filters(Conv2d(1, 1, stride=2).place((3, 32, 32))) is None
    True
    """
    low = high = 1
    for axes in _classes(layer):
        pixels, taps, met = (math.prod(getattr(a, name) for a in axes) for name in ("pixels", "taps", "met"))
        if met < pixels:
            return None
        least, most = -(-pixels // taps), math.prod(a.cover for a in axes)  # counting, and a cover by windows
        counted, undecided = least, False
        while least < most and not undecided:
            middle = least if least == counted or least < low else (least + most) // 2  # counting is seldom wrong here
            rank_low, rank_high, _ = _rank(axes, middle, limit, seed)
            if rank_low == pixels:
                most = middle
            elif rank_high < pixels:
                least = middle + 1
            else:
                undecided = True
        low, high = max(low, least), max(high, most)
    return layer.groups * low, layer.groups * high


def _classes(layer: PlacedLayer) -> Iterator[tuple[AxisClass, ...]]:
    """Return every residue class as the classes of its axes, pixels that meet no tap included."""
    conv = layer.bilinear
    if not isinstance(conv, Conv):
        return iter([()])
    before = [side[0] for side in conv.paddings]
    axes = zip(conv.taps, layer.outputs, layer.positions, conv.strides, before, conv.dilations, strict=True)
    return itertools.product(*(_axis_classes(*axis) for axis in axes))


def _axis_classes(
    taps: int, outputs: int, positions: int, stride: int, before: int, dilation: int
) -> tuple[AxisClass, ...]:
    if positions > LONG:
        return tuple(_long_axis(taps, outputs, positions, stride, before, dilation))
    tap, output, position = axis_triples(taps, outputs, positions, stride, before, dilation)
    of_pixel, of_triple = (np.arange(positions) + before) % stride, (position + before) % stride
    classes = []
    for residue in np.unique(of_pixel).tolist():
        mine = of_triple == residue
        t, q = (np.unique(index[mine], return_inverse=True)[1] for index in (tap, position))
        gains = np.sort(_greedy_gains(output[mine], q))[::-1]
        counts = int(t.max(initial=-1)) + 1, int(q.max(initial=-1)) + 1
        pixels = int((of_pixel == residue).sum())
        classes.append(AxisClass(residue, pixels, *counts, len(gains), gains, (t, output[mine], q)))
    return tuple(classes)


def _long_axis(taps: int, outputs: int, positions: int, stride: int, before: int, dilation: int) -> Iterator[AxisClass]:
    """Yield the classes of an axis by arithmetic alone.

    In a class, counted along it, output o meets the pixels o + e for the shifts e of its taps, which lie `step` apart.
    So of `step * taps` outputs in a row the first `step` meet disjoint pixels. What these outputs leave over is counted
    as if each pixel took an output of its own, which is true of no choice and better than none.
    """
    for residue in sorted({(q + before) % stride for q in range(min(stride, positions))}):
        first = (residue - before) % stride
        pixels = len(range(first, positions, stride))
        shifts = [(t * dilation - before - first) // stride for t in range(taps) if t * dilation % stride == residue]
        runs = [(max(0, e), min(pixels, outputs + e)) for e in shifts]
        runs = [(start, stop) for start, stop in runs if start < stop]
        met, end = 0, 0
        for start, stop in runs:  # the shifts rise
            met, end = met + max(0, stop - max(start, end)), max(end, stop)
        step = dilation // math.gcd(stride, dilation)
        whole = max(0, min(outputs, pixels - max(shifts, default=0)) - max(0, -min(shifts, default=0)))
        apart = whole // (step * len(shifts)) * step if shifts else 0
        left = met - apart * len(shifts)
        gains = np.array([len(shifts)] * min(apart, MOST) + [1] * min(left, max(0, MOST - apart)), dtype=np.intp)
        yield AxisClass(residue, pixels, len(runs), met, apart + left, gains, None)


def _greedy_gains(output: IntArray, position: IntArray) -> IntArray:
    """Return the pixels that each output adds, the output that adds most taken first, until all pixels are met."""
    gains = []
    while len(output):
        counts = np.bincount(output)
        best = int(np.argmax(counts))
        gains.append(counts[best])
        left = ~np.isin(position, position[output == best])
        output, position = output[left], position[left]
    return np.array(gains, dtype=np.intp)


def _rank(axes: tuple[AxisClass, ...], filters: int, limit: int, seed: int) -> tuple[int, int, str]:
    """Return lower and upper bound of the generic rank of a class, and how they were found."""
    taps, met = math.prod(a.taps for a in axes), math.prod(a.met for a in axes)
    gains = np.ones(1, dtype=np.intp)
    for a in axes:
        # Of products the largest come from the largest factors.
        gains = np.sort(np.outer(gains, a.gains[:filters]).ravel())[::-1][:filters]
    low, high = int(gains.sum()), min(filters * taps, met)
    if low == high:
        return low, high, "closed form"
    if met > limit or any(a.triples is None for a in axes):
        return low, high, "bounds"
    rank = _eliminated(axes, filters, met, np.random.default_rng(seed))
    return rank, rank, "elimination"


def _eliminated(axes: tuple[AxisClass, ...], filters: int, met: int, rng: np.random.Generator) -> int:
    """Return the rank of a class at a random output gradient modulo a prime."""
    tap, output, position = (np.zeros(1, dtype=np.intp) for _ in range(3))
    outputs = 1
    for a in axes:
        assert a.triples is not None  # `_rank` gives bounds for a long axis
        of_tap, of_output, of_position = a.triples
        wide = int(of_output.max()) + 1
        tap = np.add.outer(tap * a.taps, of_tap).ravel()
        position = np.add.outer(position * a.met, of_position).ravel()
        output = np.add.outer(output * wide, of_output).ravel()
        outputs *= wide
    form, taps = Echelon(met), int(tap.max()) + 1
    together = max(1, BLOCK // taps)
    for first in range(0, filters, together):
        if form.rank == met:
            break
        rows = np.zeros((min(together, filters - first), taps, met))
        rows[:, tap, position] = residues((len(rows), outputs), rng)[:, output]
        form.absorb(rows.reshape(-1, met))
    return form.rank
