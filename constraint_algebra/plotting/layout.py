"""Where the boxes of a network stand: rows down a column, side branches beside it, and the next column after a cut.

A row holds the boxes that have equally many before them. Those of the longest way stand in lane 0; every other box, and
every arrow that passes rows, has a lane beside it. A column ends only where one value is all that goes on, so that no
shortcut crosses from column to column. Lengths are in rows; heights go down from 0, the first row of every column.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx

BOX = 2.3  # width of a box
HEIGHT = 0.7  # its height
GAP = 0.35  # between lanes
NARROW = 0.12  # width of a lane that only arrows pass
MARGIN = 0.8  # between columns
WIDE = 1.5  # width of a drawing over its height, as near as columns allow
OUT, IN = 0.09, 0.09  # below a box, above a box: where arrows turn
PORT = 0.3  # between arrows that enter a box side by side
ABOVE = 0.62  # where a column's arrow from the column before comes in

Point = tuple[float, float]
Edge = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Places in a drawing.

    Attributes:
        places: centre of each box.
        arrows: for each edge the corners of its line, from the lower side of a box to the upper side of another.
        width: of everything, which begins at 0.
        depth: of the lowest box's centre below the highest's.
    """

    places: dict[int, Point]
    arrows: dict[Edge, list[Point]]
    width: float
    depth: float


def layout(graph: nx.DiGraph[int]) -> Layout:
    """Return where boxes and arrows are drawn.

    Args:
        graph: boxes by number, acyclic, with one box that nothing precedes.

    >>> found = layout(nx.DiGraph([(0, 1), (1, 2), (0, 2)]))
    >>> [round(y) for _, y in found.places.values()], len(found.arrows[0, 2])
    ([0, -1, -2], 6)
    """
    rows = {box: row for row, group in enumerate(nx.topological_generations(graph)) for box in group}
    main = set(nx.dag_longest_path(graph))
    places: dict[int, Point] = {}
    arrows: dict[Edge, list[Point]] = {}
    left = 0.0
    lead: list[Point] = []  # the way from the column before
    for first, last in _columns(graph, rows):
        boxes = {box: rows[box] - first for box in graph if first <= rows[box] <= last}
        edges = [(u, v) for u, v in graph.edges if v in boxes]
        lanes = _Lanes(boxes, edges, main)
        xs = lanes.positions(left)
        places |= {box: (xs[lanes.of_box[box]], -float(row)) for box, row in boxes.items()}
        if lead:
            lead = [*lead, (left - MARGIN / 2, lead[-1][1]), (left - MARGIN / 2, ABOVE), (xs[0], ABOVE)]
        for edge in edges:
            arrows[edge] = _line(edge, xs[lanes.of_edge[edge]], places, lead if edge[0] not in boxes else [])
        left = max(xs) + (BOX / 2 if lanes.wide[-1] else NARROW / 2) + MARGIN
        for port in {u for u, v in graph.edges if u in boxes and v not in boxes}:  # one, or none at the end
            x, y = places[port]
            lead = [(x, y - HEIGHT / 2), (x, y - HEIGHT / 2 - 2 * OUT)]
    _spread(arrows, places)
    return Layout(places, arrows, left - MARGIN, -min(y for _, y in places.values()))


def _columns(graph: nx.DiGraph[int], rows: dict[int, int]) -> Iterable[tuple[int, int]]:
    """Yield first and last row of each column: cut where one box in the last row makes all that goes on."""
    count = max(rows.values()) + 1
    going = [{u for u, v in graph.edges if rows[u] <= row < rows[v]} for row in range(count)]
    cuts = [row for row in range(count) if len(going[row]) == 1 and rows[min(going[row])] == row]
    wanted = max(1, round(math.sqrt(WIDE * count / (BOX + MARGIN + 2 * GAP))))
    first = 0
    for number in range(wanted, 1, -1):
        goal = first + math.ceil((count - first) / number) - 1
        least = (goal - first) / 2  # rows of this column and of what is left after it
        after = [row for row in cuts if first + least < row < count - 1 - least]
        if not after or goal >= count - 1:
            break
        last = min(after, key=lambda row: abs(row - goal))
        yield first, last
        first = last + 1
    yield first, count - 1


class _Lanes:
    """Which lane each box and each edge of a column has: 0 for the longest way, the first that is free for others.

    Args:
        boxes: rows of the column's boxes; what comes from outside stands in row -1.
        edges: those that end in the column.
        main: the boxes of the longest way.
    """

    def __init__(self, boxes: dict[int, int], edges: list[Edge], main: set[int]) -> None:
        """Give every box and edge its lane."""
        self._rows = boxes
        self._taken: dict[tuple[int, int], int | None] = {}  # the box that a lane belongs to in a row
        self.of_box = {box: 0 for box in boxes if box in main}
        for box in sorted(boxes, key=self._row):
            if box not in main:
                before, after = [u for u, v in edges if v == box], [v for u, v in edges if u == box]
                self.of_box[box] = self._beside(box, before, after)
        short_first = sorted(edges, key=lambda edge: self._row(edge[1]) - self._row(edge[0]))
        self.of_edge = {edge: self._of_edge(*edge) for edge in short_first}
        boxed = set(self.of_box.values())
        self.wide = [lane in boxed for lane in range(1 + max([*boxed, *self.of_edge.values()]))]

    def _row(self, box: int) -> int:
        return self._rows.get(box, -1)

    def _beside(self, box: int, before: list[int], after: list[int]) -> int:
        """Return the lane of a box beside the longest way: that of what it reads, if that goes no further."""
        own = self._row(box)
        last = max([own + 1, *map(self._row, after)])
        for other in before:
            lane = self.of_box.get(other, 0)
            if lane and self._taken.get((lane, own), other) == other and self._is_free(lane, own + 1, last):
                return self._take(lane, own, last, box)
        return self._first_free(min([own, *(self._row(other) + 1 for other in before)]), last, box)

    def _of_edge(self, start: int, end: int) -> int:
        """Return the lane of an edge: that of the box that stands beside, one of its own where it passes rows."""
        first = self._row(start) + 1
        if first == self._row(end) or self.of_box.get(start):
            return self.of_box.get(start) or self.of_box[end]
        if self.of_box[end] and self._taken.get((self.of_box[end], first)) == end:
            return self.of_box[end]
        return self._first_free(first, self._row(end), None)

    def _is_free(self, lane: int, first: int, last: int) -> bool:
        return all((lane, row) not in self._taken for row in range(first, last + 1))

    def _take(self, lane: int, first: int, last: int, box: int | None) -> int:
        self._taken |= dict.fromkeys(((lane, row) for row in range(first, last + 1)), box)
        return lane

    def _first_free(self, first: int, last: int, box: int | None) -> int:
        """Return the first lane that is free from the row below where a way begins to the one that it ends in."""
        lane = next(lane for lane in itertools.count(1) if self._is_free(lane, first, last))
        return self._take(lane, first, last, box)

    def positions(self, left: float) -> list[float]:
        """Return the middle of each lane, from left to right."""
        xs = []
        for wide in self.wide:
            width = BOX if wide else NARROW
            xs.append(left + width / 2)
            left += width + GAP
        return xs


def _line(edge: Edge, x: float, places: dict[int, Point], lead: list[Point]) -> list[Point]:
    """Return the corners of an arrow that goes down at `x`: out below one box, in above the other."""
    end_x, end_y = places[edge[1]]
    top = (end_x, end_y + HEIGHT / 2)
    if lead:
        (start_x, start_y), points, out = lead[-1], list(lead), lead[-1][1]
    else:
        start_x, start_y = places[edge[0]]
        points, out = [(start_x, start_y - HEIGHT / 2)], start_y - HEIGHT / 2 - OUT
    if x != start_x:
        points += [(start_x, out), (x, out)]
    if x != end_x:
        points += [(x, top[1] + IN), (end_x, top[1] + IN)]
    return [*points, top]


def _spread(arrows: dict[Edge, list[Point]], places: dict[int, Point]) -> None:
    """Let the arrows into one box enter side by side, in the order in which they come."""
    for box, (x, _) in places.items():
        into = sorted((edge for edge in arrows if edge[1] == box), key=lambda edge: _side(arrows[edge], x))
        straight = [number for number, edge in enumerate(into) if _side(arrows[edge], x) == 0]
        middle = straight[0] if straight else (len(into) - 1) / 2
        step = min(PORT, (BOX - PORT) / 2 / max(1, middle, len(into) - 1 - middle))
        for number, edge in enumerate(into):
            shift = step * (number - middle)
            line = arrows[edge]
            if shift and len(line) > 2 and _side(line, x):
                line[-2:] = [(x + shift, line[-2][1]), (x + shift, line[-1][1])]


def _side(line: list[Point], x: float) -> float:
    """Return how far to the right of a box an arrow comes from, 0 for straight above."""
    return line[-3][0] - x if len(line) > 3 and line[-2][0] == x else 0.0
