"""A photograph, what one gradient gives away of it, and the error.

python -m figures.reconstruction
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

import constraint_algebra as ca
from analysis.photograph import Run
from analysis.runner import arrays_path
from constraint_algebra import plotting
from figures.command import run


def draw(results: Path) -> Figure:
    """Return the figure, in float64."""
    images = ca.load(arrays_path(results / "photograph.csv", Run("float64")))
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = list(figure.subplots(1, 3))
    plotting.comparison(images["truth"], images["reconstruction"], determined=images["determined"], axes=axes)
    for ax in figure.axes:
        ax.grid(visible=False)
    return figure


if __name__ == "__main__":
    run(Path(__file__).stem)
