"""The constraint graph against NetworkX and Pyomo, which share no code with it."""

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
from pyomo.contrib.incidence_analysis.dulmage_mendelsohn import dulmage_mendelsohn as pyomo_dulmage_mendelsohn

import constraint_algebra as ca
from constraint_algebra.equations.constraint_graph import components, edges, maximum_matching, structural_rank

SMALL_LAYERS = {
    "two filters, stride leaves classes": lambda: ca.Conv2d(2, 3, stride=2, padding=1).place((1, 5, 5)),
    "stride beyond the kernel leaves pixels untouched": lambda: ca.Conv1d(3, 2, stride=3).place((2, 8)),
    "one channel to two, wider than it is high": lambda: ca.Conv2d(2, 3).place((1, 4, 6)),
    "groups": lambda: ca.Conv1d(4, 3, dilation=2, groups=2).place((2, 9)),
    "fully connected": lambda: ca.Linear(3).place((5,)),
}


def random_matrices(count, seed):
    """Random sparse patterns: all densities, wide and tall, empty rows and columns, the size of a toy."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        m, n = rng.integers(1, 25, size=2)
        density = rng.choice([0.03, 0.08, 0.15, 0.4])
        yield sp.csr_array((rng.random((m, n)) < density).astype(int))


def stacked(layer):
    return ca.stack(ca.weight_equations(layer), ca.gradient_equations(layer))


def as_networkx(matrix):
    A = sp.coo_array(matrix)
    graph = nx.Graph()
    graph.add_nodes_from(("row", i) for i in range(A.shape[0]))
    graph.add_nodes_from(("column", j) for j in range(A.shape[1]))
    graph.add_edges_from((("row", i), ("column", j)) for i, j in zip(*A.coords, strict=True))
    return graph


def pyomo_parts(matrix):
    rows, columns = pyomo_dulmage_mendelsohn(sp.coo_matrix(matrix))
    return {
        "underconstrained": (set(rows.underconstrained), {*columns.underconstrained, *columns.unmatched}),
        "square": (set(rows.square), set(columns.square)),
        "overconstrained": ({*rows.overconstrained, *rows.unmatched}, set(columns.overconstrained)),
        "unmatched": (len(rows.unmatched), len(columns.unmatched)),
    }


def our_parts(matrix):
    parts = ca.dulmage_mendelsohn(matrix)
    sets = {
        name: tuple(set(side.tolist()) for side in getattr(parts, name))
        for name in ("underconstrained", "square", "overconstrained")
    }
    return {**sets, "unmatched": parts.unmatched}


def test_decomposition_agrees_with_pyomo_on_250_random_matrices():
    shares = dict.fromkeys(("underconstrained", "square", "overconstrained"), 0)
    for matrix in random_matrices(250, seed=1):
        ours = our_parts(matrix)
        assert ours == pyomo_parts(matrix)
        for name in shares:
            shares[name] += bool(ours[name][0])
    assert min(shares.values()) > 50  # every part occurred often enough to be tested


@pytest.mark.parametrize("build", SMALL_LAYERS.values(), ids=SMALL_LAYERS)
def test_decomposition_agrees_with_pyomo_on_layers(build):
    for system in (ca.weight_equations(build()), ca.gradient_equations(build()), stacked(build())):
        assert our_parts(system) == pyomo_parts(system.pattern)


def test_decomposition_does_not_depend_on_the_order_of_rows_and_columns():
    rng = np.random.default_rng(2)
    for matrix in random_matrices(60, seed=3):
        m, n = matrix.shape
        row, column = rng.permutation(m), rng.permutation(n)
        before, after = ca.dulmage_mendelsohn(matrix), ca.dulmage_mendelsohn(matrix[row][:, column])
        for name in ("underconstrained", "square", "overconstrained"):
            ours, theirs = getattr(before, name), getattr(after, name)
            assert set(ours.rows) == set(row[theirs.rows])
            assert set(ours.columns) == set(column[theirs.columns])
        blocks = {(frozenset(b.rows), frozenset(b.columns)) for b in before.blocks}
        assert blocks == {(frozenset(row[b.rows]), frozenset(column[b.columns])) for b in after.blocks}


def test_blocks_of_the_square_part_are_irreducible_and_solved_in_order():
    several = 0
    for matrix in random_matrices(150, seed=4):
        parts = ca.dulmage_mendelsohn(matrix)
        solved = set(parts.overconstrained.columns.tolist())
        assert sum(len(b.rows) for b in parts.blocks) == len(parts.square.rows)
        for block in parts.blocks:
            assert len(block.rows) == len(block.columns)
            used = set(matrix[block.rows].nonzero()[1].tolist()) - set(parts.underconstrained.columns.tolist())
            assert used <= solved | set(block.columns.tolist())
            solved |= set(block.columns.tolist())
            # Irreducible: whatever row and column are struck out, the others still match perfectly.
            inner = matrix[block.rows][:, block.columns].toarray()
            for i in range(min(3, len(inner) - 1)):
                rest = np.delete(np.delete(inner, i, 0), i, 1)
                assert structural_rank(sp.csr_array(rest)) == len(inner) - 1
        several += len(parts.blocks) > 1
    assert several > 20


def test_matching_is_as_large_as_networkx_says_and_is_one():
    for matrix in random_matrices(150, seed=5):
        match = maximum_matching(matrix)
        used = np.flatnonzero(match >= 0)
        assert len(set(match[used])) == len(used)
        assert all(matrix[i, match[i]] for i in used)
        graph = as_networkx(matrix)
        rows = [node for node in graph if node[0] == "row"]
        expected = nx.bipartite.hopcroft_karp_matching(graph, rows)
        assert structural_rank(matrix) == len(used) == len(expected) // 2


def test_components_agree_with_networkx():
    for matrix in random_matrices(150, seed=6):
        expected = {
            (frozenset(i for side, i in part if side == "row"), frozenset(j for side, j in part if side == "column"))
            for part in nx.connected_components(as_networkx(matrix))
        }
        found = components(matrix)
        assert {(frozenset(c.rows.tolist()), frozenset(c.columns.tolist())) for c in found} == {
            part for part in expected if part[1]
        }
        assert [c.columns[0] for c in found] == sorted(c.columns[0] for c in found)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 3)], ids=str)
def test_a_matrix_without_entries_has_a_decomposition(shape):
    empty = sp.csr_array(shape)
    parts = ca.dulmage_mendelsohn(empty)
    assert parts.unmatched == shape
    assert len(components(empty)) == shape[1]
    assert parts.structural_rank == structural_rank(empty) == 0


def test_a_stored_zero_and_a_duplicate_are_no_edges():
    doubled = sp.coo_array(([1, 1, 0, 2, -2], ([0, 0, 1, 1, 1], [0, 0, 0, 1, 1])), shape=(2, 2))
    assert edges(doubled).toarray().tolist() == [[1, 0], [0, 0]]
    assert structural_rank(doubled) == 1


def test_a_coefficient_known_to_be_zero_is_no_edge():
    layer = ca.Conv1d(1, 2).place((1, 3))
    system = ca.gradient_equations(layer, output_gradient=[[0.0, 2.0]])
    assert edges(system).toarray().tolist() == [[0, 1, 0], [0, 0, 1]]
    assert len(ca.constraint_graph(system).edges) == 2
    assert structural_rank(ca.gradient_equations(layer)) == 2


def test_a_long_chain_needs_no_recursion():
    n = 5000
    chain = sp.csr_array(sp.eye_array(n) + sp.eye_array(n, k=1))
    parts = ca.dulmage_mendelsohn(chain)
    assert parts.structural_rank == n
    assert len(parts.blocks) == n


@pytest.mark.parametrize("matrix", [np.eye(2), [[1, 0]], sp.coo_array(np.ones(3))], ids=["dense", "list", "vector"])
def test_anything_but_a_sparse_matrix_is_refused(matrix):
    with pytest.raises(ca.ShapeError, match="two-dimensional sparse matrix"):
        structural_rank(matrix)


@pytest.mark.parametrize("build", SMALL_LAYERS.values(), ids=SMALL_LAYERS)
def test_constraint_graph_has_the_edges_and_names_of_the_system(build):
    system = stacked(build())
    graph = ca.constraint_graph(system)
    assert nx.is_bipartite(graph)
    assert len(graph) == sum(system.shape)
    assert len(graph.edges) == system.pattern.nnz
    names = nx.get_node_attributes(graph, "label")
    for equation, unknown, coefficient in list(graph.edges(data="coefficient"))[:: max(1, len(graph.edges) // 50)]:
        i, j = list(system.rows).index(names[equation]), list(system.unknowns).index(names[unknown])
        assert system.coefficients[int(system.pattern[i, j]) - 1] == coefficient
    assert {data["kind"] for _, data in graph.nodes(data=True)} == {"weight", "gradient", "unknown"}


def test_no_two_nodes_share_a_name():
    first, second = (ca.Conv1d(1, 2).place((1, 3), name=name) for name in ("0", "1"))
    twice = ca.stack(ca.weight_equations(first), ca.weight_equations(first))
    graph = ca.constraint_graph(twice)
    assert len(graph) == 4 + 3
    assert graph.nodes["0:z[0,1] (2)"] == {
        "kind": "weight", "layer": "0", "index": (0, 1), "label": "z[0,1] (2)", "bipartite": 0
    }  # fmt: skip
    both = nx.compose(graph, ca.constraint_graph(ca.weight_equations(second)))
    assert len(both) == len(graph) + 2 + 3
