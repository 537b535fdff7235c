"""What a reconstruction claims, against the truth and against automatic differentiation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from constraint_algebra.ground import Ground
from constraint_algebra.recursion.result import COMPLETE
from tests.hunt import oracle
from tests.hunt.subjects import Subject

BARS = 8.0  # a determined value so many error bars off is wrong
# Roundings of the largest value up to which an error is none: no input in this precision is known any better, and no
# picture that anybody could see changes.
ROUNDINGS = 16.0
SPACING = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
GRADIENTS = 1e-5  # gradients of a complete result so far apart contradict it, unless its error bars say so


class Fault(NamedTuple):
    """What is wrong: of which kind, and by how much, in words."""

    kind: str
    words: str


def floor(subject: Subject) -> float:
    """The error that is none, whatever the bars say."""
    return ROUNDINGS * SPACING["float64"] * float(np.abs(subject.x).max())


def faults(subject: Subject, result: ca.Reconstruction) -> Iterator[Fault]:
    """All that is wrong with a result, but for what its Jacobian says."""
    yield from wrong(subject, result)
    yield from blames(result)
    yield from strange(result)
    yield from compares(subject, result)
    yield from contradicts(subject, result)


def wrong(subject: Subject, result: ca.Reconstruction) -> Iterator[Fault]:
    """Values called determined that are off by more than their bars."""
    known = result.determined
    error, bar = np.abs(result.input - subject.x)[known], result.error_bar[known]
    off = ~(error <= np.maximum(BARS * bar, floor(subject)))
    if off.any():
        ratio = float((error[off] / np.maximum(bar[off], 1e-300)).max())
        grounds = ", ".join(sorted({Ground(int(g)).label for g in result.ground[known][off]}))
        yield Fault(
            "wrong",
            f"{off.sum()} of {known.sum()} values off by up to {error[off].max():.1e} and {ratio:.1e} bars, largest"
            f" true value {np.abs(subject.x).max():.1e}, {result.status.name} by {grounds}",
        )


def blames(result: ca.Reconstruction) -> Iterator[Fault]:
    """`INCONSISTENT` of gradients that are those of one step."""
    if result.status is ca.Status.INCONSISTENT:
        yield Fault(
            "inconsistent", f"of honest gradients, discrepancy {max(result.discrepancy.values(), default=0):.1e}"
        )


def compares(subject: Subject, result: ca.Reconstruction) -> Iterator[Fault]:
    """A result that cannot be held against the input as a tensor, as the client has it."""
    if subject.recipe.handed != "torch":
        return
    given = torch.tensor(subject.x)
    try:
        plain = np.asarray(result.guess) - np.asarray(given)
        other = torch.as_tensor(result.guess) - given
    except (TypeError, ValueError, RuntimeError) as error:
        yield Fault("strange", f"the result does not compare with a tensor: {error}")
        return
    if plain.dtype != np.float64 or not np.array_equal(plain, other.numpy(), equal_nan=True):
        yield Fault("strange", "the result compares otherwise with a tensor than with an array")


def strange(result: ca.Reconstruction) -> Iterator[Fault]:
    """Results that are no finite NumPy numbers of double precision, and bars below zero."""
    arrays = {"input": result.input, "guess": result.guess, "error_bar": result.error_bar}
    for name, array in arrays.items():
        if type(array) is not np.ndarray or array.dtype != np.float64:
            yield Fault("strange", f"{name} is {type(array).__name__} of {getattr(array, 'dtype', None)}")
    known = result.determined
    if not (np.isfinite(result.input[known]).all() and np.isfinite(result.error_bar[known]).all()):
        yield Fault("strange", "a determined value that is not finite")
    elif (result.error_bar[known] < 0).any():
        yield Fault("strange", "an error bar below zero")


def contradicts(subject: Subject, result: ca.Reconstruction) -> Iterator[Fault]:
    """A complete result in float64 that has other gradients than the true input."""
    if result.status not in COMPLETE.values() or subject.recipe.precision != "float64":
        return
    given = oracle.gradients(subject, subject.x)
    gap = oracle.apart(given, oracle.gradients(subject, result.input))
    sides = np.where(np.indices(subject.x.shape).sum(0) % 2, 1.0, -1.0)
    moved: FloatArray = subject.x + BARS * result.error_bar * sides
    allowed = GRADIENTS + 10 * oracle.apart(given, oracle.gradients(subject, moved))
    if gap > allowed:
        yield Fault(
            "contradicts", f"{result.status.name}, yet gradients {gap:.1e} apart where {allowed:.1e} is allowed"
        )


def calibration(subject: Subject, result: ca.Reconstruction) -> tuple[int, int, int, int, float]:
    """How many values are determined, and how errors compare with their bars.

    The truth is known to one rounding of its largest value: sums of the client lose all below it, and NumPy holds the
    result no better. An error bar below that says more than anybody could see, and an error of one rounding may be
    many of such bars, or none. Such values are judged by `wrong`, and counted apart here: among those within their bars
    they would prove nothing but how exact double precision is. So are those of a black picture, in which nothing is
    rounded: products and sums of zeros are zeros.

    Returns:
        How many values are determined; of those, how many have bars below one rounding; of the others, how many lie
        within one and within four bars, and the root mean square of errors in units of their bars, 0 for no others.
    """
    known = result.determined
    below = known & ((result.error_bar < floor(subject) / ROUNDINGS) | (not subject.x.any()))
    measured = known & ~below
    bars = np.abs(result.input - subject.x)[measured] / result.error_bar[measured]
    within = tuple(int((bars <= most).sum()) for most in (1, 4))
    mean = round(float(np.sqrt(np.mean(bars**2))), 4) if bars.size else 0.0
    return int(known.sum()), int(below.sum()), *within, mean
