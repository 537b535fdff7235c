"""One panel of ranks against the number of filters; stands in until the library's own is merged."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from figures.style import SERIES


def rank_panel(frame: pd.DataFrame, ax: Axes) -> Axes:
    """Draw counted, structural and exact rank against filters, and where the input becomes determined."""
    unknowns = int(frame.unknowns.iloc[0])
    for (column, label), look in zip(
        (("counted", "counted"), ("structural_rank", "structural"), ("rank", "exact")), reversed(SERIES[:3]), strict=True
    ):
        hollow = {"mfc": "none", "ms": 8 if column == "counted" else 6} if column != "rank" else {"ms": 3.5}
        ax.plot(frame.filters, frame[column], label=label, **look, **hollow)
    ax.axhline(unknowns, color="0.4", lw=0.8)
    full = frame.filters[frame.determined == unknowns]
    if len(full):
        ax.axvline(full.min(), color="0.4", lw=0.8, ls=":")
    ax.set_xscale("log", base=2)
    ax.set(xlabel="filters", ylabel="rank")
    ax.legend(loc="lower right")
    return ax
