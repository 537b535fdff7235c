"""Studies from the command line, run as a module from the root of the repository.

python -m analysis NAME [--quick] [--processes N | --scheduler ADDRESS] [--results-dir DIR] [--restart | --retry-failed]
python -m analysis all
python -m analysis list
python -m analysis own --model FILE.py:FACTORY --input-shape 3,32,32
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from analysis import studies
from analysis.own import command as own_command
from analysis.screen import say, show
from constraint_algebra.commands.exits import MEANING
from constraint_algebra.commands.terminal import Group

app = typer.Typer(
    cls=Group,
    help=__doc__,
    epilog=MEANING,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Quick = Annotated[bool, typer.Option("--quick", help="A few configurations, in seconds.")]
Processes = Annotated[int, typer.Option(min=1, help="Configurations at a time, one BLAS thread each.")]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a dask.distributed scheduler, such as tcp://127.0.0.1:8786.")
]
ResultsDir = Annotated[
    Path | None,
    typer.Option(help=f"Folder, by default {studies.OUT}, quick {studies.QUICK_OUT}; rows in it are not repeated."),
]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew: remove the study's rows first.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Do those configurations again that failed.")]
CORES = os.cpu_count() or 1


def do(name: str, results: Path | None, *, quick: bool, **how: Any) -> bool:
    """Carry out a study and say what came of it; whether no configuration failed. For `how` see `studies.carry_out`."""
    folder = results or (studies.QUICK_OUT if quick else studies.OUT)
    rows = studies.carry_out(name, folder, quick=quick, **how)
    failed = rows[rows["error"].notna()]
    say(f"{name}: {len(rows)} rows in {studies.path_of(name, folder)}, {len(failed)} of them failed")
    for row in failed.head(5).to_dict("records"):
        say("  " + ", ".join(f"{key} {value}" for key, value in row.items() if pd.notna(value)))
    return failed.empty


def _command(name: str) -> Callable[..., None]:
    def command(
        quick: Quick = False,
        processes: Processes = CORES,
        scheduler: Scheduler = None,
        results_dir: ResultsDir = None,
        restart: Restart = False,
        retry_failed: RetryFailed = False,
    ) -> None:
        how = {"processes": processes, "scheduler": scheduler, "restart": restart, "retry_failed": retry_failed}
        if not do(name, results_dir, quick=quick, **how):
            raise typer.Exit(1)

    return command


for _name in studies.NAMES:
    app.command(_name, help=studies.parts_of(_name)["Question"])(_command(_name))


@app.command("all")
def all_studies(
    quick: Quick = False,
    processes: Processes = CORES,
    scheduler: Scheduler = None,
    results_dir: ResultsDir = None,
    restart: Restart = False,
    retry_failed: RetryFailed = False,
) -> None:
    """All studies, one after the other."""
    how = {"processes": processes, "scheduler": scheduler, "restart": restart, "retry_failed": retry_failed}
    sound = [do(name, results_dir, quick=quick, **how) for name in studies.NAMES]
    if not all(sound):
        raise typer.Exit(1)


@app.command("list")
def list_studies() -> None:
    """Question and finding of every study."""
    parts = {name: studies.parts_of(name) for name in studies.NAMES}
    show(pd.DataFrame([{"study": n, "question": p["Question"], "finding": p["Finding"]} for n, p in parts.items()]), "")


app.command("own")(own_command)
