"""Figures 2 and 3: reconstructions side by side, rows as the paper's captions order them, the PSNR under each image."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from constraint_algebra import plotting, samples
from constraint_algebra.arrays import FloatArray
from paper_repro.plan import FIGURE_2, FIGURE_3, METHODS, OURS, RCONV, Place, Run
from paper_repro.study import IMPOSSIBLE, RECOGNISED, picture_path

IMAGES = 4


@dataclass(frozen=True)
class Cell:
    """One place of a figure.

    Attributes:
        image: what to show, `None` where there is none.
        words: what to say under it, or in its place.
    """

    image: FloatArray | None
    words: str


def panel(cell: Cell, *, ax: Axes) -> Axes:
    """Draw an image with its words underneath, or the words alone in an empty frame."""
    if cell.image is not None:
        plotting.picture(cell.image, ax=ax)
        ax.set_xlabel(cell.words, fontsize=8 if cell.words.count("\n") < 2 else 6.5, labelpad=2)
    else:
        ax.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1), aspect="equal")
        ax.text(0.5, 0.5, textwrap.fill(cell.words, 17), ha="center", va="center", fontsize=7)
    return ax


def cell(rows: pd.DataFrame, place: Place, dataset: str, image: int, pictures: Path) -> Cell:
    """Return what a figure shows of a method and an image: the best of its seeds, or why there is nothing to show."""
    chosen = rows[(rows["dataset"] == dataset) & (rows["image"] == image)]
    for name, value in zip(place._fields[:-1], place, strict=False):
        chosen = chosen[chosen[name] == value]
    if chosen.empty:
        return Cell(None, "not run")
    # The library is shown at its first seed, a baseline at its best.
    order = "seed" if place.method == OURS else "mse"
    best: Any = next(chosen.sort_values(order, na_position="last").itertuples())
    run = Run(*(getattr(best, field) for field in Run._fields))
    path = picture_path(pictures, run)
    if not path.exists():
        what = "impossible" if best.outcome == IMPOSSIBLE else "failed"
        return Cell(None, f"{what}: {short(str(best.reason))}")
    psnr = "identical" if best.mse == 0 else "no number" if math.isnan(best.mse) else f"{best.psnr:.1f} dB"
    if best.mse < RECOGNISED:
        return Cell(samples.read_image(path), psnr)
    failed = int((~chosen["recognised"].astype(bool)).sum())
    why = textwrap.fill(str(best.reason), 20) if best.reason else ""
    return Cell(samples.read_image(path), f"{psnr}, failed\n({failed} of {len(chosen)} seeds)\n{why}".rstrip())


def short(reason: str) -> str:
    """Return a reason without what introduces it and without advice.

    >>> short("R-GAP is not made for this network: it cannot invert ReLU (layer 1, 3); use something else")
    'it cannot invert ReLU (layer 1, 3)'
    """
    return reason.partition(": ")[2].partition("; use")[0] or reason.partition("; use")[0]


def draw(
    rows: pd.DataFrame, places: Sequence[Place], datasets: Sequence[str], pictures: Path, title: str, note: str
) -> Figure:
    """Return a figure: originals on top, a row for each place, columns of images grouped by data set."""
    count = min(IMAGES, 1 + int(rows["image"].max()))
    columns = [(dataset, image) for dataset in datasets for image in range(count)]
    size = (max(1.9 + 1.2 * len(columns), 7.0), 1.45 * (1 + len(places)) + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1 + len(places), len(columns), squeeze=False)
    for number, (dataset, image) in enumerate(columns):
        original = samples.load(f"{dataset}:{image}")
        shape = (1, 32, 32) if dataset == "mnist" else (3, 32, 32)
        panel(Cell(samples.fit(original.image, shape), original.name), ax=grid[0, number])
        for row, place in enumerate(places, start=1):
            panel(cell(rows, place, dataset, image, pictures), ax=grid[row, number])
    for line, words in zip(grid, ["original", *(f"{p.title}\n{p.dtype}" for p in places)], strict=True):
        line[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=9, labelpad=8)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(f"{note}\n{textwrap.fill(standing(rows, places), int(13.5 * size[0]))}", fontsize=7.5)
    return figure


NOTE = (
    "Under each image: PSNR, data_range 1. constraint-algebra: R-CONV's principle by this library, first seed;\n"
    "{0} at the best of its seeds. Failed: a mean squared error of 1e-2 or more, with what the last step found."
)


def standing(rows: pd.DataFrame, places: Sequence[Place]) -> str:
    """Return how many runs of the library's rows are recognised, and of R-CONV as published in the same place."""
    told = []
    for place in (p for p in places if p.method == OURS):
        same = rows
        for name, value in zip(place._fields[:4], place, strict=False):
            same = same[same[name] == value]
        counts = []
        for method in (OURS, RCONV):
            mine = same.loc[same["method"] == method, "recognised"]
            if len(mine):
                counts.append(f"{METHODS[method]} {int(mine.sum())} of {len(mine)}")
        told.append(f"{place.title.partition(chr(10))[2]}: {', '.join(counts) or 'not run'}")
    return "All runs of a row, recognised: " + "; ".join(told) + "."


def figure_2(rows: pd.DataFrame, pictures: Path) -> Figure:
    """Return Figure 2: against DLG on CIFAR-100 and MNIST."""
    title = "Figure 2. Reconstructions from one gradient, against DLG: CIFAR-100 and MNIST"
    return draw(rows, FIGURE_2, ("cifar100", "mnist"), pictures, title, NOTE.format(METHODS["dlg2019"]))


def figure_3(rows: pd.DataFrame, pictures: Path) -> Figure:
    """Return Figure 3: against R-GAP on CIFAR-10."""
    title = "Figure 3. Reconstructions from one gradient, against R-GAP: CIFAR-10"
    return draw(rows, FIGURE_3, ("cifar10",), pictures, title, NOTE.format(METHODS["rgap2021"]))
