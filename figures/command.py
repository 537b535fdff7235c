"""One figure or all of them, from results to PNG and PDF."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure

from analysis.screen import say
from analysis.studies import COMMITTED
from constraint_algebra.commands.terminal import run_alone
from constraint_algebra.errors import StorageError, UnknownNameError
from figures.save import save
from figures.style import style

OUT = Path(__file__).parent
NAMES = (
    "rank_vs_filters",
    "counting_error",
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
    "reconstruction",
)
GALLERY = "gallery"  # drawn from examples, not from results

ResultsDir = Annotated[Path, typer.Option(help="Folder with the results of the studies.")]
OutDir = Annotated[Path, typer.Option(help="Folder for the pictures.")]


def drawn(name: str, results: Path) -> Figure:
    """Return a figure.

    Raises:
        UnknownNameError: there is none of this name.
        StorageError: the study behind it has not been run.
    """
    if name not in NAMES:
        raise UnknownNameError(f"no figure is called {name!r}; there are {', '.join(NAMES)} and {GALLERY}")
    try:
        with style():
            figure: Figure = import_module(f"figures.{name}").draw(results)
            figure.draw_without_rendering()  # what settings decide late is decided here
            return figure
    except FileNotFoundError as error:
        raise StorageError(
            f"figure {name!r} needs {error.filename}, which is not there; run the study with `python -m analysis`"
        ) from error


def draw_gallery(out: Path) -> None:
    """Draw the gallery of the library's own drawings, which needs no results, into its folder below another."""
    from figures import gallery

    gallery.main(out / GALLERY)
    say(f"{out / GALLERY}")


def draw_all(names: tuple[str, ...], results: Path, out: Path) -> None:
    """Draw figures into a folder."""
    for name in names:
        with style():
            save(drawn(name, results), out / name)
        say(f"{out / name}.png, .pdf")


def run(name: str) -> None:
    """Offer a figure's own command line."""

    def command(results_dir: ResultsDir = COMMITTED, out_dir: OutDir = OUT) -> None:
        draw_all((name,), results_dir, out_dir)

    command.__doc__ = import_module(f"figures.{name}").__doc__
    run_alone(command)


def main(
    name: Annotated[str, typer.Argument(help=f"{', '.join(NAMES)}, {GALLERY}, or all.")],
    results_dir: ResultsDir = COMMITTED,
    out_dir: OutDir = OUT,
) -> None:
    """Draw a figure from the results of its study, as PNG and PDF; or the gallery, into a folder of its own."""
    draw_all({"all": NAMES, GALLERY: ()}.get(name, (name,)), results_dir, out_dir)
    if name in {"all", GALLERY}:
        draw_gallery(out_dir)
