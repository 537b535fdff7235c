"""Lesson 6: floats."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ca_course.guard import checker
from ca_course.reading import MORE_DIGITS, is_rounded, number


@checker
def check_6_1(answer: Any) -> str | None:
    """The error to expect at condition 1e3 from float32."""
    found = number(answer)
    if 1e-5 <= found <= 1e-3:
        return None
    if 1e-8 <= found < 1e-5:
        return "that is about the precision of the data; what does the condition number do to it"
    if found > 1:
        return "an error above the values themselves would leave nothing"
    return "multiply the relative precision of the data with the condition number"


@cache
def share_within_one_bar() -> float:
    """Return the share of the lesson's own experiment."""
    import constraint_algebra as ca

    sample = ca.samples.load("cifar10:7")
    model = ca.to_torch(ca.zoo.network("lenet-o"), seed=0, dtype="float32")
    network, parameters = ca.from_torch(model, sample.image.shape)
    result = ca.reconstruct(network, parameters, ca.torch_gradients(model, sample.image, sample.label))
    return float((np.abs(result.input - sample.image) <= result.error_bar).mean())


@checker
def check_6_2(answer: Any) -> str | None:
    """The share of errors within one error bar."""
    found = number(answer)
    found = found / 100 if found > 1 else found  # per cent without the sign
    if abs(found - share_within_one_bar()) < 0.02:
        return None
    if found > 0.98:
        return "this is too many; one bar is asked for, and the absolute error"
    if found < 0.2:
        return "this is too few; compare |result.input - image| with result.error_bar, value by value"
    if is_rounded(found, share_within_one_bar()):
        return MORE_DIGITS
    return "take the mean over all values of: the absolute error is at most the bar"


@checker
def check_6_3(answer: Any) -> str | None:
    """PSNR of a mean squared error of 1e-11."""
    found = number(answer)
    if abs(found - 110) < 0.5:
        return None
    if abs(found - 220) < 1:
        return "the squared error already is a square: 10 log10, not 20 log10"
    if abs(found + 110) < 0.5:
        return "check the sign: a smaller error is a larger PSNR"
    if abs(found - 158.13) < 1:
        return "that takes 255 for the largest value; these images lie in [0, 1]"
    if is_rounded(found, 110):
        return MORE_DIGITS
    return "PSNR is -10 log10(MSE) for values in [0, 1]"
