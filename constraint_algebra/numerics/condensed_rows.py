"""Fewer rows for many, modulo the prime: random sparse combinations, which span the same but by rare chance.

Rows by the ten thousand of a rank in the hundreds would each be reduced to zero in an elimination. Added up at random
into little more rows than there are columns, they cost a few additions each. Whether nothing was lost shows in any
vector of the null space found, to which every row must be orthogonal: who calls this tests it (Freivalds 1979).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.numerics.modular import BLOCK, PRIME, residues

PLACES = 3  # sums that each row is part of
MORE = 1.25  # so many times as many rows as columns come out, and two blocks


def condensed(blocks: Iterable[FloatArray], columns: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Yield rows that span those of all blocks but for a rare chance, no more than a few above the number of columns.

    >>> rows = np.outer(np.arange(1.0, 901.0), [1.0, 2.0])
    >>> found = np.concatenate(list(condensed(np.split(rows, 9), 2, np.random.default_rng(0))))
    >>> len(found) < 900, bool((found[:, 1] == 2 * found[:, 0] % PRIME).all())
    (True, True)
    """
    count = -(-int(MORE * columns) // BLOCK) + 2
    held, sums = list[FloatArray](), np.zeros((0, BLOCK, columns))
    for block in blocks:
        for first in range(0, len(block), BLOCK):
            part = block[first : first + BLOCK]
            if not len(sums) and len(held) < count:
                held.append(part)
                continue
            if not len(sums):
                sums = np.zeros((count, BLOCK, columns))
                for one in held:
                    _add(sums, one, rng)
                held = []
            _add(sums, part, rng)
    yield from (held if not len(sums) else sums)


def _add(sums: FloatArray, part: FloatArray, rng: np.random.Generator) -> None:
    """Add rows, each times a random factor, at random places of a few of the sums."""
    for which in rng.choice(len(sums), size=min(PLACES, len(sums)), replace=False):
        places = rng.permutation(BLOCK)[: len(part)]
        sums[which, places] = np.remainder(sums[which, places] + part * residues((len(part), 1), rng), PRIME)
