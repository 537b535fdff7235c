"""Lesson 5: layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy

from ca_course.guard import checker
from ca_course.reading import MORE_DIGITS, UnreadableError, array, is_rounded, number, whole

WEIGHT = np.array([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]])
OUTPUT_GRADIENT = np.array([0.5, -1.0])
ACTIVATED = np.array([0.0, 0.7, 0.0, 1.2, 0.1, 0.0])


@checker
def check_5_1(answer: Any) -> str | None:
    """The derivative of the sigmoid as a function of its output."""
    if isinstance(answer, sympy.Expr) and len(answer.free_symbols) == 1:
        answer = sympy.lambdify(list(answer.free_symbols), answer)
    if not callable(answer):
        raise UnreadableError("a function of y is asked for, for example with lambda")
    z = np.linspace(-4, 4, 17)
    y = 1 / (1 + np.exp(-z))
    try:
        found = np.array([number(answer(value)) for value in y])
    except Exception as error:  # whatever a student's function raises
        return f"your function fails for y = {y[0]:.3f}: {type(error).__name__}: {error}"
    if np.allclose(found, y * (1 - y)):
        return None
    if np.allclose(found, np.exp(-y) / (1 + np.exp(-y)) ** 2):
        return "this takes y for z; express the derivative by the output itself"
    if is_rounded(found, y * (1 - y)):
        return MORE_DIGITS
    return "compare with a difference quotient of the sigmoid at the same z"


@checker
def check_5_2(answer: Any) -> str | None:
    """The gradient that arrives at the input of a linear layer."""
    found = array(answer)
    if found.shape == (2,):
        return "this has the shape of the outputs; the input has three values"
    found = array(answer, (3,))
    if np.allclose(found, WEIGHT.T @ OUTPUT_GRADIENT):
        return None
    if is_rounded(found, WEIGHT.T @ OUTPUT_GRADIENT):
        return MORE_DIGITS
    return "each input value is used by both outputs: add k times weight over the outputs"


@checker
def check_5_3(answer: Any) -> str | None:
    """How many weight equations a ReLU leaves."""
    found = whole(answer)
    if found == int((ACTIVATED > 0).sum()):
        return None
    if found == int((ACTIVATED == 0).sum()):
        return "that is how many are lost"
    return "a weight equation needs the value before the ReLU; where is it known"
