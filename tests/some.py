"""Cases of which a few run each time, and all on purpose."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def some(count: int, cases: Iterable[object]) -> list[object]:
    """The cases, those after the first few marked as slow."""
    listed = list(cases)
    values = [case if isinstance(case, tuple) else (case,) for case in listed[count:]]
    return [*listed[:count], *(pytest.param(*case, marks=pytest.mark.slow) for case in values)]
