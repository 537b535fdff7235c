"""What zeros and the range decide where the rank ends: channels behind a ReLU, and digits.

python -m figures.beyond_rank
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from figures.command import run
from figures.style import BLUE, SERIES, VERMILION

CONFIDENCE = 0.95
PANELS = (("by_zeros", "by zeros"), ("by_range", "by nonnegativity"))
LINES = (
    ("by_equations", "equations", BLUE, "o", "-"),
    ("given_range", "equations\nand the range", VERMILION, "s", "--"),
)


def draw(results: Path) -> Figure:
    """Return the figure: above, shares of channels with their confidence; below, shares of pixels over the digits."""
    data = pd.read_csv(results / "beyond_rank.csv")
    channels, digits = data[data.kind == "channel"], data[data.kind == "digit"]
    figure = Figure(figsize=(10.5, 6.8), layout="constrained")
    grid = figure.add_gridspec(2, 4, height_ratios=(1.25, 1))
    first: Axes | None = None
    for place, (column, title) in enumerate(PANELS):
        first = _channels(figure.add_subplot(grid[0, 2 * place : 2 * place + 2], sharey=first), channels, column, title)
    first = None
    for place, ((kernel, stride), rows) in enumerate(digits.groupby(["kernel", "stride"])):
        first = _digits(figure.add_subplot(grid[1, place], sharey=first), rows, f"kernel {kernel}, stride {stride}")
    figure.axes[0].set_ylabel("channels decided, %")
    figure.axes[1].legend(title="directions\nleft open", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.axes[2].set_ylabel("pixels determined, %")
    figure.axes[-1].legend(title="determined by", loc="center left", bbox_to_anchor=(1.0, 0.5))
    count, bad = int(channels.channels.iloc[0]), channels.by_zeros_wrong.sum() + channels.by_range_wrong.sum()
    wrong = int(digits.wrong.sum())
    figure.suptitle(
        f"Above: one channel of 8×8 outputs of a ReLU, {count} for each mark, {CONFIDENCE:.0%} confidence; decided"
        f" wrongly: {bad:.0f}\nBelow: one convolution with ReLU on {digits.digit.nunique()} digits of 28×28, mean and"
        f" range; pixels determined wrongly: {wrong}"
    )
    return figure


def _channels(ax: Axes, rows: pd.DataFrame, column: str, title: str) -> Axes:
    """Draw the share of channels decided against the share of zeros, a line for each span of deficits."""
    for (deficit, d), look in zip(rows.groupby("deficit", sort=False), SERIES, strict=True):
        share = 100 * d[column] / d.channels
        pairs = zip(d[column], d.channels, strict=True)
        ends = [binomtest(int(k), int(n)).proportion_ci(CONFIDENCE) for k, n in pairs]
        low, high = ([100 * getattr(end, side) for end in ends] for side in ("low", "high"))
        ax.fill_between(100 * d.zeros, low, high, color=look["color"], alpha=0.15, lw=0)
        ax.plot(100 * d.zeros, share, label=str(deficit), **look)
    ax.set(title=f"Decided {title}", xlabel="exact zeros among the channel's values, %", ylim=(-3, 103))
    return ax


def _digits(ax: Axes, rows: pd.DataFrame, title: str) -> Axes:
    """Draw the share of pixels determined against the number of filters: mean and range over the digits."""
    for column, label, color, marker, dashes in LINES:
        group = 100 * rows.groupby("filters")[column].agg(["mean", "min", "max"])
        ax.fill_between(group.index, group["min"], group["max"], color=color, alpha=0.15, lw=0)
        ax.plot(group.index, group["mean"], label=label, color=color, marker=marker, ls=dashes)
    ax.set(title=title, xlabel="filters", ylim=(-3, 103), xticks=range(1, int(rows.filters.max()) + 1))
    return ax


if __name__ == "__main__":
    run(Path(__file__).stem)
