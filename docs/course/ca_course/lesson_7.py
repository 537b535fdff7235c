"""Lesson 7: what cannot be known."""

from __future__ import annotations

from typing import Any

import numpy as np

from ca_course.guard import checker
from ca_course.reading import array, whole, yes

# What some equations leave open of five values: the first three leave no room below.
DIRECTIONS = np.array([[1.0, 0], [0, 1], [-1, -2], [1, 1], [-1, 1]])
# What others leave open of a channel behind a ReLU: four of its values are zero together, and nowhere else.
CHANNEL = np.array([1.0, 3, 4, 5, 6, 1])
OF_CHANNEL = np.array([[1.0, 0], [0, 1], [1, 1], [2, 1], [-1, 0], [1, -1]])


@checker
def check_7_1(answer: Any) -> str | None:
    """The least number of open directions that counting guarantees."""
    found = whole(answer)
    if found == 768 - (206 + 450):
        return None
    if found < 0:
        return "the other way round: unknowns minus equations"
    if found in {768 - 206, 768 - 450}:
        return "there are two kinds of equations"
    if found == 185:
        return "that is the number that was computed; what does counting guarantee"
    return "a matrix of m rows and n columns has a null space of dimension n - m at least"


@checker
def check_7_2(answer: Any) -> str | None:
    """Is the mean of two twins a twin?"""
    return (
        None
        if yes(answer)
        else "the set is cut out by linear equations and inequalities; what does that say of the point half-way"
    )


@checker
def check_7_3(answer: Any) -> str | None:
    """Does a wide interval prove that a guess fails?"""
    if not yes(answer):
        return None
    return "the gradient does not say where in the interval the value lies; is it all that an attacker knows"


@checker
def check_7_4(answer: Any) -> str | None:
    """Multipliers that leave the first three values no room."""
    found = array(answer, (3,))
    if not found.any():
        return "with zeros alone nothing is said of any value"
    still = DIRECTIONS[:3].T @ found
    if not np.allclose(still, 0):
        wrong = int(np.flatnonzero(~np.isclose(still, 0))[0])
        return f"the sum changes along direction {wrong}: multiply its column of V with your numbers, and add"
    if (found < 0).any():
        return "the sum is the same everywhere, but not all numbers are positive: one value could make up for another"
    return None


@checker
def check_7_5(answer: Any) -> str | None:
    """The point of the family whose zeros are no accident."""
    found = array(answer, (6,))
    y = np.linalg.lstsq(OF_CHANNEL, found - CHANNEL)[0]
    if not np.allclose(CHANNEL + OF_CHANNEL @ y, found):
        return "this point is not in the family: no y gives it"
    if (found < -1e-9).any():
        return "a ReLU returns no negative value"
    zeros = int(np.isclose(found, 0).sum())
    if zeros <= 2:
        return f"of its values {zeros} are zero, and two unknowns can always do as much"
    return None
