"""What a strategy is: it says whether it applies and what it costs, and then does its work; the cheapest one is taken.

Two questions are asked of the equations of a layer. *What do they determine?* is answered by a `Judge`, *what is the
input?* by a `Solution`. Both kinds of strategy stand in the modules `by_*`, one method each. A judge may find out that
it cannot tell; then the next cheapest is asked. With its verdict it names the solutions that are possible now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from constraint_algebra.arrays import FloatArray
from constraint_algebra.solvers.verdict import Verdict

# Of one core of the machine that the project is measured on: matrix products in single precision run at 4e10
# multiplications a second; gathering what a convolution sees, and products of a matrix with a few vectors, move 4e9
# bytes a second (36 MB a step, four steps in 0.04 s, in LeNet-O's first layer). Only their ratio matters for a choice.
MULTIPLICATIONS = 4e10
BYTES = 4e9


@dataclass(frozen=True)
class Cost:
    """What a strategy costs, estimated from shapes before anything is done.

    Attributes:
        multiplications: in products and factorisations of matrices.
        bytes: that pass through memory, for steps that wait for it.

    >>> Cost(multiplications=4e10) + Cost(bytes=4e9)
    Cost(multiplications=40000000000.0, bytes=4000000000.0)
    >>> (2 * Cost(bytes=4e9)).seconds
    2.0
    """

    multiplications: float = 0.0
    bytes: float = 0.0

    @property
    def seconds(self) -> float:
        """The time that both take on one core."""
        return self.multiplications / MULTIPLICATIONS + self.bytes / BYTES

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both."""
        return Cost(self.multiplications + other.multiplications, self.bytes + other.bytes)

    def __rmul__(self, times: float) -> Cost:
        """Return the cost of doing it several times."""
        return Cost(times * self.multiplications, times * self.bytes)


class Strategy(Protocol):
    """One way to an answer."""

    def cost(self) -> Cost:
        """Return what it costs, from shapes and from what has been decomposed already; it decomposes nothing itself."""

    def applies(self) -> bool:
        """Return whether it can be used here; it may decompose something to find out."""


class Solution(Strategy, Protocol):
    """A way to the least-squares input."""

    def solve(self, weight_gradient: FloatArray, output: FloatArray, share: float, *, single: bool) -> FloatArray:
        """Return the input for n right-hand sides, `(*input_shape, n)`; see `two_stage.TwoStage.solve`."""


@dataclass(frozen=True)
class Finding:
    """What a judge found.

    Attributes:
        verdict: what the equations determine.
        solutions: the ways to the input that are possible now.
    """

    verdict: Verdict
    solutions: tuple[Solution, ...]


class Judge(Strategy, Protocol):
    """A way to the verdict."""

    def judge(self) -> Finding | None:
        """Return what it found, `None` where it cannot tell."""


S = TypeVar("S", bound=Strategy)


def cheapest_first(strategies: Iterable[S]) -> Iterator[S]:
    """Iterate over the strategies that apply, in the order of their cost; one that is not asked for is not tried.

    What a strategy decomposes to see whether it applies may raise its cost, or that of others: then it waits its turn.
    """
    left = list(strategies)
    while left:
        cheapest = min(left, key=lambda s: s.cost().seconds)
        if not cheapest.applies():
            left.remove(cheapest)
        elif cheapest is min(left, key=lambda s: s.cost().seconds):
            left.remove(cheapest)
            yield cheapest
