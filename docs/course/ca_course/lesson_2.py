"""Lesson 2: a convolution is a sparse matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from ca_course.guard import checker
from ca_course.reading import array, compare_sets, positions, whole


@checker
def check_2_1(answer: Any) -> str | None:
    """Rows and columns of the weight equations of 3 filters, 3/2/1, on 1×4×4."""
    found = array(answer, (2,))
    if np.array_equal(found, [12, 16]):
        return None
    if np.array_equal(found, [16, 12]):
        return "rows are equations, columns are unknowns"
    if found[1] in {25, 36}:
        return "padding is known to be zero; it is no unknown"
    if found[0] == 48:
        return "with stride 2 not every position is an output"
    return "there is one row for each output of each filter, and one column for each pixel of each channel"


@checker
def check_2_2(answer: Any) -> str | None:
    """Outputs that see pixel (3, 3) of a 3/2/1 convolution on 4×4 pixels."""
    return compare_sets(positions(answer, axes=2, mask=(2, 2)), {(1, 1)}, "output positions")


@checker
def check_2_3(answer: Any) -> str | None:
    """How many pixels occur in the gradient equation of tap (1, 1), 3/2/1 on 4×4."""
    found = whole(answer)
    if found == 4:
        return None
    if found == 16:
        return "a tap does not meet every pixel when the stride is 2"
    if found == 1:
        return "the equation sums over all outputs"
    return "count the output positions for which the pixel lies inside the image"
