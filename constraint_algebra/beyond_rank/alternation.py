"""Robust alternation: unknown choices, one an entry, found together with the values that fit them.

Some equations are known only up to a choice at each entry: whether a ReLU passed its output, which entry of a pooling
window won, on which branch an activation worked. Given the choices the values follow by least squares; given the values
each entry says how well each choice fits. The two are taken in turn: shares of the choices first, then one choice each.

What makes it find its way is that equations come in blocks, such as those of one filter, that depend on a few entries
each: **a block all of whose choices are right fits exactly**, so that each block is weighed by the inverse of its
misfit, again and again. Blocks that fit soon decide the values, and with them the choices in all others.

What choices, blocks and values are is up to a `Problem`; whether a set of choices is the answer as well, by whatever
proof it has to offer. Nothing is returned that it does not confirm.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from constraint_algebra.arrays import FloatArray, IntArray

SOFT = 6  # rounds in which choices have shares: in 3 to 5 all bits of a layer of LeNet were right
ROUNDS = 24  # of one start
EVEN = 1  # rounds with all blocks weighed alike
REWEIGHTED = 2  # times a round that weights follow the misfits
SHARPNESS = 8.0  # of the shares: a choice that is better by one weighs e^8 times as much
LEAST = 0.1  # of the median misfit of its kind: a block that fits better than that is weighed no more
SHAKEN = 0.15  # of the choices in the worse half of the blocks, made anew where a round brings nothing new
RESTARTED = 0.3  # of the shares at a new start are random


@dataclass(frozen=True)
class Answer:
    """What values solved for some choices say of these.

    Attributes:
        scores: how well each choice fits, `(entries, choices)`: a difference of one is clear.
        misfits: of each block, `(blocks,)`; NaN where it says nothing at these choices.
    """

    scores: FloatArray
    misfits: FloatArray


class Problem(Protocol):
    """A system of equations with unknown choices, one of the same number at each entry.

    Attributes:
        kinds: the blocks, kind by kind: misfits of one kind are of one unit, and are compared with each other.
        block: the block that suffers most from a wrong choice at each entry, `(entries,)`.
    """

    @property
    def kinds(self) -> Sequence[slice]:
        """Which blocks are of one kind."""

    @property
    def block(self) -> IntArray:
        """The block of each entry."""

    def start(self) -> FloatArray:
        """Return the shares to start from, `(entries, choices)`."""

    def solve(self, shares: FloatArray, weights: FloatArray) -> Answer:
        """Solve for the values at some shares, and judge the choices by them; weights are of the squares, a block."""

    def confirmed(self, chosen: IntArray) -> IntArray | None:
        """Return the answer if the choices are, or lead to it at once; `None` if they do not fit."""


def alternate(
    problem: Problem, *, rng: np.random.Generator, deadline: float, starts: int | None = None
) -> IntArray | None:
    """Return choices that a problem confirms, `(entries,)`; `None` where none were found in time.

    Args:
        problem: the problem.
        rng: of the changes that free it where it is stuck, and of new starts.
        deadline: by `time.monotonic`, when no further round is begun.
        starts: how often it begins, by default as often as there is time for.
    """
    search = _Search(problem, rng, deadline)
    shares = problem.start()
    for number in itertools.count():
        if time.monotonic() >= deadline or number == starts:
            break
        found = search.once(shares)
        if found is not None:
            return found
        shares = (1 - RESTARTED) * problem.start() + RESTARTED * rng.dirichlet(np.ones(shares.shape[1]), len(shares))
    return None


class _Search:
    """One search, which remembers what it asked."""

    def __init__(self, problem: Problem, rng: np.random.Generator, deadline: float) -> None:
        """Begin."""
        self.problem, self.rng, self.deadline = problem, rng, deadline
        self.asked: set[bytes] = set()

    def once(self, shares: FloatArray) -> IntArray | None:
        """Alternate from some shares until choices are confirmed, the rounds are used up or time is."""
        seen: set[bytes] = set()
        for number in range(ROUNDS):
            if time.monotonic() >= self.deadline:
                return None
            answer = self._solved(shares, even=number < EVEN)
            chosen = np.asarray(answer.scores.argmax(axis=1))
            again = chosen.tobytes() in seen  # it stands, or turns in a circle
            found = self._confirmed(chosen) if again else None
            if found is not None:
                return found
            seen.add(chosen.tobytes())
            choices = shares.shape[1]
            if number + 1 < SOFT:
                shares = _softened(answer.scores)
            elif again:
                shares = _one_each(self._shaken(chosen, answer, choices), choices)
            else:
                shares = _one_each(chosen, choices)
        return None

    def _shaken(self, chosen: IntArray, answer: Answer, choices: int) -> IntArray:
        """Return choices of which a share is made anew at random, in the worse half of the blocks."""
        misfits = np.nan_to_num(answer.misfits)[self.problem.block]
        changed = (self.rng.random(len(chosen)) < SHAKEN) & (misfits >= np.median(misfits))
        return np.where(changed, (chosen + self.rng.integers(1, choices, len(chosen))) % choices, chosen)

    def _solved(self, shares: FloatArray, *, even: bool) -> Answer:
        weights = np.ones(max(kind.stop for kind in self.problem.kinds))
        answer = self.problem.solve(shares, weights)
        for _ in range(0 if even else REWEIGHTED):
            weights = _weights(self.problem.kinds, answer.misfits)
            answer = self.problem.solve(shares, weights)
        return answer

    def _confirmed(self, chosen: IntArray) -> IntArray | None:
        if chosen.tobytes() in self.asked:
            return None
        self.asked.add(chosen.tobytes())
        return self.problem.confirmed(chosen)


def _weights(kinds: Sequence[slice], misfits: FloatArray) -> FloatArray:
    """Return weights of squares by the inverse squares of the misfits, those of one kind relative to their median."""
    weights = np.ones(len(misfits))
    for kind in kinds:
        own = misfits[kind]
        says = np.isfinite(own)
        if says.any():
            typical = max(float(np.median(own[says])), np.finfo(float).tiny)
            weights[kind] = np.where(says, (typical / np.maximum(np.nan_to_num(own), LEAST * typical)) ** 2, 1.0)
    return weights


def _softened(scores: FloatArray) -> FloatArray:
    shares = np.exp(SHARPNESS * (scores - scores.max(axis=1, keepdims=True)))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _one_each(chosen: IntArray, choices: int) -> FloatArray:
    return np.eye(choices)[chosen]
