"""Maps of a layer's input: residue classes, which equations fix which pixel, and on what each value known rests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from constraint_algebra.arrays import BoolArray, GroundArray
from constraint_algebra.errors import ParameterError, ShapeError
from constraint_algebra.ground import Ground
from constraint_algebra.networks.description import shape_text
from constraint_algebra.plotting.canvas import axes_or_new, plain
from constraint_algebra.plotting.look import BLACK, BLUE, GROUND_LOOKS, MUTED, PALETTE, SKY, VERMILION, YELLOW, ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constraint_algebra.layers.kinds import PlacedLayer


OPEN = 255  # as in `recursion.result`: not determined
NUMBERED = 256  # pixels up to which each shows the number of its residue class
# What fixes a pixel, with colour and hatch: the darker, the more equations can.
KINDS = {
    "not determined": ("white", "xx"),
    "only both together": (YELLOW, ""),
    "weight equations alone": (SKY, ".."),
    "gradient equations alone": (VERMILION, "//"),
    "either kind alone": (BLUE, ""),
}
# On what a pixel rests: the weaker, the lighter.
GROUNDS = {
    **{ground.label: look for ground, look in zip(Ground, GROUND_LOOKS, strict=True)},
    "not determined": ("white", "xx"),
}


def determinacy_map(
    layer: PlacedLayer, *, active: ArrayLike | None = None, seed: int = 0, ax: Axes | None = None
) -> Axes:
    """Draw which equations determine each input pixel of a layer, for almost all weights and output gradients.

    A pixel counts where all of its channels are determined.

    Args:
        layer: a layer with one or two spatial axes.
        active: which of its outputs are active, in the output shape; by default all.
        seed: of the random residues behind the generic rank.
        ax: the Axes.

    Raises:
        ShapeError: an input with other axes.
    """
    from constraint_algebra.ranks.generic import generic_rank

    found = {
        kinds: generic_rank(layer, kinds=kinds, active=active, seed=seed).determined
        for kinds in (("weight",), ("gradient",), ("weight", "gradient"))
    }
    return determinacy_classes(*found.values(), ax=ax)


def determinacy_classes(
    weight: BoolArray | None, gradient: BoolArray | None, both: BoolArray | None, *, ax: Axes | None = None
) -> Axes:
    """Draw a map from three masks `(channels, *positions)`: what weight equations, gradient equations, all determine.

    Raises:
        ShapeError: masks of other axes or of different shapes, or `None` for one that was too large to settle.
    """
    if weight is None or gradient is None or both is None:
        raise ShapeError("the layer is too large for an exact map; choose a smaller input or fewer channels")
    if not weight.shape == gradient.shape == both.shape or both.ndim not in {2, 3}:
        shapes = ", ".join(shape_text(mask.shape) for mask in (weight, gradient, both))
        raise ShapeError(f"a map needs three masks (channels, height, width) or (channels, length), got {shapes}")
    W, G, all_kinds = (np.atleast_2d(mask.all(axis=0)) for mask in (weight, gradient, both))
    classes = np.select([W & G, G, W, all_kinds], [4, 3, 2, 1], default=0)
    ax = axes_or_new(ax)
    _classes(ax, classes, KINDS)
    return plain(ax, f"Determined: {int(all_kinds.sum()):,} of {all_kinds.size:,} pixels")


def ground_map(ground: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Draw on what each pixel of a reconstruction rests: the weakest ground of its channels.

    A pixel counts as determined where all of its channels are. The legend names the grounds that occur.

    Args:
        ground: of a `Reconstruction`, `(channels, height, width)` or `(channels, length)`: numbers of `Ground`, and
            255 for what is not determined.
        ax: the Axes.

    Raises:
        ShapeError: an input with other axes, or without values.
        ParameterError: anything but numbers of grounds.
    """
    ground = _checked_grounds(ground)
    weakest = np.minimum(np.atleast_2d(ground.max(axis=0)), len(GROUNDS) - 1)
    ax = axes_or_new(ax)
    _classes(ax, weakest, GROUNDS, below=True)
    return plain(ax, "On what each pixel rests")


def _checked_grounds(grounds: ArrayLike) -> GroundArray:
    ground = np.asarray(grounds)
    if ground.ndim not in {2, 3}:
        raise ShapeError(
            f"a map of grounds needs (channels, height, width) or (channels, length), got {shape_text(ground.shape)}"
        )
    if not ground.size:
        raise ShapeError(f"a map of grounds needs values, got none: {shape_text(ground.shape)}")
    known = f"numbers of Ground, 0 to {max(Ground)}, and {OPEN} where nothing is determined"
    if not np.issubdtype(ground.dtype, np.integer):
        raise ParameterError("ground", f"ground must hold {known}, got {ground.dtype}; give that of a Reconstruction")
    wrong = ground[~np.isin(ground, [*Ground, OPEN])]
    if wrong.size:
        raise ParameterError("ground", f"ground must hold {known}, got {wrong[0]}; give that of a Reconstruction")
    return np.asarray(ground, dtype=np.uint8)


def residue_classes(layer: PlacedLayer, ax: Axes | None = None) -> Axes:
    """Draw the residue classes of a layer: pixels of different classes never meet in a gradient equation.

    Every pixel has the colour of its class, and in small maps its number; the legend says how many taps reach it, and
    how many pixels there are.

    Raises:
        ShapeError: an input with more than two spatial axes.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    from constraint_algebra.layers.incidence import incidence

    if len(layer.positions) not in {1, 2}:
        raise ShapeError(f"a map needs one or two spatial axes, the layer's input is {shape_text(layer.input_shape)}")
    S = incidence(layer)
    numbers = np.full(int(np.prod(layer.positions)), -1)
    for number, (_, pixels) in enumerate(S.classes):
        numbers[pixels] = number
    count = len(S.classes)
    colours = [*PALETTE[1:], MUTED] if count <= len(PALETTE) else list(colormaps["cividis"](np.linspace(0, 1, count)))
    ax = axes_or_new(ax)
    ax.imshow(
        np.atleast_2d(numbers.reshape(layer.positions)),
        cmap=ListedColormap(colours[:count]).with_extremes(under="white"),
        vmin=-0.5,
        vmax=count - 0.5,
        interpolation="nearest",
    )
    if numbers.size <= NUMBERED:
        for (y, x), number in np.ndenumerate(np.atleast_2d(numbers.reshape(layer.positions))):
            if number >= 0:
                ax.text(x, y, str(number), ha="center", va="center", fontsize=7, color=ink(colours[number]))
    if count <= 9:
        _legend(
            ax,
            {
                f"class {n}: {len(taps)} tap{'s' * (len(taps) != 1)}": (colours[n], "", len(pixels))
                for n, (taps, pixels) in enumerate(S.classes)
            },
        )
    return plain(ax, f"{count} residue class{'es' * (count != 1)}")


def _classes(
    ax: Any, classes: NDArray[np.integer[Any]], looks: dict[str, tuple[str, str]], *, below: bool = False
) -> None:
    """Draw numbers of classes as pixels of their looks, with a legend of those that occur."""
    from matplotlib.colors import ListedColormap

    colours = ListedColormap([colour for colour, _ in looks.values()])
    ax.imshow(classes, cmap=colours, vmin=-0.5, vmax=len(looks) - 0.5, interpolation="nearest")
    _hatch(ax, classes, looks)
    counted = {name: (*look, int((classes == n).sum())) for n, (name, look) in enumerate(looks.items())}
    _legend(ax, counted, below=below)


def _hatch(ax: Any, classes: NDArray[np.integer[Any]], looks: dict[str, tuple[str, str]]) -> None:
    """Hatch the pixels of the classes that have a pattern, so that the map survives print in grey."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    for number, (_, pattern) in enumerate(looks.values()):
        places = np.argwhere(classes == number)
        if pattern and len(places):
            squares = [Rectangle((x - 0.5, y - 0.5), 1, 1) for y, x in places]
            collection = PatchCollection(squares, facecolor="none", edgecolor=BLACK, linewidth=0, hatch=pattern)
            collection.set_alpha(0.6)
            ax.add_collection(collection)


def _legend(ax: Any, looks: dict[str, tuple[Any, str, int]], *, below: bool = False) -> None:
    """Put a legend beside a map, or below it: names with the number of pixels, those that occur."""
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=colour, hatch=hatch, edgecolor=BLACK, linewidth=0.5, label=f"{name} ({count:,})")
        for name, (colour, hatch, count) in looks.items()
        if count
    ]
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
    if below:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.03), "ncols": 2}
    ax.legend(handles=patches, title="(number of pixels)", **place)
