"""What an observer is left with under each defence: solved layers, rank, determined values, PSNR, and the picture.

python -m figures.defences
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import constraint_algebra as ca
from analysis.defences import PICTURED, Run
from analysis.runner import arrays_path
from figures.command import run
from figures.style import BLUE, VERMILION

# Activation of the last convolution: place and height of its bar, place of its figures.
LINES = {"LeakyReLU(0.2)": (0.2, 0.5, 0.7), "ReLU": (-0.27, 0.24, 0.26)}
ACTIVATION = "LeakyReLU(0.2)"  # of the pictures
COLUMNS = {0.52: "layers solved", 0.74: "rank", 1.0: "determined"}
TALLEST = 150.0  # decibels at which bars are cut off: beyond it all pictures are exact to the eye


def draw(results: Path) -> Figure:
    """Return the figure: one row a defence."""
    data = pd.read_csv(results / "defences.csv")
    groups = list(data.groupby(["kind", "strength"], sort=False, dropna=False))
    figure = Figure(figsize=(11, 0.4 * len(groups) + 1.7), layout="constrained")
    axes = figure.subplots(len(groups), 3, width_ratios=(7, 6, 1), squeeze=False)
    for row, ((kind, strength), d) in zip(axes, groups, strict=True):
        row[0].axis("off")
        row[0].text(0, 0.5, kind if pd.isna(strength) or not strength else f"{kind}, {strength}", va="center")
        for activation, (at, height, line) in LINES.items():
            own = d[d.activation == activation]
            if len(own):
                _words(row[0], line, own)
                _bar(row[1], at, height, own)
        _picture(row[2], results, kind, "" if pd.isna(strength) else str(strength))
    axes[-1, 1].set_xlabel(
        f"PSNR, dB (mean and range over {data.image.nunique()} samples; cut off at {TALLEST:.0f})\n"
        "full: every value determined, hatched: part or none; dotted: plain mid-grey"
    )
    axes[-1, 1].tick_params(labelbottom=True, bottom=True)
    axes[-1, 1].spines["bottom"].set_visible(True)
    axes[0, 1].set_title("how close the picture comes")
    axes[0, 2].set_title(f"cifar10:{PICTURED}")
    axes[0, 0].set_title("defence", loc="left")
    for at, words in COLUMNS.items():
        axes[0, 0].annotate(words, (at, 1), (0, 6), ha="right", textcoords="offset points", fontsize=8)
    figure.suptitle(
        "What is left of a picture under each defence (LeNet-O at 16×16, float64)\n"
        "Last convolution: thick bar, upper line and picture LeakyReLU; thin bar, lower line ReLU."
        " Rank: smallest of all layers, of what was sent",
        fontsize=10,
    )
    return figure


def _words(ax: Axes, line: float, d: pd.DataFrame) -> None:
    solved = f"{d.solved_layers.median():.0f} of {d.layers.iloc[0]}"
    for at, words in zip(
        COLUMNS, (solved, _share(d.exact_rank_share.mean()), _share(d.determined_share.mean())), strict=True
    ):
        ax.text(at, line, words, va="center", ha="right", fontsize=7)


def _share(value: float) -> str:
    """Return a percentage, 100 for all and no less.

    >>> _share(0.999), _share(1.0)
    ('99 %', '100 %')
    """
    return f"{math.floor(100 * value):.0f} %"


def _bar(ax: Axes, at: float, height: float, d: pd.DataFrame) -> None:
    psnr, full = d.psnr_db.clip(upper=TALLEST), bool((d.determined_share == 1).all())
    look = {"color": BLUE} if full else {"color": "white", "edgecolor": VERMILION, "hatch": "////"}
    ax.barh(at, psnr.mean(), height=height, **look)
    ax.plot([psnr.min(), psnr.max()], [at, at], color="black", lw=1.2, marker="", ls="-")
    ax.axvline(d.grey_psnr_db.mean(), color="black", lw=0.8, ls=":")
    ax.set(xlim=(0, TALLEST), ylim=(-0.6, 0.6), yticks=[])
    ax.tick_params(labelbottom=False, bottom=False)
    ax.spines[["left", "bottom"]].set_visible(False)


def _picture(ax: Axes, results: Path, kind: str, strength: str) -> None:
    path = arrays_path(results / "defences.csv", Run(kind, strength, ACTIVATION, PICTURED))
    ax.imshow(ca.load(path)["guess"], interpolation="nearest")
    ax.axis("off")


if __name__ == "__main__":
    run(Path(__file__).stem)
