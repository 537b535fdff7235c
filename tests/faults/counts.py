"""A table of how many faults of each kind were tried: a plugin of pytest, `-p tests.faults.counts`.

A kind is a file of this folder; the cases of a parametrised test count one by one.
"""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

OUTCOMES = ("passed", "failed", "error", "skipped")


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the table."""
    counts: dict[str, Counter[str]] = {}
    for outcome in OUTCOMES:
        for report in terminalreporter.stats.get(outcome, []):
            kind = PurePosixPath(report.nodeid.partition("::")[0]).stem.removeprefix("test_").replace("_", " ")
            counts.setdefault(kind, Counter())[outcome] += 1
    terminalreporter.section("faults by kind")
    terminalreporter.write_line(f"{'kind':20}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES))
    for kind, count in sorted(
        [*counts.items(), ("all", sum(counts.values(), Counter()))], key=lambda item: item[0] == "all"
    ):
        terminalreporter.write_line(f"{kind:20}" + "".join(f"{count[outcome]:9}" for outcome in OUTCOMES))
