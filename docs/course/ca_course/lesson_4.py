"""Lesson 4: which pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ca_course.guard import checker
from ca_course.reading import array, compare_sets, positions, yes

# Three equations in five unknowns: x2 stands alone, the others do not.
SYSTEM = np.array([[1.0, 1, 0, 0, 0], [0, 0, 2, 0, 0], [0, 0, 0, 1, -1]])


@checker
def check_4_1(answer: Any) -> str | None:
    """A null vector of the system that moves x0."""
    found = array(answer, (5,))
    if not found.any():
        return "the zero vector moves nothing"
    if not np.allclose(SYSTEM @ found, 0):
        wrong = int(np.flatnonzero(~np.isclose(SYSTEM @ found, 0))[0])
        return f"equation {wrong} would notice it"
    if np.isclose(found[0], 0):
        return "it is a null vector, and leaves x0 where it is; find one that moves x0"
    return None


@checker
def check_4_2(answer: Any) -> str | None:
    """Which unknowns the system determines."""
    return compare_sets(positions(answer, mask=(5,)), {(2,)}, "determined unknowns")


@checker
def check_4_3(answer: Any) -> str | None:
    """Can a system be short of rank and determine an unknown all the same?"""
    return None if yes(answer) else "look at the system of 4.2: what is its rank, and what does it determine"
