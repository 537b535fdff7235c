"""The normal equations `B^T B` of a layer's weight equations, in the order (*position, channel).

Two input values meet in a weight equation only where one kernel window covers both, so that in this order `B^T B` is
banded. For two taps t and t' and an output o it holds

    (sum over f of  whiten[f, o]²  W[f, c, t] W[f, c', t'])    at the row (q(o, t), c) and the column (q(o, t'), c')

with q(o, t) the position that output o sees through tap t. For two given taps the places of all outputs lie at even
steps in memory, and one addition serves them all. What lies above the diagonal is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from operator import mul

import numpy as np
from numpy.typing import NDArray

from constraint_algebra.arrays import RealArray
from constraint_algebra.layers.kinds import Conv, PlacedLayer, Shape

SMALLEST_BLOCK = 96  # unknowns: smaller products do not fill the arithmetic units


def bandwidth(layer: PlacedLayer) -> int:
    """Return how far from the diagonal the normal equations of a convolution reach, were its input large enough.

    >>> from constraint_algebra.layers import Conv2d
    >>> bandwidth(Conv2d(12, 5, stride=2, padding=2).place((3, 32, 32)))  # 4 lines, 4 pixels, 2 channels
    398
    """
    conv = _convolution(layer)
    spans = [dilation * (taps - 1) for dilation, taps in zip(conv.dilations, conv.taps, strict=True)]
    return sum(span * place for span, place in zip(spans, _places(layer), strict=True)) + layer.channels - 1


def banded_normal_equations(layer: PlacedLayer, weight: RealArray, whiten: RealArray) -> RealArray:
    """Return `B^T B` as its diagonals, `(unknowns, bandwidth + 1)`: each row ends with the diagonal entry.

    The transpose is what LAPACK calls the upper band. What would lie left of the first column is zero.

    Args:
        layer: a convolution.
        weight: W.
        whiten: factor of each weight row in the output shape.
    """
    reach = bandwidth(layer)
    K = np.zeros((layer.unknowns, reach + 1), dtype=weight.dtype)
    _add_products(layer, weight, whiten, K)
    return K


def all_normal_equations(layer: PlacedLayer, weight: RealArray, whiten: RealArray) -> RealArray:
    """Return `B^T B` whole, in the order (*position, channel)."""
    if not layer.positions:
        B = weight * whiten[:, None]
        return np.asarray(B.T @ B)
    K = banded_normal_equations(layer, weight, whiten)
    return block_row(K, slice(0, layer.unknowns), 0)


@dataclass(frozen=True)
class Bands:
    """How the unknowns of a layer fall into blocks of whole lines along the first spatial axis.

    Attributes:
        lines: number of lines.
        width: unknowns of a line.
        per_block: lines of a block.
        reach: blocks below the diagonal block that a window can touch.
    """

    lines: int
    width: int
    per_block: int
    reach: int

    @property
    def edges(self) -> list[int]:
        """First line of every block, and the number of lines."""
        return [*range(0, self.lines, self.per_block), self.lines]


def bands(layer: PlacedLayer) -> Bands:
    """Return blocks as small as products allow.

    >>> from constraint_algebra.layers import Conv2d
    >>> bands(Conv2d(12, 5, stride=2, padding=2).place((3, 32, 32)))
    Bands(lines=32, width=96, per_block=2, reach=2)
    """
    conv = _convolution(layer)
    lines, height = layer.positions[0], conv.dilations[0] * (conv.taps[0] - 1)
    width = layer.unknowns // lines
    per_block = min(lines, max(-(-height // 2), -(-SMALLEST_BLOCK // width), 1))
    return Bands(lines, width, per_block, -(-height // per_block))


def normal_blocks(layer: PlacedLayer, weight: RealArray, whiten: RealArray, b: Bands) -> list[RealArray]:
    """Return the block rows of `B^T B`: block i whole, with the `b.reach` blocks to its left.

    Args:
        layer: the layer.
        weight: W.
        whiten: factor of each weight row in the output shape.
        b: the blocks.
    """
    K = banded_normal_equations(layer, weight, whiten)
    starts = [max(0, first - b.reach * b.per_block) for first in b.edges[:-1]]
    return [
        block_row(K, slice(first * b.width, last * b.width), start * b.width)
        for (first, last), start in zip(pairwise(b.edges), starts, strict=True)
    ]


def block_row(K: RealArray, rows: slice, first: int) -> RealArray:
    """Return rows of a banded matrix, as `banded_normal_equations` gives it, from a column to their diagonal block."""
    reach = K.shape[1] - 1
    below = rows.start - first  # columns left of the diagonal block
    found = np.triu(np.tril(rows_as_stored(K, rows, first, rows.stop), below), below - reach)
    own = found[:, below:]
    own += np.tril(own, -1).T
    return found


def rows_as_stored(K: RealArray, rows: slice, first: int, stop: int) -> RealArray:
    """Return the columns from `first` to `stop` of rows of a banded matrix, without a copy.

    What lies outside the band, or above the diagonal, are other entries: of rows before and after.
    """
    reach, step = K.shape[1] - 1, K.itemsize
    begin = (rows.start * reach + first + reach) * step
    return np.ndarray((rows.stop - rows.start, stop - first), K.dtype, K, begin, (reach * step, step))


def _add_products(layer: PlacedLayer, weight: RealArray, whiten: RealArray, K: RealArray) -> None:
    """Add the products of every tap with all that come before it, and with itself, into K."""
    taps, C = _convolution(layer).taps, layer.channels // layer.groups
    W = weight.reshape(layer.groups, -1, C, math.prod(taps[:-1]), taps[-1]).transpose(0, 3, 4, 1, 2)
    squares, reach = (whiten**2).reshape(layer.groups, -1, *layer.outputs), K.shape[1] - 1

    def add(row: int, column: int, found: RealArray, steps: Sequence[int]) -> None:
        first = row * reach + column + reach
        target = np.ndarray(found.shape, K.dtype, K, first * K.itemsize, [step * K.itemsize for step in steps])
        target += found

    for g, pair in product(range(layer.groups), _meetings(layer)):
        some, r, q = squares[g][(slice(None), *pair.outputs)], pair.row + g * C, pair.column + g * C
        one, others = W[g, *pair.tap], W[g, pair.line, pair.others].swapaxes(0, 1)  # filter, channel; filter, tap, ...
        products = one[:, :, None, None] * others[:, None]
        found = some.reshape(len(some), -1).T @ products.reshape(len(products), -1)
        found = found.reshape(*some.shape[1:], *products.shape[1:])
        if r > q:
            add(r, q, found if pair.inside is None else found * pair.inside, (*pair.along, reach, pair.across, 1))
            continue
        for c in range(C):  # a tap with itself: channels up to the diagonal
            add(r + c, q, found[..., c, 0, : c + 1], (*pair.along, 1))


@dataclass(frozen=True)
class Meeting:
    """One tap and some that lie in one line of the kernel, and where their products belong.

    The places of a line's taps follow each other. Where one lies outside the input, zeros are added beside it.

    Attributes:
        tap: line of the kernel and tap in it.
        line, others: the other taps likewise.
        outputs: those for which the tap, and the other line, lie inside the input.
        inside: 1 where the others do as well, 0 elsewhere, shape `(outputs of the last axis, 1, others, 1)`; `None`
            where all do.
        row, column: unknown that the first output sees through the tap, and through the first of the others.
        along, across: how far apart the entries of successive outputs along each axis lie, and of successive taps.
    """

    tap: tuple[int, int]
    line: int
    others: slice
    outputs: tuple[slice, ...]
    inside: NDArray[np.bool_] | None
    row: int
    column: int
    along: tuple[int, ...]
    across: int


@lru_cache(maxsize=16)
def _meetings(layer: PlacedLayer) -> list[Meeting]:
    """Return all pairs of taps, the earlier ones by line; a tap alone with itself."""
    taps = _convolution(layer).taps
    lines, found = list(np.ndindex(*taps[:-1])), []
    for n, t in np.ndindex(len(lines), taps[-1]):
        for m in range(n + 1):
            for others in (slice(0, t), slice(t, t + 1)) if m == n else (slice(0, taps[-1]),):
                if others.start < others.stop:
                    found += _meeting(layer, lines, (n, t), m, others)
    return found


def _meeting(layer: PlacedLayer, lines: list[Shape], tap: tuple[int, int], m: int, others: slice) -> list[Meeting]:
    """Return how a tap meets some of line m; nothing where they never do."""
    conv, places, reach = _convolution(layer), _places(layer), bandwidth(layer)
    jumps = [stride * place for stride, place in zip(conv.strides, places, strict=True)]  # from output to output
    position, outputs = _seen(layer, (*lines[tap[0]], tap[1]))
    by_tap = [_seen(layer, (*lines[m], t)) for t in range(others.start, others.stop)]
    above = zip(outputs[:-1], by_tap[0][1][:-1], strict=True)
    outputs[:-1] = [range(max(a.start, b.start), min(a.stop, b.stop)) for a, b in above]
    inside = np.array([[o in seen[-1] for _, seen in by_tap] for o in outputs[-1]], dtype=bool)
    met = np.flatnonzero(inside.any(axis=0))  # without a gap; zeros beside it stay inside the band
    if not (len(met) and all(outputs)):
        return []
    inside = inside[:, met[0] : met[-1] + 1]
    first = sum(o.start * jump for o, jump in zip(outputs, jumps, strict=True))
    return [
        Meeting(
            tap=tap,
            line=m,
            others=slice(others.start + int(met[0]), others.start + int(met[-1]) + 1),
            outputs=tuple(slice(o.start, o.stop) for o in outputs),
            inside=None if inside.all() else inside[:, None, :, None],
            row=position + first,
            column=by_tap[met[0]][0] + first,
            along=tuple(jump * (reach + 1) for jump in jumps),
            across=conv.dilations[-1] * layer.channels,
        )
    ]


def _seen(layer: PlacedLayer, tap: Shape) -> tuple[int, list[range]]:
    """Return the unknown that output 0 sees through a tap, perhaps outside, and which outputs of each axis see one."""
    conv = _convolution(layer)
    at = [t * dilation - before for t, dilation, (before, _) in zip(tap, conv.dilations, conv.paddings, strict=True)]
    axes = zip(at, conv.strides, layer.positions, layer.outputs, strict=True)
    outputs = [range(max(0, -(q // s)), min(count, (size - 1 - q) // s + 1)) for q, s, size, count in axes]
    return sum(map(mul, at, _places(layer))), outputs


def _places(layer: PlacedLayer) -> Shape:
    """Return by how many unknowns one step along each axis leads on."""
    return tuple(layer.channels * math.prod(layer.positions[axis + 1 :]) for axis in range(len(layer.positions)))


def _convolution(layer: PlacedLayer) -> Conv:
    conv = layer.bilinear
    if not isinstance(conv, Conv):
        raise TypeError(f"layer {layer.name!r} is no convolution and has no lines")
    return conv
