"""Lesson 8: defences."""

from __future__ import annotations

from typing import Any

import numpy as np

from ca_course.guard import checker
from ca_course.reading import UnreadableError, number, yes


@checker
def check_8_1(answer: Any) -> str | None:
    """A network that does not give its input away."""
    import constraint_algebra as ca

    if not isinstance(answer, ca.Network):
        raise UnreadableError("a ca.Network is asked for")
    if answer.input_shape != (3, 32, 32):
        return f"the input must be 3×32×32, yours is {answer.input_shape}"
    if answer.output_shape != (10,):
        return f"ten outputs are asked for, yours has {answer.output_shape}"
    first = answer.bilinear[0]
    if first.layer.__class__.__name__ != "Conv2d" or first.filters < 6:
        return "the first layer must be a convolution with at least six filters"
    report = ca.feasibility(answer)
    if report.determined is None:
        return "whether yours leaks is undecided; choose a smaller or simpler one"
    # What counts is not what the recursion finds, but what all equations together determine.
    share = float(np.mean(report.determined if report.limit is None else report.limit.determined))
    return (
        None
        if share == 0
        else f"the gradient determines {share:.0%} of its input; give the first layers fewer equations"
    )


@checker
def check_8_2(answer: Any) -> str | None:
    """The smallest noise of the first table below 60 dB."""
    found = number(answer)
    if np.isclose(found, 1e-4, rtol=0.01):
        return None
    if found < 1e-4:
        return "at this noise the image still has more than 60 dB"
    return "a smaller noise of the table is enough"


@checker
def check_8_3(answer: Any) -> str | None:
    """Does the head's gradient alone determine the image of LeNet-O?"""
    return "count: how many values does the head's gradient give, and how many has the image" if yes(answer) else None
