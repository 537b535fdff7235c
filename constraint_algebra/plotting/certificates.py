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

DOT, RING = 4.0, 6.0  # radii of a dot and of the white ring around it, on a grid of 16
LINE, ARM = 1.5, 6.5  # half the width and half the length of a cross's bars, on the same grid


def certificate(
    image: FloatArray,
    *,
    fixed: BoolArray,
    ambiguous: BoolArray,
    width: FloatArray,
    twin: FloatArray | None,
    axes: Sequence[Axes],
    in_region: BoolArray | None = None,
    by_range: BoolArray | None = None,
) -> Sequence[Axes]:
    """Draw image, verdicts, range over the twins, strongest twin and difference on five Axes.

    Args:
        image: `(channels, height, width)` in [0, 1], as all arrays here.
        fixed: values with that verdict; for a pixel with several channels the share of them counts.
        ambiguous: values with that verdict.
        width: range of each value over all verified twins; the largest over the channels is shown.
        twin: the strongest twin, `None` where there is none.
        axes: five Axes.
        in_region: values that are fixed in their region only; none of them if left out.
        by_range: values that are fixed given the range, not by equations alone; none of them if left out.
    """
    picture(image, title="Image", ax=axes[0])
    none = np.zeros_like(fixed)
    _verdicts(
        fixed, none if in_region is None else in_region, ambiguous, none if by_range is None else by_range, axes[1]
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


def _verdicts(fixed: BoolArray, in_region: BoolArray, ambiguous: BoolArray, by_range: BoolArray, ax: Axes) -> None:
    """Draw the verdicts: white fixed, white with dots fixed in the region, hatched undecided, black ambiguous.

    Crosses mark what rests on the range as well. Grey is the share of channels that is fixed, of either kind, so that
    print in grey keeps the meaning.
    """
    height, across = fixed.shape[1:]
    extent = (-0.5, across - 0.5, height - 0.5, -0.5)
    undecided = ~fixed & ~in_region & ~ambiguous
    shown = ax.imshow((fixed | in_region).mean(axis=0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    title = f"Fixed: {int(fixed.sum()):,} of {fixed.size:,} values"
    if in_region.any():
        ax.imshow(dotted(np.asarray(in_region.any(axis=0))), interpolation="nearest", extent=extent)
        title += f"\n(dotted: {int(in_region.sum()):,} in their region)"
    if by_range.any():
        ax.imshow(crossed(np.asarray(by_range.any(axis=0))), interpolation="nearest", extent=extent)
        title += f"\n(crossed: {int(by_range.sum()):,} given the range)"
    if undecided.any():
        ax.imshow(hatching(np.asarray(undecided.any(axis=0))), interpolation="nearest", extent=extent)
        title += "\n(hatched: undecided)"
    ax.figure.colorbar(shown, ax=ax, fraction=0.046, pad=0.04).set_label("share of channels that is fixed")
    plain(ax, title)


def dotted(mask: BoolArray) -> FloatArray:
    """Return an RGBA picture of about 512 dots a side: black dots in white rings where the mask is true.

    >>> dotted(np.array([[True, False]])).shape
    (256, 512, 4)
    """
    fine, across, down = _in_detail(mask)
    far = np.hypot(across, down)
    colours = np.where((far < DOT)[..., None], (0.0, 0.0, 0.0, 1.0), (1.0, 1.0, 1.0, 1.0))
    return np.asarray(colours * (fine & (far < RING))[..., None])


def crossed(mask: BoolArray) -> FloatArray:
    """Return an RGBA picture of about 512 dots a side: black crosses with white edges where the mask is true.

    >>> crossed(np.array([[True, False]])).shape
    (256, 512, 4)
    """
    fine, across, down = _in_detail(mask)
    near, long = np.minimum(np.abs(across), np.abs(down)), np.maximum(np.abs(across), np.abs(down))
    colours = np.where(((near < LINE) & (long < ARM))[..., None], (0.0, 0.0, 0.0, 1.0), (1.0, 1.0, 1.0, 1.0))
    return np.asarray(colours * (fine & (near < LINE + 1) & (long < ARM + 1))[..., None])


def _in_detail(mask: BoolArray) -> tuple[BoolArray, FloatArray, FloatArray]:
    """Return a mask of about 512 dots a side, and how far each dot lies from its sign's middle, on a grid of 16."""
    detail = -(-512 // max(mask.shape))
    fine = np.kron(mask, np.ones((detail, detail), dtype=bool))
    pitch = min(16, detail)  # a pixel has one sign at least
    place = [((np.arange(size) + 0.5) % pitch - pitch / 2) * 16 / pitch for size in fine.shape]
    across, down = np.meshgrid(*place, indexing="ij")
    return fine, across, down
