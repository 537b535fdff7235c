"""The paper, redone in one command: runs, tables, figures, report.

    python -m paper_repro.run --quick
    python -m paper_repro.run --processes 2

The whole takes about 45 minutes on two cores, `--quick` some minutes. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib.figure import Figure

from analysis.runner import run_study
from constraint_algebra.commands.terminal import run_alone
from constraint_algebra.files.locks import locked
from constraint_algebra.files.space import folder_within, make
from constraint_algebra.files.writing import write
from figures.save import save
from paper_repro import claims, constraints, plan, study, tables
from paper_repro.benchmarks import measure
from paper_repro.figures import architectures, constraint_kinds, reconstructions
from paper_repro.report import report

OUT, QUICK_OUT = Path("out/repro"), Path("out/repro-quick")


def do_runs(out: Path, *, quick: bool, processes: int, restart: bool = False) -> pd.DataFrame:
    """Do the runs that `out/runs.csv` does not hold yet, or all with `restart`; return all of the study."""
    limit = plan.QUICK_LIMIT if quick else plan.LIMIT
    pictures = out / "reconstructions"
    judge = partial(study.judge, limit=limit, pictures=pictures)
    rows = run_study(
        plan.runs(quick=quick),
        out / "runs.csv",
        study.COLUMNS,
        judge,
        processes=processes,
        what="runs",
        constant=measure.provenance(),
        restart=restart,
        also=(pictures,),
    )
    errors = rows.get("error", pd.Series(index=rows.index, dtype=object))
    for row in rows[errors.notna()].to_dict("records"):
        measure.say(f"failed: {plan.Run(*(row[name] for name in plan.Run._fields))}: {row['error']}")
    return rows[errors.isna()].reset_index(drop=True)


def evidence_of(runs: pd.DataFrame) -> claims.Evidence:
    """Return what the report rests on: the runs, and the constraints counted anew."""
    counts = pd.concat([constraints.counts(name) for name in constraints.COUNTED], ignore_index=True)
    informed = pd.DataFrame([row for name in constraints.INFORMED for row in constraints.informed(name)])
    return claims.Evidence(runs, counts, informed)


def write_tables(evidence: claims.Evidence, folder: Path) -> None:
    """Write all tables."""
    cells = tables.quality(evidence.runs)
    shown = tables.side_by_side(cells, tables.quality_text)
    tables.write(cells, folder, "quality", tables.CAPTIONS["quality"], shown=shown)
    times = cells[[*plan.CELL, "method", "runs", "ended", "cpu", "longest cpu", "memory MB"]]
    shown = tables.side_by_side(cells, tables.time_text)
    tables.write(times, folder, "time", tables.CAPTIONS["time"], shown=shown)
    for name, table in (
        ("rivals", tables.rivals(cells)),
        ("constraints", evidence.counts),
        ("constraint_kinds", evidence.informed),
    ):
        tables.write(table, folder, name, tables.CAPTIONS[name])


def write_figures(evidence: claims.Evidence, pictures: Path, folder: Path) -> None:
    """Draw all figures, PNG and PDF."""
    drawn: dict[str, Figure] = {
        "figure1_architectures": architectures.draw(),
        "figure2_dlg": reconstructions.figure_2(evidence.runs, pictures),
        "figure3_rgap": reconstructions.figure_3(evidence.runs, pictures),
        "claim2_constraint_kinds": constraint_kinds.draw(evidence.informed),
    }
    for name, figure in drawn.items():
        save(figure, folder_within(folder.parent, folder.name) / name)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One image and one seed of each cell; some minutes.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = os.cpu_count() or 1,
    out: Annotated[
        Path | None, typer.Option(help=f"Folder, by default {OUT}, quick {QUICK_OUT}; runs in it are not repeated.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew: remove the folder's runs first.")] = False,
) -> None:
    """Run every method on its networks and images, then write tables, figures and the report."""
    folder = out or (QUICK_OUT if quick else OUT)
    make(folder)
    with locked(folder / "REPORT.md"):  # tables of one run and figures of another would not fit together
        _redo(folder, quick=quick, processes=processes, restart=restart)


def _redo(folder: Path, *, quick: bool, processes: int, restart: bool) -> None:
    evidence = evidence_of(do_runs(folder, quick=quick, processes=processes, restart=restart))
    write_tables(evidence, folder / "tables")
    write_figures(evidence, folder / "reconstructions", folder / "figures")
    entries = claims.load()
    write(folder / "REPORT.md", report(entries, evidence, quick=quick).encode())
    verdicts = pd.DataFrame([{"entry": e["id"], "verdict": claims.judged(e, evidence).verdict.value} for e in entries])
    measure.show(verdicts, "Claims and stored figures")
    measure.say(f"{len(evidence.runs)} runs, tables, figures and REPORT.md in {folder}")


if __name__ == "__main__":
    run_alone(main)
