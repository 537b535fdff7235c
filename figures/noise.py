"""The error measured and the error that the error bars predict, over noise and precision.

python -m figures.noise
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from figures.command import run
from figures.style import SERIES

# Where two precisions guess alike, one mark is seen inside the other.
GUESSES: dict[str, dict[str, Any]] = {
    "float64": {"marker": "x", "ms": 9, "mew": 0.9},
    "float32": {"marker": "+", "ms": 7, "mew": 1.1},
    "bfloat16": {"marker": "1", "ms": 6, "mew": 1.1},
}
NONE = 1e-10  # where no noise is drawn on a logarithmic axis


def draw(results: Path) -> Figure:
    """Return the figure: one panel an activation; lines are promised, hollow markers measured, crosses guesses."""
    data = pd.read_csv(results / "noise.csv")
    data["at"] = data.noise.where(data.noise > 0, NONE)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    activations = list(dict.fromkeys(data.activation))
    for ax, activation in zip(figure.subplots(1, len(activations), sharey=True), activations, strict=True):
        for (dtype, d), look in zip(
            data[data.activation == activation].groupby("dtype", sort=False), SERIES, strict=False
        ):
            known = d[d.determined_share == 1]
            shown = (f"{dtype}: promised by the error bars", f"{dtype}: measured, every value determined")
            if known.empty:
                shown = ("", "")
            promised = known.groupby("at").promised_psnr_db.mean()
            ax.plot(promised, color=look["color"], ls=look["ls"], marker="", label=shown[0])
            mark = {"marker": look["marker"], "mfc": "none", "color": look["color"], "ls": ""}
            ax.plot(known["at"], known.determined_psnr_db, label=shown[1], **mark)
            rest = d[d.determined_share < 1]
            ax.plot(rest["at"], rest.psnr_db, ls="", color=look["color"], label=f"{dtype}: guess, not determined",
                    **GUESSES[dtype])  # fmt: skip
        ax.axhline(data.grey_psnr_db.mean(), color="0.4", lw=0.8, ls=":")
        ax.annotate("plain mid-grey", (0.2, data.grey_psnr_db.mean()), ha="right", va="top", fontsize=7, xytext=(0, -2),
                    textcoords="offset points")  # fmt: skip
        ax.set(xscale="log", title=f"{activation} in the last convolution")
        ax.set_xticks([NONE, 1e-9, 1e-7, 1e-5, 1e-3, 1e-1], ["none", "1e-9", "1e-7", "1e-5", "1e-3", "1e-1"])
        ax.minorticks_off()
        ax.set_xlabel("noise, relative to the RMS of each gradient")
    figure.axes[0].set_ylabel("PSNR, dB")
    figure.axes[-1].legend(loc="upper right")
    figure.suptitle(f"Error predicted and error measured ({data.image.nunique()} CIFAR-10 samples at 16×16)")
    return figure


if __name__ == "__main__":
    run(Path(__file__).stem)
