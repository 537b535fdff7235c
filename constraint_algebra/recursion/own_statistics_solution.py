"""A value below normalisations whose statistics are not known, solved: in one step, or by iteration behind a ReLU.

Where every x̂ is known, or the gradient rows of filters with others are left out, the equations are linear
(`own_statistics_equations`). Behind a ReLU the x̂ of inactive entries are part of κ: they are guessed, the equations
solved, x̂ computed from the solution, and so on. Near a solution, with M the linear equations and E what x̂ makes of the
gradient rows, all equations together are `M + E`: they have no null vector where `M⁺ E` has no eigenvalue -1, and so
where repeating it shrinks everything. The same repetition carries noise through the iteration.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse.linalg as spla

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.layers import trilinear
from constraint_algebra.recursion import contradictions
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import Moments, kept
from constraint_algebra.recursion.iteration import fixed_point
from constraint_algebra.recursion.noise import STORED_SOLUTION, settled
from constraint_algebra.recursion.normalised_reader import Guess, Normalised
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.own_statistics_equations import APART, Bordered, Found, Sides
from constraint_algebra.recursion.own_statistics_local import Local
from constraint_algebra.recursion.value_equations import Reader

KEPT, RESTARTS, LEFT = 60, 2, 1e-6  # of GMRES: directions kept, how often it starts again, and what it may leave
ON_THE_RAY = 1e-3  # of the direction of one factor, beside what is open: single precision leaves 1e-4
CLOSE = 0.02  # guesses that moved by less are corrected to first order, instead of weighed by their doubt
AT_MOST = 1e3  # of x̂ and of logarithms of scales: beyond, an iteration has lost its way
FAR = 20.0  # times its noise, a statistic of z is off from what was solved for
ROUNDED_STATISTICS = 1e4  # roundings by which it may be off in any case


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes:
        value: the value.
        moments: of each normalisation.
        factor: whether one factor of the value and of all statistics is open.
        directions: how many directions of the statistics are open, that one included.
        by_eps: whether eps decided anything.
        words: how it was found, if not by one linear solve.
    """

    value: Estimate
    moments: list[Moments]
    factor: bool = False
    directions: int = 0
    by_eps: bool = False
    words: str = ""


@dataclass(frozen=True)
class Below:
    """A value below normalisations.

    Attributes:
        observed: parameters and gradients.
        value: what is known of it.
        plain: layers that read it, with what is known at their outputs.
        normed: layers that read it with a normalisation behind them.
        end: by `time.monotonic`, when no further round is begun.
    """

    observed: Observation
    value: Estimate
    plain: Sequence[Reader]
    normed: Sequence[Normalised]
    end: float = math.inf

    def linear(self) -> Outcome | None:
        """Return what the linear equations tell; `None` where they contradict each other, or are too many."""
        guesses = [_first_guess(n) for n in self.normed]
        system = self._system(guesses)
        if not system.is_small:
            return None
        for _ in range(2):  # rows are weighed by noise, and that by the scales
            guesses = self._moved(system, guesses, system.solution())
            system = self._system(guesses)
        if system.reduced.null.shape[1]:
            with_eps = self._system(guesses, by_eps=True)
            guesses = self._moved(with_eps, guesses, with_eps.solution())
            system = self._system(guesses, by_eps=True)
        found = system.solution()
        moved = system.solve(_perturbed(system, found.x[..., 0]))
        return self._outcome(system, found, moved)

    def iterated(self) -> Outcome | None:
        """Return what all equations tell, x̂ that are not known guessed; `None` where no iteration comes to stand."""
        guesses, near, doubt = [_first_guess(n) for n in self.normed], None, 1.0
        if not self._system(guesses, guessed=True).is_small:
            return None

        def step(point: FloatArray) -> FloatArray | None:
            nonlocal guesses, near, doubt
            if time.monotonic() > self.end:
                return None
            doubt = 0.0 if doubt < CLOSE else doubt
            guesses = [replace(at, doubt=doubt) for at in self._guesses(point, guesses)]
            system = self._system(guesses, guessed=True, near=near)
            found = system.solution()
            reached = self._moved(system, guesses, found)
            doubt = self._far(guesses, reached)
            if not guesses[0].doubt:
                corrected = _corrected(system, reached, found)
                if corrected is None:
                    return None
                found = corrected
            guesses, near = self._moved(system, guesses, found), found.x[..., 0]
            point = self._point(guesses)
            return point if np.abs(point).max(initial=0.0) < AT_MOST else None

        way = fixed_point(step, self._point(guesses))
        if way is not None:
            guesses = self._guesses(way.point, guesses)
            system = self._system(guesses, guessed=True, near=near)
            found = system.solution()
            near = found.x[..., 0]
            if system.is_closed or not any(n.hidden.any() for n in self.normed):
                moved = _with_coupling(system, near, system.solve(_perturbed(system, near)))
                if moved is not None:
                    return self._outcome(system, found, moved, way.words)
        return None if near is None else self._all_at_once(near, guesses)

    def _all_at_once(self, near: FloatArray, guesses: Sequence[Guess]) -> Outcome | None:
        """Return what all equations together tell near a value, if that is small; one open factor by eps."""
        system = self._system(guesses, guessed=True, near=near)
        local = Local(self.observed, self.value, self.plain, self.normed, system.value_equations.scale, self.end)
        if not local.is_small:
            return None
        factors = np.concatenate([_factors(n, at) for n, at in zip(self.normed, guesses, strict=True)])
        starts = [near, near * float(np.median(factors))] if len(factors) else [near]
        for start in starts:
            fitting = local.found(start)
            if fitting is not None:
                moments = [Moments.unknown(n.groups) for n in self.normed]
                words = "all equations at once, eps included, by Gauss-Newton"
                return Outcome(fitting.value, moments, fitting.factor, fitting.directions, words=words)
        return None

    def _far(self, before: Sequence[Guess], after: Sequence[Guess]) -> float:
        """Return by how much guesses of x̂ moved: the root of the mean square."""
        pairs = zip(self.normed, before, after, strict=True)
        moved = np.concatenate([(new.normalised - old.normalised)[n.hidden] for n, old, new in pairs])
        return float(np.sqrt((moved**2).mean())) if len(moved) else 0.0

    def _point(self, guesses: Sequence[Guess]) -> FloatArray:
        """Return what is iterated: x̂ that are not known, and the logarithms of the scales."""
        parts = [(at.normalised[n.hidden], np.log(at.scale)) for n, at in zip(self.normed, guesses, strict=True)]
        return np.concatenate([values for pair in parts for values in pair])

    def _guesses(self, point: FloatArray, before: Sequence[Guess]) -> list[Guess]:
        """Return the guesses that a point stands for, with the means from before."""
        guesses, start = [], 0
        for n, at in zip(self.normed, before, strict=True):
            count = int(n.hidden.sum())
            normalised = at.normalised.copy()
            normalised[n.hidden] = point[start : start + count]
            scale = np.exp(point[start + count : start + count + n.groups])
            guesses.append(Guess(at.mean, scale, normalised))
            start += count + n.groups
        return guesses

    def _system(self, guesses: Sequence[Guess], **how: object) -> Bordered:
        return Bordered(self.observed, self.value, self.plain, self.normed, guesses, **how)  # type: ignore[arg-type]

    def _moved(self, system: Bordered, guesses: Sequence[Guess], found: Found) -> list[Guess]:
        """Return the statistics that a solution has, and the x̂ that they make of it."""
        moved, x = [], found.x[..., 0]
        for n, at, (of_mean, of_scale) in zip(self.normed, guesses, _by_group(system, found.u[:, 0]), strict=True):
            mean, scale = at.mean + at.scale * of_mean, at.scale * np.clip(1 + of_scale, 0.1, 10.0)
            moved.append(Guess(mean, scale, (self._read(n, x) - mean[n.group]) / scale[n.group]))
        return moved

    def _outcome(self, system: Bordered, found: Found, moved: Found, words: str = "") -> Outcome | None:
        """Return a solution with its noise and what is open; `None` where the equations contradict it."""
        x, scale, null = found.x[..., 0], system.value_equations.scale, system.reduced.null
        parts = system.value_equations.parts
        if not all(contradictions.resolved(part.equations, x) for part in parts):
            return None
        shares, factor = system.value_equations.shares(), False
        if null.shape[1]:
            open_ones = (system.by_border @ null).reshape(x.size, -1)
            U, s, _ = np.linalg.svd(open_ones / scale, full_matrices=False)
            by_border = np.sqrt((U[:, s > APART] ** 2).sum(axis=1)).reshape(x.shape)
            shares = np.hypot(shares, by_border)
            ray = _ray(system)
            factor = bool(np.linalg.norm(ray - null @ (null.T @ ray)) < ON_THE_RAY * np.linalg.norm(ray))
        x_moved = moved.x + self.observed.draw(STORED_SOLUTION * np.abs(x), x.shape)
        known = settled(shares, x_moved, scale)
        x_moved = x_moved + self.observed.draw(scale * shares, x.shape)
        value = Estimate(x, known, np.where(known[..., None], x_moved, 0.0))
        open_u = np.sqrt((null**2).sum(axis=1))
        settled_u = settled(open_u, moved.u, 1.0)
        moments = self._moments(system, found.u[:, 0], moved.u, settled_u)
        if not self._are_scales(moments) or (known.all() and not self._agrees(value, moments)):
            return None
        by_eps = any(part is not None and part.known.any() for part in system.by_eps)
        return Outcome(value, moments, factor, null.shape[1], by_eps, words)

    def _are_scales(self, moments: Sequence[Moments]) -> bool:
        """Return whether no scale is below the root of eps: nothing but zeros fits a x̂ that is wrong."""
        for n, found in zip(self.normed, moments, strict=True):
            s = found.scale
            if (s.known & (s.filled() + FAR * s.deviation < 0.99 * math.sqrt(n.operation.epsilon))).any():
                return False
        return True

    def _agrees(self, value: Estimate, moments: Sequence[Moments]) -> bool:
        """Return whether the statistics that a value has are those that were solved for."""
        arithmetic = self.observed.rounding.arithmetic
        for n, found in zip(self.normed, moments, strict=True):
            v = self._read(n, value.value)
            mean = n.mean_of(v) if n.operation.centred else np.zeros(n.groups)
            s = np.sqrt(n.mean_of((v - mean[n.group]) ** 2) + n.operation.epsilon)
            size = ROUNDED_STATISTICS * arithmetic * (np.abs(mean) + s)
            for is_now, was in ((mean, found.mean), (s, found.scale)):
                if (was.known & (np.abs(is_now - was.filled()) > FAR * was.deviation + size)).any():
                    return False
        return True

    def _read(self, n: Normalised, x: FloatArray) -> FloatArray:
        """Return what a normalisation reads."""
        z = trilinear.forward(n.layer, self.observed.parameters[n.layer.weight_name], x)
        return np.asarray(
            n.factor * (z + self.observed.bias(n.layer).reshape(-1, *(1,) * len(n.layer.outputs))) + n.shift
        )

    def _moments(self, system: Bordered, u: FloatArray, moved: FloatArray, known: BoolArray) -> list[Moments]:
        found = []
        pairs = zip(_by_group(system, u), _by_group(system, moved), _by_group(system, known.astype(float)), strict=True)
        for at, n, (value, noise, sure) in zip(system.guesses, self.normed, pairs, strict=True):
            s, (of_mean, of_scale) = at.scale, (part > 0 for part in sure)
            own = [self.observed.draw(STORED_SOLUTION * size, s.shape) for size in (np.abs(at.mean) + s, s)]
            scale = Estimate(s * (1 + value[1]), of_scale, s[:, None] * noise[1] + own[1])
            mean = Estimate(at.mean + s * value[0], of_mean, s[:, None] * noise[0] + own[0])
            none = Estimate(np.zeros_like(s), np.ones_like(of_mean), np.zeros_like(own[0]))
            found.append(Moments(mean if n.operation.centred else none, scale))
        return found


def _by_group(system: Bordered, u: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
    """Return the changes of means and scales of each normalisation, each `(groups, ...)`."""
    found, start = [], 0
    for n in system.normed:
        G = n.groups
        found.append((u[start : start + G], u[start + G : start + 2 * G]))
        start += 2 * G
    return found


def _factors(n: Normalised, at: Guess) -> FloatArray:
    """Return by which factor eps says that the scale of each group is off."""
    missing = 1 - n.mean_of(n.filled(at) ** 2)
    some = missing > 0
    return np.asarray(np.sqrt(n.operation.epsilon / missing[some]) / at.scale[some])


def _ray(system: Bordered) -> FloatArray:
    """Return the direction of the border in which one factor of all statistics moves."""
    parts = []
    for n, at in zip(system.normed, system.guesses, strict=True):
        b = system.observed.bias(n.layer).reshape(-1, *(1,) * len(n.layer.outputs))
        fixed = n.mean_of(n.factor * b + n.shift)  # a group with one bias takes that out with its mean
        parts += [(at.mean - fixed) / at.scale if n.operation.centred else np.zeros(n.groups), np.ones(n.groups)]
    return np.concatenate(parts)


def _first_guess(n: Normalised) -> Guess:
    """Return the guess to start from: x̂ that are not known bring the mean of their group to zero."""
    G, x = n.groups, n.normalised
    unknown = n.mean_of((~x.known).astype(float))
    lacking = -n.mean_of(x.filled()) / np.where(unknown > 0, unknown, 1.0)
    return Guess(np.zeros(G), np.ones(G), np.where(x.known, x.value, lacking[n.group]))


def _perturbed(system: Bordered, x: FloatArray) -> Sides:
    """Return how each member of the noise moves the right-hand sides at a solution."""
    observed, gradients, outputs = system.observed, [], []
    for part in system.value_equations.parts:
        layer, k, z = part.reader.layer, part.reader.k, part.reader.z
        gradient = observed.draw(part.noise.weight_gradient, layer.weight_shape)
        gradients.append(gradient - trilinear.weight_gradient(layer, kept(k), x))
        own = np.broadcast_to(part.noise.output, layer.output_shape)
        outputs.append(kept(z) + observed.draw(own, layer.output_shape))
    return Sides(gradients, outputs, kept(system.value_equations.value), system.border.moved)


def _corrected(system: Bordered, reached: Sequence[Guess], found: Found) -> Found | None:
    """Return a solution freed to first order of the error of the guesses that it was made with.

    Args:
        system: the equations at the guesses.
        reached: what the solution makes of them.
        found: the solution.
    """
    pairs = zip(system.normed, system.guesses, reached, strict=True)
    off = [np.where(n.hidden, new.normalised - old.normalised, 0.0)[..., None] for n, old, new in pairs]
    x = found.x[..., 0]
    more = _with_coupling(system, x, _coupled(system, x, off))
    return None if more is None else Found(found.x + more.x, found.u + more.u)


def _off(system: Bordered, d: Found) -> list[FloatArray]:
    """Return what a difference of the solution makes of the x̂ that were guessed, `(*output_shape, n)` each."""
    changes = []
    for n, at, (of_mean, of_scale) in zip(system.normed, system.guesses, _by_group(system, d.u), strict=True):
        W, s = system.observed.parameters[n.layer.weight_name], at.scale[n.group][..., None]
        z = trilinear.forward(n.layer, W, d.x)
        off = n.factor[..., None] * z / s - of_mean[n.group] - n.filled(at)[..., None] * of_scale[n.group]
        changes.append(np.where(n.hidden[..., None], off, 0.0))
    return changes


def _coupled(system: Bordered, x: FloatArray, changes: Sequence[FloatArray]) -> Found:
    """Return what changes of the x̂ that were guessed make of the solution, by the κ that they are part of."""
    count = changes[0].shape[-1]
    plain = len(system.readers) - len(system.normed)
    gradients = [np.zeros((*r.layer.weight_shape, count)) for r in system.readers]
    outputs = [np.zeros((*r.layer.output_shape, count)) for r in system.readers]
    of_bias = []
    for i, (n, at, off) in enumerate(zip(system.normed, system.guesses, changes, strict=True), start=plain):
        slope = n.means[1].filled()[n.group] * n.factor / at.scale[n.group]
        k = slope[..., None] * off
        gradients[i] = trilinear.weight_gradient(n.layer, k, x)
        of_bias.append(k.reshape(n.layer.filters, -1, count).sum(axis=1))
    entries = np.zeros((*x.shape, count))
    return system.solve(Sides(gradients, outputs, entries, system.border.weighed(np.concatenate(of_bias))))


def _with_coupling(system: Bordered, x: FloatArray, aims: Found) -> Found | None:
    """Return d with `d - T d = aims` for T what a difference makes of the solution by way of the guesses.

    `None` where no combination of repeated T comes to it: then something else may be near.
    """
    scale, size = system.value_equations.scale, x.size

    def packed(found: Found) -> FloatArray:
        return np.concatenate([found.x.reshape(size, -1) / scale, found.u])

    def unpacked(v: FloatArray) -> Found:
        return Found(scale * v[:size].reshape(*x.shape, -1), v[size:].reshape(v.shape[0] - size, -1))

    def applied(v: FloatArray) -> FloatArray:
        d = unpacked(v.reshape(-1, 1))
        return np.asarray(v - packed(_coupled(system, x, _off(system, d)))[:, 0])

    sides = packed(aims)
    n = len(sides)
    operator = spla.LinearOperator((n, n), matvec=applied, dtype=float)
    columns = []
    for side in sides.T:
        found, failed = spla.gmres(operator, side, rtol=LEFT, atol=0.0, restart=min(n, KEPT), maxiter=RESTARTS)
        if failed or not np.isfinite(found).all():
            return None
        columns.append(found)
    return unpacked(np.stack(columns, axis=1))
