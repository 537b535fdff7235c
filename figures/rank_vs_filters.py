"""Counted, structural and exact rank against the number of filters, for three layers; below, with the range of a digit.

python -m figures.rank_vs_filters
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from constraint_algebra import plotting
from figures.command import run

LAYERS = ((5, 1), (5, 2), (3, 2))  # kernel, stride
MOST = {"gradient": (18, 27, 72), "both": (6, 10, 16)}  # filters shown
WORDS = {"gradient": "gradient equations", "both": "weight and gradient equations"}
SIZE, CHANNELS = 16, 3
DIGIT = "mnist:3"


def draw(results: Path) -> Figure:
    """Return the figure: gradient equations alone above, both kinds in the middle, a digit and its range below."""
    data, digits = (pd.read_csv(results / f"{name}.csv") for name in ("rank_vs_filters", "range_vs_filters"))
    figure = Figure(figsize=(12, 11.4), layout="constrained")
    *rows, last = figure.subplots(3, 3)
    for row, (kind, words) in zip(rows, WORDS.items(), strict=True):
        for ax, (kernel, stride), most in zip(row, LAYERS, MOST[kind], strict=True):
            _panel(chosen(data, kind, kernel, stride, most), ax, f"kernel {kernel}, stride {stride}: {words}")
    for ax, (kernel, stride) in zip(last, LAYERS, strict=True):
        _panel(of_digit(digits, kernel, stride), ax, f"kernel {kernel}, stride {stride}: a digit, gradient equations")
    handles = last[0].get_legend_handles_labels()
    labels = ["unknowns" if label.endswith("unknowns") else label for label in handles[1]]
    figure.legend(handles[0], labels, loc="outside lower center", ncols=5)
    figure.suptitle(
        f"What counting promises and what the equations of a {CHANNELS}×{SIZE}×{SIZE} layer hold;"
        " below, a digit of 28×28 pixels in its range"
    )
    for ax in figure.axes:
        ax.get_legend().remove()
    return figure


def _panel(rows: pd.DataFrame, ax: Axes, title: str) -> None:
    ax.set_title(title)
    plotting.rank_against_filters(rows, ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def of_digit(data: pd.DataFrame, kernel: int, stride: int) -> pd.DataFrame:
    """Return the rows of one layer at the digit; `determined` is by equations alone."""
    rows = data[(data.kernel == kernel) & (data.stride == stride) & (data.image == DIGIT)]
    return rows.assign(determined=rows["rank"] == rows.unknowns)


def chosen(data: pd.DataFrame, kind: str, kernel: int, stride: int, most: int) -> pd.DataFrame:
    """Return the rows of one layer, `determined` told as whether the whole input is."""
    at = {"equations": kind, "kernel": kernel, "stride": stride, "size": SIZE, "channels": CHANNELS, "padding": "half"}
    rows = data[(data[list(at)] == pd.Series(at)).all(axis=1) & (data.filters <= most)]
    return rows.assign(determined=rows.determined == rows.unknowns)


if __name__ == "__main__":
    run(Path(__file__).stem)
