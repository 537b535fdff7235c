"""What a value keeps open, decided beyond the equations: by the range of its entries, and by zeros.

A value lies in the family `x = p + V y` that the equations of the layers that read it leave possible. Where an
activation with plateaus made it, as a ReLU, its entries lie in the range of the activation, and many exactly on a
plateau; an input of the network lies in its valid range. Each channel is looked at by itself, as it lies in a family of
few directions, and the whole value where that is small. What is found there are further equations, and the rest is
solved for again: one channel often decides another, through the weight equations.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.beyond_rank.implied import implied
from constraint_algebra.beyond_rank.zeros import certain_plateaus
from constraint_algebra.equations.systems import weight_equations
from constraint_algebra.ground import Ground
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.spans import Span, cuts_off, span_of, traced
from constraint_algebra.numerics.singular import svd
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.result import CONTRADICTION
from constraint_algebra.recursion.value_equations import Reader, ValueEquations
from constraint_algebra.solvers.elimination import STRONGER

ROUNDS = 12  # of looking and solving again; each but the last decides something
AGAIN = 3  # looks with other random objectives where the first finds no zeros
INDEPENDENT = 1e-9  # singular values of a channel's part of the open directions up to this share are rounding
CLEAR = 8.0  # standard deviations by which a value may lie beyond its range
ROUNDED = 2.0**-48  # of a typical value: rounding that no noise covers
SHARP = 1e-12  # of the largest output: noise at which a zero is surely one
BEYOND = 1e-9  # of a typical value: as far beyond its range is no contradiction, whatever its error bar
VAGUE = 1e-3  # of a typical value: a value known no better is left to a weaker ground that says more
MARGINS = 10.0  # deviations in the proven width of an interval: five on either side
CLOSELY = 1e-5  # share of a typical value to which a direction is known that bounds need not decide
WIDEST = 800  # directions up to which a whole value is looked at


@dataclass(frozen=True)
class Beyond:
    """What may be used beyond the equations, and how long.

    Attributes:
        weakest: the weakest ground that is allowed.
        valid_range: smallest and largest valid value of the network's input.
        end: `time.monotonic()` at which nothing new is begun.
        seed: of random objectives and restarts.
        seconds: that each strategy at each layer may take at least, whatever those before it took.
    """

    weakest: Ground
    valid_range: tuple[float, float]
    end: float
    seed: int
    seconds: float = 0.0

    def renewed(self) -> Beyond:
        """Return the same with time for one thing more."""
        return replace(self, end=max(self.end, time.monotonic() + self.seconds))


def origin(network: Network, number: int, valid_range: tuple[float, float]) -> Span | None:
    """Return what a value may be, from what made it; `None` where that tells nothing.

    An input of the network has no plateaus, whatever its range; a value of an activation counts if it has some.

    >>> from constraint_algebra.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU
    >>> network = Network((1, 8, 8), [Conv2d(2, 3), ReLU(), MaxPool2d(2), Flatten(), Linear(3)])
    >>> [origin(network, number, (0.0, 1.0)) for number in (0, 1, 4)]
    [Span(low=0.0, high=1.0, levels=()), None, Span(low=0.0, high=inf, levels=(0.0,))]
    """
    first, _ = traced(network, number)
    if first is None:
        return Span(*valid_range) if np.isfinite(valid_range).any() else None
    return span_of(first.activation) if cuts_off(first) else None


class Cut(NamedTuple):
    """Inequalities `matrix x <= slack` of a flat value: outputs that a ReLU cut off."""

    matrix: sp.csr_array
    slack: FloatArray


def inactive(observed: Observation, layer: PlacedLayer, y: Estimate) -> Cut | None:
    """Return `W x <= -b` at the outputs of a layer that a ReLU cut off, as far as they may be tight.

    Where the truth meets an inequality strictly it is no part of any proof that a value has no room (complementary
    slackness). So only filters without a bias count, whose outputs are exactly zero over a background of zeros.

    Args:
        observed: parameters and gradients.
        layer: the layer.
        y: the output of the ReLU that reads it, as far as it is known.
    """
    b, W = observed.bias(layer), observed.parameters[layer.weight_name]
    sharp = y.deviation <= SHARP * np.abs(y.filled()).max(initial=0.0)  # else an output that passes may seem cut off
    zero = y.known & sharp & (np.abs(y.filled()) <= CLEAR * y.deviation)
    zero &= (b == 0).reshape(-1, *(1,) * len(layer.outputs))
    if not zero.any():
        return None
    matrix = sp.csr_array(weight_equations(layer, W).matrix[zero.ravel()])
    sizes = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return Cut(matrix, CLEAR * (y.deviation[zero] + observed.rounding.arithmetic * sizes))


@dataclass(frozen=True)
class Held:
    """A value that equations leave open in part.

    Attributes:
        value: what is known of it.
        taken: of that, what its readers' equations do not say: entries on a bound or a plateau, and what came from
            elsewhere. They count as equations; what follows from equations must not count twice.
    """

    value: Estimate
    taken: Estimate


def extended(
    observed: Observation,
    held: Held,
    readers: list[Reader],
    made: Span,
    beyond: Beyond,
    cut: Cut | None = None,
) -> Held:
    """Return a value with what its range, and if allowed its zeros, decide beyond the equations.

    Entries that lie on a bound or a plateau are taken in as equations; everything else that is new follows from these
    together with the equations of the readers, with its error bar.

    Args:
        observed: parameters and gradients.
        held: what is known of it.
        readers: the layers that read it, with what is known at their outputs; at least one.
        made: what made it.
        beyond: what may be used.
        cut: inequalities that hold as well.
    """
    # Equations alone were asked, or the range is not what the user takes it for.
    if beyond.weakest < Ground.RANGE or not _inside(held.value, made, BEYOND * _size(held.value)):
        return held
    rng = np.random.default_rng(beyond.seed)
    if beyond.weakest >= Ground.ZEROS:
        held = replace(held, taken=_as_zeros(observed, held.taken, made))
    for _ in range(ROUNDS):
        # What noise leaves vague is better open than known: bounds decide it as well, and prove more of the rest.
        system = ValueEquations(observed, held.taken, readers, known_to=CLOSELY, stronger=STRONGER)
        if system.rank is None or held.value.known.all():
            break
        look = _Look(system, made, beyond, rng, cut)
        pinned = look.at()
        for _ in range(AGAIN if beyond.weakest >= Ground.ZEROS else 0):
            if pinned.any(held.taken.known) or time.monotonic() > beyond.end:
                break
            pinned = look.at()  # with other random objectives
        if not pinned.any(held.taken.known):
            break
        exact = pinned.estimate(observed)
        taken = held.taken.learnt(exact)
        again = ValueEquations(observed, taken, readers)
        found = again.estimate()
        found = replace(found, known=found.known & (found.deviation <= VAGUE * again.scale))
        if not _agrees(again, found, made):
            break
        held = Held(held.value.learnt(exact).learnt(found), taken)
    return held


def _as_zeros(observed: Observation, taken: Estimate, made: Span) -> Estimate:
    """Return entries of which those on a plateau lie there but for rounding, where a range proves an interval only."""
    on = taken.known & np.isin(taken.value, made.levels)
    rounding = observed.rounding.arithmetic * float(np.abs(taken.filled()).max(initial=0.0))
    sharper = observed.draw(np.minimum(taken.deviation, rounding), taken.value.shape)
    return replace(taken, perturbations=np.where(on[..., None], sharper, taken.perturbations))


def with_entries(observed: Observation, held: Held, entries: Estimate, readers: list[Reader]) -> Held:
    """Return a value of which some entries came from elsewhere, with what follows from these and its readers."""
    held = Held(held.value.learnt(entries), held.taken.learnt(entries))
    system = ValueEquations(observed, held.taken, readers)
    if system.rank is None:
        return held
    found = system.estimate()
    return Held(held.value.learnt(found), held.taken) if system.misfit(found.value) < CONTRADICTION else held


def _agrees(system: ValueEquations, found: Estimate, made: Span) -> bool:
    """Whether a solution fits all equations to their noise, and lies in its range to its error bars."""
    return _inside(found, made, BEYOND * system.scale) and system.misfit(found.value) < CONTRADICTION


def _size(value: Estimate) -> float:
    return float(np.abs(value.filled()).max(initial=0.0))


def _inside(value: Estimate, made: Span, rounding: float) -> bool:
    """Whether what is known of a value lies in its range, to its error bars."""
    slack = CLEAR * value.deviation + rounding
    inside = (value.filled() >= made.low - slack) & (value.filled() <= made.high + slack)
    return bool(inside[value.known].all())


def family_of(system: ValueEquations) -> Family:
    """Return all values that equations leave possible, flat."""
    x = system.solution()
    V = (system.basis @ system.null).reshape(x.size, -1)
    moved = system.moved(x).reshape(x.size, -1)
    across = moved - V @ (V.T @ moved)  # along V nothing is known, and noise is no matter
    noise = np.sqrt((across**2).mean(axis=1)) + ROUNDED * system.scale
    return Family(x.ravel(), V, noise)


@dataclass(frozen=True)
class _Pinned:
    """Entries that lie on a bound or a plateau, NaN elsewhere, and how far off it they may lie: one deviation."""

    at: FloatArray
    off: FloatArray

    def any(self, known: BoolArray) -> bool:
        """Whether any entry is pinned that is not known."""
        return bool((np.isfinite(self.at) & ~known).any())

    def estimate(self, observed: Observation) -> Estimate:
        """Return the entries with their noise."""
        known = np.isfinite(self.at)
        return Estimate(self.at, known, observed.draw(np.where(known, self.off, 0.0), self.at.shape))


class _Look:
    """A look at the family that equations leave possible, channel by channel and as a whole.

    Args:
        system: the equations.
        made: what made the value.
        beyond: what may be used, and until when.
        rng: of the random objectives.
        cut: inequalities of the whole value.
    """

    def __init__(
        self, system: ValueEquations, made: Span, beyond: Beyond, rng: np.random.Generator, cut: Cut | None
    ) -> None:
        """Write the family down."""
        self.made, self.beyond, self.rng, self.cut = made, beyond, rng, cut
        self.shape = system.shape
        self.whole = family_of(system)

    def at(self) -> _Pinned:
        """Return the entries that lie on a bound or plateau, in the shape of the value."""
        at, off = np.full((2, int(np.prod(self.shape))), np.nan)
        pieces = np.arange(len(at)).reshape(self.shape[0], -1)
        for piece in pieces:
            family = self._part(piece)
            if family.dimension and time.monotonic() < self.beyond.end:
                at[piece], off[piece] = self._on_bounds(family)
        if not np.isfinite(at).any() and (len(pieces) > 1 or self.cut is not None):
            at, off = self._by_range(self.whole, self.cut)
        return _Pinned(at.reshape(self.shape), off.reshape(self.shape))

    def _part(self, piece: IntArray) -> Family:
        """Return the family of some entries, whatever the others are."""
        if self.whole.dimension == 0:
            return Family(self.whole.p[piece], np.zeros((len(piece), 0)), self.whole.noise[piece])
        U, s, _ = svd(self.whole.V[piece], full_matrices=False)
        return Family(self.whole.p[piece], U[:, s > INDEPENDENT], self.whole.noise[piece])

    def _on_bounds(self, family: Family) -> tuple[FloatArray, FloatArray]:
        at, off = self._by_range(family)
        if self.beyond.weakest < Ground.ZEROS or not self.made.levels:
            return at, off
        if np.isfinite(at).any():
            return at, np.minimum(off, family.noise)
        size = float(np.abs(self.whole.p).max(initial=0.0))  # a channel of zeros does not show it
        ends = self.made.low, self.made.high
        zeros = certain_plateaus(family, self.made.levels, low=ends[0], high=ends[1], rng=self.rng, scale=size or None)
        return zeros, family.noise

    def _by_range(self, family: Family, cut: Cut | None = None) -> tuple[FloatArray, FloatArray]:
        nothing = np.full(len(family.p), np.nan)
        if not 0 < family.dimension <= WIDEST:
            return nothing, nothing
        lower, upper = np.full(len(family.p), self.made.low), np.full(len(family.p), self.made.high)
        matrix, slack = (None, None) if cut is None else cut
        found = implied(family, lower, upper, cut=matrix, slack=slack, deadline=self.beyond.end)
        return (nothing, nothing) if found is None else (found.at, found.width / MARGINS)
