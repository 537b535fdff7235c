"""All that is known about the input h of a layer below a selection, with one unknown winner a window.

With shares P of each window's entries the gradient at the layer's outputs is `K = P k`, and

    A(K) h[c] = dL/dW[:, c]     of every filter: exact if all its winners are right
    W h + b = v                 at the winners

The first are one matrix for all channels of a group, solved by weighted least squares and brought into the range of h;
the second say which entries may have won, and where there are few filters they are solved together with the first. An
entry's score is its share in the solution of the dual equations (K from h), less the distance of its output from v.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray
from constraint_algebra.beyond_rank.alternation import Answer
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.networks.spans import Span
from constraint_algebra.recursion.bit_equations import gradient_rows
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.pooled import Pooled

SOFT_RIDGE, RIDGE = 1e-8, 1e-13  # of the largest square, while winners have shares, and then
DUAL_RIDGE = 1e-10  # the same of the dual equations
LEAST_SHARE, MOST_SHARE = -0.5, 1.5  # what a share in the dual solution counts at most
TIED = 3.0  # times the median misfit of the best entries of all windows, within which entries count as equal
FIRST = 1e-3  # of a share, by which an entry is preferred to the next of equal ones: PyTorch takes the first
OUT = -9.0  # score of an entry that is surely not the largest


class WindowEquations:
    """The equations of one layer with a winner open in some windows: a `Problem` of robust alternation.

    Args:
        observed: parameters and gradients.
        view: the windows, with k known of all of them.
        made: what values h may have.
        held: what is known of h.
    """

    def __init__(self, observed: Observation, view: Pooled, made: Span, held: Estimate) -> None:
        """Scale the gradient equations of each filter by its gradient."""
        self.view, self.layer, self.made, self.held = view, view.layer, made, held
        layer = view.layer
        self.W, self.bias = observed.parameters[layer.weight_name], observed.bias(layer)
        dW = observed.gradients[layer.weight_name].reshape(layer.filters, layer.channels // layer.groups, -1)
        size = np.sqrt((dW**2).sum(axis=(1, 2)))
        self.active = size > observed.rounding.arithmetic * size.max(initial=0.0)
        self.size = np.where(self.active, size, 1.0)
        self.gradient = np.where(self.active[:, None, None], dW / self.size[:, None, None], 0.0)
        self.asked = np.flatnonzero(view.k.known & (view.k.filled() != 0))
        self.windows, self.real = view.windows[self.asked], view.real[self.asked]
        self.k, self.v = view.k.value[self.asked], np.where(view.v.known, view.v.value, np.nan)[self.asked]
        self.spread = float(np.nanstd(self.v)) or 1.0
        outputs = int(np.prod(layer.outputs))
        self.block = np.where(self.real[:, 0], self.windows[:, 0], 0) // outputs
        self._of: tuple[FloatArray, FloatArray] | None = None

    @property
    def kinds(self) -> Sequence[slice]:
        """The blocks: filters."""
        return (slice(0, self.layer.filters),)

    def start(self) -> FloatArray:
        """Return equal shares."""
        return np.asarray(self.real / self.real.sum(axis=1, keepdims=True))

    def solve(self, shares: FloatArray, weights: FloatArray) -> Answer:
        """Return what h by weighted least squares says of each entry."""
        sharp = bool((shares.max(axis=1) == 1).all())
        A = self._rows(shares)
        h = self._input(A, np.where(self.active, weights, 0.0), RIDGE if sharp else SOFT_RIDGE)
        scores = self._scores(h, sharp=sharp)
        return Answer(scores, np.where(self.active, self._misfits(A, h), np.nan))

    def _rows(self, shares: FloatArray) -> FloatArray:
        """Return the gradient rows at some shares, `(filters, taps, positions)`; kept, as they are asked for again."""
        if self._of is None or self._of[0] is not shares:
            each = shares * self.k[:, None] * self.view.factor[self.asked]
            K = np.bincount(self.windows[self.real], each[self.real], int(np.prod(self.layer.output_shape)))
            scaled = K.reshape(self.layer.filters, -1) / self.size[:, None]
            self._of = shares, gradient_rows(self.layer, scaled)
        return self._of[1]

    def _input(self, A: FloatArray, weights: FloatArray, ridge: float) -> FloatArray:
        """Return h by least squares, `(channels, positions)`, in its range."""
        layer, roots = self.layer, np.sqrt(weights)[:, None, None]
        found = []
        for filters in np.split(np.arange(layer.filters), layer.groups):
            rows = (roots[filters] * A[filters]).reshape(-1, A.shape[2])
            sides = (roots[filters] * self.gradient[filters].swapaxes(1, 2)).reshape(len(rows), -1)
            found.append(_least_squares(rows, sides, ridge).T)
        h = np.clip(np.concatenate(found), self.made.low, self.made.high)
        held = self.held
        return np.where(held.known.reshape(h.shape), held.filled().reshape(h.shape), h)

    def _misfits(self, A: FloatArray, h: FloatArray) -> FloatArray:
        """Return the residual of each filter's gradient, relative to that."""
        layer = self.layer
        by_group = A.reshape(layer.groups, -1, A.shape[2]) @ h.reshape(layer.groups, -1, A.shape[2]).swapaxes(1, 2)
        residual = by_group.reshape(layer.filters, A.shape[1], -1).swapaxes(1, 2) - self.gradient
        return np.asarray(np.sqrt((residual**2).sum(axis=(1, 2))))

    def _scores(self, h: FloatArray, *, sharp: bool) -> FloatArray:
        made = trilinear.forward(self.layer, self.W, h.reshape(self.layer.input_shape))
        z = made.reshape(self.layer.filters, -1) + self.bias[:, None]
        t = self.view.factor[self.asked] * z.ravel()[self.windows] + self.view.shift[self.asked]
        off = np.where(self.real, np.abs(t - self.v[:, None]), np.inf)
        off = np.nan_to_num(off, nan=0.0, posinf=np.inf)  # of some v nothing is known
        shares = np.clip(self._dual_shares(h), LEAST_SHARE, MOST_SHARE)
        if not sharp:
            return np.where(self.real, shares - off / self.spread, OUT)
        nearest = off.min(axis=1)
        candidates = off <= nearest[:, None] + TIED * float(np.median(nearest)) + 1e-10 * self.spread
        return np.where(candidates, shares - FIRST * np.arange(off.shape[1]), OUT)

    def _dual_shares(self, h: FloatArray) -> FloatArray:
        """Return the share of k that each entry gets where the dual equations are solved with h."""
        layer, seen = self.layer, incidence(self.layer).positions_seen
        K = np.zeros((layer.filters, len(seen)))
        padded = np.pad(h, ((0, 0), (0, 1)))
        for filters, channels in zip(
            np.split(np.arange(layer.filters), layer.groups), np.split(padded, layer.groups), strict=True
        ):
            S = channels[:, seen].swapaxes(1, 2).reshape(-1, len(seen))
            sides = self.gradient[filters].reshape(len(filters), -1).T
            K[filters] = (_least_squares(S, sides, DUAL_RIDGE) * self.size[filters]).T
        factor = self.view.factor[self.asked]
        each = K.ravel()[self.windows] / np.where(factor != 0, factor, np.inf)
        return np.asarray(each / self.k[:, None])


def _least_squares(rows: FloatArray, sides: FloatArray, ridge: float) -> FloatArray:
    """Return the least-squares solution for several right-hand sides, with a little of the largest square added."""
    M = la.blas.dsyrk(1.0, rows.T)  # the upper half of rowsᵀ rows
    size = float(np.diag(M).max(initial=0.0)) or 1.0
    M[np.diag_indices(len(M))] += ridge * size * len(M)
    factor = la.cho_factor(M, overwrite_a=True, check_finite=False)
    return np.asarray(la.cho_solve(factor, rows.T @ sides, check_finite=False))
