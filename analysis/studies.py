"""What a study is: a module of this package with `Run`, `COLUMNS`, `runs` and `judge`, and its name.

The docstring of the module states question, hypothesis and finding; a line that begins with "Question:" and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import pandas as pd

from analysis.executors import Judge, cluster
from analysis.runner import run_study
from constraint_algebra.errors import UnknownNameError

NAMES = (
    "rank_vs_filters",
    "range_vs_filters",
    "minimum_filters",
    "relu_activity",
    "depth",
    "batch_size",
    "noise",
    "defences",
    "training",
    "open_values",
    "beyond_rank",
    "pooling",
    "normalisation",
    "twin_gallery",
    "photograph",
)
COMMITTED = Path(__file__).parent / "results"  # the results that the figures of the repository are drawn from
OUT, QUICK_OUT = Path("out/studies"), Path("out/studies-quick")


class Study(Protocol):
    """A module of this package that is a study.

    Attributes:
        __doc__: question, hypothesis, finding.
        COLUMNS: the fields of a configuration, then the other columns of a row.
        SEED: what all its random numbers come from.
        judge: does one configuration.
    """

    __doc__: str | None
    COLUMNS: Sequence[str]
    SEED: int
    judge: Judge

    def runs(self, *, quick: bool = False) -> list[Any]:
        """Return the configurations, `NamedTuple`s; with `quick` some of them, a few seconds' worth."""
        ...


def study(name: str) -> Study:
    """Return a study by its name.

    Raises:
        UnknownNameError: there is none of this name.
    """
    if name not in NAMES:
        raise UnknownNameError(f"no study is called {name!r}; there are {', '.join(NAMES)}")
    return cast(Study, import_module(f"analysis.{name}"))


def path_of(name: str, results: Path) -> Path:
    """Return the CSV file of a study."""
    return results / f"{name}.csv"


def parts_of(name: str) -> dict[str, str]:
    """Return question, hypothesis and finding of a study, from its docstring.

    >>> sorted(parts_of("twin_gallery"))
    ['Finding', 'Hypothesis', 'Question']
    """
    found = {}
    for paragraph in (study(name).__doc__ or "").split("\n\n"):
        head, colon, text = paragraph.partition(":")
        if colon and head in {"Question", "Hypothesis", "Finding"}:
            found[head] = " ".join(text.split())
    return found


def carry_out(
    name: str,
    results: Path,
    *,
    quick: bool = False,
    processes: int = 1,
    scheduler: str | None = None,
    restart: bool = False,
    retry_failed: bool = False,
) -> pd.DataFrame:
    """Do what is missing of a study, and return all its rows in the order of the plan.

    Args:
        name: one of `NAMES`.
        results: folder for rows, arrays and the JSON file that says where they come from.
        quick: some of the configurations.
        processes: configurations at a time.
        scheduler: address of a `dask.distributed` scheduler, to compute on its workers instead.
        restart: begin anew; the rows that are there are kept beside the new ones until those are complete.
        retry_failed: do those configurations again that failed.
    """
    module, path = study(name), path_of(name, results)
    about = {"study": name, "seed": module.SEED, "arguments": {"quick": quick, "processes": processes}}
    if scheduler is not None:
        about["arguments"] = {"quick": quick, "scheduler": True}
    with nullcontext(None) if scheduler is None else cluster(scheduler) as executor:
        return run_study(
            module.runs(quick=quick),
            path,
            module.COLUMNS,
            module.judge,
            processes=processes,
            executor=cast(Executor | None, executor),
            what=name,
            about=about,
            retry_failed=retry_failed,
            restart=restart,
        )
