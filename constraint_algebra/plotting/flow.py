"""How knowledge flows from the head to the input: the determined share of every layer's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from constraint_algebra.plotting.canvas import axes_or_new
from constraint_algebra.plotting.look import BLUE, SKY
from constraint_algebra.plotting.ranks import shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constraint_algebra.recursion.result import Reconstruction
    from constraint_algebra.theory.report import FeasibilityReport


def knowledge_flow(result: FeasibilityReport | Reconstruction, ax: Axes | None = None) -> Axes:
    """Draw the determined share of every layer's input, in the order of the recursion: from the head to the image.

    The last bar is the network's input. Layers that the recursion did not reach have none.
    """
    from constraint_algebra.recursion.result import Reconstruction

    if isinstance(result, Reconstruction):
        names = [row.name for row in result.layers]
    else:
        names = [row.layer for row in result.layers]
    kinds, unknowns = [row.kind for row in result.layers], [row.unknowns for row in result.layers]
    found = shares([row.determined for row in result.layers], unknowns)
    labels = [f"{name}\n{kind}\n{count:,}" for name, kind, count in zip(names, kinds, unknowns, strict=True)][::-1]
    heights = found[::-1]
    if result.determined is not None:
        labels.append(f"input\n\n{result.determined.size:,}")
        heights.append(100 * float(result.determined.mean()))
    ax = axes_or_new(ax)
    places = np.arange(len(heights))
    colours = [SKY] * len(found) + [BLUE] * (len(heights) - len(found))
    bars = ax.bar(places, np.nan_to_num(heights), color=colours, edgecolor="black", linewidth=0.6)
    ax.bar_label(bars, ["?" if np.isnan(height) else f"{height:.3g} %" for height in heights])
    ax.set_xticks(places, labels)
    ax.set(
        ylabel="determined values, %",
        ylim=(0, 115),
        xlabel="layer, kind, values of its input (recursion from left to right)",
    )
    ax.set_title("Knowledge flow from the head to the input")
    return ax
