"""Counted, structural and exact rank against the number of filters, for six layers.

    python -m figures.rank_vs_filters
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.command import run
from figures.rank_panel import rank_panel

LAYERS = ((5, 1), (5, 2), (5, 3))  # kernel, stride
SIZE, CHANNELS = 32, 3


def draw(results: Path) -> Figure:
    """Return the figure: gradient equations alone above, both kinds below."""
    data = pd.read_csv(results / "rank_vs_filters.csv")
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    for row, (kind, words) in zip(
        figure.subplots(2, 3, squeeze=False),
        (("gradient", "gradient equations"), ("both", "weight and gradient equations")),
        strict=True,
    ):
        for ax, (kernel, stride) in zip(row, LAYERS, strict=True):
            at = {"equations": kind, "kernel": kernel, "stride": stride, "size": SIZE, "channels": CHANNELS, "padding": "half"}
            chosen = data[(data[list(at)] == pd.Series(at)).all(axis=1)].sort_values("filters")
            rank_panel(chosen, ax)
            ax.set_title(f"{words}\nkernel {kernel}, stride {stride}")
    figure.suptitle(f"What counting promises and what the equations of a {CHANNELS}×{SIZE}×{SIZE} layer hold")
    return figure


if __name__ == "__main__":
    run(Path(__file__).stem)
