"""Counts and calibration of many records, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from tests.hunt.records import Record


def table(records: Iterable[Record]) -> str:
    """Everything that a hunt found, in lines."""
    every = list(records)
    cases = [r for r in every if r.status != "no case"]
    graphs = sum(r.graph for r in cases)
    lines = [f"{len(cases):,} cases, {graphs:,} of them graphs; {len(every) - len(cases):,} draws have no gradient"]
    if not cases:
        return lines[0]
    seconds = np.array([r.seconds for r in cases])
    lines.append(
        f"seconds a case: median {np.median(seconds):.2f}, mean {seconds.mean():.2f}, most {seconds.max():.1f}"
    )
    lines += ["", "status"] + [
        f"  {name:<24}{count:>8,}" for name, count in Counter(r.status for r in cases).most_common()
    ]
    asked = Counter(name for r in cases for name in r.checks)
    lines += ["", "asked besides"] + [f"  {name:<24}{count:>8,}" for name, count in sorted(asked.items())]
    found = Counter(kind for r in cases for kind in {kind for kind, _ in r.faults})
    lines += ["", f"faults: cases with one {sum(bool(r.faults) for r in cases):,}"]
    lines += [f"  {kind:<24}{count:>8,}" for kind, count in found.most_common()]
    lines += [
        "",
        "calibration: share of determined values whose error is within one and within four error bars, and what",
    ]
    lines += ["errors are on average in units of their bars (root mean square; median of all cases)"]
    lines += _calibration(cases, lambda r: r.precision) + _calibration(cases, lambda r: r.family)
    lines += _calibration(cases, lambda r: f"{r.precision}, {r.family}")
    return "\n".join(lines)


def failures(records: Iterable[Record]) -> str:
    """A line for each fault."""
    return "\n".join(
        f"  {r.seed:>7} {kind:<13} {r.precision}, {r.family}: {words}"
        for r in sorted(records, key=lambda r: r.seed)
        for kind, words in r.faults
    )


def _calibration(cases: list[Record], group: Callable[[Record], str]) -> list[str]:
    lines = []
    for name in sorted({group(r) for r in cases}):
        some = [r for r in cases if group(r) == name]
        known = sum(r.known for r in some)
        if known:
            one, four = (100 * sum(getattr(r, f"within_{n}") for r in some) / known for n in ("one", "four"))
            bars = np.median([r.bars for r in some if r.known])
            lines.append(
                f"  {name:<28}{len(some):>7,} cases{known:>10,} values  {one:5.1f} %  {four:6.2f} %  {bars:6.3f}"
            )
    return lines
