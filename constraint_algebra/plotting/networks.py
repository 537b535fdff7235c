"""A network as a picture: its layers as boxes, arrows for what each reads, shortcuts beside the main way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from constraint_algebra.errors import ParameterError
from constraint_algebra.plotting.boxes import MOST, Box, boxes, graph
from constraint_algebra.plotting.layout import ABOVE, BOX, HEIGHT, Layout, layout
from constraint_algebra.plotting.look import BLACK, BLUE, VERMILION, YELLOW

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constraint_algebra.networks.network import Network

INCHES = 0.8  # of a row in a figure of its own
FILL = "#8ecbf0"  # SKY, lighter: words are read on it
BAR = 0.26  # height that bars take from a box
LINE = 0.19  # height of a line of words, in rows
CHARACTER = 0.68  # width of a character over the size of its font, bold ones among them
# Fill, and width of the frame: the sorts of boxes differ in print as well.
LOOKS = {
    "input": ("white", 1.6),
    "weight": (FILL, 0.8),
    "module": (FILL, 1.6),
    "join": (YELLOW, 0.8),
    "selection": ("#dddddd", 0.8),
    "other": ("white", 0.8),
}
BARS = {"values": (BLUE, ""), "gradients": (VERMILION, "////")}


def architecture(
    shown: Network,
    *,
    values: Mapping[str, float] | None = None,
    gradients: Mapping[str, float] | None = None,
    most: int = MOST,
    ax: Axes | None = None,
) -> Axes:
    """Draw a network from top to bottom, in several columns if it is long.

    A layer with a weight is a box, with the batch norm, activation and pooling that follow it; so is an addition or a
    concatenation. Boxes beyond `most` are folded by the modules that their names state.

    Args:
        shown: the network.
        values: known shares, from 0 to 1, of what layers make, by the name of the layer or "input": bars in the boxes.
        gradients: known shares of their gradients, likewise.
        most: number of boxes beyond which modules are folded.
        ax: the Axes; by default those of a new figure that is as large as the network needs.

    Raises:
        ParameterError: a share of something that is no layer.
    """
    flows = {name: given for name, given in (("values", values), ("gradients", gradients)) if given is not None}
    for name, given in flows.items():
        if unknown := sorted(set(given) - {"input", *(layer.name for layer in shown.layers)}):
            raise ParameterError(name, f"{name}: {unknown[0]!r} is no layer of the network; give shares by their names")
    found = boxes(shown, most)
    places = layout(graph(found))
    ax = _axes(ax, places, 0.4 if flows else 0.0)
    points = _points(ax)
    for line in places.arrows.values():
        _arrow(ax, line, points)
    for number, box in enumerate(found):
        _box(ax, box, places.places[number], points, flows)
    title = f"{len(shown.layers)} layers, {shown.parameter_count:,} parameters"
    if flows:
        _legend(ax, flows)
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def _axes(ax: Axes | None, places: Layout, below: float) -> Any:
    """Return the Axes given, or new ones of the size of the drawing with some inches below, with their limits set."""
    width, height = places.width + 0.4, places.depth + HEIGHT + ABOVE + 0.3
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(figsize=(INCHES * width + 0.2, INCHES * height + 0.5 + below), layout="constrained")[1]
    ax.set(xlim=(-0.2, places.width + 0.2), ylim=(-places.depth - HEIGHT / 2 - 0.3, ABOVE + HEIGHT / 2))
    ax.set_aspect("equal")
    return ax


def _points(ax: Any) -> float:
    """Return how many points a row is high, as the Axes are now."""
    frame = ax.get_window_extent()
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    pixels = min(frame.width / (right - left), frame.height / (high - low))
    return float(72 * pixels / ax.figure.dpi)


def _arrow(ax: Any, corners: list[tuple[float, float]], points: float) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    ax.add_patch(
        FancyArrowPatch(
            path=Path(corners),
            arrowstyle="-|>",
            mutation_scale=0.2 * points,
            linewidth=0.022 * points,
            color=BLACK,
            joinstyle="round",
            zorder=1,
        )
    )


def _box(ax: Any, box: Box, at: tuple[float, float], points: float, flows: Mapping[str, Mapping[str, float]]) -> None:
    from matplotlib.patches import FancyBboxPatch

    (x, y), (fill, frame) = at, LOOKS[box.kind]
    corner = (x - BOX / 2 + 0.05, y - HEIGHT / 2 + 0.05)
    style = "round,pad=0.05,rounding_size=0.12"
    ax.add_patch(
        FancyBboxPatch(corner, BOX - 0.1, HEIGHT - 0.1, style, facecolor=fill, edgecolor=BLACK,
                       linewidth=0.018 * points * frame, zorder=2)
    )  # fmt: skip
    name = box.layers[-1].name if box.layers else "input"
    shares = {flow: given[name] for flow, given in flows.items() if name in given}
    _words(ax, [box.lines()[0], box.lines()[-1]] if shares else box.lines(), (x, y + 0.5 * BAR * bool(shares)), points,
           HEIGHT - BAR * bool(shares))  # fmt: skip
    width = (BOX - 0.1) / len(flows) - 0.1 if flows else 0.0
    for flow, share in shares.items():
        place = list(flows).index(flow)
        _bar(ax, flow, share, (x - BOX / 2 + 0.1 + place * (width + 0.1), y - HEIGHT / 2 + 0.06, width), points)


def _words(ax: Any, lines: Sequence[str], middle: tuple[float, float], points: float, height: float) -> None:
    """Write lines below each other into a height, the first in bold; long ones smaller."""
    step = min(LINE, 0.94 * height / len(lines))
    for number, words in enumerate(lines):
        size = points * min(0.84 * step, (BOX - 0.1) / (CHARACTER * len(words)))
        y = middle[1] + step * ((len(lines) - 1) / 2 - number)
        ax.text(middle[0], y, words, ha="center", va="center", fontsize=size,
                weight="bold" if number == 0 else "normal", zorder=4)  # fmt: skip


def _bar(ax: Any, flow: str, share: float, place: tuple[float, float, float], points: float) -> None:
    """Draw a share as a bar with its number, given its lower left corner and its width."""
    from matplotlib.patches import Rectangle

    (colour, hatch), (*_, width), corner, height = BARS[flow], place, place[:2], 0.22
    ax.add_patch(
        Rectangle(corner, width, height, facecolor="white", edgecolor=BLACK, linewidth=0.012 * points, zorder=3)
    )
    ax.add_patch(
        Rectangle(corner, width * share, height, facecolor=colour, edgecolor=BLACK, hatch=hatch,
                  linewidth=0.012 * points, zorder=3)
    )  # fmt: skip
    middle = (corner[0] + width / 2, corner[1] + height / 2)
    back = {"facecolor": "white", "edgecolor": "none", "pad": 0.01 * points, "alpha": 0.9}
    ax.text(*middle, f"{100 * share:.3g} %", ha="center", va="center", fontsize=0.14 * points, zorder=4, bbox=back)


def _legend(ax: Any, flows: Mapping[str, object]) -> None:
    from matplotlib.patches import Patch

    words = {"values": "known share of values", "gradients": "known share of gradients"}
    patches = [
        Patch(facecolor=BARS[flow][0], hatch=BARS[flow][1], edgecolor=BLACK, label=words[flow]) for flow in flows
    ]
    ax.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2)
