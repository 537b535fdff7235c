"""Photographs of CIFAR-10, a twin of each, and how little their gradients differ.

python -m figures.twin_gallery
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import constraint_algebra as ca
from analysis.runner import arrays_path
from analysis.twin_gallery import FILTERS, Run
from constraint_algebra import plotting
from figures.command import run


def draw(results: Path) -> Figure:
    """Return the figure: one row a photograph."""
    path = results / "twin_gallery.csv"
    data = pd.read_csv(path)
    figure = Figure(figsize=(8.4, 2.05 * len(data) + 0.7), layout="constrained")
    titles = ("Photograph", "Another one", "Nearest twin to it", "|Twin − photograph|")
    for number, (axes, row) in enumerate(
        zip(figure.subplots(len(data), 4, squeeze=False), data.itertuples(), strict=True)
    ):
        shown = titles if number == 0 else ("",) * 4
        images = ca.load(arrays_path(path, Run(row.original, row.target)))
        for ax, name, title in zip(axes, ("original", "target", "twin"), shown, strict=False):
            plotting.picture(images[name], title=title, ax=ax)
        axes[2].set_xlabel(f"gradients: {row.relative:.0e} apart")
        plotting.difference(images["twin"] - images["original"], title=shown[3], ax=axes[3])
        for ax in axes:
            ax.grid(visible=False)
    figure.suptitle(
        f"Different images, the same gradient of every parameter ({FILTERS} filters 5/2/2 and ReLU)\n"
        "“apart”: largest difference of any gradient, relative to the largest gradient, in float64",
        fontsize=11,
    )
    return figure


if __name__ == "__main__":
    run(Path(__file__).stem)
