"""What the head's gradient tells of the batch, and unknowns against equations.

python -m figures.batch_size
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.command import run
from figures.style import SERIES

SHOWN = 10  # classes of the panel on the right


def draw(results: Path) -> Figure:
    """Return the figure: rank of the head's gradient for float32 and bfloat16, and counts."""
    data = pd.read_csv(results / "batch_size.csv")
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    for ax, dtype in ((first, "float32"), (second, "bfloat16")):
        for (classes, d), look in zip(data[data.dtype == dtype].groupby("classes"), SERIES, strict=False):
            groups = d.groupby("batch").head_rank
            ax.fill_between(groups.min().index, groups.min(), groups.max(), color=look["color"], alpha=0.2, lw=0)
            ax.plot(groups.median(), label=f"{classes} classes", **look)
        ax.plot([0, 20], [0, 20], color="0.6", lw=0.8, marker="", ls="-")
        ax.set(
            title=f"Gradients in {dtype}", xlabel="samples in the batch", ylabel="rank of the head's weight gradient"
        )
    first.legend(loc="upper left")
    d = data[data.classes == SHOWN].groupby("batch").first()
    for (column, words), look in zip(
        {"unknowns": "unknowns: values of all inputs", "gradient_rows": "numbers in the whole gradient"}.items(),
        SERIES[:2],
        strict=True,
    ):
        third.plot(d[column], label=words, **look)
    third.set(title=f"Counting, {SHOWN} classes", xlabel="samples in the batch", ylabel="number")
    third.set_ylim(0)
    for ax in (first, second, third):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in (first, second):
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    third.legend(loc="upper left")
    figure.suptitle("A batch shows its size in the head's gradient, up to the number of classes less one")
    return figure


if __name__ == "__main__":
    run(Path(__file__).stem)
