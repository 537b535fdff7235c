"""Share of fixed values and mean width of the others' intervals against the number of filters.

python -m figures.open_values
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.command import run
from figures.style import SERIES


def draw(results: Path) -> Figure:
    """Return the figure: mean over the photographs, with the range over them."""
    data = pd.read_csv(results / "open_values.csv")
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    sampled = data.sampled.iloc[0]
    panels = zip(
        figure.subplots(1, 2),
        ("fixed", "width"),
        ("share of values that are fixed", f"mean width of the interval of {sampled} values\n(valid range: 1)"),
        strict=True,
    )
    for ax, column, label in panels:
        for (activation, d), look in zip(data.groupby("activation", sort=False), SERIES, strict=False):
            group = d.groupby("filters")[column]
            mean = group.mean()
            ax.fill_between(mean.index, group.min(), group.max(), color=look["color"], alpha=0.2, lw=0)
            ax.plot(mean.index, mean, label=activation, **look)
        ax.set(xlabel="filters of the first layer (5/2/2 on 3×16×16)", ylabel=label, ylim=(-0.03, 1.03))
    figure.axes[0].legend(title="activation", loc="center right")
    photographs = data.image.nunique()
    figure.suptitle(f"What the gradient fixes and what it leaves open (mean and range over {photographs} photographs)")
    return figure


if __name__ == "__main__":
    run(Path(__file__).stem)
