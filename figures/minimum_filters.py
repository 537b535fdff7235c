"""The fewest filters that determine a layer's input, over kernel and stride: counted, by gradients, by both kinds.

python -m figures.minimum_filters
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from figures.command import run

CHANNELS = 3
PANELS = (
    ("by_counting", "Counting gradient equations"),
    ("by_gradient_low", "Gradient equations, exactly"),
    ("by_both_low", "Weight and gradient equations, exactly"),
)


def draw(results: Path) -> Figure:
    """Return the figure: one map a way of counting, the residue class that decides in small print."""
    data = pd.read_csv(results / "minimum_filters.csv")
    data = data[data.channels == CHANNELS]
    figure = Figure(figsize=(10.5, 7.4), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    norm = LogNorm(1, data.by_counting.max())
    for ax, (column, title) in zip(axes, PANELS, strict=True):
        table = data.pivot_table(index="stride", columns="kernel", values=column, dropna=False)
        shown = ax.imshow(table, cmap="Blues", norm=norm, aspect="auto")
        ax.set_facecolor("0.85")
        ax.grid(visible=False)
        ax.set_title(title, loc="left")
        ax.set(yticks=range(len(table)), yticklabels=table.index, ylabel="stride")
        ax.set(xticks=range(table.shape[1]), xticklabels=table.columns)
        _numbers(ax, table, data if column == "by_gradient_low" else None)
    axes[-1].set_xlabel("kernel (padded by half of it)")
    figure.colorbar(shown, ax=list(axes), label="fewest filters", fraction=0.03)
    figure.suptitle(
        f"Fewest filters that determine a {CHANNELS}×32×32 input (–: a pixel meets no tap, no number suffices)\n"
        "Small print: pixels / taps of the residue class that asks for most, which rounded up is the answer",
        fontsize=11,
    )
    return figure


def _numbers(ax: Axes, table: pd.DataFrame, classes: pd.DataFrame | None) -> None:
    for y, stride in enumerate(table.index):
        for x, kernel in enumerate(table.columns):
            value = table.loc[stride, kernel]
            known = bool(np.isfinite(value))
            color = "white" if known and value > 60 else "black"
            small = classes is not None and known
            ax.text(x, y - 0.14 * small, f"{value:.0f}" if known else "–", ha="center", va="center", color=color)
            if classes is not None and known:
                row = classes[(classes.stride == stride) & (classes.kernel == kernel)].iloc[0]
                words = f"{row.class_pixels:.0f} / {row.class_taps:.0f}"
                ax.text(x, y + 0.27, words, ha="center", va="center", color=color, fontsize=7)


if __name__ == "__main__":
    run(Path(__file__).stem)
