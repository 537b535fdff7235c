"""A value below normalisations with known statistics, found by iteration over the x̂ that are hidden, and judged.

The first rounds guess the hidden x̂, and with them k, solve, and compute x̂ from the solution; then all equations are
taken together, curved as they are (Gauss-Newton). What this comes to counts only if every equation holds to its noise.
How far it is unique is said by all equations near it, not by those with k as guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.recursion import contradictions
from constraint_algebra.recursion.curved_equations import CurvedEquations
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.iteration import fixed_point
from constraint_algebra.recursion.noise import STORED_SOLUTION, TOLERANCE
from constraint_algebra.recursion.normalised_output import NormalisedOutput
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.result import CONTRADICTION
from constraint_algebra.recursion.value_equations import Reader
from constraint_algebra.solvers.noisy_equations import USABLE

STANDS = 0.3  # standard deviations of all rows together: a step that moves them by less is none
ROUNDS = 25  # with all equations together; where it comes to an end, half a dozen do
GUESSED = 3  # rounds with k as guessed, before it moves with the value
OF_NOISE = 1e-3  # what an error bar is solved to
DIGITS = 1e-5  # of its residual, to which each round solves
NEAR = 0.1  # standard deviations of all rows together, to which none needs to solve


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes:
        value: the value.
        moved: how noise moves all of it, `(*shape, MEMBERS)`.
        equations: all equations near it.
        words: how the iteration went.
    """

    value: Estimate
    moved: FloatArray
    equations: CurvedEquations
    words: str


@dataclass(frozen=True)
class Hidden:
    """A value that layers read whose k depend on it through hidden x̂.

    Attributes:
        observed: parameters and gradients.
        value: what is known of it.
        plain: layers that read it, with all that is known of k.
        bent: layers that read it, whose k depends on it.
    """

    observed: Observation
    value: Estimate
    plain: Sequence[Reader]
    bent: Sequence[NormalisedOutput]

    def found(self) -> Outcome | str:
        """Return what all equations tell, or in words why they tell nothing."""
        x = self._guessed()
        scale = float(np.sqrt((x**2).mean())) or 1.0
        way = fixed_point(lambda point: self._round(point, scale), x / scale, rounds=ROUNDS)
        if way is None:
            return "guessing the normalised values that activations hide comes to no end"
        at = self._at(scale * way.point)
        if not _holds(at):
            return "what guessing the normalised values that activations hide comes to does not fit the equations"
        noise = at.noise()
        moved = at.solve(noise, OF_NOISE * float(np.sqrt((noise**2).sum(axis=0).min())))
        moved = moved + self.observed.draw(STORED_SOLUTION * np.abs(at.x), at.x.shape)
        shares = at.shares()
        moved = moved + self.observed.draw(at.scale * shares, at.x.shape)
        clear = np.sqrt((moved**2).mean(axis=-1)) < at.scale / USABLE
        known = (shares < TOLERANCE) & clear
        return Outcome(Estimate(at.x, known, np.where(known[..., None], moved, 0.0)), moved, at, way.words)

    def _at(self, x: FloatArray) -> CurvedEquations:
        guesses = [b.normalised(b.output(x)) for b in self.bent]
        return CurvedEquations(self.observed, self.value, self.plain, self.bent, guesses, x)

    def _guessed(self) -> FloatArray:
        """Return what follows from guesses of the hidden x̂, after some rounds."""
        x, guesses = self.value.filled(), [b.first_guess for b in self.bent]
        for _ in range(GUESSED):
            at = CurvedEquations(self.observed, self.value, self.plain, self.bent, guesses, x, curved=False)
            x = x + _step(at)
            guesses = [b.normalised(b.output(x)) for b in self.bent]
        return x

    def _round(self, point: FloatArray, scale: float) -> FloatArray:
        """Return what all equations near a value tell of it, in units of a typical value."""
        at = self._at(scale * point)
        step = _step(at)
        stands = float(np.linalg.norm(at.forward(step[..., None]))) < STANDS
        return point if stands else point + step / scale


def _step(at: CurvedEquations) -> FloatArray:
    """Return the change of the value that all equations near it ask for; each round needs a part of the digits only."""
    off = at.lacking()[:, None]
    return np.asarray(at.solve(off, max(NEAR, DIGITS * float(np.linalg.norm(off))))[..., 0])


def _holds(at: CurvedEquations) -> bool:
    """Whether all equations hold to their noise."""
    off = at.lacking()
    counts = off[off != 0]
    limit = contradictions.RESOLVED * CONTRADICTION
    return all(contradictions.resolved(part.equations, at.x) for part in at.fixed.parts) and (
        not counts.size or float(np.sqrt((counts**2).mean())) < limit
    )
