"""The whole map of graphs: rank and determined values are those of automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import constraint_algebra as ca
from constraint_algebra.networks.operations import pattern
from constraint_algebra.regions.needs import Region
from tests.graph_cases import Builder, Case, random_graph
from tests.graph_models import tutorial_cnn
from tests.graph_oracle import head_gradient, jacobian, rank_and_determined


def drawn_input(case: Case, seed: int) -> np.ndarray:
    return np.random.default_rng([5, seed]).random(case.network.input_shape)


class Model(nn.Module):
    """A case as a module of PyTorch: what is trained are its parameters, the rest its buffers."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.function, self.names = case.function, {}
        for name, array in case.parameters.items():
            own = self.names[name] = name.replace(".", "__")
            if name in case.network.parameter_shapes:
                self.register_parameter(own, nn.Parameter(torch.tensor(array)))
            else:
                self.register_buffer(own, torch.tensor(array))

    def forward(self, x: Tensor) -> Tensor:
        return self.function({name: getattr(self, own) for name, own in self.names.items()}, x[0])[None]


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 130))])
def test_rank_and_determined_values_are_those_of_automatic_differentiation(seed: int) -> None:
    case = random_graph(seed)
    x = drawn_input(case, seed)
    found = ca.whole_map(case.network, case.parameters, x, 1)
    J = jacobian(case, x, head_gradient(case, x, 1))
    rank, norms, gap = rank_and_determined(J)
    assert gap > 1e3
    assert found.rank == rank
    np.testing.assert_array_equal(found.determined.ravel(), norms < 1e-7)
    assert np.abs(J @ found.basis).max(initial=0.0) <= 1e-9 * np.abs(J).max()


@pytest.mark.parametrize("count", [1, 2])
def test_each_slope_of_prelu_is_one_more_row(count: int) -> None:
    build = Builder((2, 3), 0)
    own = {"weight": np.full(count, 0.25)}
    build.put(ca.PReLU(count), lambda p, x: torch.nn.functional.prelu(x, p["weight"]), parameters=own)
    build.adaptive(1, largest=False)
    build.flatten()
    build.linear(4)
    case, x = build.done(), np.array([[-1.0, 0.5, -0.25], [0.75, -0.5, 1.0]])
    found = ca.whole_map(case.network, case.parameters, x, 1)
    rank, _, _ = rank_and_determined(jacobian(case, x, head_gradient(case, x, 1)))
    assert found.rank == rank == 2 + count  # the means of both channels, and the slopes


def test_the_kinds_of_graphs_above_are_all_there() -> None:
    kinds = {layer.kind for seed in range(50) for layer in random_graph(seed).network}
    wanted = {"Add", "Subtract", "Concatenate", "ChannelScale", "PReLU", "MaxPool2d", "AdaptiveMaxPool2d", "AvgPool2d"}
    assert kinds >= wanted | {"AdaptiveAvgPool2d", "Normalise", "Pad", "LeakyReLU", "Hardtanh", "Conv1d", "MaxPool1d"}


@pytest.mark.parametrize("seed", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 10, 11, 12, 17))])
def test_it_is_what_differentiation_of_any_model_says(seed: int) -> None:
    case = random_graph(seed)
    x = drawn_input(case, seed)
    found = ca.whole_map(case.network, case.parameters, x, 1)
    other = ca.torch_whole_map(Model(case), x, 1)
    assert {layer.kind for layer in case.network} & {"ChannelScale", "MaxPool2d", "MaxPool1d", "Add", "Concatenate"}
    assert found.rank == other.rank
    np.testing.assert_array_equal(found.determined, other.determined)


@pytest.mark.slow
def test_the_tutorials_network_on_a_photograph() -> None:
    case, x = tutorial_cnn(), ca.samples.load("cifar10:3").image
    found = ca.whole_map(case.network, case.parameters, x, 3)
    other = ca.torch_whole_map(Model(case), x, 3, basis=False)
    assert found.rank == other.rank
    assert 1000 < found.rank < 1100
    assert found.gap[0] > 1e-4
    assert found.gap[1] < 1e-13
    assert "every winner of a window" in found.pattern


def test_what_graphs_are_refused_for_names_a_way_on() -> None:
    build = Builder((1, 4, 4), 0, (ca.Tanh(),))
    build.conv(2, 3, padding=1)
    build.act(prelu=False)
    build.norm()
    build.flatten()
    build.linear(3)
    case = build.done()
    with pytest.raises(ca.UnsupportedLayerError, match="torch_whole_map"):
        ca.whole_map(case.network, case.parameters, np.ones((1, 4, 4)), 1)
    with pytest.raises(ca.UnsupportedLayerError, match="modulo a prime"):
        ca.whole_map(case.network, case.parameters, np.ones((1, 4, 4)), exact=True)


def held(layers: list, x: list[float]) -> tuple[list[list[float]], list[float]]:
    """What a network of one channel holds of its input itself."""
    network = ca.Network((1, len(x)), [*layers, ca.Flatten(), ca.Linear(1)])
    parameters = {name: np.ones(shape) for name, shape in network.parameter_shapes.items()}
    values = network.forward(parameters, np.array([x]))
    at = pattern(network.layers, parameters, values)
    region = Region(network.layers, parameters, values, at, [len(network.layers)])
    assert all(part.number == 0 for part in region.held)
    rows = [row for part in region.held for row in part.rows.toarray().tolist()]
    return rows, [s for part in region.held for s in part.slack.tolist()]


def test_below_relu_after_max_pool_a_window_cut_off_need_only_stay_below() -> None:
    rows, slack = held([ca.MaxPool1d(2), ca.ReLU()], [-2.0, -1.0, 3.0, 1.0])
    assert dict(zip(map(tuple, rows), slack, strict=True)) == {
        (1, 0, 0, 0): 2.0,
        (0, 1, 0, 0): 1.0,  # whichever of both is the larger
        (0, 0, -1, 0): 3.0,
        (0, 0, -1, 1): 2.0,
    }


def test_the_losers_of_max_pool_after_relu_may_change_their_sides() -> None:
    rows, slack = held([ca.ReLU(), ca.MaxPool1d(2)], [-2.0, -1.0, 3.0, 1.0])
    assert dict(zip(map(tuple, rows), slack, strict=True)) == {
        (1, 0, 0, 0): 2.0,
        (0, 1, 0, 0): 1.0,
        (0, 0, -1, 0): 3.0,
        (0, 0, -1, 1): 2.0,  # and not: positive
    }


def test_what_falls_turns_bounds_and_comparisons_around() -> None:
    rows, slack = held([ca.Scale(-2.0), ca.MaxPool1d(2), ca.ReLU()], [2.0, 1.0, -3.0, 1.0])
    assert dict(zip(map(tuple, rows), slack, strict=True)) == {
        (-1, 0, 0, 0): 2.0,
        (0, -1, 0, 0): 1.0,
        (0, 0, 1, 0): 3.0,
        (0, 0, 1, -1): 4.0,
    }


def test_a_winner_on_the_upper_plateau_leaves_its_window_free() -> None:
    rows, slack = held([ca.ReLU6(), ca.MaxPool1d(2)], [7.0, 1.0])
    assert (rows, slack) == ([[-1.0, 0.0]], [1.0])


def test_pools_on_pools_compare_with_the_last_winner() -> None:
    rows, _ = held([ca.MaxPool1d(2), ca.MaxPool1d(2)], [1.0, 2.0, 5.0, 3.0])
    assert sorted(rows) == [[0, 0, -1, 1], [0, 1, -1, 0], [1, 0, -1, 0]]


def test_a_value_that_a_sum_reads_as_well_is_held_to_its_side() -> None:
    layers = {"relu": ca.ReLU(), "pool": (ca.MaxPool1d(2), "relu"), "up": ca.Upsample(2)}
    network = ca.Network((1, 2), layers | {"sum": (ca.Add(), "up", "relu"), "flat": ca.Flatten(), "out": ca.Linear(1)})
    parameters = {name: np.ones(shape) for name, shape in network.parameter_shapes.items()}
    values = network.forward(parameters, np.array([[3.0, 1.0]]))
    region = Region(network.layers, parameters, values, pattern(network.layers, parameters, values), [6])
    rows = [row for part in region.held for row in part.rows.toarray().tolist()]
    assert sorted(rows) == [[-1, 0], [-1, 1], [0, -1]]
