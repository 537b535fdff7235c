"""Exact rank against the share of active outputs, with the masks of real networks and with random ones.

python -m figures.relu_activity
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.command import run
from figures.style import BLUE, VERMILION

PLACES = {1: "layer 1 (1→12, 3/1/1)", 2: "layer 2 (12→12, 3/2/1)"}


def draw(results: Path) -> Figure:
    """Return the figure: one panel a layer and a time, real masks beside random ones of the same share."""
    data = pd.read_csv(results / "relu_activity.csv")
    figure = Figure(figsize=(9, 6), layout="constrained")
    times = sorted(data.epochs.unique())
    for row, epochs in zip(figure.subplots(len(times), 2, sharex=True, sharey=True, squeeze=False), times, strict=True):
        for ax, (layer, words) in zip(row, PLACES.items(), strict=True):
            d = data[(data.epochs == epochs) & (data.layer == layer)]
            share = 100 * d.active_share
            ax.plot(
                share,
                100 * d.random_rank / d.unknowns,
                ls="",
                marker="x",
                color=VERMILION,
                label="as many in random places",
            )
            ax.plot(share, 100 * d["rank"] / d.unknowns, ls="", marker="o", mfc="none", color=BLUE, label="true mask")
            as_is = 100 * d[d["shift"] == 0].active_share.mean()
            ax.axvline(as_is, color="0.4", lw=1, ls=":")
            ax.annotate("biases as they are", (as_is, 3), rotation=90, ha="right", va="bottom", fontsize=7)
            ax.set_title(f"{words}, {'untrained' if epochs == 0 else f'after {epochs} epochs'}")
        row[0].set_ylabel("exact rank,\n% of the unknowns")
    for ax in row:
        ax.set_xlabel("active outputs, %")
    figure.axes[2].legend(loc="lower left")
    figure.suptitle(
        "ReLU activity and what a layer's equations still hold (weight and gradient equations, digits of 8×8)"
    )
    return figure


if __name__ == "__main__":
    run(Path(__file__).stem)
