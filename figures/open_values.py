"""Share of fixed values and mean width of the others' intervals against the number of filters.

    python -m figures.open_values

Draws analysis/results/open_values.csv into figures/open_values.png and .pdf.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.open_values import RESULT, SAMPLED
from figures.save import save

OUT = Path(__file__).parent / "open_values"
STYLES = {"ReLU": {"color": "black", "marker": "o"}, "LeakyReLU(0.2)": {"color": "0.55", "marker": "s", "ls": "--"}}


def draw() -> Figure:
    """Return the figure: mean over the photographs, with the range over them."""
    data = pd.read_csv(RESULT)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = zip(
        figure.subplots(1, 2),
        ("fixed", "width"),
        ("share of values that are fixed", f"mean width of the interval of {SAMPLED} values\n(valid range: 1)"),
        strict=True,
    )
    for ax, column, label in panels:
        for activation, style in STYLES.items():
            group = data[data.activation == activation].groupby("filters")[column]
            mean = group.mean()
            ax.fill_between(mean.index, group.min(), group.max(), color=style["color"], alpha=0.2, lw=0)
            ax.plot(mean.index, mean, label=activation, ms=5, **style)
        ax.set(xlabel="filters of the first layer (5/2/2 on 3×16×16)", ylabel=label, ylim=(-0.03, 1.03))
        ax.grid(alpha=0.3)
    figure.axes[0].legend(title="activation", loc="center right")
    photographs = data.image.nunique()
    figure.suptitle(f"What the gradient fixes and what it leaves open (mean and range over {photographs} photographs)")
    return figure


if __name__ == "__main__":
    save(draw(), OUT)
