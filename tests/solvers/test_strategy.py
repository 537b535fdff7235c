"""The choice among strategies: the cheapest that applies, and nothing is tried that is not asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.solvers.by_factor import FEW
from constraint_algebra.solvers.elimination import Elimination
from constraint_algebra.solvers.strategy import Cost, Finding, cheapest_first
from constraint_algebra.solvers.two_stage import TwoStage, decide, judges
from tests.solvers.test_two_stage import KNOWN, LAYERS, equations


@dataclass
class Fake:
    """A strategy that says what it is told to, and notes what it is asked."""

    seconds: float
    possible: bool = True
    tells: bool = True
    asked: list[str] = field(default_factory=list)

    def cost(self) -> Cost:
        return Cost(bytes=self.seconds)

    def applies(self) -> bool:
        self.asked.append("applies")
        return self.possible

    def judge(self) -> Finding | None:
        self.asked.append("judge")
        return Finding(self, ()) if self.tells else None


def test_the_cheapest_that_applies_comes_first_and_dearer_ones_are_not_asked() -> None:
    cheap, middle, dear = Fake(1, possible=False), Fake(2), Fake(3)
    assert next(cheapest_first([dear, cheap, middle])) is middle
    assert (cheap.asked, middle.asked, dear.asked) == (["applies"], ["applies"], [])


@dataclass
class Rising(Fake):
    """A strategy that finds out on the way that it costs more."""

    def cost(self) -> Cost:
        return Cost(bytes=self.seconds if not self.asked else 10.0)


def test_what_a_look_finds_out_may_raise_the_cost() -> None:
    rising, other = Rising(1), Fake(2)
    assert list(cheapest_first([other, rising])) == [other, rising]


def test_a_judge_that_cannot_tell_hands_on_to_the_next_cheapest() -> None:
    silent, telling, dear = Fake(1, tells=False), Fake(2), Fake(3)
    assert decide((dear, telling, silent)).verdict is telling
    assert silent.asked == ["applies", "judge"]
    assert dear.asked == []


def test_time_counts_both_products_and_what_waits_for_memory() -> None:
    product, gathering = Cost(multiplications=1e9), Cost(bytes=1e9)
    assert product.seconds < gathering.seconds < (product + gathering).seconds
    assert (3 * product).seconds == pytest.approx(3 * product.seconds)


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_no_cheaper_strategy_would_have_done(layer, known) -> None:
    """Of real layers: whatever is cheaper than the chosen solution does not apply."""
    eq = equations(layer, **known)
    stages = TwoStage(eq)
    stage = Elimination(eq, None, 1e-5)
    asked = sorted((judge for judge in judges(stage, 0)), key=lambda judge: judge.cost().seconds)
    found = next(f for judge in asked if judge.applies() and (f := judge.judge()) is not None)
    possible = [s for s in found.solutions if s.applies()]
    assert type(stages.solution) is type(min(possible, key=lambda s: s.cost().seconds))
    np.testing.assert_array_equal(stages.verdict.determined, found.verdict.determined)


def test_many_weak_directions_are_left_to_a_factor() -> None:
    """Gradient equations so noisy that no direction of theirs is strong: by their shapes none would be open."""
    layer = ca.Conv2d(12, 3, padding=1).place((8, 12, 12))
    eq = equations(layer, active=1.0, zeros=0.0)
    eq = replace(eq, gradient_noise=1e9 * eq.gradient_noise)
    stages = TwoStage(eq)
    assert stages.stage.surely_open <= FEW < stages.stage.open
    assert type(stages.solution).__name__ == "FactoredIteration"


@pytest.mark.slow  # plain loops write the equations of whole layers
def test_what_each_amount_of_equations_is_solved_by() -> None:
    """One layer of each kind that the networks of the paper have; see docs/explanation/elimination.md."""

    def solution(layer, **known) -> str:
        return type(TwoStage(equations(layer, noise=1e-9, **known)).solution).__name__

    wide = ca.Conv2d(12, 5, stride=2, padding=2)
    assert solution(ca.Linear(100).place((192,)), active=0.0) == "Blocks"
    assert solution(wide.place((3, 32, 32)), active=1.0, zeros=0.0) == "FactoredIteration"
    assert (
        solution(ca.Conv2d(16, 5, stride=2, padding=2).place((12, 16, 16)), active=1.0, zeros=0.0) == "CorrectedBlocks"
    )
    assert (
        solution(ca.Conv2d(77, 5, stride=2, padding=2).place((3, 32, 32)), active=0.5, zeros=0.0) == "DiagonalIteration"
    )
    assert solution(ca.Conv2d(2, 3, padding=1).place((3, 6, 6))) == "Polish"
