"""Which of some numbers add up to a given sum: all subsets, by sums of two halves that meet.

The sum of n numbers of 52 bits names its subset as long as n is clearly below 52. All sums of one half are sorted and
those of the other looked up among them (Horowitz and Sahni 1974), so that 36 numbers take two lists of 262,144.
"""

from __future__ import annotations

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray

MOST = 36  # numbers: 30 ms


def subset_of_sum(numbers: FloatArray, total: float, tolerance: float) -> BoolArray | None:
    """Return which numbers add up to a total within a tolerance: `None` if no subset does, several or too many numbers.

    A number within the tolerance of zero would make two subsets of one; leave it out.

    >>> subset_of_sum(np.array([0.5, -1.25, 3.0, 0.125]), 1.75, 1e-12)
    array([False,  True,  True, False])
    >>> subset_of_sum(np.array([1.0, 1.0]), 1.0, 1e-12) is None     # either
    True
    """
    if len(numbers) > MOST:
        return None
    half = len(numbers) // 2
    first, second = _sums(numbers[:half]), _sums(numbers[half:])
    by_first, by_second = np.argsort(-first), np.argsort(second)  # looked up in order, as memory likes it
    missing, ordered = total - first[by_first], np.append(second[by_second], np.inf)
    below = np.searchsorted(ordered, missing - tolerance, side="left")
    fitting = np.flatnonzero(ordered[below] <= missing + tolerance)
    if len(fitting) != 1 or ordered[below[fitting[0]] + 1] <= missing[fitting[0]] + tolerance:
        return None
    one, other = int(by_first[fitting[0]]), int(by_second[below[fitting[0]]])
    bits = [(one >> i) & 1 for i in range(half)] + [(other >> i) & 1 for i in range(len(numbers) - half)]
    return np.array(bits, dtype=bool)


def _sums(numbers: FloatArray) -> FloatArray:
    """Return the sums of all subsets; number i is in those whose index has bit i."""
    sums = np.zeros(1)
    for number in numbers:
        sums = np.concatenate([sums, sums + number])
    return sums
