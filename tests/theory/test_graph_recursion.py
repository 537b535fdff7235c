"""The recursion on graphs from shapes: what flows, what is solved, and where it can start."""

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.networks import operations
from constraint_algebra.networks.network import bind
from constraint_algebra.theory.activity import settled
from constraint_algebra.theory.graph_feasibility import drawn_network
from constraint_algebra.theory.graph_flow import _forward, _passed, flow
from constraint_algebra.theory.graph_joint import solve_together
from constraint_algebra.theory.graph_recursion import recursion
from constraint_algebra.theory.graph_solve import solve_gradient, solve_value
from constraint_algebra.theory.graph_spaces import ValueEquations
from constraint_algebra.theory.graph_start import is_blind
from constraint_algebra.theory.graph_state import GraphState
from tests.graph_cases import random_graph
from tests.theory.graph_networks import residual

TOGETHER = 34  # a graph whose input and a first activation are given by equations of both alone


def found(net, activity=1.0, seed=0):
    return recursion(drawn_network(net, settled(net, activity), seed))


def why(state, name):
    return list(state.reasons[state.drawn.network.named(name).number])


def k_why(state, name):
    return list(state.gradient_reasons[state.drawn.network.named(name).number])


@pytest.mark.parametrize("activity", [1.0, 0.5])
def test_a_residual_network_with_a_flat_head_comes_back(activity) -> None:
    report = ca.feasibility(residual(8, 32, ((32, 1), (48, 2))), activity=activity)
    assert report.verdict == "determined"
    assert {row.verdict for row in report.layers} == {"determined"}
    assert report.conclusion.startswith("Determined: the gradient determines every value of the 3×8×8 input")
    assert report.limit.full


@pytest.mark.slow
def test_residual_networks_of_the_size_that_prototypes_solved() -> None:
    assert found(residual(16, 32, ((32, 1), (64, 2))), 0.5).values[0].all()
    assert found(residual(16, 32, ((32, 1), (48, 2), (64, 2)), pooled=True), 0.5).values[0].all()


def test_behind_a_global_average_pool_a_blind_start_is_made() -> None:
    net = residual(8, 24, ((24, 2), (24, 1)), pooled=True)
    state = found(net, 0.5)
    assert state.values[0].all()
    start = [reason for reason in k_why(state, "b1_c2") if "blind start" in reason]
    assert start == [
        "by the weight gradient of layer 'b1_c2' alone (blind start), its factor by the bias gradient of layer 'b1_n2'"
    ]
    assert "blind start" in why(state, "b1_r")[0]
    report = ca.feasibility(net, activity=0.5)
    assert "a blind start is made by the weight gradient of layer 'b1_c2' alone" in report.assumptions[0]
    # With all outputs active k is the same everywhere in a channel: it has rank one, and nothing starts.
    assert not found(residual(8, 24, ((24, 2),), pooled=True), 1.0).values[0].any()


def test_a_blind_start_needs_as_many_filters_and_channels_as_positions_and_taps_on_all_sides() -> None:
    shape = (16, 4, 4)
    assert is_blind(ca.Conv2d(16, 3, padding=1).place(shape))
    assert is_blind(ca.Conv2d(20, 5, padding=2).place(shape))
    assert is_blind(ca.Conv2d(4, (3, 1), padding=(1, 0)).place((4, 4, 1)))  # nothing to shift along an axis of one
    for conv in (
        ca.Conv2d(15, 3, padding=1),
        ca.Conv2d(16, 1),
        ca.Conv2d(16, (3, 1), padding=(1, 0)),
        ca.Conv2d(16, 3, padding=2, dilation=2),
        ca.Conv2d(16, 3, padding=1, groups=2),
        ca.Conv2d(16, 3, padding=1, stride=2),
        ca.Conv2d(16, 3, padding=[(2, 0), (1, 1)]),
    ):
        assert not is_blind(conv.place(shape)), conv
    assert not is_blind(ca.Conv2d(16, 3, padding=1).place((15, 4, 4)))


def pooled(bias, *between):
    """Two convolutions, the second of which is as wide as it has positions, behind an average pool."""
    layers = [ca.Conv2d(20, 3, padding=1), ca.ReLU(), ca.Conv2d(20, 3, padding=1, bias=bias), *between]
    return ca.Network((1, 3, 3), [*layers, ca.ReLU(), ca.AdaptiveAvgPool2d(1), ca.Flatten(), ca.Linear(4)])


def test_the_factor_of_a_blind_start_stays_open_without_a_bias_gradient() -> None:
    assert "its factor by its bias gradient" in k_why(found(pooled(True), 0.6), "2")[0]
    state = found(pooled(False), 0.6)
    assert not state.values[0].any()
    assert "fixes it up to one factor" in state.stops[2]
    by_norm = found(pooled(False, ca.BatchNorm()), 0.6)
    assert "its factor by the bias gradient of layer '3'" in k_why(by_norm, "2")[0]


def test_a_known_input_gives_output_gradients_by_the_dual_equations() -> None:
    layers = {
        "a": ca.Conv1d(6, 3, padding=1),
        "side": (ca.Flatten(), "a"),  # the linear layer gives a's output away, and so the input
        "far": ca.Linear(3),
        "b": (ca.Conv1d(2, 3, padding=1), "a"),
        "relu": ca.ReLU(),
        "pool": ca.AdaptiveMaxPool1d(1),
        "flat": ca.Flatten(),
        "join": (ca.Concatenate(), "flat", "far"),
        "head": ca.Linear(2),
    }
    state = found(ca.Network((3, 6), layers), 0.7)
    assert state.gradients[state.drawn.network.named("b").number].all()
    # A pool of the largest gives zeros away, and its two winners follow from the weight gradient.
    assert state.values[0].all()
    alone = found(ca.Network((3, 6), [ca.Conv1d(2, 3), ca.BatchNorm(), ca.Mean((1,)), ca.Linear(2)]))
    assert not alone.values[0].any()


def test_dual_equations_are_short_where_the_input_has_too_few_channels() -> None:
    def net(channels):
        layers = {
            "know": (ca.Flatten(), "input"),
            "far": ca.Linear(3),
            "b": (ca.Conv1d(2, 1, bias=False), "input"),
            "s": ca.Sigmoid(),
            "c": ca.Conv1d(3, 1, bias=False),
            "s2": ca.Sigmoid(),
            "mean": ca.Mean((1,)),
            "join": (ca.Concatenate(), "mean", "far"),
            "head": ca.Linear(2, bias=False),
        }
        return ca.Network((channels, 6), layers)

    assert net(6).named("b").channels == 6
    for channels, full in ((6, True), (5, False)):
        drawn = drawn_network(net(channels), 1.0, 0)
        state = GraphState(drawn)
        b = drawn.network.named("b")
        state.learn(0, np.ones((channels, 6), dtype=bool), "given")
        assert solve_gradient(state, b) is full
        assert bool(state.gradients[b.number].all()) is full


def test_bias_gradients_give_the_gradient_behind_an_average_pool_without_a_linear_head() -> None:
    layers = [ca.Conv2d(4, 3), ca.ReLU(), ca.Conv2d(3, 1), ca.AdaptiveAvgPool2d(1), ca.Flatten()]
    state = found(ca.Network((1, 5, 5), layers))
    assert k_why(state, "4") == ["the bias gradient of layer '2'"]
    assert state.gradients[state.drawn.network.named("2").number].all()
    without = [ca.Conv2d(4, 3), ca.ReLU(), ca.Conv2d(3, 1, bias=False), ca.AdaptiveAvgPool2d(1), ca.Flatten()]
    assert not found(ca.Network((1, 5, 5), without)).gradients[-1].any()


def test_a_largest_entry_of_zero_says_that_all_relu_outputs_of_its_window_are_zero() -> None:
    net = ca.Network((1, 8), [ca.Conv1d(1, 1), ca.ReLU(), ca.MaxPool1d(2), ca.Flatten(), ca.Linear(3)])
    active = np.array([[True, False, False, False, True, True, False, True]])
    state = found(net, {"1": active, "2": np.array([[0, 2, 5, 7]])})
    assert state.values[2].tolist() == [[True, False, True, True, False, True, False, True]]
    assert state.values[1].tolist() == [[True, False, False, False, False, True, False, True]]
    assert state.gradients[1].all()  # zero where another entry won, known where this one did
    # Winners that no input can have: an entry is cut off and wins over one that is active, which nothing is said of.
    odd = found(net, {"1": active, "2": np.array([[1, 2, 5, 7]])})
    assert odd.values[2][0, :2].tolist() == [False, True]


def test_an_equation_of_two_unknown_sources_is_solved_in_both() -> None:
    # Neither branch gives itself away: each layer behind the sum reads both.
    layers = {
        "a": ca.Linear(3),
        "ra": ca.ReLU(),
        "b": (ca.Linear(3), "input"),
        "rb": ca.ReLU(),
        "sum": (ca.Subtract(), "ra", "rb"),
        "pad": ca.Reshape((3, 1)),
        "head": ca.Flatten(),
        "out": ca.Linear(2),
    }
    state = found(ca.Network((2,), layers))
    assert state.values[0].all()


def test_several_sources_together_give_values_that_none_gives_alone() -> None:
    case = random_graph(TOGETHER)
    x = np.random.default_rng([11, TOGETHER]).standard_normal(case.network.input_shape)
    activity = ca.activity_of(case.network, case.parameters, x, sides=True)
    state = found(case.network, activity, TOGETHER)
    rules = [rule for rules in state.reasons.values() for rule in rules if "together" in rule]
    assert any(" and " in rule for rule in rules)


@pytest.mark.parametrize("seed", range(4))
def test_what_flows_forward_and_back_does_not_depend_on_what_is_unknown(seed) -> None:
    rng = np.random.default_rng(seed)
    case = random_graph(seed)
    net, x = case.network, rng.standard_normal(case.network.input_shape)
    parameters = {name: np.asarray(value) for name, value in case.parameters.items()}
    bound = bind(net, parameters, "parameters")
    values = net.forward(bound, x)
    pattern = operations.pattern(net, bound, values)
    state = GraphState(drawn_network(net, ca.activity_of(net, case.parameters, x, sides=True), seed))
    for layer in net:
        state.pending.clear()
        for n in layer.inputs:
            state.values[n][...] = rng.random(state.values[n].shape) < 0.7
        state.values[layer.number][...] = False
        state.gradients[layer.number][...] = rng.random(state.values[layer.number].shape) < 0.7
        check_forward(state, layer, bound, values, rng)
        check_back(state, layer, bound, pattern, rng)


def check_forward(state, layer, bound, values, rng) -> None:
    known = _forward(state, layer).reshape(layer.output_shape)
    outputs = []
    for _ in range(6):
        inputs = [
            np.where(state.values[n], values[n], values[n] + 3 * rng.standard_normal(values[n].shape))
            for n in layer.inputs
        ]
        if len(set(layer.inputs)) < len(layer.inputs):
            inputs = [inputs[0]] * len(inputs)
        outputs.append(operations.value(layer, bound, inputs))
    steady = np.ptp(np.stack(outputs), axis=0) < 1e-9
    assert not (known & ~steady).any()
    if not (layer.is_selection or layer.is_activation):  # these may take the same output by chance
        np.testing.assert_array_equal(known, steady)


def check_back(state, layer, bound, pattern, rng) -> None:
    k_known, y_known = state.gradients[layer.number], state.values[layer.number]
    y_known[...] = rng.random(layer.output_shape) < 0.6
    k = rng.standard_normal(layer.output_shape) * state.support(layer.number)
    arriving = []
    for _ in range(6):
        at = dict(pattern)
        if layer.is_activation:  # where the output is unknown, so is the slope
            at[layer.name] = np.where(y_known, pattern[layer.name], rng.standard_normal(layer.output_shape))
        some = np.where(k_known, k, rng.standard_normal(layer.output_shape))
        arriving.append(operations.cotangents(layer, bound, at, some))
    for number in set(layer.inputs):
        known = _passed(state, layer, number).reshape(state.values[number].shape)
        parts = [sum(p for n, p in zip(layer.inputs, some, strict=True) if n == number) for some in arriving]
        steady = np.ptp(np.stack(parts), axis=0) < 1e-9
        np.testing.assert_array_equal(known, steady)


def test_the_flow_ends() -> None:
    state = GraphState(drawn_network(residual(8, 4, ((4, 1),)), 1.0, 0))
    flow(state)
    assert not state.pending
    assert not state.values[0].any()


def test_an_output_that_passes_no_gradient_on_is_zero_and_a_factor_gives_the_last_value_of_a_channel() -> None:
    net = ca.Network((2, 3), [ca.Conv1d(2, 1), ca.BatchNorm(), ca.ReLU(), ca.Conv1d(2, 1), ca.Flatten(), ca.Linear(2)])
    active = np.array([[True, False, True], [False, True, True]])
    relu, scale = net.named("2"), net.named("1")
    state = GraphState(drawn_network(net, settled(net, [active]), 0))
    for number in (relu.number, scale.number):
        state.learn_gradient(number, np.ones((2, 3), dtype=bool), "given")
    flow(state)
    np.testing.assert_array_equal(state.values[relu.number], ~active)
    state.learn(scale.inputs[0], np.array([[True, False, True], [True, False, False]]), "given")
    flow(state)
    # In the first channel the last value met a k of zero, in the second two are missing.
    assert state.values[scale.inputs[0]].tolist() == [[True, False, True], [True, False, False]]
    state.learn(scale.inputs[0], np.array([[False, False, False], [False, False, True]]), "given")
    flow(state)
    assert state.values[scale.inputs[0]].tolist() == [[True, False, True], [True, True, True]]


def test_a_source_read_through_two_averages_comes_back_but_not_its_sum_with_an_unknown_one() -> None:
    layers = {
        "ca": ca.Conv1d(1, 1),
        "a": ca.ReLU(),
        "cb": (ca.Conv1d(1, 1), "input"),
        "b": ca.ReLU(),
        "sum": (ca.Add(), "a", "b"),
        "s": ca.ReLU(),
        "end": ca.Flatten(),
        "two": (ca.AvgPool1d(2, stride=1), "a"),
        "f2": ca.Flatten(),
        "l2": ca.Linear(2),
        "three": (ca.AvgPool1d(3, stride=1), "a"),
        "f3": ca.Flatten(),
        "l3": ca.Linear(2),
        "join": (ca.Concatenate(), "l2", "l3", "end"),
    }
    state = GraphState(drawn_network(ca.Network((1, 5), layers), 1.0, 0))
    number = {layer.name: layer.number for layer in state.drawn.network}
    for name in ("l2", "l3"):
        state.learn_gradient(number[name], np.ones(2, dtype=bool), "given")
    for name in ("f2", "f3"):
        assert solve_value(state, number[name])
    flow(state)
    assert not state.values[number["a"]].any()  # each average has its entries in twos or threes
    assert solve_together(state)
    assert state.values[number["a"]].all()
    assert not state.values[number["sum"]].any()


def test_gradient_rows_count_where_all_their_output_gradients_are_known() -> None:
    net = ca.Network((1, 8), [ca.Conv1d(6, 3), ca.MaxPool1d(6), ca.Flatten(), ca.Linear(2)])
    for k, rows in (([0], 3), ([0, 1, 2], 9), (range(6), 18)):
        state = GraphState(drawn_network(net, 1.0, 0))
        state.drawn.support[1][...] = True
        known = np.zeros((6, 6), dtype=bool)
        known[list(k)] = True
        known[5, 3:] = False  # where one is missing, the rows of that filter are not known
        state.learn_gradient(1, known, "given")
        equations = ValueEquations(state, 0, (net[0],))
        assert equations.gradient_rows == min(rows, 15)
        assert equations.usable["0"].sum(axis=1).tolist() == [3 * (f in k and f < 5) for f in range(6)]
