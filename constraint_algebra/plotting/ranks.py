"""The rank ladder as a picture: of one system, of every layer of a network, and over the number of filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from constraint_algebra.plotting.canvas import axes_or_new
from constraint_algebra.plotting.look import BLACK, BLUE, MUTED, SKY, VERMILION, YELLOW

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from constraint_algebra.ranks.ladder import RankLadder
    from constraint_algebra.theory.report import FeasibilityReport

# Light to dark down the ladder; hatches keep them apart in print.
RUNGS = {
    "counted": (YELLOW, ""),
    "structural": (SKY, "///"),
    "generic": (BLUE, ""),
    "numerical": (VERMILION, "..."),
    "usable": (BLACK, ""),
    "ranged": ("white", "xx"),
}
MANY = 10  # layers from which on their names stand upright
FEW = 30  # numbers of filters up to which each has its point
COLUMNS = ("filters", "counted", "structural_rank", "rank", "unknowns", "determined")


def rank_ladder(ladder: RankLadder, ax: Axes | None = None) -> Axes:
    """Draw the rungs of one system as bars with their numbers, below the number of unknowns.

    The last one, `ranged`, counts bounds beside equations and may stand above those before it.
    """
    ax = axes_or_new(ax)
    rungs = [rung for rung in RUNGS if getattr(ladder, rung) is not None]
    for place, rung in enumerate(rungs):
        colour, hatch = RUNGS[rung]
        bars = ax.bar(place, getattr(ladder, rung), color=colour, hatch=hatch, edgecolor="black", linewidth=0.6)
        ax.bar_label(
            bars, fmt="{:,.0f}", label_type="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}
        )
    ax.axhline(ladder.unknowns, color=BLACK, linestyle="--", label=f"{ladder.unknowns:,} unknowns")
    ax.set_xticks(range(len(rungs)), rungs)
    ax.set(ylabel="rank", ylim=(0, 1.18 * max(ladder.unknowns, ladder.counted, 1)))
    ax.set_title(f"Rank ladder of {ladder.rows:,} equations")
    ax.legend(loc="upper right")
    return ax


def layer_ranks(report: FeasibilityReport, ax: Axes | None = None) -> Axes:
    """Draw counted, structural and generic rank of every layer as a share of its unknowns, input first.

    A question mark stands where a rank is not settled. Below each layer: its name, its kind, its unknowns; where they
    are many, upright and without the kind.
    """
    many = len(report.layers) > MANY
    ax = _wide_axes(len(report.layers)) if ax is None and many else axes_or_new(ax)
    rungs = ("counted", "structural", "generic")
    for number, rung in enumerate(rungs):
        colour, hatch = RUNGS[rung]
        places = np.arange(len(report.layers)) + 0.27 * (number - 1)
        shares = [_share(getattr(row, rung), row.unknowns) for row in report.layers]
        ax.bar(places, shares, 0.25, label=rung, color=colour, hatch=hatch, edgecolor="black", linewidth=0.6)
        for place, share in zip(places, shares, strict=True):
            if np.isnan(share):
                ax.text(place, 2, "?", ha="center", va="bottom")
    shares = [_share(row.determined, row.unknowns) for row in report.layers]
    ax.plot(range(len(shares)), shares, color=VERMILION, linestyle="none", marker="D", label="determined values")
    ax.axhline(100, color=BLACK, linestyle="--", linewidth=1)
    ax.set(ylabel="share of the layer's unknowns, %", ylim=(0, 112))
    title, legend = f"What shapes decide: the input is {report.verdict}", {"ncols": 4, "handlelength": 1.4}
    if many:
        ax.set_xticks(
            range(len(report.layers)), [f"{row.layer}  {row.unknowns:,}" for row in report.layers], rotation=90
        )
        ax.set_xlabel("layer, unknowns (input on the left)")
        ax.set_title(title, pad=28)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), **legend)
        return ax
    ax.set_xticks(range(len(report.layers)), [f"{row.layer}\n{row.kind}\n{row.unknowns:,}" for row in report.layers])
    ax.set_xlabel("layer, kind, unknowns (input on the left)")
    ax.set_title(title)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), **legend)
    return ax


def _wide_axes(count: int) -> Any:
    """Return Axes in a new figure that is wide enough for so many layers."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(1.2 + 0.42 * count, 5.0), layout="constrained")[1]


def rank_against_filters(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw counted, structural and exact rank of one layer against its number of filters, and the rank with the range.

    Args:
        frame: a row for each number of filters with the columns filters, counted, structural_rank, rank, unknowns and
            determined (whether all unknowns are); where it has ranged as well, a second curve is the rank with the
            bounds that the range implies.
        ax: the Axes.

    Raises:
        KeyError: a column is missing.
    """
    if missing := [name for name in COLUMNS if name not in frame]:
        raise KeyError(f"the frame lacks the columns {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    ax = axes_or_new(ax)
    rows = frame.sort_values("filters")
    unknowns, few = int(rows["unknowns"].iloc[0]), len(rows) <= FEW
    ax.plot(rows["filters"], rows["counted"], color=MUTED, linestyle="--", marker="", label="counted")
    # Hollow squares around the points, so that both are seen where they agree; where they are many, no points.
    square: dict[str, Any] = {"marker": "s", "markersize": 8.5, "markerfacecolor": "none", "markeredgewidth": 1.1}
    ax.plot(rows["filters"], rows["structural_rank"], color=SKY, linestyle=":", label="structural rank",
            markevery=1 if few else max(2, len(rows) // 15), **square)  # fmt: skip
    ax.step(rows["filters"], rows["rank"], color=BLUE, linestyle="-", marker="o" if few else "", markersize=3.5,
            where="post", label="exact rank")  # fmt: skip
    if "ranged" in rows:
        triangle: dict[str, Any] = {"marker": "^", "markersize": 5, "markevery": 1 if few else max(2, len(rows) // 15)}
        ax.step(rows["filters"], rows["ranged"], color=VERMILION, linestyle=(0, (5, 1.5)), linewidth=1.4,
                where="post", label="rank with the range", **triangle)  # fmt: skip
    ax.axhline(unknowns, color=BLACK, linewidth=1, linestyle="-.", label=f"{unknowns:,} unknowns")
    _enough(ax, rows, unknowns)
    ax.set(xlabel="filters", ylabel="equations, rank", ylim=(0, 1.06 * unknowns))
    ax.locator_params(axis="x", integer=True)
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize="small", columnspacing=1, handlelength=1.6
    )
    return ax


def _enough(ax: Any, rows: pd.DataFrame, unknowns: int) -> None:
    """Write how many filters are enough by counting, by rank, and with the range."""
    by_count = rows.loc[rows["counted"] >= unknowns, "filters"].min()
    enough = rows.loc[rows["determined"].astype(bool), "filters"].min()
    in_range = rows.loc[rows["ranged"] >= unknowns, "filters"].min() if "ranged" in rows else np.nan
    # Beside each other and at different heights, so that no arrow runs through another's words.
    if by_count == enough:
        words = f"determined,\nas counted:\n{int(enough)} filters"
        _note(ax, float(enough), unknowns, 0.2 * unknowns, words, "center")
    else:
        if not np.isnan(by_count):
            side = "left" if in_range <= by_count else "right"
            words = f"enough\nby counting:\n{int(by_count)} filters"
            _note(ax, float(by_count), unknowns, 0.3 * unknowns, words, side)
        if not np.isnan(enough):
            side = "left" if enough < 0.8 * rows["filters"].max() else "right"
            _note(ax, float(enough), unknowns, 0.12 * unknowns, f"determined:\n{int(enough)} filters", side)
    if not np.isnan(in_range) and in_range != enough:
        side, height = ("left", 0.42) if by_count < in_range else ("right", 0.12)
        _note(ax, float(in_range), unknowns, height * unknowns, f"with the range:\n{int(in_range)} filters", side)
    if np.isnan(enough):
        ax.text(0.98, 0.05, "not determined\nby any number shown", ha="right", transform=ax.transAxes)


def _note(ax: Any, x: float, y: float, height: float, words: str, side: str) -> None:
    """Point at (x, y) from below, with words beside the arrow's foot."""
    foot = {"left": 0.0, "center": 0.5, "right": 1.0}[side]
    arrow = {"arrowstyle": "->", "color": BLACK, "linewidth": 0.8, "relpos": (foot, 1.0)}
    ax.annotate(words, (x, y), (x, height), ha=side, va="center", arrowprops=arrow, fontsize="small",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip


def _share(value: int | None, unknowns: int) -> float:
    """Return a count as a percentage of the unknowns, NaN where it is not settled."""
    return np.nan if value is None else 100 * value / max(unknowns, 1)


def shares(values: Sequence[int | None], unknowns: Sequence[int]) -> list[float]:
    """Return counts as percentages of the unknowns, NaN where they are not settled.

    >>> shares([3, None], [4, 5])
    [75.0, nan]
    """
    return [_share(value, all_of_them) for value, all_of_them in zip(values, unknowns, strict=True)]
