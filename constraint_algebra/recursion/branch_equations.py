"""All equations of a value with a branch open at some outputs of a layer: a `Problem` of robust alternation.

For every output there is one z and one k if the activation above works on its upper branch, and another if on the lower
one. With shares p of the branches,

    A(p k_upper + (1 - p) k_lower) h[c] = dL/dW[:, c]     of every filter: exact if all its branches are right
    W h + b = z_upper,  W h + b = z_lower                 weighed by the shares

Unknown is the whole value, by normal equations that are dense, so that it is for layers of some thousand values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.beyond_rank.alternation import Answer
from constraint_algebra.equations.systems import weight_equations
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.recursion.bit_equations import gradient_rows
from constraint_algebra.recursion.value_equations import Reader

LARGEST = 2600  # unknowns, whose normal equations take half a second
FIRM = 10.0  # weight of the square of a filter's rows, against that of one output
KNOWN = 1e6  # weight of the square of an equation that is known to hold
RIDGE = 1e-12  # of the mean square of the columns, that what nothing determines stays small
LIKELY = 0.7  # share of the upper branch to begin with: most outputs below zero lie between the minimum and zero
SHARPEST = 1e-9  # of a typical z: pre-images nearer than that to W h + b are equally near


class BranchEquations:
    """The equations of one layer for both branches of each of its outputs.

    Args:
        upper: the layer with k and z on the upper branches.
        lower: the same on the lower ones.
        weight: W.
        bias: b, `(filters,)`.
        weight_gradient: dL/dW.
        confirm: returns the answer if a value leads to it at once.
    """

    def __init__(
        self,
        upper: Reader,
        lower: Reader,
        weight: FloatArray,
        bias: FloatArray,
        weight_gradient: FloatArray,
        confirm: Callable[[FloatArray], bool],
    ) -> None:
        """Write down both sets of equations."""
        self.layer: PlacedLayer = upper.layer
        self.upper, self.lower, self.confirm = upper, lower, confirm
        F = self.layer.filters
        gradient = weight_gradient.reshape(F, self.layer.channels // self.layer.groups, -1)
        size = np.sqrt((gradient**2).sum(axis=(1, 2)))
        self.counts = (size > 0) & (upper.k.known & lower.k.known).reshape(F, -1).all(axis=1)
        unit = np.where(size > 0, size, 1.0)
        self.gradient = gradient / unit[:, None, None]
        self.k_upper, self.k_lower = (r.k.filled().reshape(F, -1) / unit[:, None] for r in (upper, lower))
        norms = np.sqrt((weight.reshape(F, -1) ** 2).sum(axis=1))
        of_filter = np.repeat(np.where(norms > 0, norms, 1.0), self.k_upper.shape[1])
        b = np.repeat(bias, self.k_upper.shape[1])
        self.B = sp.csr_array(sp.diags_array(1 / of_filter) @ sp.csr_array(weight_equations(self.layer, weight).matrix))
        self.z_upper, self.z_lower = ((r.z.filled().ravel() - b) / of_filter for r in (upper, lower))
        both = upper.z.known & lower.z.known
        same = (self.z_upper == self.z_lower) & (self.k_upper == self.k_lower).ravel()
        self.open: IntArray = np.flatnonzero(both.ravel() & ~same)
        self.sure: IntArray = np.flatnonzero(both.ravel() & same)

    @cached_property
    def _unit(self) -> float:
        """Size of a typical value of h: gradient rows are in units of their right-hand sides."""
        known = np.concatenate([self.z_upper[self.sure], self.z_upper[self.open]])
        return float(np.sqrt((known**2).mean())) or 1.0

    @property
    def kinds(self) -> Sequence[slice]:
        """Blocks: filters, and the outputs on the upper and on the lower branch."""
        f, n = len(self.counts), len(self.open)
        return slice(0, f), slice(f, f + n), slice(f + n, f + 2 * n)

    @cached_property
    def block(self) -> IntArray:
        """The filter of each open output."""
        filters: IntArray = self.open // self.k_upper.shape[1]
        return filters

    def start(self) -> FloatArray:
        """Return shares (lower, upper)."""
        return np.tile([1 - LIKELY, LIKELY], (len(self.open), 1))

    def value(self, upper: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the value at shares of the upper branch, flat, and the residuals of the filters' rows."""
        of_filter, if_upper, if_lower = (weights[kind] for kind in self.kinds)
        k = self.k_upper.copy()
        k.ravel()[self.open] = upper * k.ravel()[self.open] + (1 - upper) * self.k_lower.ravel()[self.open]
        A = gradient_rows(self.layer, k) * self.counts[:, None, None]
        M, rhs = self._by_outputs(if_upper * upper, if_lower * (1 - upper))
        groups, C = self.layer.groups, self.gradient.shape[1]
        of_group = len(A) // groups
        firm, n = FIRM * self._unit**2 * of_filter, A.shape[2]
        for c in range(self.layer.channels):
            g = c // C
            some = slice(g * of_group, (g + 1) * of_group)
            rows, at = A[some], slice(c * n, (c + 1) * n)
            flat = (np.sqrt(firm[some])[:, None, None] * rows).reshape(-1, n)
            given = (np.sqrt(firm[some])[:, None] * self.gradient[some, c % C]).ravel()
            M[at, at] += flat.T @ flat
            rhs[at] += flat.T @ given
        x = _solved(M, rhs)
        h = x.reshape(groups, C, n)
        made = np.einsum("gftn,gcn->gfct", A.reshape(groups, of_group, -1, n), h).reshape(self.gradient.shape)
        return x, made - self.gradient * self.counts[:, None, None]

    def _by_outputs(self, upper: FloatArray, lower: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the part of the normal equations that weight equations make, by the weights of their branches."""
        weight, target = np.zeros(len(self.z_upper)), np.zeros(len(self.z_upper))
        weight[self.sure], target[self.sure] = KNOWN, KNOWN * self.z_upper[self.sure]
        weight[self.open] = upper + lower
        target[self.open] = upper * self.z_upper[self.open] + lower * self.z_lower[self.open]
        return np.asarray((self.B.T @ sp.diags_array(weight) @ self.B).todense()), np.asarray(self.B.T @ target)

    def solve(self, shares: FloatArray, weights: FloatArray) -> Answer:
        """Return what the values by weighted least squares say of each branch."""
        upper = shares[:, 1]
        x, residual = self.value(upper, weights)
        misfits = np.where(self.counts, np.sqrt((residual**2).sum(axis=(1, 2))), np.nan)
        z = np.asarray(self.B @ x)[self.open]
        off_upper, off_lower = np.abs(z - self.z_upper[self.open]), np.abs(z - self.z_lower[self.open])
        near: BoolArray = upper > 0.5
        error = 2 * float(np.median(np.where(near, off_upper, off_lower))) if len(z) else 1.0
        unit = float(np.clip(error, SHARPEST * self._unit, self._unit))
        score = np.tanh((off_lower - off_upper) / unit)
        of_outputs = [np.where(near, off_upper, np.nan), np.where(near, np.nan, off_lower)]
        return Answer(np.stack([-score, score], axis=1), np.concatenate([misfits, *of_outputs]))

    def confirmed(self, chosen: IntArray) -> IntArray | None:
        """Return the choices if the value that they make leads to branches that fit."""
        weights = np.ones(self.kinds[-1].stop)
        x, _ = self.value(chosen.astype(float), weights)
        return chosen if self.confirm(x) else None


def _solved(M: FloatArray, rhs: FloatArray) -> FloatArray:
    """Solve normal equations, with a little more on the diagonal, so that what nothing determines stays small."""
    size = np.sqrt(np.diag(M))
    unit = 1 / np.where(size > 1e-12 * size.max(initial=0.0), size, np.inf)
    scaled = M * unit[:, None] * unit
    scaled[np.diag_indices(len(M))] = 1 + RIDGE
    factor = la.cho_factor(scaled, overwrite_a=True, check_finite=False)
    return unit * np.asarray(la.cho_solve(factor, unit * rhs, check_finite=False))
