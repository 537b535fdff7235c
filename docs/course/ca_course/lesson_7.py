"""Lesson 7: what cannot be known."""

from __future__ import annotations

from typing import Any

from ca_course.guard import checker
from ca_course.reading import whole, yes


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
