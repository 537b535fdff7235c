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
from figures.save import save

OUT = Path(__file__).parent / "twin_gallery"


def draw() -> Figure:
    """Return the figure: one row a photograph."""
    data = ca.load(RESULT)
    count = len(data["original"])
    figure = Figure(figsize=(8.4, 2.05 * count + 0.7), layout="constrained")
    titles = ("Photograph", "Another one", "Nearest twin to it", "|Twin − photograph|")
    columns = (data[name] for name in ("original", "target", "twin", "relative"))
    rows = zip(figure.subplots(count, 4, squeeze=False), *columns, strict=True)
    for number, (axes, original, target, twin, relative) in enumerate(rows):
        shown = titles if number == 0 else ("",) * 4
        for ax, image, title in zip(axes, (original, target, twin), shown, strict=False):
            plotting.picture(image, title=title, ax=ax)
        axes[2].set_xlabel(f"gradients: {relative:.0e} apart", fontsize=9)
        plotting.difference(twin - original, title=shown[3], ax=axes[3])
    figure.suptitle(
        f"Different images, the same gradient of every parameter ({FILTERS} filters 5/2/2 and ReLU)\n"
        "“apart”: largest difference of any gradient, relative to the largest gradient, in float64",
        fontsize=11,
    )
    return figure


if __name__ == "__main__":
    save(draw(), OUT)
