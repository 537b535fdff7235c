"""The one cheap subset of some numbers that adds up to a given sum, where each number has a cost.

`subset_sums` looks at all subsets of up to 36 numbers. Of more numbers, all that can be looked at are those that cost
little: the numbers are dealt out to two halves, of each half the cheapest subsets are listed, and a sum of one list is
looked up among those of the other. Only so many are listed that hardly any pair meets the sum by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray, IntArray

MOST = 126  # numbers: the subsets of a half are held as the bits of one integer
LISTED = 2**18  # subsets of a half, at most: of 32 equally dear numbers all of up to five; 0.3 s
CHANCE = 1e-2  # how many pairs may be expected to meet the sum by chance


def cheapest_subset(
    numbers: FloatArray, costs: FloatArray, total: float, tolerance: float, listed: int = LISTED
) -> BoolArray | None:
    """Return which numbers add up to a total within a tolerance: the one subset among the cheapest that does.

    Args:
        numbers: the numbers, `(n,)`; one within the tolerance of zero would make two subsets of one.
        costs: what each costs, not negative.
        total: the sum.
        tolerance: by how much it may be missed.
        listed: subsets of a half that are looked at, at most.

    Returns:
        The subset; `None` where none was seen that has the sum, or several, or one that may have it by chance.

    >>> cheapest_subset(np.array([0.5, -1.25, 3.0, 0.125]), np.ones(4), 1.75, 1e-12)
    array([False,  True,  True, False])
    >>> cheapest_subset(np.array([1.0, 1.0]), np.ones(2), 1.0, 1e-12) is None  # either
    True
    """
    spread = 0.5 * float(np.linalg.norm(numbers))
    if len(numbers) > MOST or spread == 0:
        return None
    room = CHANCE * np.sqrt(2 * np.pi) * spread / (2 * max(tolerance, np.finfo(float).tiny))
    listed = int(min(listed, max(np.sqrt(room), 1.0)))
    order = np.argsort(costs, kind="stable")
    one, other = order[0::2], order[1::2]
    first, second = _cheapest(numbers[one], costs[one], listed), _cheapest(numbers[other], costs[other], listed)
    by_first, by_second = np.argsort(-first.sums), np.argsort(second.sums)  # looked up in order, as memory likes it
    missing, ordered = total - first.sums[by_first], second.sums[by_second]
    low = np.searchsorted(ordered, missing - tolerance, side="left")
    met = np.searchsorted(ordered, missing + tolerance, side="right") - low
    if met.sum() != 1:
        return None
    i = int(np.flatnonzero(met)[0])
    subset = np.zeros(len(numbers), dtype=bool)
    subset[one] = _members(first.members[by_first[i]], len(one))
    subset[other] = _members(second.members[by_second[low[i]]], len(other))
    return subset


@dataclass(frozen=True)
class _Listed:
    """Subsets: their sums, costs, and members as bits."""

    sums: FloatArray
    costs: FloatArray
    members: IntArray


def _cheapest(numbers: FloatArray, costs: FloatArray, listed: int) -> _Listed:
    """Return the cheapest subsets: those of the first numbers, with and without the next, cut off at the dearest."""
    sums, spent, members = np.zeros(1), np.zeros(1), np.zeros(1, dtype=np.int64)
    for i, (number, cost) in enumerate(zip(numbers, costs, strict=True)):
        sums, spent = np.concatenate([sums, sums + number]), np.concatenate([spent, spent + cost])
        members = np.concatenate([members, members | (1 << i)])
        if len(sums) > listed:
            kept = np.argpartition(spent, listed)[:listed]
            sums, spent, members = sums[kept], spent[kept], members[kept]
    return _Listed(sums, spent, members)


def _members(bits: int, count: int) -> BoolArray:
    return np.array([(int(bits) >> i) & 1 for i in range(count)], dtype=bool)
