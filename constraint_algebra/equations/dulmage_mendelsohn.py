"""The Dulmage-Mendelsohn decomposition: which part of a system has too few equations, which too many.

(Dulmage and Mendelsohn 1958; Pothen and Fan 1990, doi 10.1145/98267.98287.) From a largest matching, what an
alternating path reaches from an unmatched unknown is underconstrained, what it reaches from an unmatched equation is
overconstrained, and the rest is square and perfectly matched. These three sets and the blocks of the square part do not
depend on the matching. Which unknowns and equations stay unmatched does, and only their number is given.

If all coefficients were independent of each other, exactly the unknowns outside the underconstrained part would be
determined. The coefficients of a layer are shared between rows: `generic` says what that changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import TopologicalSorter

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, IntArray
from constraint_algebra.display import Table, Tabular
from constraint_algebra.equations.constraint_graph import Matrix, edges, maximum_matching
from constraint_algebra.numerics.blocks import Component


@checked
@dataclass(frozen=True, repr=False)
class DulmageMendelsohn(Tabular):
    """The decomposition of a system's constraint graph.

    Attributes:
        underconstrained: equations and unknowns of the part with more unknowns than equations.
        square: equations and unknowns of the part with as many of each.
        overconstrained: equations and unknowns of the part with more equations than unknowns.
        unmatched: number of equations and of unknowns that no largest matching covers all of; the sets are not unique.
        blocks: the square part in its irreducible blocks, in an order of solution: a block
            needs only itself and earlier ones.
    """

    underconstrained: Component
    square: Component
    overconstrained: Component
    unmatched: tuple[int, int]
    blocks: tuple[Component, ...]

    @property
    def structural_rank(self) -> int:
        """Size of a largest matching."""
        rows = sum(len(part.rows) for part in (self.underconstrained, self.square, self.overconstrained))
        return rows - self.unmatched[0]

    def _shown(self) -> Table:
        lines = [f"{'part':<18}{'equations':>10}{'unknowns':>10}"]
        for name in ("underconstrained", "square", "overconstrained"):
            part: Component = getattr(self, name)
            lines.append(f"{name:<18}{len(part.rows):>10}{len(part.columns):>10}")
        lines.append(f"{'unmatched':<18}{self.unmatched[0]:>10}{self.unmatched[1]:>10}")
        return Table("\n".join(lines))


@checked
def dulmage_mendelsohn(matrix: Matrix) -> DulmageMendelsohn:
    """Return the decomposition of a `LinearSystem` or of a sparse matrix.

    An equation without any entry counts as overconstrained, an unknown without any as underconstrained.

    >>> dulmage_mendelsohn(sp.csr_array(np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1],
    ...                                           [0, 0, 0, 0, 1]])))
    part               equations  unknowns
    underconstrained           1         2
    square                     2         2
    overconstrained            2         1
    unmatched                  1         1
    """
    A = edges(matrix)
    m, n = A.shape
    match = maximum_matching(A)
    rows = np.flatnonzero(match >= 0)
    M = sp.csr_array((np.ones(len(rows), dtype=np.int32), (rows, match[rows])), shape=(m, n))
    free_rows = match < 0
    free_columns = np.ones(n, dtype=bool)
    free_columns[match[rows]] = False
    under = _reached(A.T.tocsr(), M, free_columns)  # unknown → any of its equations → the unknown matched to it
    over = _reached(A, M.T.tocsr(), free_rows)[::-1]  # equation → any of its unknowns → the equation matched to it
    square = Component(*(np.flatnonzero(~(u | o)) for u, o in zip(under[::-1], over[::-1], strict=True)))
    return DulmageMendelsohn(
        underconstrained=Component(np.flatnonzero(under[1]), np.flatnonzero(under[0])),
        square=square,
        overconstrained=Component(np.flatnonzero(over[1]), np.flatnonzero(over[0])),
        unmatched=(int(free_rows.sum()), int(free_columns.sum())),
        blocks=tuple(_blocks(A, square.rows, match)),
    )


def _reached(forth: sp.csr_array, back: sp.csr_array, start: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Return what alternating paths reach from `start`: on its own side, by `back`, and on the other, by `forth`."""
    own, other = forth.shape
    source = own + other  # a node before all of `start`
    forward, backward, first = forth.tocoo(), back.tocoo(), np.flatnonzero(start)
    tail = np.concatenate([forward.row, own + backward.row, np.full(len(first), source)])
    head = np.concatenate([own + forward.col, backward.col, first])
    graph = sp.csr_array((np.ones(len(tail), dtype=np.int32), (tail, head)), shape=(source + 1, source + 1))
    order = csgraph.breadth_first_order(graph, source, return_predecessors=False)
    reached = np.zeros(source + 1, dtype=bool)
    reached[order] = True
    return reached[:own], reached[own:-1]


def _blocks(A: sp.csr_array, rows: IntArray, match: IntArray) -> list[Component]:
    """Return the strongly connected parts of the square part, each after those that its equations need."""
    columns = match[rows]
    needs = A[rows][:, columns].tocoo()  # row i needs the unknown matched to row j
    count, label = csgraph.connected_components(needs, directed=True, connection="strong")
    before: dict[int, set[int]] = {block: set() for block in range(count)}
    for block, needed in np.unique(np.stack([label[needs.row], label[needs.col]]), axis=1).T.tolist():
        if block != needed:
            before[block].add(needed)
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label, minlength=count))[:-1])
    order = TopologicalSorter(before).static_order()
    return [Component(rows[members[block]], np.sort(columns[members[block]])) for block in order]
