"""The figure of claim 2: per layer, what each kind of equations determines of the unknowns."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TITLES = {
    "lenet": "LeNet (R-CONV)",
    "lenet-o": "LeNet-O (R-CONV)",
    "lenet-dlg": "LeNet (DLG)",
    "cnn6": "CNN6 (R-GAP)",
    "cnn6-o": "CNN6-O (R-CONV)",
}
NOTE = (
    "Below the bars: the layer's number, channels, kernel/stride/padding. Each layer by itself, all above it known.\n"
    "ReLUs as active as for cifar10:0 at weights from U(-0.5, 0.5). Rank above a bar ties values to each other."
)
STYLES = {
    "weight": {"color": "0.85", "hatch": "", "label": "weight equations alone"},
    "gradient": {"color": "0.45", "hatch": "", "label": "gradient equations alone"},
    "both": {"color": "white", "hatch": "////", "label": "both"},
}
WIDTH = 0.27


def shares(table: pd.DataFrame, *, title: str, ax: Axes) -> Axes:
    """Draw, for the layers of one network, determined shares as bars and ranks as marks on them.

    Args:
        table: rows of `constraints.informed`.
        title: of the Axes.
        ax: where to draw.
    """
    places = np.arange(len(table))
    for offset, (kind, style) in zip((-WIDTH, 0.0, WIDTH), STYLES.items(), strict=True):
        values = table[f"{kind} determined"].astype(float) * 100
        bars = ax.bar(places + offset, values, WIDTH, edgecolor="black", linewidth=0.6, **style)
        for bar, value in zip(bars, values, strict=True):
            if value == 0:  # a bar of no height says nothing
                ax.text(bar.get_x() + WIDTH / 2, 1.5, "0", ha="center", va="bottom", fontsize=7)
        ranks = table[f"{kind} rank"].astype(float) * 100
        label = "rank, of the unknowns" if kind == "both" else None
        ax.plot(places + offset, ranks, "_", color="black", ms=11, mew=2, label=label)
    words = [f"{n}\n{g.split()[0]}\n{g.split()[1]}" for n, g in zip(table["layer"], table["geometry"], strict=True)]
    ax.set_xticks(places, words, fontsize=7.5)
    ax.set(ylim=(0, 108), title=title)
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)
    return ax


def draw(table: pd.DataFrame) -> Figure:
    """Return the figure, one panel for each network."""
    networks = list(dict.fromkeys(table["network"]))
    figure = Figure(figsize=(10, 3.1 * -(-len(networks) // 2) + 0.6), layout="constrained")
    axes = figure.subplots(-(-len(networks) // 2), 2, sharey=True, squeeze=False).ravel()
    for ax, network in zip(axes, networks, strict=False):
        shares(table[table["network"] == network], title=TITLES.get(network, network), ax=ax)
    for ax in axes[::2]:
        ax.set_ylabel("share of unknowns, per cent")
    for ax in axes[len(networks) :]:
        ax.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    handles, labels = [*handles[1:], handles[0]], [*labels[1:], labels[0]]  # bars first
    if len(networks) < len(axes):
        axes[-1].legend(handles, labels, loc="center", fontsize=9)
    else:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle("What each kind of equations determines of a layer's input")
    figure.supxlabel(NOTE, fontsize=8.5)
    return figure
