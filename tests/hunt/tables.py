"""What many records say, as a table in Markdown: first what must hold, then counts and calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tests.hunt.records import Record

# Kinds of faults, each with what it is that no case should have.
FAULTS = {
    "wrong": "determined, and wrong",
    "moves": "determined, and moved by a null vector (Jacobian, or exact elimination)",
    "elsewhere": "determined, and different in another input with the same gradients (search)",
    "contradicts": "complete, and with other gradients than those given",
    "exception": "exceptions that are not the library's",
    "twin": "twins that do not verify",
    "fixed": "*fixed* by a certificate, and different elsewhere",
    "inconsistent": "honest gradients called inconsistent",
    "refused": "honest gradients refused",
    "missed": "not determined, although the recursion's own equations determine it",
    "foretold": "foretold by `feasibility`, and not so",
    "strange": "results that are no finite numbers in double precision, or do not compare with tensors",
    "slow": "more than half a minute of computing",
    "stuck": "given up after five minutes",
    "died": "processes that died",
}
ONE, FOUR = (60.0, 95.0), 99.5  # per cent of errors within one error bar, from and to, and within four, at least
FEWEST = 100  # values in a group below which shares say little
HELD = {True: "yes", False: "**no**"}


def table(records: Iterable[Record]) -> str:
    """Everything that a hunt found, in lines of Markdown."""
    every = list(records)
    cases = [r for r in every if r.status != "no case"]
    graphs = sum(r.graph for r in cases)
    head = f"{len(cases):,} cases, {graphs:,} of them graphs; {len(every) - len(cases):,} draws have no gradient"
    if not cases:
        return head + "."
    seconds = np.array([r.seconds for r in cases])
    median, mean, most = np.median(seconds), seconds.mean(), seconds.max()
    return "\n".join(
        [
            head + ".",
            "",
            *_rows(("no case should have", "cases", "holds"), _faults(cases)),
            "",
            "Shares of the values determined whose error lies within so many error bars, by precision and by family of",
            f"activations: {ONE[0]:.0f} to {ONE[1]:.0f} % should lie within one, and {FOUR} % within four.",
            "",
            *_calibration(cases, (lambda r: r.precision, lambda r: r.family)),
            "",
            *_rows(("status", "cases"), Counter(r.status for r in cases).most_common()),
            "",
            *_rows(("asked besides", "cases"), sorted(Counter(name for r in cases for name in r.checks).items())),
            "",
            "Precision and family together, and the root mean square of errors in bars (median of the cases):",
            "",
            *_calibration(cases, (lambda r: f"{r.precision}, {r.family}",), bars=True),
            "",
            f"Seconds of computing a case: median {median:.2f}, mean {mean:.2f}, most {most:.1f}.",
        ]
    )


def holds(records: Iterable[Record]) -> bool:
    """Whether no case has a fault, and errors lie within their bars as often as they should."""
    cases = [r for r in records if r.status != "no case"]
    groups = [[r for r in cases if name in {r.precision, r.family}] for name in _names(cases)]
    return not any(r.faults for r in cases) and all(_calibrated(group) is not False for group in groups)


def failures(records: Iterable[Record]) -> str:
    """A line for each fault."""
    return "\n".join(
        f"  {r.seed:>7} {kind:<13} {r.precision}, {r.family}: {words}"
        for r in sorted(records, key=lambda r: r.seed)
        for kind, words in r.faults
    )


def _faults(cases: list[Record]) -> list[tuple[str, int, str]]:
    """One row for each kind of fault, with the number of cases that have it."""
    found = Counter(kind for r in cases for kind in {kind for kind, _ in r.faults})
    named = {**FAULTS, **{kind: kind for kind in found if kind not in FAULTS}}
    return [(words, found[kind], HELD[not found[kind]]) for kind, words in named.items()]


def _names(cases: list[Record]) -> list[str]:
    return sorted({r.precision for r in cases} | {r.family for r in cases})


def _calibration(cases: list[Record], groups: Sequence[Callable[[Record], str]], *, bars: bool = False) -> list[str]:
    """One row for each group that has determined values."""
    rows = []
    for group in groups:
        for name in sorted({group(r) for r in cases}):
            some = [r for r in cases if group(r) == name]
            known, below = sum(r.known for r in some), sum(r.below for r in some)
            if not known:
                continue
            measured = known - below
            shares = [f"{100 * part / measured:.{n}f} %" if measured else "" for n, part in enumerate(_within(some), 1)]
            average = [r.bars for r in some if r.known > r.below]
            last = f"{np.median(average) if average else 0.0:.2f}" if bars else _said(_calibrated(some))
            rows.append((name, len(some), known, below, *shares, last))
    titles = ("", "cases", "values determined", "with bars below one rounding", "within one", "within four")
    return _rows((*titles, "rms" if bars else "holds"), rows)


def _within(cases: list[Record]) -> tuple[int, int]:
    return sum(r.within_one for r in cases), sum(r.within_four for r in cases)


def _calibrated(cases: list[Record]) -> bool | None:
    """Whether errors lie within their bars as often as they should; `None` for too few values to tell."""
    measured = sum(r.known - r.below for r in cases)
    if measured < FEWEST:
        return None
    one, four = (100 * part / measured for part in _within(cases))
    return ONE[0] <= one <= ONE[1] and four >= FOUR


def _said(held: bool | None) -> str:
    return "too few" if held is None else HELD[held]


def _rows(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table in Markdown."""
    written = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    # The first column is words.
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1), *written]
    return ["| " + " | ".join(line) + " |" for line in lines]
