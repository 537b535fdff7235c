"""`python -m tests.hunt`: search for wrong verdicts, or look at one case."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.hunt.drawing import drawn
from tests.hunt.judging import ASKED, judged, judged_seed
from tests.hunt.recipes import Recipe
from tests.hunt.records import Record
from tests.hunt.running import hunt
from tests.hunt.shrinking import SECONDS, shrunk
from tests.hunt.tables import failures, holds, table

EVERY = tuple(ASKED)
# Which faults show only where more than the result is asked for.
BY_CHECK = {
    "moves": ("moves", "over_rationals"),
    "foretold": ("foretold", "over_rationals"),
    "missed": ("foretold", "over_rationals"),
    "elsewhere": ("elsewhere",),
    "twin": ("certified",),
    "fixed": ("certified", "elsewhere"),
    "exception": EVERY,
}
HEAD = "Written by `{command}`.\n\n"
SCRIPT = '''\
"""A case with the fault: {kind}."""

from tests.hunt.judging import judged
from tests.hunt.recipes import Recipe, Stage
from tests.hunt.subjects import subject

recipe = {recipe}
case = subject(recipe)
print(case.network)
print(case.reconstruct())
print(judged(recipe, {checks}).faults)
'''


def main(arguments: list[str] | None = None) -> int:
    """Hunt, or look at one case; 1 where there is a fault, or where bars do not say how large errors are."""
    parser = argparse.ArgumentParser(prog="python -m tests.hunt", description=__doc__)
    parser.add_argument("--cases", type=int, help="how many cases; without an end, if only the seconds are given")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no case is begun")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of processes")
    parser.add_argument("--out", type=Path, default=Path("out/hunt.jsonl"), help="one line a case; it is continued")
    parser.add_argument("--table", type=Path, help="a file for the table, in Markdown")
    parser.add_argument("--case", type=int, help="the seed of one case to look at")
    parser.add_argument("--shrink", type=float, default=SECONDS, help="seconds to make a case with a fault smaller")
    given = parser.parse_args(arguments)
    if given.case is not None:
        return _looked_at(given.case, given.shrink)
    if given.cases is None and given.seconds == float("inf"):
        parser.error("say how many --cases, or for how many --seconds")
    count = 10**9 if given.cases is None else given.cases
    # One core each: threads of one process would only wait for those of another.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    seeds = range(given.first, given.first + count)
    there = hunt(given.out, seeds, judged_seed, jobs=given.jobs, seconds=given.seconds)
    records = [there[seed] for seed in sorted(there) if seed in seeds]
    _say(found := table(records))
    if given.table is not None:
        given.table.parent.mkdir(parents=True, exist_ok=True)
        given.table.write_text(HEAD.format(command=_command(given)) + found + "\n", "utf-8")
    wrong = [r for r in records if r.faults]
    if wrong:
        _say(f"\nfaults by seed; look at one with: python -m tests.hunt --case {wrong[0].seed}")
        _say(failures(wrong))
    return int(not holds(records))


def _command(given: argparse.Namespace) -> str:
    """The command that makes the same table."""
    wanted = {name: getattr(given, name) for name in ("cases", "first", "seconds", "table")}
    told = [f"--{n} {v}" for n, v in wanted.items() if v not in {None, float("inf")} and (n, v) != ("first", 0)]
    return " ".join(["python -m tests.hunt", *told])


def _looked_at(seed: int, seconds: float) -> int:
    """Print one case, what is wrong with it, and the simplest with the same fault as a script."""
    recipe = drawn(seed)
    _show(recipe, record := judged(recipe, EVERY))
    if not record.faults:
        return 0
    kind = record.faults[0][0]
    checks = BY_CHECK.get(kind, ())
    least = shrunk(recipe, lambda r: kind in {k for k, _ in judged(r, checks).faults}, seconds)
    _say("\nthe simplest case with that fault, as a script:\n")
    _say(SCRIPT.format(kind=kind, recipe=least, checks=checks))
    return 1


def _show(recipe: Recipe, record: Record) -> None:
    _say(recipe)
    _say(f"{record.status}: {record.known} of {record.values} values determined, {record.within_one} within one error")
    _say(f"bar, {record.within_four} within four; {record.seconds:.2f} s; asked besides: {', '.join(record.checks)}")
    _say("\n".join(f"{kind}: {words}" for kind, words in record.faults) or "no fault")


def _say(text: object) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
