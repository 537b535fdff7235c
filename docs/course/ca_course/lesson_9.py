"""Lesson 9: max-pool is a polytope."""

from __future__ import annotations

from typing import Any

import numpy as np

from ca_course.guard import checker
from ca_course.reading import array, number, whole, yes

# Of one pair of pixels (left, right): left <= 1, right - left <= -1, -right <= 0.
PAIR = np.array([[1.0, 0], [-1, 1], [0, -1]])


@checker
def check_9_1(answer: Any) -> str | None:
    """The number of patterns of winners, as a power of two."""
    found = whole(answer)
    if found == 2 * 49:
        return None
    if found == 49:
        return "that would be two entries a window; how many has a window of 2×2"
    if found in {4 * 49, 14 * 14}:
        return "each window has one winner of four, not four bits"
    return "each window chooses one of its entries, whatever the others do"


@checker
def check_9_2(answer: Any) -> str | None:
    """Multipliers that leave a pair of pixels no room."""
    found = array(answer, (3,))
    if not found.any():
        return "with zeros alone nothing is said of any pixel"
    still = PAIR.T @ found
    if not np.allclose(still, 0):
        which = ("left", "right")[int(np.flatnonzero(~np.isclose(still, 0))[0])]
        return f"the weighted sum still depends on the {which} pixel"
    if (found <= 0).any():
        return "the sum is the same for every picture, but an inequality may only be multiplied by a positive number"
    return None


@checker
def check_9_3(answer: Any) -> str | None:
    """The smallest value of a left pixel, where the difference is at most -0.6."""
    found = number(answer)
    if abs(found - 0.6) < 1e-9:
        return None
    if found == 1:
        return "that is the largest: how much smaller may it be"
    if abs(found - 0.4) < 1e-9:
        return "that is how far it can move; from where"
    if abs(found + 0.6) < 1e-9:
        return "a pixel is not below 0; bring the left pixel to the other side"
    return "solve the second inequality for the left pixel, and take the right one as small as it can be"


@checker
def check_9_4(answer: Any) -> str | None:
    """Do the filters that are right determine the input?"""
    return None if yes(answer) else "count: equations of the right filters for one channel, and its unknowns"
