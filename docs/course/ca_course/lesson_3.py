"""Lesson 3: counting is not rank."""

from __future__ import annotations

from typing import Any

from ca_course.guard import checker
from ca_course.reading import array, compare_sets, positions, whole


@checker
def check_3_1(answer: Any) -> str | None:
    """Fewest filters of 3/2/1 on 8×8 pixels: by counting, exactly."""
    counted, exact = array(answer, (2,))
    if (counted, exact) == (8, 16):
        return None
    if (exact, counted) == (8, 16):
        return "the order is: by counting, then exactly"
    if counted != 8:
        return "for counting, 9 equations a filter must reach the 64 pixels; round up"
    return "counting is right; for the exact number divide the pixels of each class by its taps, and take the largest"


@checker
def check_3_2(answer: Any) -> str | None:
    """Rank per channel of the gradient equations of 6 filters, 3/2/1, on 8×8."""
    found = whole(answer)
    if found == 16 + 12 + 12 + 6:
        return None
    if found == 54:
        return "that is the number of equations; one class has more of them than pixels"
    if found == 64:
        return "that is the number of pixels; some classes have fewer equations"
    return "add, over the four classes, the smaller of filters × taps and pixels"


@checker
def check_3_3(answer: Any) -> str | None:
    """Strides at which counting and the exact rank agree for any number of filters."""
    return compare_sets(positions(answer), {(1,)}, "strides")
