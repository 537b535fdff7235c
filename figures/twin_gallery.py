"""Photographs of CIFAR-10, a twin of each, and how little their gradients differ.

    python -m figures.twin_gallery

Draws analysis/results/twin_gallery.npz into figures/twin_gallery.png and .pdf.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

import constraint_algebra as ca
from analysis.twin_gallery import FILTERS, RESULT
from constraint_algebra import plotting

OUT = Path(__file__).parent / "twin_gallery"


def draw() -> Figure:
    """Return the figure: one row a photograph."""
    data = ca.load(RESULT)
    count = len(data["original"])
    figure = Figure(figsize=(9, 2.35 * count), layout="constrained")
    for axes, original, twin, relative in zip(
        figure.subplots(count, 3), data["original"], data["twin"], data["relative"], strict=True
    ):
        plotting.picture(original, title="Photograph", ax=axes[0])
        plotting.picture(twin, title=f"Twin: gradients differ by {relative:.0e}\nof the largest", ax=axes[1])
        plotting.difference(twin - original, title="|Twin − photograph|", ax=axes[2])
    figure.suptitle(f"Different images, the same gradient of every parameter\n({FILTERS} filters 5/2/2 and ReLU)")
    return figure


def save(figure: Figure, out: Path) -> None:
    """Write PNG and PDF without dates, so that the same data make the same bytes."""
    figure.savefig(out.with_suffix(".png"), dpi=150, metadata={"Software": None})
    figure.savefig(out.with_suffix(".pdf"), metadata={"CreationDate": None, "Producer": None, "Creator": None})


if __name__ == "__main__":
    save(draw(), OUT)
