"""Robust alternation on a problem without a ReLU: which entry of each pooling window won."""

import time
from collections.abc import Sequence

import numpy as np
import pytest

from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.beyond_rank.alternation import Answer, alternate

TAPS, WINDOW, FILTERS, POSITIONS = 5, 2, 12, 24


class Winners:
    """A convolution in one dimension with max-pooling: known are the maxima, their gradient and dL/dW, not who won."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=POSITIONS)
        self.patches = np.lib.stride_tricks.sliding_window_view(np.arange(POSITIONS), TAPS)  # (outputs, taps)
        self.W = rng.normal(size=(FILTERS, TAPS))
        z = (self.x[self.patches] @ self.W.T).T.reshape(FILTERS, -1, WINDOW)
        self.winners = z.argmax(axis=-1)
        self.v = z.max(axis=-1)
        self.k = rng.normal(size=self.v.shape)
        places = np.arange(len(self.patches)).reshape(-1, WINDOW)
        self.place = np.broadcast_to(places, (FILTERS, *places.shape))  # output of each entry of each window
        won = np.take_along_axis(self.place, self.winners[..., None], axis=-1)[..., 0]
        self.dW = np.einsum("fw,fwt->ft", self.k, self.x[self.patches[won]])
        self.asked = 0

    @property
    def kinds(self) -> Sequence[slice]:
        return slice(0, FILTERS), slice(FILTERS, FILTERS + self.k.size)

    @property
    def block(self) -> IntArray:
        return np.repeat(np.arange(FILTERS), self.k.shape[1])

    def start(self) -> FloatArray:
        return np.full((self.k.size, WINDOW), 1 / WINDOW)

    def _rows(self, shares: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient rows (filter, tap) and those of the windows' maxima, both over the positions."""
        gradient, maxima = np.zeros((FILTERS, TAPS, POSITIONS)), np.zeros((*self.k.shape, POSITIONS))
        each, seen = shares.reshape(*self.k.shape, WINDOW), self.patches[self.place]  # filter, window, entry, tap
        f, w, _, t = np.indices(seen.shape)
        np.add.at(gradient, (f, t, seen), (each * self.k[..., None])[..., None])
        np.add.at(maxima, (f, w, seen), each[..., None] * self.W[:, None, None])
        return gradient, maxima.reshape(-1, POSITIONS)

    def solve(self, shares: FloatArray, weights: FloatArray) -> Answer:
        gradient, maxima = self._rows(shares)
        roots = np.sqrt(weights)
        rows = np.vstack(
            [(gradient * roots[:FILTERS, None, None]).reshape(-1, POSITIONS), maxima * roots[FILTERS:, None]]
        )
        rhs = np.concatenate([(self.dW * roots[:FILTERS, None]).ravel(), self.v.ravel() * roots[FILTERS:]])
        x = np.linalg.lstsq(rows, rhs, rcond=None)[0]
        z = np.einsum("fwct,ft->fwc", x[self.patches[self.place]], self.W)
        misfits = np.concatenate([np.linalg.norm(gradient @ x - self.dW, axis=1), np.abs(maxima @ x - self.v.ravel())])
        return Answer(-np.abs(z - self.v[..., None]).reshape(-1, WINDOW), misfits)

    def confirmed(self, chosen: IntArray) -> IntArray | None:
        self.asked += 1
        gradient, maxima = self._rows(np.eye(WINDOW)[chosen])
        rows, rhs = (
            np.vstack([gradient.reshape(-1, POSITIONS), maxima]),
            np.concatenate([self.dW.ravel(), self.v.ravel()]),
        )
        x, *_ = np.linalg.lstsq(rows, rhs, rcond=None)
        return chosen if np.abs(rows @ x - rhs).max() < 1e-9 else None


@pytest.mark.parametrize("seed", range(4))
def test_winners_of_pooling_windows(seed: int) -> None:
    problem = Winners(seed)
    found = alternate(problem, rng=np.random.default_rng(0), deadline=time.monotonic() + 20)
    assert found is not None
    assert (found == problem.winners.ravel()).all()


def test_nothing_is_returned_that_the_problem_does_not_confirm() -> None:
    problem = Winners(0)
    problem.dW[0, 0] += 1.0  # no choice fits
    assert alternate(problem, rng=np.random.default_rng(0), deadline=time.monotonic() + 60, starts=4) is None
    assert problem.asked > 0


def test_choices_are_asked_for_once() -> None:
    class Stubborn(Winners):
        def solve(self, shares: FloatArray, weights: FloatArray) -> Answer:
            return Answer(np.tile([1.0, 0.0], (len(shares), 1)), np.ones_like(weights))

        def confirmed(self, chosen: IntArray) -> IntArray | None:
            self.asked += len(chosen) // self.k.size
            return None

    problem = Stubborn(0)
    alternate(problem, rng=np.random.default_rng(0), deadline=time.monotonic() + 0.1)
    assert problem.asked == 1


def test_blocks_that_fit_weigh_more() -> None:
    seen: list[FloatArray] = []

    class Watched(Winners):
        def solve(self, shares: FloatArray, weights: FloatArray) -> Answer:
            answer = super().solve(shares, weights)
            if (weights != 1).any():
                seen.append(np.array([weights[:FILTERS], previous[0][:FILTERS]]))
            previous[0] = answer.misfits
            return answer

    previous = [np.ones(1)]
    alternate(Watched(1), rng=np.random.default_rng(0), deadline=time.monotonic() + 20)
    assert seen
    for weights, misfits in seen:
        assert (np.diff(weights[np.argsort(misfits)]) <= 1e-12).all()


def test_no_more_starts_than_allowed() -> None:
    class Stubborn(Winners):
        begun = 0

        def start(self) -> FloatArray:
            self.begun += 1
            return super().start()

        def confirmed(self, chosen: IntArray) -> IntArray | None:
            self.asked += len(chosen) // self.k.size
            return None

    problem = Stubborn(0)
    assert alternate(problem, rng=np.random.default_rng(0), deadline=time.monotonic() + 60, starts=2) is None
    assert problem.begun == 3  # the shares of each new start are mixed with those of the first
    assert problem.asked > 0
