"""What comes back through normalisation by the data's own statistics, with and without the client's buffers.

python -m figures.normalisation
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.command import run
from figures.style import BLUE, SKY, VERMILION

# What pixels rest on, from dark to light, with a hatch for grey.
GROUNDS = (
    ("equations", "equations", BLUE, ""),
    ("ranged", "range", VERMILION, "//"),
    ("nearby", "neighbourhood", SKY, ".."),
)
NAMES = {
    ("batch", True): "batch,\nbuffers",
    ("batch", False): "batch, no\nbuffers",
    ("group", False): "group",
    ("layer", False): "layer",
    ("instance", False): "instance",
}
PIXELS = 3 * 10 * 10


def draw(results: Path) -> Figure:
    """Return the figure: a row for each activation, a column for biases and types, and the errors."""
    data = pd.read_csv(results / "normalisation.csv")
    data["ranged"] = PIXELS * data.determined_share - data.equations - data.nearby
    figure = Figure(figsize=(11.5, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    for line, (activation, rows) in zip(axes, data.groupby("activation"), strict=True):
        for ax, bias in zip(line, (True, False), strict=False):
            words = "with a bias below" if bias else "without a bias below"
            _bars(ax, rows[(rows.bias == bias) & (rows.dtype == "float64")], f"{activation}, {words}")
        _errors(line[2], rows[rows.bias], f"{activation}, with a bias below")
        for ax in line[:2]:
            ax.set_ylabel("pixels determined, %\n(float64)")
        line[2].set_ylabel("largest error of a pixel")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), title="resting on", loc="outside lower center", ncols=3)
    axes[0, 2].legend(loc="center left")
    wrong = int(data.wrong.sum())
    figure.suptitle(
        f"Two convolutions with normalisation in training mode on 3×10×10 pixels, {data.picture.nunique()} photographs;"
        f" pixels determined wrongly: {wrong}"
    )
    return figure


def _bars(ax: Axes, rows: pd.DataFrame, title: str) -> None:
    """Draw for each normalisation the mean share of pixels on each ground, and a mark for each photograph."""
    base = np.zeros(len(NAMES))
    groups = [rows[(rows.norm == norm) & (rows.buffers == buffers)] for norm, buffers in NAMES]
    for column, name, color, hatch in GROUNDS:
        share = np.array([100 * group[column].mean() / PIXELS for group in groups])
        ax.bar(range(len(NAMES)), share, bottom=base, label=name, color=color, hatch=hatch, ec="white", lw=0.5)
        base += share
    for place, group in enumerate(groups):
        ax.plot(np.full(len(group), place), 100 * group.determined_share, "k_", ms=14)
    _named(ax)
    ax.set(title=title, ylim=(0, 104), xlabel="normalisation")


def _errors(ax: Axes, rows: pd.DataFrame, title: str) -> None:
    """Draw the largest error of each run with determined pixels, for both types."""
    for dtype, marker, color in (("float64", "o", BLUE), ("float32", "s", "0.35")):
        for place, (norm, buffers) in enumerate(NAMES):
            at = (rows.norm == norm) & (rows.buffers == buffers) & (rows.dtype == dtype) & (rows.determined_share > 0)
            found = rows[at].largest_error
            ax.plot(np.full(len(found), place), found, marker, color=color, label=None if place else dtype, mfc="none")
    _named(ax)
    ax.set(title=title, yscale="log", ylim=(1e-16, 1), xlim=(-0.5, len(NAMES) - 0.5), xlabel="normalisation")


def _named(ax: Axes) -> None:
    ax.set_xticks(range(len(NAMES)), list(NAMES.values()), fontsize=9)


if __name__ == "__main__":
    run(Path(__file__).stem)
