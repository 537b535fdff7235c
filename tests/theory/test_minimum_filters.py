"""Fewest filters against a search that tries every number."""

import pytest

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.theory.minimum_filters import fewest_filters_by_both
from tests.rank_oracles import random_layers


def brute_force(layer, kinds, most=60):
    """The first number of filters that determines everything, and whether every larger number does as well."""
    groups = layer.groups
    enough = [
        bool(ca.generic_rank(layer.with_filters(groups * n), kinds=kinds).determined.all()) for n in range(1, most)
    ]
    first = enough.index(True) if True in enough else None
    return None if first is None else groups * (first + 1), first is None or all(enough[first:])


@pytest.mark.slow
def test_fewest_filters_by_both_kinds_are_those_of_a_search() -> None:
    found = {True: 0, False: 0}
    for layer in random_layers(60, seed=21, largest={1: 9, 2: 4, 3: 3}):
        both, monotone = brute_force(layer, ["weight", "gradient"], most=20)
        alone, _ = brute_force(layer, ["gradient"], most=20)
        assert monotone  # another filter only adds equations
        result = fewest_filters_by_both(layer)
        if both is None and alone is None:
            assert result is None or result[0] >= 20 * layer.groups
            continue
        assert result == (both, both), layer
        found[both < (alone or 1000)] += 1
    assert min(found.values()) > 3  # weight equations help in some layers and not in others


def test_the_figures_of_cnn6() -> None:
    rows = ca.minimum_filters(zoo.network("cnn6")).layers
    assert [row.by_gradient for row in rows] == [64, 81, 9, 9, 25, 3, 1]
    assert [row.by_counting for row in rows] == [64, 33, 9, 9, 9, 3, 1]
    assert all(row.by_both <= row.by_gradient for row in rows)
    assert all(row.enough for row in rows)
    assert rows[1].by_both == 23


@pytest.mark.parametrize(
    ("name", "few"), [("cnn6-d", "Too few filters to determine the input: layer 2."), ("lenet-o", "Every layer has")]
)
def test_the_conclusion_names_the_layers_that_have_too_few(name, few) -> None:
    found = ca.minimum_filters(zoo.network(name))
    assert found.conclusion.startswith(few)
    assert few in repr(found)
    assert few in found._repr_html_()
    assert found.to_frame()["layer"].tolist() == [row.layer for row in found.layers]


def test_the_conclusion_says_that_all_outputs_count_as_active() -> None:
    with_relu = [ca.Conv2d(9, 3, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(4)]
    assert ca.minimum_filters(ca.Network((1, 6, 6), with_relu)).conclusion == (
        "Every layer has enough filters: the whole network is determined, with every output of ReLU active."
    )
    few = ca.minimum_filters(ca.Network((9, 6, 6), [ca.Conv2d(1, 3), *with_relu[1:]]))
    assert few.conclusion == "Too few filters to determine the input: layer 0, with every output of ReLU active."
    smooth = ca.minimum_filters(ca.Network((1, 6, 6), [with_relu[0], ca.Tanh(), *with_relu[2:]]))
    assert smooth.conclusion == "Every layer has enough filters: the whole network is determined."


def test_a_network_of_fewest_filters_is_determined_and_one_filter_less_is_not() -> None:
    def network(first, second):
        layers = [ca.Conv2d(first, 3, stride=2, padding=1), ca.LeakyReLU(), ca.Conv2d(second, 3), ca.LeakyReLU()]
        return ca.Network((2, 10, 10), [*layers, ca.Flatten(), ca.Linear(4)])

    first = ca.minimum_filters(network(8, 8)).layers[0].by_both
    second = ca.minimum_filters(network(first, 8)).layers[1].by_both
    assert ca.feasibility(network(first, second)).verdict == "determined"
    assert ca.feasibility(network(first - 1, second)).layers[0].verdict != "determined"
    assert ca.feasibility(network(first, second - 1)).layers[1].verdict != "determined"


def test_where_no_number_suffices_it_is_missing() -> None:
    net = ca.Network((1, 6, 6), [ca.Conv2d(4, 1, stride=2), ca.ReLU(), ca.Flatten(), ca.Linear(2)])
    row = ca.minimum_filters(net).layers[0]
    assert (row.by_gradient, row.by_both, row.enough) == (None, None, False)
