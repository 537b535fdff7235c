"""All that is known about the input h of a layer whose output a ReLU passed or cut off, one unknown bit an output.

Above the ReLU its output lies in the family `y = p + V w`; where its bit is open, the gradient is what arrives or zero.
The equations are

    A(m dy) h[c] = dL/dW[:, c]     of every filter: exact if all its bits m are right
    W h + b = y                    at outputs that were passed
    y = 0                          at outputs that were cut off

Filters of which all bits are known are eliminated first: with an orthonormal basis N of what they leave open in every
channel the unknowns are `h = h0 + N u` and w. The rest is a `Problem` of robust alternation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.beyond_rank.alternation import Answer
from constraint_algebra.equations.systems import weight_equations
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.numerics.singular import svd
from constraint_algebra.recursion.bits_by_sums import Outputs, typical

ON = 0.9  # share of a bit that is on by the family alone, and of one that is off there 1 - ON, to begin with
# Weight of the square of a filter's rows, against that of one output. At 1 the first rounds of a layer of LeNet with 4
# ReLU got stuck at 30 to 60 wrong bits of 704, at 30 at 1 to 6; at 300 to 600 all were right after 9 to 12 solutions.
FIRM = 500.0
WEAK = 0.03  # of the root of the rounding, and of the largest singular value: what is below counts as open
KNOWN = 1e6  # weight of the square of an equation that is known to hold
RIDGE = 1e-10  # of the mean square of the columns, that what nothing determines stays small
OUTPUTS = 400  # of a filter up to which its gradient is solved for as well
SHARPEST = 1e-7  # of a typical output: what lies within that of the edge is on neither side
DECIDED = 0.3  # misfit of a filter, of its gradient, at which half of what its solved gradient says counts
LOW = 1e-4  # of the largest output: below that it is taken for zero at first


class BitEquations:
    """The equations of one layer with a bit open at some outputs: a `Problem` of robust alternation.

    Args:
        layer: the layer; it has one group.
        weight: W.
        bias: b, `(filters,)`.
        weight_gradient: dL/dW.
        outputs: what is known of its outputs.
        rounding: relative error of these numbers; directions of h that rows show by less count as open.
    """

    def __init__(
        self,
        layer: PlacedLayer,
        weight: FloatArray,
        bias: FloatArray,
        weight_gradient: FloatArray,
        outputs: Outputs,
        rounding: float,
    ) -> None:
        """Eliminate the filters that are known."""
        self.layer, self.outputs = layer, outputs
        F, C = layer.filters, layer.channels
        gradient = weight_gradient.reshape(F, C, -1)
        size = np.sqrt((gradient**2).sum(axis=(1, 2)))
        self.gradient = gradient / np.where(size > 0, size, 1.0)[:, None, None]
        self.dy = outputs.dy / np.where(size > 0, size, 1.0)[:, None]
        self.open = ~outputs.known
        self.filters = np.flatnonzero(self.open.any(axis=1) & (size > 0))
        sure = ~self.open.any(axis=1) & (size > 0)
        A = gradient_rows(layer, np.where(outputs.on, self.dy, 0.0)[sure]).reshape(-1, layer.unknowns // C)
        A = A if len(A) else np.zeros((1, A.shape[1]))
        U, s, Vt = svd(A)
        rank = int(np.count_nonzero(s > np.sqrt(rounding) * WEAK * s.max(initial=0.0)))
        rhs = self.gradient[sure].swapaxes(1, 2).reshape(-1, C) if sure.any() else np.zeros((1, C))
        self.h0 = (Vt[:rank].T @ ((U[:, :rank].T @ rhs) / s[:rank, None])).T  # (channels, positions)
        self.N = np.ascontiguousarray(Vt[rank:].T)
        self._write_outputs(weight, bias)

    @property
    def unknowns(self) -> int:
        """Number of unknowns: u of all channels, and w."""
        return self.layer.channels * int(self.N.shape[1]) + int(self.V.shape[1])

    def _write_outputs(self, weight: FloatArray, bias: FloatArray) -> None:
        """Write down the equations of the outputs, each in units of h."""
        layer, outputs, family = self.layer, self.outputs, self.outputs.family
        flat, C = self.open.ravel(), layer.channels
        B = weight_equations(layer, weight).matrix
        b = np.repeat(bias, self.open.shape[1])
        size = np.repeat(np.sqrt((weight.reshape(layer.filters, -1) ** 2).sum(axis=1)), self.open.shape[1])
        size = np.where(size > 0, size, 1.0)
        places = self.N.shape[0]
        of_u = np.hstack([B[:, c * places : (c + 1) * places] @ self.N for c in range(C)])
        z0 = B @ self.h0.ravel() + b
        count = int(flat.sum())
        self.V = np.zeros((count, 0)) if family is None else family.V[flat]
        self.p = np.zeros(count) if family is None else family.p[flat]
        passed = (outputs.known & outputs.on & (family is not None or np.isfinite(outputs.y))).ravel()
        self.of_z, self.z0, self.size = of_u[flat], z0[flat], size[flat]
        # The family holds what is known as well, by values that cannot move.
        at, V = (outputs.y.ravel(), np.zeros((len(flat), 0))) if family is None else (family.p, family.V)
        sure = np.hstack([of_u[passed], -V[passed]]) / size[passed, None]
        rhs = (at - z0)[passed] / size[passed]
        self.sure = KNOWN * (sure.T @ sure), KNOWN * (sure.T @ rhs)
        empty = np.zeros_like(self.of_z)
        said = family is not None
        self.on_rows = np.hstack([self.of_z, -self.V]) / self.size[:, None] * said
        self.on_rhs = (self.p - self.z0) / self.size * said
        self.off_rows = np.hstack([empty, self.V]) / self.size[:, None]
        self.off_rhs = -self.p / self.size

    @property
    def kinds(self) -> Sequence[slice]:
        """Blocks: filters, the equations of outputs that may be on, and of those that may be off."""
        f, n = len(self.filters), len(self.p)
        return slice(0, f), slice(f, f + n), slice(f + n, f + 2 * n)

    @cached_property
    def block(self) -> IntArray:
        """The filter of each open output; the first of all where that has no gradient."""
        at = np.repeat(np.arange(len(self.open)), self.open.shape[1])[self.open.ravel()]
        return np.minimum(np.searchsorted(self.filters, at), max(len(self.filters) - 1, 0))

    def start(self) -> FloatArray:
        """Return shares (off, on) by what the family leaves possible within the range of y."""
        return self._start

    @cached_property
    def _start(self) -> FloatArray:
        family = self.outputs.family
        if family is None:
            return np.full((len(self.p), 2), 0.5)
        on = np.where(typical(family)[self.open.ravel()] > LOW * np.abs(family.p).max(initial=0.0), ON, 1 - ON)
        return np.stack([1 - on, on], axis=1)

    def solve(self, shares: FloatArray, weights: FloatArray) -> Answer:
        """Return what the values by weighted least squares say of each bit."""
        on = shares[:, 1]
        of_filter, if_on, if_off = (weights[kind] for kind in self.kinds)
        k = np.where(self.outputs.on & self.outputs.known, self.dy, 0.0)
        k[self.open] = on * self.dy[self.open]
        A = gradient_rows(self.layer, k[self.filters])
        M, rhs = self._normal(A, of_filter, if_on * on, if_off * (1 - on))
        x = _solved(M, rhs)
        split = self.layer.channels * self.N.shape[1]
        h = self.h0 + x[:split].reshape(self.layer.channels, self.N.shape[1]) @ self.N.T
        z, y = self.z0 + self.of_z @ x[:split], self.p + self.V @ x[split:]
        residual = (A @ h.T).swapaxes(1, 2) - self.gradient[self.filters]
        misfits = np.sqrt((residual**2).sum(axis=(1, 2)))
        e_on, e_off = np.abs(self.on_rows @ x - self.on_rhs), np.abs(self.off_rows @ x - self.off_rhs)
        e_on, e_off = np.where(on > 0.5, e_on, np.nan), np.where(on > 0.5, np.nan, e_off)
        if self.outputs.family is None:
            e_on, e_off = np.full_like(e_on, np.nan), np.full_like(e_off, np.nan)
        return Answer(self._scores(h, z, y, misfits, on), np.concatenate([misfits, e_on, e_off]))

    def _normal(
        self, A: FloatArray, of_filter: FloatArray, if_on: FloatArray, if_off: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the normal equations for u and w: matrix and right-hand side."""
        M, rhs = self.sure[0].copy(), self.sure[1].copy()
        for rows, given, weight in ((self.on_rows, self.on_rhs, if_on), (self.off_rows, self.off_rhs, if_off)):
            counts = weight > 0
            if not (counts.any() and rows.shape[1]):  # BLAS complains of a matrix without rows or columns
                continue
            some = rows[counts] * np.sqrt(weight[counts, None])
            M += la.blas.dsyrk(1.0, some, trans=True)  # the upper half
            rhs += some.T @ (np.sqrt(weight[counts]) * given[counts])
        of_h = np.sqrt(of_filter)[:, None, None] * A
        lacking = self.gradient[self.filters].swapaxes(1, 2) - A @ self.h0.T
        lacking = (np.sqrt(of_filter)[:, None, None] * lacking).reshape(-1, self.layer.channels)
        of_u = (of_h @ self.N).reshape(len(lacking), self.N.shape[1])
        unit = FIRM * self._unit**2
        square, product, q = unit * (of_u.T @ of_u), unit * (of_u.T @ lacking), self.N.shape[1]
        for c in range(self.layer.channels):
            at = slice(c * q, (c + 1) * q)
            M[at, at] += square
            rhs[at] += product[:, c]
        return M, rhs

    @cached_property
    def _unit(self) -> float:
        """Size of a typical value of h: gradient rows are in units of their right-hand sides."""
        y = self.outputs.y if self.outputs.family is None else self.outputs.family.p
        typical = float(np.sqrt(np.nanmean(y**2))) if np.isfinite(y).any() else 0.0
        return typical / float(self.size.mean()) or 1.0

    def _scores(self, h: FloatArray, z: FloatArray, y: FloatArray, misfits: FloatArray, on: FloatArray) -> FloatArray:
        """Return scores of off and on: by the output, by the family, and by the gradient as h implies it.

        The nearer outputs that were passed come to the family, the more the side of a small output counts.
        """
        typical = max(float(np.abs(y).mean() if self.outputs.family is not None else np.abs(z).mean()), 1e-300)
        error = (
            2 * float(np.median(np.abs(z - y)[on > 0.5]))
            if self.outputs.family is not None and (on > 0.5).any()
            else np.inf
        )
        unit = float(np.clip(error, SHARPEST * typical, 0.5 * typical))
        score = (1.5 - unit / typical) * np.tanh(z / unit)
        if self.outputs.family is not None:
            score += 0.5 * np.tanh(2 * y / typical)
        if self.open.shape[1] <= OUTPUTS and len(misfits):
            trust = 1 / (1 + (misfits / DECIDED) ** 2)
            score += trust[self.block] * self._shares_by_h(h)
        return np.stack([-score / 2, score / 2], axis=1)

    def _shares_by_h(self, h: FloatArray) -> FloatArray:
        """Return the share of what arrives that the dual equations give each open output, less a half."""
        seen = incidence(self.layer).positions_seen.T
        S = np.pad(h, ((0, 0), (0, 1)))[:, seen].reshape(-1, seen.shape[1])
        U, s, Vt = svd(S, full_matrices=False)
        keep = s > 1e-6 * s.max(initial=0.0)
        k = (self.gradient.reshape(self.layer.filters, -1) @ U[:, keep] / s[keep]) @ Vt[keep]
        dy = self.dy[self.open]
        return np.asarray(np.clip(k[self.open] / np.where(dy != 0, dy, 1.0), 0.0, 1.0) - 0.5)


def gradient_rows(layer: PlacedLayer, k: FloatArray) -> FloatArray:
    """Return the gradient rows of some filters, `(filters, taps, positions)`, for their k `(filters, outputs)`."""
    seen = incidence(layer).positions_seen.T
    A = np.zeros((len(k), len(seen), layer.unknowns // layer.channels + 1))  # the last position stands for the padding
    A[:, np.arange(len(seen))[:, None], seen] = k[:, None, :]
    return A[..., :-1]


def freedom(layer: PlacedLayer, k: FloatArray, rounding: float) -> FloatArray:
    """Return how many gradient equations of each filter, `(filters,)`, do not go into solving for the layer's input.

    That many are a check on the filter: what its rows have to themselves, beside those of all others, checks nothing.

    Args:
        layer: the layer.
        k: the gradient at its output, `(filters, outputs)`.
        rounding: relative error of these numbers.
    """
    return np.concatenate(
        [
            layer.channels // layer.groups * _own_rows(gradient_rows(layer, some), rounding)
            for some in np.split(k, layer.groups)
        ]
    )


def _own_rows(A: FloatArray, rounding: float) -> FloatArray:
    """Return how many rows of each filter, `(filters,)`, do not go into solving for a channel that all of them see."""
    rows = np.sqrt((A**2).sum(axis=2))
    A = A / np.where(rows > 0, rows, 1.0)[..., None]
    U, s, _ = svd(A.reshape(-1, A.shape[2]), full_matrices=False)
    used = (U[:, s > np.sqrt(rounding) * WEAK * s.max(initial=0.0)] ** 2).sum(axis=1).reshape(rows.shape)
    return np.asarray(((rows > 0) * (1 - used)).sum(axis=1))


def _solved(M: FloatArray, rhs: FloatArray) -> FloatArray:
    """Solve normal equations, with a little more on the diagonal, so that what nothing determines stays small."""
    if not len(M):
        return rhs
    size = np.sqrt(np.diag(M))
    unit = 1 / np.where(size > RIDGE * size.max(initial=0.0), size, np.inf)
    scaled = np.triu(M) * unit[:, None] * unit
    scaled[np.diag_indices(len(M))] = 1 + RIDGE
    factor = la.cho_factor(scaled, overwrite_a=True, check_finite=False)
    return unit * np.asarray(la.cho_solve(factor, unit * rhs, check_finite=False))
