"""Counted, structural and exact rank against the number of filters, for three layers.

python -m figures.rank_vs_filters
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from constraint_algebra import plotting
from figures.command import run

LAYERS = ((5, 1), (5, 2), (3, 2))  # kernel, stride
MOST = {"gradient": (18, 27, 72), "both": (6, 10, 16)}  # filters shown
WORDS = {"gradient": "gradient equations", "both": "weight and gradient equations"}
SIZE, CHANNELS = 16, 3


def draw(results: Path) -> Figure:
    """Return the figure: gradient equations alone above, both kinds below."""
    data = pd.read_csv(results / "rank_vs_filters.csv")
    figure = Figure(figsize=(12, 7.6), layout="constrained")
    for row, (kind, words) in zip(figure.subplots(2, 3), WORDS.items(), strict=True):
        for ax, (kernel, stride), most in zip(row, LAYERS, MOST[kind], strict=True):
            ax.set_title(f"kernel {kernel}, stride {stride}: {words}")
            plotting.rank_against_filters(chosen(data, kind, kernel, stride, most), ax)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            handles = ax.get_legend_handles_labels()
            ax.get_legend().remove()
    figure.legend(*handles, loc="outside lower center", ncols=4)
    figure.suptitle(f"What counting promises and what the equations of a {CHANNELS}×{SIZE}×{SIZE} layer hold")
    return figure


def chosen(data: pd.DataFrame, kind: str, kernel: int, stride: int, most: int) -> pd.DataFrame:
    """Return the rows of one layer, `determined` told as whether the whole input is."""
    at = {"equations": kind, "kernel": kernel, "stride": stride, "size": SIZE, "channels": CHANNELS, "padding": "half"}
    rows = data[(data[list(at)] == pd.Series(at)).all(axis=1) & (data.filters <= most)]
    return rows.assign(determined=rows.determined == rows.unknowns)


if __name__ == "__main__":
    run(Path(__file__).stem)
