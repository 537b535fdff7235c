"""Twins, verified one by one, until every value moved far enough or cannot."""

from __future__ import annotations

import time
from functools import cached_property
from itertools import islice

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, Progress
from constraint_algebra.proofs.certificate import Witness
from constraint_algebra.proofs.hit_and_run import hit_and_run
from constraint_algebra.proofs.indistinguishable import IndistinguishabilitySet
from constraint_algebra.proofs.twins import Twin
from constraint_algebra.pytorch.verification import Model, verify_twin

ROUNDS = 3  # twins in random directions, which move most values far enough
STEPS, WALKS = 16, 4  # steps of a walk between two twins that are verified, and how many of these
SHARE = 4  # a twin in a direction may take one part in so many of the time left


class TwinSearch:
    """What moves, as far as verified twins show, and how far a value may move at most.

    Args:
        model: the network in float64.
        found: the set that the twins are taken from.
        target, loss: the class and the loss.
        delta: change of a value that counts.
        tolerance: difference of gradients that counts as none.
        deadline: time after which nothing is begun.
        progress: called with (values settled, values in all, what is being done).

    Attributes:
        witnesses: the verified twins that moved a value farther than those before.
        moved: the largest change of each value over all verified twins.
        low, high: smallest and largest value over all verified twins.
        outer: how far each value may move at most within the set.
        refused: number of candidates whose gradients were not equal.
        late: whether the time was up when last asked.
    """

    def __init__(
        self,
        model: Model,
        found: IndistinguishabilitySet,
        target: int,
        loss: str,
        delta: float,
        tolerance: float,
        deadline: float,
        progress: Progress | None,
    ) -> None:
        """Start with no twin."""
        self.model, self.found, self.target, self.loss = model, found, target, loss
        self.delta, self.tolerance, self.deadline, self.progress = delta, tolerance, deadline, progress
        self.witnesses: list[Witness] = []
        self.moved = np.zeros(found.input.shape)
        self.low, self.high = found.input.copy(), found.input.copy()
        self.outer = np.full(found.input.shape, np.inf)
        self.refused, self.late = 0, False

    @cached_property
    def reach(self) -> FloatArray:
        """How far each value may move at most by the equations and the valid range alone."""
        x = self.found.input
        return self.found.polytope.reach(np.arange(x.size)).reshape(x.shape)

    @property
    def narrow(self) -> BoolArray:
        """Which values cannot move by delta within the set."""
        return np.asarray(self.outer < self.delta)

    def offer(self, image: FloatArray | None, objective: str) -> None:
        """Verify a candidate, and keep it where it moves a value farther than those before."""
        if image is None:
            return
        change = np.abs(image - self.found.input)
        if not (change > self.moved).any():
            return
        check = verify_twin(self.model, self.found.input, image, self.target, self.loss, tolerance=self.tolerance)
        if not check.equal:
            self.refused += 1
            return
        news = (change >= self.delta) & (self.moved < self.delta)
        strongest = change.max() > self.moved.max()
        self.moved = np.maximum(self.moved, change)
        self.low, self.high = np.minimum(self.low, image), np.maximum(self.high, image)
        if news.any() or strongest:
            self.witnesses.append(Witness(Twin(image, self.found.input, objective), check))

    def run(self, fixed: BoolArray, seed: int) -> None:
        """Search along a walk and in a few directions first, then for one value after the other."""
        if self.is_late():
            return
        self.outer = self.reach.copy()
        if self.found.nullity == 0:
            return
        self._walk(fixed, seed)
        for number, objective in enumerate(["mean", *["random"] * ROUNDS]):
            if self.is_late() or (number and self._settled(fixed).all()):
                return
            twin = self.found.twin(objective, seed=seed + number, time_limit=self._left() / SHARE)
            self.offer(None if twin is None else twin.image, objective)
            self._report(fixed, f"twin {number + 1}")
        for pixel in np.argwhere(~fixed & ~self.narrow).tolist():
            place = tuple(pixel)
            if self.is_late():
                return
            if self.moved[place] < self.delta:
                self._settle(place)
                self._report(fixed, f"value {place}")

    def _walk(self, fixed: BoolArray, seed: int) -> None:
        points = hit_and_run(self.found.polytope, seed)
        for number in range(WALKS):
            if self.is_late() or self._settled(fixed).all():
                return
            steps = list(islice(points, STEPS))
            if not steps:
                return
            x = self.found.input
            self.offer(inside(x + steps[-1].reshape(x.shape), self.found.valid_range), "random walk")
            self._report(fixed, f"walk {number + 1}")

    def _settle(self, place: tuple[int, ...]) -> None:
        P, x = self.found.polytope, self.found.input
        direction = np.zeros(x.shape)
        direction[place] = 1.0
        farthest = 0.0
        for sign in (1.0, -1.0):
            best = P.maximise(sign * direction.ravel(), time_limit=self._left())
            farthest = max(farthest, best.outer)
            if best.inner >= self.delta:
                self.offer(inside(x + best.difference.reshape(x.shape), self.found.valid_range), f"value {place}")
            if self.moved[place] >= self.delta:
                return
        self.outer[place] = min(self.outer[place], farthest)

    def _settled(self, fixed: BoolArray) -> BoolArray:
        return np.asarray(fixed | self.narrow | (self.moved >= self.delta))

    def _left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)

    def is_late(self) -> bool:
        """Whether the time is up; that is remembered."""
        self.late = self._left() == 0.0
        return self.late

    def _report(self, fixed: BoolArray, doing: str) -> None:
        if self.progress is not None:
            settled = self._settled(fixed)
            self.progress(int(settled.sum()), settled.size, doing)


def inside(image: FloatArray, valid_range: tuple[float, float]) -> FloatArray | None:
    """Return an image with rounding at the ends of the range removed, `None` where it lies outside."""
    low, high = valid_range
    slack = 1e-12 * (high - low)
    if not ((image >= low - slack) & (image <= high + slack)).all():  # NaN is outside
        return None
    return np.clip(image, low, high)
