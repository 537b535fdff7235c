"""The constraint graph of a small layer, and a system in the order of its Dulmage-Mendelsohn decomposition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from constraint_algebra.equations.constraint_graph import components, edges
from constraint_algebra.equations.constraint_graph import constraint_graph as named_graph
from constraint_algebra.equations.dulmage_mendelsohn import dulmage_mendelsohn
from constraint_algebra.errors import ParameterError
from constraint_algebra.plotting.canvas import axes_or_new, plain
from constraint_algebra.plotting.look import BLACK, BLUE, PALETTE, SKY, VERMILION, ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constraint_algebra.equations.constraint_graph import Matrix
    from constraint_algebra.equations.systems import LinearSystem

READABLE = 160  # nodes beyond which names are left out
LARGEST = 1500  # nodes beyond which a drawing shows nothing
MARKERS = {"weight": "s", "gradient": "^", "bias": "v", "unknown": "o"}
# Not as many as there are colours, so that it takes long until a component looks like another.
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
SIZES = {"s": 80, "o": 90, "^": 150, "v": 150}  # room for a number in each
SINKS = {"^": -1.5, "v": 1.5}  # points by which a triangle's middle lies off its centre
NODES: dict[str, Any] = {"edgecolors": BLACK, "linewidths": 0.6, "zorder": 2}
PARTS = {"underconstrained": (VERMILION, "--"), "square": (BLACK, "-"), "overconstrained": (BLUE, ":")}


def constraint_graph(system: LinearSystem, ax: Axes | None = None) -> Axes:
    """Draw the constraint graph: equations on the left, unknowns on the right, each connected component in a colour.

    The components of gradient equations are the residue classes, once for every channel. In small graphs every node
    has the number of its component; edges differ in colour and dashes.

    Raises:
        ParameterError: too many nodes to see anything.
    """
    rows, columns = system.shape
    if rows + columns > LARGEST:
        raise ParameterError(
            "system", f"a drawing of {rows + columns:,} nodes shows nothing; choose a layer with at most {LARGEST:,}"
        )
    ax = axes_or_new(ax)
    graph = named_graph(system)
    names = list(graph)
    place = {name: (0.0, _spread(n, rows)) for n, name in enumerate(names[:rows])}
    place |= {name: (1.0, _spread(n, columns)) for n, name in enumerate(names[rows:])}
    parts = components(system)
    member = dict.fromkeys(names, -1)
    for number, part in enumerate(parts):
        member |= {names[row]: number for row in part.rows}
        member |= {names[rows + column]: number for column in part.columns}
    colour = {name: "white" if n < 0 else PALETTE[n % len(PALETTE)] for name, n in member.items()}
    for equation, unknown in graph.edges:
        (x0, y0), (x1, y1) = place[equation], place[unknown]
        dashes = DASHES[member[unknown] % len(DASHES)]
        ax.plot([x0, x1], [y0, y1], color=colour[unknown], linewidth=0.9, alpha=0.8, marker="", linestyle=dashes,
                zorder=1)  # fmt: skip
    for kind in dict.fromkeys(graph.nodes[name]["kind"] for name in names):
        members = [name for name in names if graph.nodes[name]["kind"] == kind]
        noun = "unknown" if kind == "unknown" else f"{kind} equation"
        ax.scatter(
            [place[name][0] for name in members],
            [place[name][1] for name in members],
            c=[colour[name] for name in members],
            marker=MARKERS[kind],
            s=SIZES[MARKERS[kind]],
            label=f"{len(members)} {noun}{'s' * (len(members) != 1)}",
            **NODES,
        )
    if len(names) <= READABLE:
        size = max(4.0, min(9.0, 320 / max(rows, columns)))
        for name, (x, y) in place.items():
            label, left = graph.nodes[name]["label"], x == 0
            ax.text(
                x - 0.04 if left else x + 0.04, y, label, ha="right" if left else "left", va="center", fontsize=size
            )
        if len(parts) > 1:
            marker = {name: MARKERS[graph.nodes[name]["kind"]] for name in names}
            for name, number in member.items():
                if number >= 0:
                    _number(ax, str(number), place[name], SINKS.get(marker[name], 0), ink(colour[name]), min(6.5, size))
    ax.set(xlim=(-0.5, 1.35), ylim=(-0.06, 1.04))
    ax.set_axis_off()
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, handletextpad=0.2)
    return plain(ax, f"Constraint graph: {len(parts)} connected component{'s' * (len(parts) != 1)}")


def decomposition(matrix: Matrix, ax: Axes | None = None) -> Axes:
    """Draw the pattern of a system in the order of its Dulmage-Mendelsohn decomposition, the parts framed.

    Underconstrained equations and unknowns come first, overconstrained ones last: below the parts' diagonal there is
    nothing. The irreducible blocks of the square part are framed finely.
    """
    from matplotlib.patches import Rectangle

    pattern, found = edges(matrix), dulmage_mendelsohn(matrix)
    squares = found.blocks[::-1]  # a block needs only earlier ones: reversed, nothing stands below the diagonal
    parts = [found.underconstrained, *squares, found.overconstrained]
    order_rows = np.concatenate([part.rows for part in parts])
    order_columns = np.concatenate([part.columns for part in parts])
    entries = pattern[order_rows][:, order_columns].tocoo()
    ax = axes_or_new(ax)
    m, n = pattern.shape
    size = float(np.clip(60000 / max(m, n) ** 2, 0.3, 30))
    ax.scatter(entries.coords[1], entries.coords[0], s=size, marker="s", color=BLACK, linewidths=0, zorder=2)
    top = left = 0
    for name, members in (
        ("underconstrained", [found.underconstrained]),
        ("square", list(squares)),
        ("overconstrained", [found.overconstrained]),
    ):
        height, width = sum(len(part.rows) for part in members), sum(len(part.columns) for part in members)
        colour, line = PARTS[name]
        if height or width:
            label = f"{name}: {height:,} × {width:,}"
            frame = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=colour, linestyle=line,
                              linewidth=1.8, label=label, zorder=3)  # fmt: skip
            ax.add_patch(frame)
        if name == "square" and 1 < len(members) <= 400:
            for part in members:
                block = Rectangle((left - 0.5, top - 0.5), len(part.columns), len(part.rows), facecolor=SKY, alpha=0.35,
                                  edgecolor="none", zorder=1)  # fmt: skip
                ax.add_patch(block)
                top, left = top + len(part.rows), left + len(part.columns)
        else:
            top, left = top + height, left + width
    ax.set(xlim=(-1, n), ylim=(m, -1), xlabel=f"{n:,} unknowns, reordered", ylabel=f"{m:,} equations, reordered")
    ax.locator_params(integer=True)
    ax.grid(visible=False)
    ax.set_title(f"Dulmage-Mendelsohn form, structural rank {found.structural_rank:,}")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), title="equations × unknowns")
    return ax


def _number(ax: Any, number: str, at: tuple[float, float], sink: float, colour: str, size: float) -> None:
    """Write the number of its component into a node, so that components are told apart in grey."""
    ax.annotate(number, at, (0, sink), textcoords="offset points", ha="center", va="center_baseline", fontsize=size,
                color=colour, zorder=3)  # fmt: skip


def _spread(number: int, count: int) -> float:
    """Return heights from 1 down to 0."""
    return 1.0 - (number + 0.5) / max(count, 1)
