"""A small value below normalisations, from all equations at once, as functions of the value alone.

`z = W x + b` gives mean, scale and x̂ of every group, eps included, and these the gradient at z. What is known of x̂,
dL/dW and dL/db are then smooth equations of x; Gauss-Newton solves them from a start nearby. Their Jacobian is that of
all that the gradients tell of x given what arrives from above: its null space is what stays open, to first order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.numerics.dense_least_squares import Reduced, longest
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import kept
from constraint_algebra.recursion.layer_step import layer_equations
from constraint_algebra.recursion.noise import settled
from constraint_algebra.recursion.normalised_reader import Guess, Normalised
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.value_equations import Reader
from constraint_algebra.solvers.noisy_equations import USABLE

VALUES, OPERATIONS = 3e7, 4e9  # of the Jacobian, and to factor it once, up to which it is used
ROUNDS = 30  # of Gauss-Newton
FITS = 25.0  # times its noise, the root mean square of what a solution leaves
LEAST_SHARE = 1e-3  # of a step
ON_THE_RAY = 1e-6  # of a value, beside what is open: the value itself is open


class _Rows(NamedTuple):
    """Equations in units of their noise: what they lack, how they depend on x, and how noise moves them."""

    lacking: FloatArray
    jacobian: FloatArray
    moved: FloatArray

    @property
    def misfit(self) -> float:
        """Root mean square of what they lack."""
        return float(np.sqrt((self.lacking**2).mean()))


class Fitting(NamedTuple):
    """A value that fits all equations.

    Attributes:
        value: it, with its noise; what is open counts as unknown.
        factor: whether its multiples fit as well, to first order.
        directions: how many directions are open.
    """

    value: Estimate
    factor: bool
    directions: int


@dataclass(frozen=True)
class Local:
    """All equations of a small value.

    Attributes:
        observed: parameters and gradients.
        value: what is known of the value.
        plain: layers that read it, with what is known at their outputs.
        normed: layers that read it with a normalisation behind them.
        scale: size of a typical value.
        end: by `time.monotonic`, when no further round is begun.
    """

    observed: Observation
    value: Estimate
    plain: Sequence[Reader]
    normed: Sequence[Normalised]
    scale: float
    end: float = math.inf

    @property
    def is_small(self) -> bool:
        """Whether its Jacobian can be held and factored."""
        layers = [*(r.layer for r in self.plain), *(n.layer for n in self.normed)]
        rows = sum(int(np.prod(layer.weight_shape) + np.prod(layer.output_shape)) for layer in layers)
        n = self.value.value.size
        return (rows + n) * n <= VALUES and (rows + n) * n**2 <= OPERATIONS

    def found(self, start: FloatArray) -> Fitting | None:
        """Return the value near a start that fits all equations; `None` where none is found."""
        x = start
        for _ in range(ROUNDS):
            if time.monotonic() > self.end:
                return None
            rows = self._rows(x)
            if not len(rows.lacking):
                return None
            reduced, unit = self._reduced(rows)
            step = reduced.solve(unit * rows.lacking[:, None])[:, 0].reshape(x.shape)
            share, misfit = 1.0, self._misfit(x + step)
            if rows.misfit <= FITS and not misfit < rows.misfit / 2:  # what is left is rounding
                return self._fitting(x, rows)
            while not misfit < rows.misfit and share > LEAST_SHARE:
                share /= 2
                misfit = self._misfit(x + share * step)
            x = x + share * step
        return None

    def _fitting(self, x: FloatArray, rows: _Rows) -> Fitting:
        reduced, unit = self._reduced(rows)
        moved = reduced.solve(unit * rows.moved).reshape(*x.shape, MEMBERS)
        shares = np.sqrt((reduced.null**2).sum(axis=1)).reshape(x.shape)
        known = settled(shares, moved, self.scale)
        moved = moved + self.observed.draw(self.scale * shares, x.shape)
        value = Estimate(x, known, np.where(known[..., None], moved, 0.0))
        beside = x.ravel() - reduced.null @ (reduced.null.T @ x.ravel())
        factor = bool(np.linalg.norm(beside) < ON_THE_RAY * np.linalg.norm(x))
        return Fitting(value, factor, reduced.null.shape[1])

    def _reduced(self, rows: _Rows) -> tuple[Reduced, float]:
        unit = 1 / (longest(rows.jacobian) or 1.0)
        cut = max(USABLE, 2 * np.sqrt(len(rows.jacobian))) / self.scale
        rounding = rows.jacobian.shape[1] * float(np.finfo(float).eps)
        return Reduced(rows.jacobian * unit, max(unit * cut, rounding)), unit

    def _misfit(self, x: FloatArray) -> float:
        return self._at(x, np.zeros((*x.shape, 1))).misfit

    def _rows(self, x: FloatArray) -> _Rows:
        return self._at(x, np.eye(x.size).reshape(*x.shape, x.size))

    def _at(self, x: FloatArray, eye: FloatArray) -> _Rows:
        """Return the equations at a value, and how they depend on it along some directions, `(*shape, n)`."""
        parts = [self._entries(x, eye)]
        for reader in self.plain:
            parts += self._of_layer(reader, x, eye, None, None)
        for normed in self.normed:
            parts += self._of_normed(normed, x, eye)
        return _Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _entries(self, x: FloatArray, eye: FloatArray) -> _Rows:
        known = self.value.known
        noise = np.maximum(self.value.deviation, float(np.finfo(float).eps) * self.scale)[known]
        lacking = (self.value.filled() - x)[known] / noise
        return _Rows(lacking, eye[known] / noise[:, None], kept(self.value)[known] / noise[:, None])

    def _of_normed(self, n: Normalised, x: FloatArray, eye: FloatArray) -> list[_Rows]:
        """Return the equations of a layer with a normalisation behind it."""
        layer, observed = n.layer, self.observed
        W, per_filter = observed.parameters[layer.weight_name], (-1, *(1,) * len(layer.outputs))
        z = trilinear.forward(layer, W, x) + observed.bias(layer).reshape(per_filter)
        v, dv = n.factor * z + n.shift, n.factor[..., None] * trilinear.forward(layer, W, eye)
        mean = n.mean_of(v) if n.operation.centred else np.zeros(n.groups)
        off = v - mean[n.group]
        s = np.sqrt(n.mean_of(off**2) + n.operation.epsilon)
        made = off / s[n.group]
        of_scale = _means(n, made[..., None] * dv)[n.group]
        centred = dv - _means(n, dv)[n.group] if n.operation.centred else dv
        d_made = (centred - made[..., None] * of_scale) / s[n.group][..., None]
        own = observed.rounding.arithmetic * (np.abs(v) + np.abs(mean)[n.group]) / s[n.group]
        known = n.normalised.known
        noise = np.maximum(np.hypot(n.normalised.deviation, own), np.finfo(float).eps)[known]
        moved = (kept(n.normalised) + observed.draw(own, own.shape))[known] / noise[:, None]
        values = _Rows((n.normalised.filled() - made)[known] / noise, d_made[known] / noise[:, None], moved)
        reader = n.reader(Guess(mean, s, made, float(np.sqrt((own**2).mean()))), guessed=True)
        k = Estimate((n.factor / s[n.group]) * _arriving(n, made), reader.k.known, reader.k.perturbations)
        slope = (n.means[1].filled()[n.group] * n.factor / s[n.group])[..., None]
        dk = -slope * d_made - k.filled()[..., None] * of_scale / s[n.group][..., None]
        unknown = Estimate.unknown(layer.output_shape, MEMBERS)
        return [values, *self._of_layer(Reader(layer, k, unknown), x, eye, dk, n)]

    def _of_layer(
        self, reader: Reader, x: FloatArray, eye: FloatArray, dk: FloatArray | None, normed: Normalised | None
    ) -> list[_Rows]:
        """Return the equations of a layer, with what x makes of the gradient at its output."""
        observed, layer, k = self.observed, reader.layer, reader.k
        eq, noise = layer_equations(observed, layer, k, reader.z, self.scale)
        rows = np.broadcast_to(eq.gradient_rows.reshape(layer.filters, 1, *layer.taps), layer.weight_shape)
        by_row = np.broadcast_to(eq.gradient_noise.reshape(layer.filters, 1, *layer.taps), layer.weight_shape)[rows]
        lacking = (eq.weight_gradient - trilinear.weight_gradient(layer, k.filled(), x))[rows] / by_row
        J = trilinear.weight_gradients(layer, k.filled(), eye)
        if dk is not None:
            J = J + trilinear.weight_gradient(layer, np.where(k.known[..., None], dk, 0.0), x)
        moved = observed.draw(noise.weight_gradient, layer.weight_shape) - trilinear.weight_gradient(layer, kept(k), x)
        parts = [_Rows(lacking, J[rows] / by_row[:, None], moved[rows] / by_row[:, None])]
        known = eq.weight_rows
        if known.any():
            off = eq.output[known] - trilinear.forward(layer, eq.weight, x)[known]
            out = eq.output_noise[known]
            B = trilinear.forward(layer, eq.weight, eye)[known] / out[:, None]
            parts.append(_Rows(off / out, B, kept(reader.z)[known] / out[:, None]))
        if normed is not None and layer.bias_name is not None and dk is not None:
            parts.append(self._of_bias(reader, dk))
        return parts

    def _of_bias(self, reader: Reader, dk: FloatArray) -> _Rows:
        observed, layer, k = self.observed, reader.layer, reader.k
        assert layer.bias_name is not None
        F = layer.filters
        rows = np.asarray(k.known.reshape(F, -1).all(axis=1))
        flat = k.filled().reshape(F, -1)
        own = np.hypot(
            observed.deviations[layer.bias_name], observed.rounding.arithmetic * np.sqrt((flat**2).sum(axis=1))
        )
        of_k = kept(k).reshape(F, -1, MEMBERS).sum(axis=1)
        noise = np.maximum(own + np.sqrt((of_k**2).mean(axis=1)), np.finfo(float).tiny * 1e16)[rows]
        lacking = (observed.gradients[layer.bias_name] - flat.sum(axis=1))[rows] / noise
        J = dk.reshape(F, -1, dk.shape[-1]).sum(axis=1)[rows] / noise[:, None]
        return _Rows(lacking, J, (observed.draw(own, (F,)) - of_k)[rows] / noise[:, None])


def _arriving(n: Normalised, made: FloatArray) -> FloatArray:
    """Return κ for the x̂ that a value makes."""
    m1, m2 = (part.filled()[n.group] for part in n.means)
    return np.asarray(n.gradient.filled() - m1 - made * m2)


def _means(n: Normalised, values: FloatArray) -> FloatArray:
    """Return the mean of each group of several differences `(*output_shape, n)`, `(groups, n)`."""
    flat, group = values.reshape(n.group.size, values.shape[-1]), n.group.ravel()
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(n.groups))
    return np.asarray(np.add.reduceat(flat[order], starts, axis=0) / np.bincount(group)[:, None])
