"""Singular values, with the noise floor and the cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.equations.systems import LinearSystem
from constraint_algebra.errors import ParameterError
from constraint_algebra.numerics.rows import unit_rows
from constraint_algebra.plotting.canvas import axes_or_new
from constraint_algebra.plotting.look import BLACK, BLUE, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTHING = 1e-18  # of the largest: zeros are drawn there, on the floor


def singular_values(
    values: ArrayLike | LinearSystem,
    *,
    cut: float | None = None,
    noise_floor: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw singular values in descending order on a logarithmic scale.

    Args:
        values: the singular values, or a system with values, whose rows are scaled to unit norm first.
        cut: the tolerance of a rank; how many values are above it is said in the legend.
        noise_floor: what noise makes of a singular value that is zero; the region below it is shaded.
        ax: the Axes.

    Raises:
        ParameterError: a system from shapes alone, or no values.
    """
    if isinstance(values, LinearSystem):
        from constraint_algebra.numerics.null_space import singular_values as of_matrix

        if values.values is None:
            raise ParameterError(
                "values", "a system from shapes alone has no singular values; give it its weight or gradient"
            )
        values = of_matrix(unit_rows(values.matrix)[0])
    sigma = np.sort(np.asarray(values, dtype=float))[::-1]
    if not sigma.size:
        raise ParameterError("values", "there are no singular values to draw")
    ax = axes_or_new(ax)
    lowest = NOTHING * (sigma[0] or 1.0)
    numbers, drawn = np.arange(1, len(sigma) + 1), np.maximum(sigma, lowest)
    line = {"color": BLUE, "linestyle": "-", "marker": ".", "markersize": 3}
    ax.semilogy(numbers, drawn, label=f"{len(sigma):,} singular values", **line)
    if noise_floor is not None:
        above = int((sigma > noise_floor).sum())
        shade: dict[str, Any] = {
            "facecolor": VERMILION,
            "edgecolor": VERMILION,
            "alpha": 0.15,
            "hatch": "//",
            "linewidth": 0,
        }
        ax.axhspan(lowest / 10, noise_floor, label=f"noise floor {noise_floor:.1e}: {above:,} above it", **shade)
    if cut is not None:
        ax.axhline(cut, color=BLACK, linestyle="--", label=f"cut {cut:.1e}: rank {int((sigma > cut).sum()):,}")
    lines = [limit for limit in (cut, noise_floor) if limit]
    bottom = lowest if sigma[-1] <= lowest else min([float(sigma[-1]), *lines])
    ax.set(xlabel="number", ylabel="singular value", ylim=(bottom / 5, 5 * (sigma[0] or 1.0)))
    ax.legend(loc="best")
    return ax
