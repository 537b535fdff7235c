"""A value from equations some of which contradict the rest: solved without those, if the rest then agrees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.recursion import contradictions
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.value_equations import Part, Reader, ValueEquations


def _suspects(part: Part, x: FloatArray, largest: float) -> BoolArray:
    """Return the filters of a reader that contradict x most: of all readers, for one spoils the misfits of others."""
    prime = contradictions.misfits(part.equations, x) >= contradictions.PRIME_SUSPECTS * largest
    return np.asarray(contradictions.suspects(part.equations, x) & prime)


def healed(whole: ValueEquations, readers: Sequence[Reader]) -> tuple[ValueEquations, Estimate, list[BoolArray]]:
    """Solve; where filters' gradient equations contradict the rest, solve without them, if the rest then agrees."""
    none = [np.zeros(reader.layer.filters, dtype=bool) for reader in readers]
    found = whole.estimate()
    out, system, again = none, whole, found
    while True:
        pairs = zip(out, system.parts, strict=True)
        news = [_suspects(part, again.value, system.misfit(again.value)) & ~left for left, part in pairs]
        more = [a | b for a, b in zip(out, news, strict=True)]
        if not any(new.any() for new in news) or any(left.sum() > len(left) // 2 for left in more):
            break
        out = more
        system = ValueEquations(whole.observed, whole.value, readers, out, together=whole.together)
        again = system.estimate()
    clean = all(contradictions.resolved(part.equations, again.value) for part in system.parts)
    if any(left.any() for left in out) and clean and again.known.sum() >= found.known.sum():
        return system, again, out
    return whole, found, none
