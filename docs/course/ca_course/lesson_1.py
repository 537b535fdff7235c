"""Lesson 1: a gradient is an equation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ca_course.guard import checker
from ca_course.reading import MORE_DIGITS, array, is_rounded, positions

# The layer of the exercises: three inputs, two outputs.
BIAS_GRADIENT = np.array([0.5, -2.0])
INPUT = np.array([3.0, -1.0, 4.0])
WEIGHT_GRADIENT = np.outer(BIAS_GRADIENT, INPUT)
# A gradient of four outputs, two of which the loss does not move.
SPARSE_BIAS_GRADIENT = np.array([0.0, 1.5, 0.0, -0.25])
# The same with noise.
NOISY_WEIGHT_GRADIENT = WEIGHT_GRADIENT + np.array([[0.1, -0.1, 0.1], [0.1, 0.1, -0.1]])


@checker
def check_1_1(answer: Any) -> str | None:
    """The input of the linear layer."""
    found = array(answer, (3,))
    if np.allclose(found, INPUT):
        return None
    if np.allclose(found, WEIGHT_GRADIENT[0]) or np.allclose(found, WEIGHT_GRADIENT[1]):
        return "this is a row of the weight gradient itself; it still has the factor k of its output"
    if np.allclose(found, 1 / INPUT):
        return "you divided the wrong way round"
    return "divide a row of the weight gradient by the bias gradient of the same output"


@checker
def check_1_2(answer: Any) -> str | None:
    """Which rows give the input."""
    found = {row for (row,) in positions(answer, mask=(4,))}
    if found == {1, 3}:
        return None
    if found == {2, 4}:
        return "Python counts from 0"
    if found & {0, 2}:
        return "one of your rows would be divided by zero"
    if found - {1, 3}:
        return "the layer has four rows, counted from 0, and you name one too many"
    return "there is another row with a bias gradient that is not zero"


@checker
def check_1_3(answer: Any) -> str | None:
    """The least-squares input from a noisy gradient."""
    found = array(answer, (3,))
    best = BIAS_GRADIENT @ NOISY_WEIGHT_GRADIENT / (BIAS_GRADIENT @ BIAS_GRADIENT)
    if np.allclose(found, best, rtol=1e-3):
        return None
    if np.allclose(found, INPUT):
        return "this is the answer to 1.1; with the noise the rows say something else"
    if is_rounded(found, best):
        return MORE_DIGITS
    single = NOISY_WEIGHT_GRADIENT / BIAS_GRADIENT[:, None]
    if np.allclose(found, single.mean(axis=0)):
        return "this is the mean of both rows, which trusts the small bias gradient as much as the large one"
    if np.allclose(found, single[0]) or np.allclose(found, single[1]):
        return "this uses one of the two rows only"
    return "the formula is a sum over the outputs in the numerator and one in the denominator"
