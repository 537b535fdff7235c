"""How knowledge flows from the head to the input: the determined share of every layer's input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from constraint_algebra.ground import Ground
from constraint_algebra.networks.placing import INPUT
from constraint_algebra.plotting.canvas import axes_or_new
from constraint_algebra.plotting.look import BLACK, BLUE, GROUND_LOOKS, SKY
from constraint_algebra.plotting.networks import architecture
from constraint_algebra.plotting.ranks import shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constraint_algebra.networks.network import Network
    from constraint_algebra.recursion.result import Reconstruction
    from constraint_algebra.theory.report import FeasibilityReport


def knowledge_flow(
    result: FeasibilityReport | Reconstruction, ax: Axes | None = None, *, network: Network | None = None
) -> Axes:
    """Draw the determined share of every layer's input: of a chain as bars, of a graph as bars in its boxes.

    Bars of a chain stand in the order of the recursion, from the head to the image: the last is the input, and layers
    that the recursion did not reach have none. Where any of a reconstruction rests on more than the equations, bars are
    divided by what their values rest on.

    Args:
        result: of `feasibility` or `reconstruct`.
        ax: the Axes.
        network: what the result is of; a report knows it, and of a reconstruction it is needed to draw a graph.
    """
    from constraint_algebra.theory.report import FeasibilityReport

    if isinstance(result, FeasibilityReport):
        network = result.network
    if network is not None and not network.is_chain:
        ax = architecture(network, values=known_values(result, network), ax=ax)
        ax.set_title("Knowledge flow: determined share of what layers read")
        return ax
    return _bars(result, ax)


def known_values(result: FeasibilityReport | Reconstruction, network: Network) -> dict[str, float]:
    """Return the determined share of every value that a layer with equations reads, by the name of what makes it."""
    found = {}
    for row in result.layers:
        layer = network.named(row.name if hasattr(row, "name") else row.layer)
        if row.determined is not None:
            found[network.value_name(layer.inputs[0])] = row.determined / max(row.unknowns, 1)
    if result.determined is not None:
        found[INPUT] = float(result.determined.mean())
    return found


def _bars(result: FeasibilityReport | Reconstruction, ax: Axes | None) -> Axes:
    """Draw the shares of a chain as bars."""
    from constraint_algebra.recursion.result import Reconstruction

    if isinstance(result, Reconstruction):
        names = [row.name for row in result.layers]
    else:
        names = [row.layer for row in result.layers]
    kinds, unknowns = [row.kind for row in result.layers], [row.unknowns for row in result.layers]
    found = shares([row.determined for row in result.layers], unknowns)
    labels = [f"{name}\n{kind}\n{count:,}" for name, kind, count in zip(names, kinds, unknowns, strict=True)][::-1]
    heights = found[::-1]
    if result.determined is not None:
        labels.append(f"input\n\n{result.determined.size:,}")
        heights.append(100 * float(result.determined.mean()))
    ax = axes_or_new(ax)
    places = np.arange(len(heights))
    colours = [SKY] * len(found) + [BLUE] * (len(heights) - len(found))
    bars = ax.bar(places, np.nan_to_num(heights), color=colours, edgecolor="black", linewidth=0.6)
    if isinstance(result, Reconstruction):
        _divide(ax, result)
    ax.bar_label(bars, ["?" if np.isnan(height) else f"{height:.3g} %" for height in heights])
    ax.set_xticks(places, labels)
    ax.set(
        ylabel="determined values, %",
        ylim=(0, 115),
        xlabel="layer, kind, values of its input (recursion from left to right)",
    )
    ax.set_title("Knowledge flow from the head to the input")
    return ax


def _divide(ax: Any, result: Reconstruction) -> None:
    """Draw over each bar the parts of it that rest on each ground, the strongest at the bottom, if there are weaker."""
    counts: list[Mapping[str, int]] = [
        dict(row.grounds) or {Ground.EQUATIONS.label: row.determined} for row in result.layers[::-1]
    ]
    counts.append({ground.label: count for ground, count in result.grounds.items()})
    sizes = np.array([*(row.unknowns for row in result.layers[::-1]), result.determined.size])
    if not any(label != Ground.EQUATIONS.label for found in counts for label in found):
        return
    bottom = np.zeros(len(counts))
    for ground, (colour, hatch) in zip(Ground, GROUND_LOOKS, strict=True):
        part = 100 * np.array([found.get(ground.label, 0) for found in counts]) / np.maximum(sizes, 1)
        if part.any():
            look = {"color": colour, "hatch": hatch, "edgecolor": BLACK, "linewidth": 0.6}
            ax.bar(np.arange(len(counts)), part, bottom=bottom, label=ground.label, **look)
        bottom += part
    ax.legend(title="rests on", loc="center left", bbox_to_anchor=(1.0, 0.5))
