"""The constraint graph of a linear system: equations on one side, unknowns on the other, an edge for every coefficient.

`constraint_graph` makes it for looking and teaching, with names and NetworkX. The algorithms for work take the
`LinearSystem` itself or any sparse matrix, as graph of its entries other than zero, and run on SciPy's arrays. The
matching is a maximum flow: SciPy's own bipartite matching takes exponential time on the patterns of convolutions.
"""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import IntArray
from constraint_algebra.equations.systems import LinearSystem
from constraint_algebra.errors import ShapeError
from constraint_algebra.numerics.blocks import Component, blocks

Matrix = LinearSystem | Any  # or any sparse matrix of SciPy, which have no common type that knows their shape


@checked
def constraint_graph(system: LinearSystem) -> nx.Graph[str]:
    """Return the constraint graph of a system, bipartite, with a named node for every equation and every unknown.

    A node is called by its layer and its name, such as `0:dL/dW[2,0,1,1]`. Repeated equations are numbered, so that no
    two nodes share a name. Node attributes: `kind` ("weight", "gradient", "bias", "unknown"), `layer`, `index` (a
    tuple), `label` (the name alone), `bipartite` (0 for equations, 1 for unknowns). Edge attribute: `coefficient`, its
    name.

    >>> from constraint_algebra.equations.systems import weight_equations
    >>> from constraint_algebra.layers import Conv1d
    >>> graph = constraint_graph(weight_equations(Conv1d(1, 2).place((1, 3), name="first")))
    >>> for equation, unknown, name in graph.edges(data="coefficient"): print(equation, unknown, name)
    first:z[0,0] first:x[0,0] W[0,0,0]
    first:z[0,0] first:x[0,1] W[0,0,1]
    first:z[0,1] first:x[0,1] W[0,0,0]
    first:z[0,1] first:x[0,2] W[0,0,1]
    """
    layer = system.layer.name
    graph: nx.Graph[str] = nx.Graph()
    equations, seen = [], dict[str, int]()
    for name, kind in zip(system.rows, system.kinds.tolist(), strict=True):
        seen[name] = seen.get(name, 0) + 1
        label = name if seen[name] == 1 else f"{name} ({seen[name]})"
        equations.append(f"{layer}:{label}")
        graph.add_node(equations[-1], kind=kind, layer=layer, index=_index(name), label=label, bipartite=0)
    unknowns = [f"{layer}:{name}" for name in system.unknowns]
    for node, name in zip(unknowns, system.unknowns, strict=True):
        graph.add_node(node, kind="unknown", layer=layer, index=_index(name), label=name, bipartite=1)
    numbers = without_zeros(system).tocoo()
    for row, column, number in zip(*numbers.coords, numbers.data, strict=True):
        graph.add_edge(equations[row], unknowns[column], coefficient=system.coefficients[int(number) - 1])
    return graph


@checked
def components(matrix: Matrix) -> list[Component]:
    """Return the connected components of the constraint graph, in the order of their first column.

    A column without an entry is a component without rows. Rows without an entry belong to no component.

    >>> for part in components(sp.csr_array(np.array([[1, 0, 0, 2], [0, 0, 0, 0], [0, 3, 0, 0]]))): print(*part)
    [0] [0 3]
    [2] [1]
    [] [2]
    """
    return blocks(edges(matrix))


@checked
def maximum_matching(matrix: Matrix) -> IntArray:
    """Return a largest matching: for every row its column or -1. Its size is unique, the matching itself is not.

    >>> int(maximum_matching(sp.csr_array(np.array([[1, 1], [1, 0], [1, 0]])))[0])
    1
    """
    A = edges(matrix)
    m, n = A.shape
    match = np.full(m, -1, dtype=np.intp)
    if A.nnz:
        source, sink = m + n, m + n + 1  # after the nodes of the rows and those of the columns
        row, column = A.tocoo().coords
        tail = np.concatenate([row, np.full(m, source), m + np.arange(n)])
        head = np.concatenate([m + column, np.arange(m), np.full(n, sink)])
        network = sp.csr_array((np.ones(len(tail), dtype=np.int32), (tail, head)), shape=(sink + 1, sink + 1))
        flow = csgraph.maximum_flow(network, source, sink, method="dinic").flow[:m, m : m + n].tocoo()
        used = flow.data > 0
        match[flow.row[used]] = flow.col[used]
    return match


@checked
def structural_rank(matrix: Matrix) -> int:
    """Return the size of a largest matching: the rank if all entries were independent of each other.

    >>> structural_rank(sp.csr_array(np.array([[1, 1], [1, 0], [1, 0]])))
    2
    """
    return int(np.count_nonzero(maximum_matching(matrix) >= 0))


def edges(matrix: Matrix) -> sp.csr_array:
    """Return the pattern of the entries other than zero as a matrix of ones, without duplicates or stored zeros.

    Raises:
        ShapeError: not a `LinearSystem` and not a two-dimensional sparse matrix.
    """
    given: Any = without_zeros(matrix) if isinstance(matrix, LinearSystem) else matrix
    is_matrix = sp.issparse(given) and getattr(given, "ndim", 0) == 2
    if not is_matrix:
        raise ShapeError(
            f"expected a LinearSystem or a two-dimensional sparse matrix, got {type(given).__name__}; "
            "wrap a dense array as scipy.sparse.csr_array(array)"
        )
    A = sp.csr_array(given, copy=True)
    A.sum_duplicates()
    A.eliminate_zeros()
    return sp.csr_array((np.ones(A.nnz, dtype=np.int32), A.indices, A.indptr), shape=A.shape)


def without_zeros(system: LinearSystem) -> sp.csr_array:
    """Return the coefficients' numbers without those whose value is known to be zero, as where a ReLU is inactive."""
    pattern = system.pattern.copy()
    if system.values is not None:
        pattern.data = np.where(system.values[pattern.data - 1] != 0, pattern.data, 0)
        pattern.eliminate_zeros()
    return pattern


def _index(name: str) -> tuple[int, ...]:
    """Return the indices in a name.

    >>> _index("dL/dW[2,0,1,1]"), _index("one")
    ((2, 0, 1, 1), ())
    """
    inside = name.partition("[")[2].rstrip("]")
    return tuple(int(i) for i in inside.split(",")) if inside else ()
