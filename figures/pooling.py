"""How much of an input comes back through max-pools, on what it rests, and in which time.

python -m figures.pooling
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.command import run
from figures.style import SERIES, SKY, VERMILION

# What pixels rest on, from dark to light, with a hatch for grey.
GROUNDS = (
    ("ranged", "range", VERMILION, "//"),
    ("winners", "winners", SKY, ".."),
)


def draw(results: Path) -> Figure:
    """Return the figure: pixels by ground against filters for both kernels and photographs; training; times."""
    data = pd.read_csv(results / "pooling.csv")
    digits, photographs, trained = (data[data.kind == kind] for kind in ("digit", "photograph", "trained"))
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    for ax, (kernel, rows) in zip(axes[0], digits.groupby("kernel"), strict=False):
        _bars(ax, rows, ["filters"], f"Digits of 28×28, kernel {kernel}", "filters of the first convolution")
    _bars(axes[0, 2], photographs, ["size", "filters"], "Photographs, kernel 5", "pixels a side, filters")
    _bars(axes[1, 0], trained, ["epochs"], "Digits of 8×8 while the network learns", "epochs")
    _times(axes[1, 1], data)
    _ties(axes[1, 2], digits)
    for ax in (*axes[0], axes[1, 0]):
        ax.set_ylabel("pixels determined, %")
    axes[0, 0].legend(title="resting on", loc="upper left")
    wrong = int(data.wrong.sum())
    figure.suptitle(
        f"Two convolutions with ReLU and max-pool, one sample, float64; {len(data)} runs, pixels determined wrongly:"
        f" {wrong}"
    )
    return figure


def _bars(ax: Axes, rows: pd.DataFrame, by: list[str], title: str, label: str) -> None:
    """Draw for each group the mean share of pixels on each ground, one on the other, and a mark for each run."""
    pixels = rows["size"] ** 2 * np.where(rows.kind == "photograph", 3, 1)
    groups = [(key, rows.index[at]) for key, at in sorted(rows.groupby(by).indices.items())]
    base = np.zeros(len(groups))
    for column, name, color, hatch in GROUNDS:
        share = [100 * float((rows[column] / pixels).loc[at].mean()) for _, at in groups]
        ax.bar(range(len(groups)), share, bottom=base, label=name, color=color, hatch=hatch, ec="white", lw=0.5)
        base += share
    for place, (_, at) in enumerate(groups):
        ax.plot(np.full(len(at), place), 100 * rows.loc[at, "determined_share"], "k_", ms=12)
    names = [", ".join(str(rows.loc[at[0], column]) for column in by) for _, at in groups]
    ax.set_xticks(range(len(groups)), names)
    ax.set(title=title, xlabel=label, ylim=(0, 104))


def _times(ax: Axes, data: pd.DataFrame) -> None:
    """Draw the time of every run that came back whole, by the number of pixels' kinds."""
    whole = data[data.determined_share == 1]
    kinds = (("digit", "digits of 28×28"), ("photograph", "photographs"), ("trained", "digits of 8×8"))
    for (kind, name), look in zip(kinds, SERIES, strict=False):
        rows = whole[whole.kind == kind]
        ax.plot(rows.filters, rows.cpu_s, label=name, **{**look, "ls": "none"})
    ax.set(title="Time of a whole input", xlabel="filters of the first convolution", ylabel="CPU seconds", yscale="log")
    ax.legend()


def _ties(ax: Axes, digits: pd.DataFrame) -> None:
    """Draw how much came back against the share of windows that tie."""
    for (filters, rows), look in zip(digits.groupby("filters"), SERIES, strict=True):
        ax.plot(100 * rows.tied, 100 * rows.determined_share, label=str(filters), **{**look, "ls": "none"})
    ax.set(
        title="Ties on a constant background",
        xlabel="windows with several winners, %",
        ylabel="pixels determined, %",
        ylim=(-4, 104),
    )
    ax.legend(title="filters", loc="center right")


if __name__ == "__main__":
    run(Path(__file__).stem)
