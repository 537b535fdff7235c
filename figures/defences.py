"""What an observer is left with under each defence: solved layers, determined values, PSNR, and the picture.

python -m figures.defences
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import constraint_algebra as ca
from analysis.defences import PICTURED, Run
from analysis.runner import arrays_path
from figures.command import run
from figures.style import BLUE, VERMILION

ACTIVATION = "LeakyReLU(0.2)"
TALLEST = 150.0  # decibels at which bars are cut off: beyond it all pictures are exact to the eye


def draw(results: Path) -> Figure:
    """Return the figure: one row a defence."""
    data = pd.read_csv(results / "defences.csv")
    data = data[data.activation == ACTIVATION]
    groups = list(data.groupby(["kind", "strength"], sort=False, dropna=False))
    figure = Figure(figsize=(9.5, 0.36 * len(groups) + 1.3), layout="constrained")
    axes = figure.subplots(len(groups), 3, width_ratios=(4, 6, 1), squeeze=False)
    for row, ((kind, strength), d) in zip(axes, groups, strict=True):
        name = kind if pd.isna(strength) or not strength else f"{kind}, {strength}"
        _words(row[0], name, d)
        _bar(row[1], d)
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
    figure.suptitle("What is left of a picture under each defence (LeNet-O at 16×16, LeakyReLU, float64)")
    return figure


def _words(ax: Axes, name: str, d: pd.DataFrame) -> None:
    ax.axis("off")
    solved = d.solved_layers.median()
    ax.text(0, 0.5, name, va="center", transform=ax.transAxes)
    ax.text(
        1,
        0.5,
        f"{solved:.0f} of {d.layers.iloc[0]} layers solved",
        va="center",
        ha="right",
        fontsize=7,
        transform=ax.transAxes,
    )


def _bar(ax: Axes, d: pd.DataFrame) -> None:
    psnr, full = d.psnr_db.clip(upper=TALLEST), bool((d.determined_share == 1).all())
    look = {"color": BLUE} if full else {"color": "white", "edgecolor": VERMILION, "hatch": "////"}
    ax.barh(0, psnr.mean(), height=0.7, **look)
    ax.plot([psnr.min(), psnr.max()], [0, 0], color="black", lw=1.2, marker="", ls="-")
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
