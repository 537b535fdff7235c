"""What a region is: which entries of which values must follow the map, and what the others must only not exceed.

From the output down, every layer says what it needs of what it reads. An entry is *seen* if something above is a
function of it. Then it must stay the affine function of the input that the pattern makes it: an activation keeps its
side, a window its winner. An entry that nothing sees (a ReLU cuts it off, another wins its window) carries no gradient
either, and is free up to a *bound* or up to another entry: below ReLU after max-pool all entries of a window need only
stay below the edge, whichever of them is the largest; of max-pool after ReLU the losers need only stay below the
winner, on whichever side.

Bounds and comparisons go down through what keeps the order of single entries: reshapes, joins, scalings, activations
that rise. Where entries are mixed, they become inequalities there, in entries that are seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.activations import Hardtanh, Identity, LeakyReLU, PReLU, ReLU, Softplus, has_two_branches
from constraint_algebra.layers.activations import is_piecewise_linear as in_pieces
from constraint_algebra.layers.convolutions import ChannelScale
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.operations import Pattern, affine_maps, formulas_of, windows

Comparison = tuple[
    IntArray, IntArray
]  # flat entries of one value: each of the first must not exceed that of the second


@dataclass
class Need:
    """What is needed of one value, its entries flat.

    Attributes:
        seen: which entries must follow the map.
        lower, upper: bounds, infinite where there is none.
        pairs: comparisons, the second entry of each being seen.
    """

    seen: BoolArray
    lower: FloatArray
    upper: FloatArray
    pairs: list[Comparison] = field(default_factory=list)

    @classmethod
    def of(cls, size: int) -> Need:
        """Return no need at all."""
        return cls(np.zeros(size, dtype=bool), np.full(size, -np.inf), np.full(size, np.inf))

    @property
    def is_bounded(self) -> BoolArray:
        """Which entries have a bound."""
        return np.asarray(np.isfinite(self.lower) | np.isfinite(self.upper))

    def bound(self, entries: IntArray, lower: FloatArray, upper: FloatArray) -> None:
        """Add bounds of some entries, which may occur more than once."""
        np.maximum.at(self.lower, entries, lower)
        np.minimum.at(self.upper, entries, upper)

    def compare(self, low: IntArray, high: IntArray) -> None:
        """Add comparisons."""
        if len(low):
            self.pairs.append((low, high))


@dataclass(frozen=True, eq=False)
class Held:
    """Inequalities in the entries of one value, `rows h <= limit`.

    Attributes:
        number: of the value.
        rows: sparse, over its flat entries.
        slack: how far the point at hand is from each limit.
    """

    number: int
    rows: sp.csr_array
    slack: FloatArray


class Region:
    """What the pattern at one input needs, so that everything seen stays what the map says.

    Args:
        layers: the layers from the input on, in order.
        parameters: parameters and buffers by name.
        values: what `Network.forward` returned.
        at: the pattern there.
        seen: numbers of the values that must follow the map as a whole.
        constant: whether these values do not move at all, so that a winner among them is a bound.

    Attributes:
        held: the inequalities, from above.
        kept: for each activation that bends and each normalisation, by its name: which entries of what it reads must
            stay as they are.
        passing: for each layer with a weight, by its name: which of its outputs are seen, flat.

    >>> from constraint_algebra.layers import Flatten, Linear, MaxPool1d, ReLU
    >>> from constraint_algebra.networks.network import Network
    >>> from constraint_algebra.networks.operations import pattern
    >>> net = Network((1, 4), [MaxPool1d(2), ReLU(), Flatten(), Linear(1, bias=False)])
    >>> P, x = {"3.weight": np.ones((1, 2))}, np.array([[-2.0, -1.0, 3.0, 1.0]])
    >>> values = net.forward(P, x)
    >>> for held in Region(net.layers, P, values, pattern(net.layers, P, values), [4]).held:
    ...     print(held.number, held.rows.toarray().astype(int).tolist(), held.slack)
    0 [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, -1, 1]] [2. 1. 3. 2.]
    """

    def __init__(
        self,
        layers: Sequence[PlacedLayer],
        parameters: Mapping[str, FloatArray],
        values: Sequence[FloatArray],
        at: Pattern,
        seen: Sequence[int],
        *,
        constant: bool = False,
    ) -> None:
        """Go down through all layers."""
        self._constant = frozenset(seen) if constant else frozenset()
        self._parameters, self._values, self._at = parameters, values, at
        self.held: list[Held] = []
        self.kept: dict[str, BoolArray] = {}
        self.passing: dict[str, BoolArray] = {}
        self._needs: dict[int, Need] = {}
        for number in seen:
            self._of(number).seen[:] = True
        for layer in reversed(layers):
            need = self._needs.pop(layer.number, None)
            if need is not None:
                self._below(layer, need)
        if 0 in self._needs:
            self._hold(0, self._needs[0])

    def _of(self, number: int) -> Need:
        return self._needs.setdefault(number, Need.of(self._values[number].size))

    def _below(self, layer: PlacedLayer, need: Need) -> None:
        """Say what a layer needs of what it reads."""
        if layer.is_bilinear:
            self.passing[layer.name] = need.seen.copy()
        if layer.is_reshape:
            self._pass_on(layer, need)
        elif layer.is_selection:
            self._select(layer, need)
        elif layer.is_activation:
            self._activate(layer, need)
        elif layer.is_normalisation:
            self._normalise(layer, need)
        elif isinstance(layer.layer, ChannelScale):
            self._of(layer.inputs[0]).seen |= need.seen  # its factors' gradient sees them, even at a factor of zero
            each = math.prod(layer.outputs)
            factor = self._parameters[layer.weight_name].ravel().repeat(each)
            shift = np.zeros(len(factor)) if layer.bias_name is None else self._parameters[layer.bias_name].repeat(each)
            self._affine(layer, need, [sp.csr_array(sp.diags_array(factor))], shift)
        elif layer.is_bilinear:
            self._hold(layer.number, need)
            seen = trilinear.touched(layer, need.seen.reshape(layer.output_shape))
            self._of(layer.inputs[0]).seen |= seen.ravel()
        else:
            maps, constant = affine_maps(layer, self._parameters)
            self._affine(layer, need, maps, np.zeros(len(need.seen)) if constant is None else constant)

    def _pass_on(self, layer: PlacedLayer, need: Need) -> None:
        """Need the same of the same entries below."""
        below, every = self._of(layer.inputs[0]), np.arange(len(need.seen))
        below.seen |= need.seen
        below.bound(every, need.lower, need.upper)
        below.pairs += need.pairs

    def _hold(self, number: int, need: Need) -> None:
        """Make inequalities of all bounds and comparisons of a value; their entries are seen."""
        size, z = len(need.seen), self._values[number].ravel()
        for sign, limit in ((1.0, need.upper), (-1.0, -need.lower)):
            bounded = np.flatnonzero(np.isfinite(limit))
            if len(bounded):
                ones = np.full(len(bounded), sign)
                rows = sp.csr_array((ones, (np.arange(len(bounded)), bounded)), shape=(len(bounded), size))
                self._add(number, rows, limit[bounded] - sign * z[bounded])
        need.seen |= need.is_bounded
        for low, high in need.pairs:
            m, both = len(low), np.concatenate([low, high])
            signs = np.repeat([1.0, -1.0], m)
            rows = sp.csr_array((signs, (np.tile(np.arange(m), 2), both)), shape=(m, size))
            self._add(number, rows, z[high] - z[low])
            need.seen[both] = True
        need.pairs = []

    def _add(self, number: int, rows: sp.csr_array, slack: FloatArray) -> None:
        last = self.held[-1] if self.held else None
        if last is not None and last.number == number:
            rows = sp.csr_array(sp.vstack([last.rows, rows], format="csr"))
            slack = np.concatenate([self.held.pop().slack, slack])
        self.held.append(Held(number, rows, slack))

    def _select(self, layer: PlacedLayer, need: Need) -> None:
        """Below a selection: what wins must go on winning where that is seen, and else all stay within the bounds."""
        below, table = self._of(layer.inputs[0]), windows(layer)
        best = np.asarray(self._at[layer.name], dtype=np.intp).ravel()
        there = table >= 0
        below.seen[best[need.seen]] = True
        losing = there & (table != best[:, None])

        def entries(of: BoolArray | IntArray, which: BoolArray) -> tuple[IntArray, IntArray]:
            """Return entries of windows, and for each which of the windows it belongs to."""
            window, place = np.nonzero(which[of])
            return table[of][window, place], window

        low, window = entries(need.seen, losing)
        if layer.number in self._constant:
            won = self._values[layer.number].ravel()[need.seen]
            below.bound(low, np.full(len(low), -np.inf), won[window])
        else:
            below.compare(low, best[need.seen][window])
        bounded = np.isfinite(need.upper)
        low, window = entries(bounded, there)
        below.bound(low, np.full(len(low), -np.inf), need.upper[bounded][window])
        below.bound(best, need.lower, np.full(len(best), np.inf))
        for one, other in need.pairs:
            plain = need.seen[one]
            below.compare(best[one[plain]], best[other[plain]])
            low, window = entries(one[~plain], there)
            below.compare(low, best[other[~plain]][window])

    def _activate(self, layer: PlacedLayer, need: Need) -> None:
        """Below an activation: what is seen keeps its side, the rest stays below what the bounds are the outputs of."""
        if isinstance(layer.layer, Identity):
            self._pass_on(layer, need)
            return
        if not _rises(layer, self._parameters):
            need.seen |= need.is_bounded
            for pair in need.pairs:
                need.seen[np.concatenate(pair)] = True
            self._hold_outputs(layer, need)
        below, z = self._of(layer.inputs[0]), self._values[layer.inputs[0]].ravel()
        lower, upper = self._carried(layer, need)
        every = np.arange(len(z))
        below.bound(every, lower, upper)
        edges = _edges(layer)
        for one, other in need.pairs:
            low_end, high_end = (z[other] <= edges[0], z[other] >= edges[1])
            rising = ~(low_end | high_end)
            below.compare(one[rising], other[rising])
            cut = one[low_end]
            below.bound(cut, np.full(len(cut), -np.inf), np.full(len(cut), edges[0]))
        if not in_pieces(layer.activation):
            below.seen |= need.seen
            self.kept[layer.name] = need.seen.copy()
            return
        self._keep_sides(layer, need.seen, below, z)

    def _normalise(self, layer: PlacedLayer, need: Need) -> None:
        """Below a normalisation: as each output moves with all of its group, groups of which anything counts stay."""
        counts = need.seen | need.is_bounded
        for pair in need.pairs:
            counts[np.concatenate(pair)] = True
        groups = layer.normalisation.runs(layer.input_shape)
        stays = np.repeat(counts.reshape(groups, -1).any(axis=1), len(counts) // groups)
        self._of(layer.inputs[0]).seen |= stays
        self.kept[layer.name] = stays

    def _hold_outputs(self, layer: PlacedLayer, need: Need) -> None:
        """Make inequalities of outputs themselves: as those are seen, they move as the map says."""
        self._hold(layer.number, need)
        need.lower[:], need.upper[:] = -np.inf, np.inf

    def _keep_sides(self, layer: PlacedLayer, seen: BoolArray, below: Need, z: FloatArray) -> None:
        """Bound what is seen to the piece that it lies on; a flat piece hides it."""
        (low, high), infinite = _edges(layer), np.full(len(z), np.inf)
        if isinstance(layer.layer, LeakyReLU | PReLU):
            on = z <= 0
            below.seen |= seen
            below.upper = np.minimum(below.upper, np.where(seen & on, 0.0, infinite))
            below.lower = np.maximum(below.lower, np.where(seen & ~on, 0.0, -infinite))
            return
        cut_low, cut_high = z <= low, z >= high
        steep = seen & ~(cut_low | cut_high)
        below.seen |= steep
        ceiling = np.where(seen & cut_low, low, np.where(steep, high, infinite))
        floor = np.where(seen & cut_high, high, np.where(steep, low, -infinite))
        below.upper, below.lower = np.minimum(below.upper, ceiling), np.maximum(below.lower, floor)

    def _carried(self, layer: PlacedLayer, need: Need) -> tuple[FloatArray, FloatArray]:
        """Return bounds of z from those of σ(z), for a σ that rises."""
        low, high = _edges(layer)
        if isinstance(layer.layer, ReLU | Hardtanh):
            return (
                np.where(need.lower <= low, -np.inf, need.lower),
                np.where(need.upper >= high, np.inf, need.upper),
            )
        f = formulas_of(layer, self._parameters)
        carried = []
        for limit, none in ((need.lower, -np.inf), (need.upper, np.inf)):
            finite = np.isfinite(limit)
            z = f.inverse(np.where(finite, limit, 0.0).reshape(layer.output_shape)).ravel()
            carried.append(np.where(finite & np.isfinite(z), z, none))  # an output beyond the range is never reached
        return carried[0], carried[1]

    def _affine(self, layer: PlacedLayer, need: Need, maps: Sequence[sp.csr_array], shift: FloatArray) -> None:
        """Below an affine operation: bounds and comparisons of entries that come from one entry alone go on."""
        M = sp.csr_array(sp.hstack(maps, format="csr"))
        M.eliminate_zeros()
        single = np.diff(M.indptr) == 1
        first = np.where(single, M.indptr[:-1], M.nnz)  # of the rows with one entry; one past the last for none
        source = np.append(M.indices, -1)[first]
        factor = np.append(M.data, 0.0)[first]
        ends = np.cumsum([0, *(part.shape[1] for part in maps)])
        of = np.searchsorted(ends, source, side="right") - 1
        passing = [
            single[a] & single[b] & (of[a] == of[b]) & (factor[a] == factor[b]) & (shift[a] == shift[b])
            for a, b in need.pairs
        ]
        pairs = need.pairs
        need.pairs = [(a[~p], b[~p]) for (a, b), p in zip(pairs, passing, strict=True) if not p.all()]
        lower, upper = need.lower, need.upper
        need.lower, need.upper = np.where(single, -np.inf, lower), np.where(single, np.inf, upper)
        self._hold(layer.number, need)
        for j, number in enumerate(layer.inputs):
            below = self._of(number)
            below.seen |= np.asarray(abs(maps[j]).T @ need.seen.astype(float)).ravel() > 0
            own = single & (of == j)
            some, m = source[own] - ends[j], factor[own]
            a, b = (lower[own] - shift[own]) / m, (upper[own] - shift[own]) / m
            below.bound(some, np.where(m > 0, a, b), np.where(m > 0, b, a))
            for (one, other), p in zip(pairs, passing, strict=True):
                mine = p & (of[one] == j)
                low, high, up = source[one[mine]] - ends[j], source[other[mine]] - ends[j], factor[one[mine]] > 0
                below.compare(np.where(up, low, high), np.where(up, high, low))


def _rises(layer: PlacedLayer, parameters: Mapping[str, FloatArray]) -> bool:
    """Whether an activation never falls, so that it keeps the order of its values."""
    if isinstance(layer.layer, PReLU):
        return bool((parameters[layer.weight_name] > 0).all())
    # Softplus falls where it jumps to the identity.
    return not isinstance(layer.layer, Softplus) and not has_two_branches(layer.activation)


def _edges(layer: PlacedLayer) -> tuple[float, float]:
    """Return where an activation is cut off below and above."""
    match layer.layer:
        case ReLU():
            return 0.0, np.inf
        case Hardtanh(low, high):
            return low, high
    return -np.inf, np.inf
