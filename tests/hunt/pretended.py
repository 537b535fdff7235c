"""Judges without cases, for the tests of the hunt itself: processes import them in no time."""

from __future__ import annotations

import os
import time

from tests.hunt.records import Record


def quick(seed: int) -> Record:
    """A record of two values, one of them within one error bar."""
    return Record(
        seed, "none", "float64", graph=False, status="DETERMINED", values=2, known=2, within_one=1, within_four=2
    )


def dies_at_three(seed: int) -> Record:
    """The same, but that its process dies at one seed."""
    if seed == 3:
        os._exit(7)
    return quick(seed)


def slowly(seed: int) -> Record:
    """The same, in a time within which a kill can come."""
    time.sleep(0.02)
    return quick(seed)
