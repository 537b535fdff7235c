"""The limit of graphs, and the recursion below it, against Jacobians of real networks by automatic differentiation."""

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.networks.network import bind
from constraint_algebra.theory.activity import settled
from constraint_algebra.theory.graph_feasibility import drawn_network
from constraint_algebra.theory.graph_limit import graph_limit, last_layer, most_rank
from constraint_algebra.theory.graph_recursion import recursion
from constraint_algebra.theory.limit import generic_whole_map
from tests.graph_cases import random_graph
from tests.theory.graph_jacobian import jacobian, judged
from tests.theory.graph_networks import block

SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20)]
# Active outputs of both activations of one block of a prototype, at one image.
INSIDE, OUTSIDE = "081a14530200f5f500008f250000110b", "0200fffff8df86060000c7b2ee4ffe6f"


def mask(digits, shape):
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8)).reshape(shape).astype(bool)


@pytest.mark.parametrize("part", [0, *SLOW])
def test_the_limit_of_a_random_graph_is_that_of_its_jacobian_and_the_recursion_stays_within(part) -> None:
    found = 0
    for seed in range(15 * part, 15 * part + 15):
        case = random_graph(seed)
        x, rank, determined = judged(case, seed)
        report = ca.feasibility(case.network, activity=ca.activity_of(case.network, case.parameters, x, sides=True))
        assert report.limit.linear
        assert (report.limit.rank, int(report.limit.determined.sum())) == (rank, int(determined.sum())), seed
        np.testing.assert_array_equal(report.limit.determined.ravel(), determined)
        assert report.limit_high == rank
        assert not (report.determined & ~report.limit.determined).any(), seed
        found += bool(report.determined.any())
    assert found  # the recursion does find something


@pytest.mark.parametrize("part", [0, *SLOW[:4]])
def test_where_activations_bend_the_limit_is_that_of_the_neighbourhood(part) -> None:
    for seed in range(1000 + 5 * part, 1005 + 5 * part):
        case = random_graph(seed, smooth=True)
        x, rank, determined = judged(case, seed)
        found = ca.whole_map(case.network, activity=ca.activity_of(case.network, case.parameters, x, sides=True))
        assert found.rank == rank, seed
        np.testing.assert_array_equal(found.determined.ravel(), determined)


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 100))])
def test_what_is_known_inside_does_not_move_where_no_gradient_does(seed) -> None:
    case = random_graph(seed)
    x, rank, _ = judged(case, seed)
    activity = settled(case.network, ca.activity_of(case.network, case.parameters, x, sides=True))
    state = recursion(drawn_network(case.network, activity, seed))
    null = np.linalg.svd(jacobian(case, x, seed))[2][rank:]
    parameters = {name: torch.tensor(array) for name, array in case.parameters.items()}
    step = 1e-7 * null / max(1, len(null)) ** 0.5
    moved = values_of(case, parameters, x + step.sum(axis=0).reshape(x.shape))
    for known, before, after in zip(state.values, values_of(case, parameters, x), moved, strict=True):
        assert np.abs(after - before)[known].max(initial=0) < 1e-12


def values_of(case, parameters, x):
    bound = {name: np.asarray(array) for name, array in parameters.items()}
    return case.network.forward(bind(case.network, bound, "parameters"), x)


def test_the_block_of_the_prototype_has_rank_252_of_256_and_144_determined_values() -> None:
    layers = {**block("b", "input", 4, 8, 2), "flat": ca.Flatten(), "head": ca.Linear(10)}
    net = ca.Network((4, 8, 8), layers)
    activity = {"b_r": mask(INSIDE, (8, 4, 4)), "b_out": mask(OUTSIDE, (8, 4, 4))}
    report = ca.feasibility(net, activity=activity)
    assert (report.limit.rank, int(report.limit.determined.sum())) == (252, 144)
    assert not (report.determined & ~report.limit.determined).any()
    assert ca.feasibility(net).limit.full  # it is the pattern: with all outputs active nothing is missing


@pytest.mark.slow
def test_a_tutorial_network_with_max_pooling_is_short_by_half() -> None:
    report = ca.feasibility(zoo.network("fl-flower-cifar"))
    row = report.layers[0]
    # 6 * 14 * 14 winners and 6 filters of 25 taps for each channel; a filter's two kinds share one combination.
    assert (row.weight_rows, row.gradient_rows, row.generic) == (1176, 450, 1176 + 450 - 6)
    assert (report.limit.rank, report.limit.determined.any(), report.verdict) == (1620, False, "undetermined")


def test_the_limit_ends_where_an_output_gradient_is_at_hand_and_nothing_passes_by() -> None:
    net = ca.Network((2, 6), [ca.Conv1d(3, 3), ca.MaxPool1d(2), ca.Flatten(), ca.Linear(5), ca.Tanh(), ca.Linear(2)])
    assert last_layer(net).name == "3"
    assert generic_whole_map(net).linear  # the activation that bends lies above
    past = ca.Network(
        (4,), {"a": ca.Linear(4), "t": ca.Tanh(), "sum": (ca.Add(), "t", "a"), "b": ca.Linear(2, bias=False)}
    )
    assert last_layer(past).name == "a"
    beside = ca.Network((4,), {"a": ca.Linear(4), "t": ca.Tanh(), "sum": (ca.Add(), "t", "input"), "b": ca.Linear(2)})
    assert last_layer(beside).name == "b"


def test_a_map_that_is_too_large_is_refused_and_has_bounds() -> None:
    net = ca.Network(
        (3, 36, 36), [ca.Conv2d(2, 3), ca.ReLU(), ca.MaxPool2d(2), ca.Conv2d(2, 3), ca.Flatten(), ca.Linear(3)]
    )
    with pytest.raises(ca.ShapeError, match="too large to eliminate"):
        generic_whole_map(net)
    report = ca.feasibility(net)
    assert report.limit is None
    # Of 2 * 34 * 34 outputs those that win, and nine taps of two filters for each channel; for each filter one
    # combination of these is one of those.
    assert report.limit_high == 2 * 17 * 17 + 2 * 9 * 3 - 2
    assert "at least 3,258 dimensions of the input stay open" in report.conclusion


def test_the_upper_bound_counts_every_layer_that_reads_the_input() -> None:
    layers = {"a": ca.Linear(3), "b": (ca.Linear(4), "input"), "join": (ca.Concatenate(), "a", "b"), "c": ca.Linear(2)}
    net = ca.Network((20,), layers)
    assert most_rank(drawn_network(net, 1.0, 0), 0) == 20  # a gradient row of one filter gives a linear input away
    pooled = ca.Network((1, 8), [ca.AvgPool1d(2), ca.Conv1d(2, 3), ca.Flatten(), ca.Linear(2)])
    assert most_rank(drawn_network(pooled, 1.0, 0), 0) == 8  # no bound where the input is mixed first
    assert graph_limit(drawn_network(pooled, 1.0, 0)).rank == 4
