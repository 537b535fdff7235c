"""Networks by name: what each layer reads, the graph, and how what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca


def block() -> ca.Network:
    """A residual block and a head, whose last sum reads two older values."""
    return ca.Network(
        (4, 6, 6),
        {
            "stem": ca.Conv2d(4, 3, padding=1),
            "relu": ca.ReLU(),
            "conv": ca.Conv2d(4, 3, padding=1),
            "sum": (ca.Add(), "conv", "relu"),
            "both": (ca.Concatenate(), "sum", "stem", "input"),
            "flat": ca.Flatten(),
            "head": ca.Linear(3),
        },
    )


def test_layers_read_what_they_name_or_the_one_before() -> None:
    network = block()
    assert [layer.inputs for layer in network] == [(0,), (1,), (2,), (3, 2), (4, 1, 0), (5,), (6,)]
    assert [layer.number for layer in network] == [1, 2, 3, 4, 5, 6, 7]
    assert network.named("both").input_shapes == ((4, 6, 6),) * 3
    assert network.named("both").output_shape == (12, 6, 6)
    assert [user.name for user in network.users(2)] == ["conv", "sum"]
    assert [user.name for user in network.users(0)] == ["stem", "both"]
    assert network.users(7) == ()
    assert (network.value_name(0), network.value_name(4), network.shape_of(7)) == ("input", "sum", (3,))
    with pytest.raises(ca.UnknownNameError, match="no layer 'zz'; it has stem, relu"):
        network.named("zz")


def test_only_plain_networks_are_chains() -> None:
    chain = {"a": ca.Conv2d(2, 3), "b": ca.ReLU(), "c": ca.Flatten(), "d": ca.Linear(3)}
    assert ca.Network((1, 4, 4), chain).is_chain
    assert ca.Network((1, 4, 4), chain) == ca.Network((1, 4, 4), list(chain.values()), names=list(chain))
    assert ca.Network((1, 4, 4), chain | {"b": (ca.ReLU(), "a")}).is_chain
    for other in (ca.MaxPool2d(2), ca.BatchNorm(), ca.PReLU(), ca.AvgPool2d(2), ca.Scale(2.0)):
        assert not ca.Network((1, 4, 4), chain | {"b": other}).is_chain
    assert not block().is_chain


def test_a_placed_layer_reads_the_one_before_by_default() -> None:
    layer = ca.Conv2d(4, 3).place((2, 5, 5), "conv", 6)
    assert (layer.inputs, layer.input_shapes, layer.number) == ((6,), ((2, 5, 5),), 7)
    assert (layer.is_affine, layer.is_selection, layer.is_source, layer.is_bilinear) == (False, False, False, True)
    pool = ca.MaxPool2d(2).place((2, 4, 4))
    assert (pool.is_selection, pool.is_source, pool.is_affine, pool.is_activation) == (True, True, False, False)
    assert ca.Scale(2.0).place((3,)).is_affine
    with pytest.raises(ca.ShapeError, match=r"layer it \(MaxPool2d\) is no activation"):
        _ = ca.MaxPool2d(2).place((2, 4, 4), "it").activation
    with pytest.raises(ca.ShapeError, match=r"layer it \(Scale\) selects nothing"):
        _ = ca.Scale(2.0).place((3,), "it").selection


def test_the_graph_has_the_values_as_nodes_and_their_reading_as_edges() -> None:
    import networkx as nx

    graph = block().graph()
    assert list(graph) == ["input", "stem", "relu", "conv", "sum", "both", "flat", "head"]
    assert list(graph.predecessors("both")) == ["sum", "stem", "input"]
    assert graph.nodes["sum"]["kind"] == "Add"
    assert graph.nodes["sum"]["shape"] == (4, 6, 6)
    assert graph.nodes["sum"]["layer"].name == "sum"
    assert graph.nodes["input"]["layer"] is None
    assert nx.is_directed_acyclic_graph(graph)
    twice = ca.Network((3,), {"sum": (ca.Add(), "input", "input"), "head": ca.Linear(2)}).graph()
    assert list(twice.edges()) == [("input", "sum"), ("input", "sum"), ("sum", "head")]


def test_layers_of_a_network_taken_again_read_the_same() -> None:
    network = block()
    again = ca.Network((4, 6, 6), network.layers, names=[layer.name for layer in network])
    assert again == network
    assert hash(again) == hash(network)
    other = ca.Network((4, 6, 6), network.layers)
    assert [layer.name for layer in other] == list("0123456")
    assert [layer.inputs for layer in other] == [layer.inputs for layer in network]
    assert other != network
    part = ca.Network((4, 6, 6), network.layers[:4])
    assert [layer.inputs for layer in part] == [(0,), (1,), (2,), (3, 2)]
    with pytest.raises(ca.ShapeError, match="'sum' reads layers of its network that are not among those before it"):
        ca.Network((4, 6, 6), network.layers[2:])


def test_the_order_of_inputs_tells_networks_apart() -> None:
    def difference(*inputs: str) -> ca.Network:
        return ca.Network((3,), {"a": ca.Linear(3), "less": (ca.Subtract(), *inputs), "head": ca.Linear(2)})

    assert difference("a", "input") == difference("a", "input")
    assert difference("a", "input") != difference("input", "a")


L = ca.Linear


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (
            {"a": L(4), "b": (ca.Add(), "a", "zz")},
            "'b' reads 'zz', which is no layer before it; there are 'input', 'a'",
        ),
        ({"a": (L(4), "b"), "b": (L(4), "a")}, "'a' reads 'b', which is no layer before it"),
        ({"a": (L(4), "a")}, "'a' reads 'a', which is no layer before it"),
        ({"input": L(4)}, "'input' is the network's own input; give the layer another name"),
        ({"a": L(4), "b": (L(2), "input")}, "nothing reads the output of layer 'a'"),
        ({"a": ca.BatchNorm(), "a.normalised": ca.ReLU()}, "'a.normalised' came more than once"),
        ({"a": (L(4), "input", "input")}, "Linear reads one value, got 2; join them first"),
        ({"a": (ca.BatchNorm(), "input", "input")}, "BatchNorm reads one value, got 2"),
        ({"a": (ca.Add(), "input")}, "'a' .* does not fit the input_shape: Add joins at least two values"),
        ({}, "at least one layer, got none"),
    ],
)
def test_graphs_that_cannot_be_are_refused(layers, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        ca.Network((4,), layers)


@pytest.mark.parametrize("entry", ["relu", [L(4), "input"], (L(4), 0), (), None])
def test_entries_of_another_form_are_refused(entry) -> None:
    with pytest.raises(ca.ArgumentError, match="layers"):
        ca.Network((4,), {"a": entry})
    with pytest.raises(ca.ArgumentError, match="layers"):
        ca.Network((4,), {3: L(4)})


def test_names_beside_a_mapping_are_refused() -> None:
    with pytest.raises(ca.ShapeError, match="layers that come by name have them already"):
        ca.Network((4,), {"a": L(4)}, names=["b"])


def test_parameters_are_named_by_layers_and_shared_by_none() -> None:
    network = ca.Network(
        (2, 4, 4),
        {"up": ca.ConvTranspose2d(3, 2, bias=False), "act": ca.PReLU(3), "flat": ca.Flatten(), "head": L(2)},
    )
    assert network.parameter_shapes == {
        "up.weight": (2, 3, 2, 2),
        "act.weight": (3,),
        "head.weight": (2, 75),
        "head.bias": (2,),
    }
    assert network.parameter_order == tuple(network.parameter_shapes)
    assert network.parameter_count == sum(int(np.prod(shape)) for shape in network.parameter_shapes.values())
