"""The peak of memory."""

from __future__ import annotations

import numpy as np

from paper_repro.benchmarks.memory import with_peak_memory


def test_the_peak_is_seen_although_the_memory_is_given_back() -> None:
    _, before = with_peak_memory(lambda: None)
    size, peak = with_peak_memory(lambda: np.ones(40_000_000).size)
    assert size == 40_000_000
    assert 250 < peak - before < 1000
