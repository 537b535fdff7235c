"""What weight equations and gradient equations determine each, layer by layer, and how well conditioned they are.

python -m figures.depth
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.command import run
from figures.style import SERIES

KINDS = {"weight": "weight equations", "gradient": "gradient equations", "both": "both"}
ACTIVE = 0.5


def draw(results: Path) -> Figure:
    """Return the figure: ranks above, conditions below, one column a family of networks."""
    data = pd.read_csv(results / "depth.csv")
    data = data[data.depth == data.depth.max()]
    families = list(dict.fromkeys(data.family))
    figure = Figure(figsize=(10.5, 8), layout="constrained")
    axes = figure.subplots(3, len(families), sharex=True, sharey="row")
    for column, family in zip(axes.T, families, strict=True):
        for ax, active in zip(column, (1.0, ACTIVE, 1.0), strict=True):
            d = data[(data.family == family) & (data.active == active)].sort_values("layer")
            for (kind, words), look in zip(KINDS.items(), SERIES[:3], strict=True):
                y = d[f"{kind}_condition"] if ax is column[2] else 100 * d[f"{kind}_rank"] / d.unknowns
                ax.plot(d.layer, y, label=words, **look)
        column[0].set_title(family)
        column[2].set(yscale="log", xlabel="layer, counted from the input")
    axes[0, 0].set_ylabel("rank, % of the unknowns\nall outputs active")
    axes[1, 0].set_ylabel("rank, % of the unknowns\nhalf of the outputs active")
    axes[2, 0].set_ylabel("condition number\nall outputs active")
    for ax in axes[:2].ravel():
        ax.set_ylim(0, 106)
    axes[0, 0].legend(loc="lower right")
    figure.suptitle(
        f"Which equations inform, by depth: {data.depth.max()} convolutions 5/s/2 on 3×16×16, everything above known"
    )
    return figure


if __name__ == "__main__":
    run(Path(__file__).stem)
