"""By how much counting equations overstates the rank, over kernel and stride.

python -m figures.counting_error
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.command import run

SIZE, CHANNELS = 32, 3


def draw(results: Path) -> Figure:
    """Return the figure: largest error over the numbers of filters on the left, false promises on the right."""
    data = pd.read_csv(results / "rank_vs_filters.csv")
    data = data[
        (data.equations == "gradient") & (data["size"] == SIZE) & (data.channels == CHANNELS) & (data.padding == "half")
    ]
    data = data.assign(
        over=100 * (data.counted - data["rank"]) / data.unknowns,
        false=(data.counted == data.unknowns) & (data.determined < data.unknowns),
    )
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    groups = data.groupby(["stride", "kernel"])
    filters = data.filters.nunique()
    _map(left, _by_geometry(groups.over.max()), "{:.0f}", "largest error of counting,\n% of the unknowns")
    _map(
        right,
        _by_geometry(groups.false.sum()),
        "{:.0f}",
        f"numbers of filters, of {filters}, for which\ncounting falsely says “determined”",
    )
    figure.suptitle(
        f"Where counting gradient equations goes wrong: {CHANNELS}×{SIZE}×{SIZE}, padded by half the kernel,"
        f" 1 to {data.filters.max()} filters"
    )
    return figure


def _by_geometry(values: pd.Series) -> pd.DataFrame:
    return values.reset_index().pivot_table(index="stride", columns="kernel", values=values.name)


def _map(ax: Axes, table: pd.DataFrame, form: str, label: str) -> None:
    shown = ax.imshow(table, cmap="Blues", vmin=0, aspect="auto")
    ax.grid(visible=False)
    ax.set(xticks=range(table.shape[1]), xticklabels=table.columns, xlabel="kernel")
    ax.set(yticks=range(table.shape[0]), yticklabels=table.index, ylabel="stride")
    dark = table.to_numpy().max() / 2
    for y, row in enumerate(table.to_numpy()):
        for x, value in enumerate(row):
            ax.text(x, y, form.format(value), ha="center", va="center", color="white" if value > dark else "black")
    ax.figure.colorbar(shown, ax=ax, label=label, ticks=MaxNLocator(integer=True))


if __name__ == "__main__":
    run(Path(__file__).stem)
