"""What an observer reads from a digit network's gradients while it learns.

python -m figures.training
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.command import run
from figures.style import SERIES


def draw(results: Path) -> Figure:
    """Return the figure: learning, size of the gradient, quality without and with noise, condition."""
    data = pd.read_csv(results / "training.csv")
    noise = data.noise.max()
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True).ravel()
    clean, noisy = data[data.noise == 0], data[data.noise == noise]
    _lines(axes[0], clean, "accuracy", "share of digits told right\n(not trained on)")
    _lines(axes[1], clean, "gradient_norm", "norm of the gradient of one digit")
    axes[1].set_yscale("log")
    _lines(axes[2], clean, "rank_share", "rank of the first layer's equations\nover its unknowns")
    axes[2].set_ylim(0, 1.05)
    _lines(axes[3], clean, "psnr_db", "PSNR, dB,\nfloat32 gradients without noise")
    _lines(axes[4], noisy, "psnr_db", f"PSNR, dB, with noise of {noise:g}\non every entry")
    _lines(axes[5], clean, "first_layer_condition", "condition of the first layer")
    axes[5].set_yscale("log")
    for ax in axes[3:5]:
        ax.axhline(data.grey_psnr_db.mean(), color="0.4", lw=0.8, ls=":")
        ax.set_ylim(0, 165)
    for ax in axes[3:]:
        ax.set_xlabel("epochs")
    axes[0].legend(loc="lower right")
    digits = data.digit.nunique()
    figure.suptitle(
        f"Reconstruction while a network learns (median and range over {digits} digits; dotted: plain mid-grey)"
    )
    return figure


def _lines(ax: Axes, data: pd.DataFrame, column: str, label: str) -> None:
    for (activation, d), look in zip(data.groupby("activation"), SERIES, strict=False):
        groups = d.groupby("epochs")[column]
        ax.fill_between(groups.min().index, groups.min(), groups.max(), color=look["color"], alpha=0.15, lw=0)
        ax.plot(groups.median(), label=activation, **look)
    ax.set_xscale("symlog", linthresh=1)
    epochs = sorted(data.epochs.unique())
    ax.set_xticks(epochs, [str(epoch) for epoch in epochs])
    ax.minorticks_off()
    ax.set_ylabel(label)


if __name__ == "__main__":
    run(Path(__file__).stem)
