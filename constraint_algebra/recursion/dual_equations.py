"""The dual equations: the gradient at the output of a layer, from what the layer reads.

Where the input h of a layer is known, `sum_o k[f, o] h[c, q(o, t)] = dL/dW[f, c, t]` is linear in the output gradient k
as well, with the same matrix for every filter, and so is `sum_o k[f, o] = dL/db[f]`. A row (c, t) counts where all of h
that it multiplies with a k that is unknown or not zero is known. Filters of which the same k are known are solved
together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.numerics.singular import svd
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, kept
from constraint_algebra.recursion.noise import STORED_SOLUTION, settled
from constraint_algebra.solvers.noisy_equations import USABLE

OPERATIONS, VALUES = 4e9, 2e9  # of all systems of a layer, and held for one of them, up to which they are solved


@dataclass(frozen=True)
class _Filters:
    """Filters of one group of which the same k are open.

    Attributes:
        filters: their numbers.
        open: the outputs whose k are open.
        counts: which rows (c, t) count, flat.
    """

    filters: IntArray
    open: IntArray
    counts: BoolArray


@dataclass(frozen=True)
class _Solved:
    """The gradients of some filters at their open outputs, `(filters, open)`, and how noise moves them."""

    value: FloatArray
    known: BoolArray
    moved: FloatArray


class _Group:
    """The dual equations of a group of a layer: h as every output sees it, `(rows, outputs)`."""

    def __init__(self, knows: GraphKnowledge, layer: PlacedLayer, group: int) -> None:
        self.knows, self.layer = knows, layer
        F, C = layer.filters // layer.groups, layer.channels // layer.groups
        self.filters = np.arange(group * F, (group + 1) * F)
        x, seen = knows.values[layer.inputs[0]], incidence(layer).positions_seen
        rows = slice(group * C, (group + 1) * C)

        def gathered(values: FloatArray, beyond: float) -> FloatArray:
            pads = ((0, 0), (0, 1), *((0, 0),) * (values.ndim - 2))
            padded = np.pad(values[rows], pads, constant_values=beyond)
            return np.moveaxis(padded[:, seen], 2, 1).reshape(-1, len(seen), *values.shape[2:])

        self.h = gathered(x.filled().reshape(layer.channels, -1), 0.0)
        self.known = gathered(x.known.reshape(layer.channels, -1).astype(float), 1.0) > 0
        self.moved_h = gathered(kept(x).reshape(layer.channels, -1, MEMBERS), 0.0)
        self.k = knows.gradients[layer.number].reshape((layer.filters, len(seen)))

    def alike(self) -> Iterator[_Filters]:
        """Yield the filters with open outputs, those with the same ones together."""
        known, value = self.k.known[self.filters], self.k.value[self.filters]
        matters = ~known | (value != 0)
        kinds, which = np.unique(np.hstack([known, matters]), axis=0, return_inverse=True)
        outputs = known.shape[1]
        for number, kind in enumerate(kinds):
            open_ones, seen = np.flatnonzero(~kind[:outputs]), kind[outputs:]
            counts = ~(~self.known & seen).any(axis=1)
            if len(open_ones):
                yield _Filters(self.filters[which.ravel() == number], open_ones, counts)

    def solved(self, some: _Filters) -> _Solved | None:
        """Return the open gradients of some filters; `None` where no row counts."""
        observed, layer, at = self.knows.observed, self.layer, some.counts
        dW = observed.gradients[layer.weight_name].reshape(layer.filters, -1)[some.filters][:, at].T
        own = observed.deviations[layer.weight_name].reshape(layer.filters, -1)[some.filters][:, at].T
        k, moved_k = self.k.filled()[some.filters].T, kept(self.k)[some.filters].swapaxes(0, 1)
        A, rest, moved_h = self.h[at], self.h[at], self.moved_h[at]
        if layer.bias_name is not None:
            A = rest = np.concatenate([A, np.ones((1, A.shape[1]))])
            moved_h = np.concatenate([moved_h, np.zeros((1, *moved_h.shape[1:]))])
            dW = np.concatenate([dW, observed.gradients[layer.bias_name][None, some.filters]])
            own = np.concatenate([own, observed.deviations[layer.bias_name][None, some.filters]])
        if not len(A):
            return None
        rhs = dW - rest @ k  # k is zero where it is open
        draws = -np.einsum("ro,ofm->rfm", rest, moved_k) - np.einsum("rom,of->rfm", moved_h, k)
        return self._least_squares(A[:, some.open], moved_h[:, some.open], rhs, own, draws)

    def _least_squares(
        self, A: FloatArray, moved_h: FloatArray, rhs: FloatArray, own: FloatArray, draws: FloatArray
    ) -> _Solved:
        observed = self.knows.observed
        size = float(np.linalg.norm(rhs)) / (float(np.linalg.norm(A)) or 1.0) or 1.0  # of a typical k
        by_row = size * np.sqrt((moved_h**2).mean(axis=2).sum(axis=1))
        rounding = observed.rounding.arithmetic * size * np.sqrt((A**2).sum(axis=1))
        by_known = (draws**2).mean(axis=(1, 2))
        noise = np.sqrt((own**2).mean(axis=1) + rounding**2 + by_row**2 + by_known)
        weight = 1 / np.maximum(noise, np.finfo(float).tiny * 1e16)
        U, s, Vt = svd(A * weight[:, None], full_matrices=False)
        spurious = 2 * float(np.sqrt(((by_row * weight) ** 2).sum()))
        keep = (s * size > max(USABLE, spurious)) & (s > max(A.shape) * np.finfo(float).eps * s.max(initial=0.0))
        U, s, V = U[:, keep], s[keep], Vt[keep].T
        inverse = V @ (U.T / s[:, None]) * weight
        k = inverse @ rhs  # (open, filters)
        full = len(s) == A.shape[1]
        share = np.zeros(len(k)) if full else np.sqrt(np.clip(1 - (V**2).sum(axis=1), 0.0, None))
        draws = draws + observed.draw(np.hypot(own, rounding[:, None]), own.shape)
        draws -= np.einsum("rom,of->rfm", moved_h, k, optimize=True)
        moved = np.einsum("or,rfm->ofm", inverse, draws, optimize=True)
        moved += observed.draw(STORED_SOLUTION * np.abs(k), k.shape)
        known = settled(share[:, None], moved, size)
        return _Solved(k.T, known.T, moved.swapaxes(0, 1))


def dual(knows: GraphKnowledge, layer: PlacedLayer) -> bool:
    """Learn the gradient at the output of a layer with a weight from what is known of its input."""
    x, k = knows.values[layer.inputs[0]], knows.gradients[layer.number]
    if k.known.all() or not x.known.any() or not x.value[x.known].any():
        return False
    outputs = math.prod(layer.outputs)
    rows = layer.channels // layer.groups * math.prod(layer.taps) + 1
    if rows * outputs * (MEMBERS + rows) > VALUES:
        return False
    found = Estimate.unknown((layer.filters, outputs), MEMBERS)
    for number in range(layer.groups):
        group = _Group(knows, layer, number)
        systems = list(group.alike())
        if layer.groups * len(systems) * rows * outputs * min(rows, outputs) > OPERATIONS:
            return False
        for some in systems:
            solved = group.solved(some)
            if solved is not None:
                at = np.ix_(some.filters, some.open)
                found.value[at], found.known[at], found.perturbations[at] = solved.value, solved.known, solved.moved
    return knows.learn_gradient(layer.number, found.reshape(layer.output_shape))
