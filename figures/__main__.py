"""Figures from the command line, run as a module from the root of the repository.

python -m figures NAME|gallery|all [--results-dir DIR] [--out-dir DIR]
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from analysis.screen import say
from analysis.studies import COMMITTED
from constraint_algebra.errors import ConstraintAlgebraError
from figures.command import GALLERY, NAMES, OUT, OutDir, ResultsDir, draw_all, draw_gallery


def main(
    name: Annotated[str, typer.Argument(help=f"{', '.join(NAMES)}, {GALLERY}, or all.")],
    results_dir: ResultsDir = COMMITTED,
    out_dir: OutDir = OUT,
) -> None:
    """Draw a figure from the results of its study, as PNG and PDF; or the gallery, into a folder of its own."""
    try:
        draw_all({"all": NAMES, GALLERY: ()}.get(name, (name,)), results_dir, out_dir)
        if name in {"all", GALLERY}:
            draw_gallery(out_dir)
    except ConstraintAlgebraError as error:
        say(f"error: {error}")
        sys.exit(2)


if __name__ == "__main__":
    typer.run(main)
