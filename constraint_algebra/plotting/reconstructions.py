"""A reconstruction beside the truth: image, error, the error that its bars promise, and on what its values rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.plotting.canvas import plain
from constraint_algebra.plotting.maps import ground_map
from constraint_algebra.plotting.pictures import decades, hatching, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constraint_algebra.recursion.result import Reconstruction


def reconstruction(
    result: Reconstruction, truth: FloatArray | None = None, *, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Draw original, reconstruction, absolute error and error bar; without the truth reconstruction and error bar.

    Error and error bar share one logarithmic scale: the largest over the channels of each pixel. What is not
    determined is hatched. Where any value rests on more than the equations, a map of the grounds follows.

    Args:
        result: of a picture, `(1 or 3, height, width)`.
        truth: the original, in the same shape.
        axes: four Axes, or two without the truth; one more for the map of the grounds, which stays empty without one.

    Raises:
        ShapeError: the result is no picture, or the truth has another shape.
    """
    from matplotlib.colors import LogNorm

    if truth is not None and truth.shape != result.input.shape:
        raise ShapeError(f"the truth must have the shape of the result, {result.input.shape}, got {truth.shape}")
    if axes is None:
        import matplotlib.pyplot as plt

        count = (2 if truth is None else 4) + result.beyond_equations
        axes = list(plt.subplots(1, count, figsize=(3.3 * count, 3.4), layout="constrained")[1])
    known = result.determined
    panels = [] if truth is None else [("|error|", np.abs(result.guess - truth))]
    panels.append(("error bar (one standard deviation)", result.error_bar))
    rest = iter(axes)
    if truth is not None:
        picture(truth, title="Original", ax=next(rest))
    picture(result.guess, determined=known, title="Reconstruction", ax=next(rest))
    values = np.concatenate([panel[known] for _, panel in panels])
    low, high = decades(values)
    for title, panel in panels:
        ax = next(rest)
        largest = np.where(known, panel, 0.0).max(axis=0)
        shown = ax.imshow(np.maximum(largest, low), cmap="inferno", norm=LogNorm(low, high), interpolation="nearest")
        if not known.all():
            height, width = known.shape[1:]
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            ax.imshow(hatching(np.logical_not(known.all(axis=0))), interpolation="nearest", extent=extent)
        bar = ax.figure.colorbar(shown, ax=ax, fraction=0.046, pad=0.04)
        bar.set_label("largest over channels\n(values lie in [0, 1])")
        plain(ax, title)
    left = next(rest, None)
    if left is not None and result.beyond_equations:
        ground_map(result.ground, ax=left)
    return axes
