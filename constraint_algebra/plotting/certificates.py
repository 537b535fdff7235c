"""A certificate: the image, what is proven about it, and the strongest twin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.plotting.canvas import plain
from constraint_algebra.plotting.pictures import difference, hatching, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def certificate(
    image: FloatArray,
    *,
    fixed: BoolArray,
    ambiguous: BoolArray,
    width: FloatArray,
    twin: FloatArray | None,
    axes: Sequence[Axes],
) -> Sequence[Axes]:
    """Draw image, verdicts, range over the twins, strongest twin and difference on five Axes.

    Args:
        image: `(channels, height, width)` in [0, 1], as all arrays here.
        fixed: values with that verdict; for a pixel with several channels the share of them counts.
        ambiguous: values with that verdict.
        width: range of each value over all verified twins; the largest over the channels is shown.
        twin: the strongest twin, `None` where there is none.
        axes: five Axes.
    """
    picture(image, title="Image", ax=axes[0])
    shares = np.stack([fixed.mean(axis=0), (~fixed & ~ambiguous).mean(axis=0), ambiguous.mean(axis=0)])
    # Grey by the share that is fixed, so that print in grey keeps the meaning; undecided pixels are hatched.
    shown = axes[1].imshow(shares[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    height, across = image.shape[1:]
    if shares[1].any():
        extent = (-0.5, across - 0.5, height - 0.5, -0.5)
        axes[1].imshow(hatching(shares[1] > 0), interpolation="nearest", extent=extent)
    bar = axes[1].figure.colorbar(shown, ax=axes[1], fraction=0.046, pad=0.04)
    bar.set_label("share of channels that is fixed")
    plain(
        axes[1],
        f"Fixed: {int(fixed.sum()):,} of {fixed.size:,} values" + "\n(hatched: undecided)" * bool(shares[1].any()),
    )
    shown = axes[2].imshow(width.max(axis=0), cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    bar = axes[2].figure.colorbar(shown, ax=axes[2], fraction=0.046, pad=0.04)
    bar.set_label("width of the range over twins\n(largest channel)")
    plain(axes[2], "What stays open")
    if twin is None:
        for ax in axes[3:]:
            ax.text(0.5, 0.5, "no twin", ha="center", va="center", transform=ax.transAxes)
            plain(ax, "")
        return axes
    picture(twin, title="Strongest twin,\nsame gradients", ax=axes[3])
    difference(twin - image, title="|Twin − image|", ax=axes[4])
    return axes
