"""An input below a normalisation and a selection by all that is known: values and gradients, its winners unknown.

Mean m and scale s of each group are known, and `m1 = mean(K)` and `m2 = mean(K x̂)`, K the gradient at x̂: the factors'
and shifts' own gradients tell them. With k of the windows put to some winners the gradient at the layer's outputs z is

    (K - m1 - x̂ m2) / s,    x̂ = (z - m) / s,

where x̂ is that of the input at hand. The gradient equations with it, filter by filter, stand beside the rows of the
winners in one least-squares problem; each filter weighs by the inverse square of its misfit, each winner by the
inverse of its residual. What that comes to has winners of its own, and so on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.beyond_rank.maxima import Fit, Fitted
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks import operations
from constraint_algebra.recursion import graph_statistics
from constraint_algebra.recursion.bit_equations import gradient_rows
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.graph_statistics import Arriving
from constraint_algebra.recursion.pooled import Pooled
from constraint_algebra.recursion.pooled_values import PooledValues

UNKNOWNS = 1200  # up to which the equations are held as one matrix
ROUNDS, STARTS = 80, 3  # 7×7 filters took 10 to 20 rounds, 48 of 3×3 on 12×12 up to 60
FITTED = 1e-6  # misfit of every filter, at which the gradient fits
LEAST = 0.1  # of the median misfit: a filter that fits better than that is weighed no more
PULLED = 0.3  # of a typical square: weight with which an entry stays on its bound


@dataclass(frozen=True, eq=False)
class NormalisedWindows:
    """The equations beside each other.

    Attributes:
        values: the maxima.
        arriving: what arrives at the normalisation.
        gradient: dL/dW of each filter over its own size, `(filters, channels, taps)`.
        size: that size, `(filters,)`; one where it is zero.
    """

    values: PooledValues
    arriving: Arriving
    gradient: FloatArray
    size: FloatArray

    @classmethod
    def of(cls, values: PooledValues) -> NormalisedWindows | None:
        """Return them; `None` where anything is missing, or they would be many."""
        knows, view = values.knows, values.view
        layer, norm = view.layer, _normalisation(knows, view)
        if norm is None or layer.groups > 1 or not 0 < values.is_open.sum() <= UNKNOWNS:
            return None
        found = graph_statistics.arriving(knows, norm)
        told = found.m1.known & found.m2.known & found.mean.known & found.scale.known
        if not told.all() or not (view.k.known | view.dead).all():
            return None
        dW = knows.observed.gradients[layer.weight_name].reshape(layer.filters, layer.channels, -1)
        size = np.sqrt((dW**2).sum(axis=(1, 2)))
        size = np.where(size > 0, size, 1.0)
        return cls(values, found, dW / size[:, None, None], size)

    def point(self, rng: np.random.Generator, deadline: float, *, anew: bool = False) -> FloatArray | None:
        """Return open entries with which all windows are tight and all gradients fit; `None` where none were found.

        Args:
            rng: of the starts but the first.
            deadline: `time.monotonic()` at which to stop.
            anew: whether the first is drawn as well.
        """
        problem = self.values.problem
        fit, low, high = Fit(problem), problem.lower, problem.upper
        low, high = np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 1.0)
        for number in range(STARTS):
            share = rng.random(len(low)) if anew or number else 0.5
            here = Fitted.of(problem, low + share * (high - low))
            for _ in range(ROUNDS):
                if time.monotonic() > deadline:
                    return None
                rows, misfits = self._rows(here)
                if here.tight and misfits.max(initial=0.0) < FITTED:
                    return here.x
                try:
                    here = Fitted.of(problem, self._solved(fit, here, rows, misfits))
                except la.LinAlgError:
                    break
        return None

    def _rows(self, here: Fitted) -> tuple[FloatArray, FloatArray]:
        """Return the gradient rows at a point, `(filters, taps, positions)`, and the misfit of each filter there."""
        x, layer = self.values.whole(here.x), self.values.view.layer
        k = self._output_gradient(x, here.candidates.argmax(axis=1))
        rows = gradient_rows(layer, k.reshape(layer.filters, -1) / self.size[:, None])
        off = (rows @ x.reshape(layer.channels, -1).T).swapaxes(1, 2) - self.gradient
        return rows, np.asarray(np.sqrt((off**2).sum(axis=(1, 2))))

    def _output_gradient(self, x: FloatArray, winners: IntArray) -> FloatArray:
        """Return the gradient at the layer's outputs for an input and winners of all windows, flat."""
        view, at = self.values.view, self.arriving
        z = operations.value(view.layer, self.values.knows.observed.parameters, [x.reshape(view.layer.input_shape)])
        s = at.scale.value
        hidden = (z.reshape(at.K.value.shape) - at.mean.filled()) / s
        taken = (at.m1.filled() + hidden * at.m2.filled()) / s
        one_each = np.eye(view.windows.shape[1])[winners]
        return np.asarray(view.sent(one_each).ravel() - taken.ravel())

    def _solved(self, fit: Fit, here: Fitted, rows: FloatArray, misfits: FloatArray) -> FloatArray:
        """Return the least-squares point for the winners and the gradient rows here."""
        problem, layer, is_open = self.values.problem, self.values.view.layer, self.values.is_open
        C, n = layer.channels, len(here.x)
        typical = float(np.median(misfits)) or 1.0
        weights = typical / np.maximum(misfits, LEAST * typical)
        whole = (weights[:, None, None] * rows).reshape(-1, rows.shape[2])
        sides = (weights[:, None, None] * self.gradient.swapaxes(1, 2)).reshape(len(whole), C)
        at, weight, goals = fit.weighed(here)
        A = problem.A[at].toarray()
        A *= np.sqrt(weight)[:, None]
        M, side = A.T @ A, A.T @ (np.sqrt(weight) * goals)
        square = whole.T @ whole
        share = float(np.trace(M) / (C * np.trace(square)))
        channel, position = np.divmod(np.arange(len(is_open)), rows.shape[2])
        own, place = channel[is_open], position[is_open]
        held = np.where(is_open, 0.0, self.values.whole(here.x)).reshape(C, -1)
        M += share * np.where(own[:, None] == own, square[np.ix_(place, place)], 0.0)
        side += share * (whole.T @ sides - square @ held.T).T.ravel()[is_open]
        bound = (here.x <= problem.lower) | (here.x >= problem.upper)
        pulled = float(np.trace(M) / n) * np.where(bound, PULLED, 1e-9)
        M[np.diag_indices(n)] += pulled
        factor = la.cho_factor(M, overwrite_a=True, check_finite=False)
        return np.asarray(la.cho_solve(factor, side + pulled * here.x, check_finite=False))


def _normalisation(knows: GraphKnowledge, view: Pooled) -> PlacedLayer | None:
    """Return the normalisation that alone reads the layer's outputs, entry by entry; `None` without one."""
    users = knows.network.users(view.layer.number)
    return users[0] if not view.direct and len(users) == 1 and users[0].is_normalisation else None
