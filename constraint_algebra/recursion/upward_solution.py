"""A value from what is known above it, by Levenberg and Marquardt's method, and what is asked of it.

Searches start from what random inputs make of the value. What one comes to counts only if

- all that is known above it follows from it, to its noise;
- the Jacobian there has full column rank, and the error bars that follow are small, and over them it hardly changes;
- no activation has a kink within them, so that the Jacobian speaks of a neighbourhood;
- the gradients of all layers on the way are those given.

Then no other value near it makes the same; that none elsewhere does is not shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.activations import is_piecewise_linear
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks.operations import formulas_of
from constraint_algebra.numerics.dense_least_squares import Reduced
from constraint_algebra.numerics.levenberg_marquardt import minimise
from constraint_algebra.recursion import contradictions, graph_rules, layer_step
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import BENT, EDGE, Estimate
from constraint_algebra.recursion.noise import STORED_SOLUTION
from constraint_algebra.recursion.upward_equations import UpwardEquations
from constraint_algebra.solvers.noisy_equations import USABLE

AGREES = 2.0  # root mean square of what is known of a value, in units of its noise; right ones stay below 1.5
CLOSE = 1e-9  # root mean square of all rows, in their size, from which rows in units of their noise take over
RTOL = 1e-9  # singular values below this share of the largest count as zero
POLISHING = 4  # steps there
OVER = 3.0  # standard deviations over which equations must be straight lines
STRAIGHT = 1e-7  # of a typical value: error bars below which equations are straight lines, or rounding hides it


class Fitted(NamedTuple):
    """A value that makes all that is known above it.

    Attributes:
        value: it, with its noise.
        rounds: of the search.
    """

    value: Estimate
    rounds: int


@dataclass(frozen=True)
class Upward:
    """The search for a value.

    Attributes:
        equations: of the value.
    """

    equations: UpwardEquations

    def has_full_rank(self, u: FloatArray) -> bool:
        """Whether the Jacobian at a value has full column rank, the rows in their size."""
        rows = self.equations.jacobian(u.ravel()) / self.equations.sizes[:, None]
        if not np.isfinite(rows).all():
            return False
        s = la.svdvals(la.qr(rows, mode="r", check_finite=False)[0][: u.size], check_finite=False)
        return bool(s[-1] > RTOL * s[0])

    def found(self, start: FloatArray, out_of_time: Callable[[], bool]) -> Fitted | None:
        """Return the value where a search ends, if it passes all that is asked of it.

        Args:
            start: a value.
            out_of_time: asked before each round.
        """
        e, lowest = self.equations, np.inf
        enough = max(CLOSE, AGREES * float(_relative(e, start))) ** 2 * e.rows

        def residual(u: FloatArray) -> FloatArray:
            nonlocal lowest
            r = e.lacking(u) / e.sizes
            lowest = min(lowest, float(r @ r))
            return r

        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a step too far counts as a rise
            ended = minimise(
                residual,
                lambda u: e.jacobian(u) / e.sizes[:, None],
                start.ravel(),
                enough=enough,
                out_of_time=lambda: lowest < enough or out_of_time(),
            )
        return self._polished(ended.x, ended.iterations) if ended.cost < enough else None

    def _polished(self, u: FloatArray, rounds: int) -> Fitted | None:
        """Return what rows in units of their noise make of a value near the solution, if it passes."""
        if not self.has_full_rank(u):
            return None
        e = self.equations
        draws = e.noise(u)
        noise = np.maximum(np.sqrt((draws**2).mean(axis=1)), np.finfo(float).eps * 1e-3 * e.sizes)
        J = e.jacobian(u) / noise[:, None]
        unit = 1 / (float(np.abs(J).max()) or 1.0)
        reduced = Reduced(unit * J, len(J) * float(np.finfo(float).eps))
        if reduced.null.shape[1]:
            return None
        for _ in range(POLISHING):
            u = u - reduced.solve((unit * e.lacking(u) / noise)[:, None])[:, 0]
        ends = np.cumsum([part.size for part in e.given])[:-1]
        parts = np.split(e.lacking(u) / noise, ends)
        worst = max(float(np.sqrt((part**2).mean())) for part in parts)
        shape = e.knows.values[e.number].value.shape
        own = e.knows.observed.draw(STORED_SOLUTION * np.abs(u), u.shape)
        moved = (reduced.solve(unit * draws / noise[:, None]) + own).reshape(*shape, MEMBERS)
        value = Estimate(u.reshape(shape), np.ones(shape, dtype=bool), moved)
        size = float(np.sqrt((u**2).mean()))
        if not (worst < AGREES and value.deviation.max() < size / USABLE):
            return None
        d = OVER * moved.reshape(u.size, MEMBERS)
        if value.deviation.max() > STRAIGHT * size:  # what noise makes of the value must follow to first order
            there = np.stack([e.lacking(u + d[:, m]) - e.lacking(u) for m in range(MEMBERS)], axis=1)
            if not np.linalg.norm(reduced.solve(unit * there / noise[:, None]) - d) < BENT * np.linalg.norm(d):
                return None
        return Fitted(value, rounds) if self._stands(value) else None

    def _stands(self, u: Estimate) -> bool:
        """Whether no activation has a kink within the noise, and the gradients on the way are those given."""
        e = self.equations
        trial = e.risen(u)
        for layer in e.layers:
            if layer.is_activation and not self._is_clear_of_kinks(layer, trial.values[layer.inputs[0]]):
                return False
        for layer in reversed(e.layers):
            for number in layer.inputs:
                graph_rules.pull(trial, number)
        for layer in e.layers:
            if layer.is_bilinear:
                x, k = trial.values[layer.inputs[0]], trial.gradients[layer.number]
                open_output = Estimate.unknown(layer.output_shape, MEMBERS)
                scale = float(np.sqrt((x.value**2).mean())) or 1.0
                own, _ = layer_step.layer_equations(e.knows.observed, layer, k, open_output, scale)
                if not contradictions.resolved(own, x.value):
                    return False
        return True

    def _is_clear_of_kinks(self, layer: PlacedLayer, z: Estimate) -> bool:
        """Whether the derivative of an activation jumps nowhere within the noise of what it reads."""
        f, noise = formulas_of(layer, self.equations.knows.observed.parameters), EDGE * z.deviation
        if f.branches is not None:
            return all(bool((np.abs(z.value - kink) > noise).all()) for kink in f.branches.kinks)
        if not is_piecewise_linear(layer.activation):
            return True
        return np.array_equal(f.derivative_at(z.value - noise), f.derivative_at(z.value + noise), equal_nan=True)


def _relative(equations: UpwardEquations, u: FloatArray) -> float:
    """Return the root mean square of the noise of all rows, in their size."""
    return float(np.sqrt(((equations.noise(u) / equations.sizes[:, None]) ** 2).mean()))
