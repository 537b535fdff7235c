"""One rule of the recursion on graphs at a time: what it may learn from what, and that what it learns is true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.sparse as sp

import constraint_algebra as ca
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.networks.network import bind
from constraint_algebra.recursion import dual_equations, graph_rules, graph_solving, graph_windows
from constraint_algebra.recursion.ensemble import MEMBERS, Ensemble
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.noise import deviations_of, precision
from constraint_algebra.recursion.observation import Observation

RNG = np.random.default_rng(0)


def known(values: FloatArray, which: BoolArray | None = None) -> Estimate:
    """Exact values, all of them known or some."""
    mask = np.ones(values.shape, dtype=bool) if which is None else which
    return Estimate(np.where(mask, values, np.nan), mask, np.zeros((*values.shape, MEMBERS)))


@dataclass(frozen=True)
class Scene:
    """A network at an input, with the truth of every value and gradient by the layer's name, and nothing known."""

    network: ca.Network
    values: list[FloatArray]
    sent: list[FloatArray]
    knows: GraphKnowledge

    def tell(self, *names: str, which: BoolArray | None = None) -> None:
        """Let some values be known."""
        for name in names:
            self.knows.learn_value(self.number(name), known(self.values[self.number(name)], which))

    def tell_gradient(self, *names: str, which: BoolArray | None = None) -> None:
        """Let some gradients be known."""
        for name in names:
            self.knows.learn_gradient(self.number(name), known(self.sent[self.number(name)], which))

    def number(self, name: str) -> int:
        return self.network.named(name).number if name != "input" else 0

    def value(self, name: str) -> BoolArray:
        """Which entries are known; all of them are right."""
        return self._right(self.knows.values, self.values, name)

    def gradient(self, name: str) -> BoolArray:
        """Which entries of a gradient are known; all of them are right."""
        return self._right(self.knows.gradients, self.sent, name)

    def _right(self, held: list[Estimate], truth: list[FloatArray], name: str) -> BoolArray:
        found, right = held[self.number(name)], truth[self.number(name)]
        np.testing.assert_allclose(found.value[found.known], right[found.known], rtol=0, atol=1e-12)
        return found.known


def scene(layers, shape=(4, 4, 4), x: FloatArray | None = None) -> Scene:
    network = ca.Network(shape, layers)
    rng = np.random.default_rng(1)
    given = {n: rng.uniform(-1, 1, s) for n, s in network.parameter_shapes.items()}
    given |= {n: rng.uniform(0.5, 1.5, s) for n, s in network.buffer_shapes.items()}
    parameters = bind(network, given, "parameters")
    values = network.forward(parameters, rng.standard_normal(shape) if x is None else x)
    k = rng.standard_normal(network.output_shape)
    gradients = network.backward(parameters, values, k)
    rounding = precision(gradients or {"none": np.zeros(1)})
    observed = Observation(
        network, parameters, gradients, deviations_of(gradients, rounding, 0.0), rounding, Ensemble(0).draw
    )
    return Scene(network, values, network.output_gradients(parameters, values, k), GraphKnowledge.nothing(observed))


def some(shape: tuple[int, ...], share: float = 0.6) -> BoolArray:
    return np.asarray(RNG.random(shape) < share)


# ---- peeling ----


def closure(M: FloatArray, rows: BoolArray, columns: BoolArray) -> BoolArray:
    """Which unknowns follow one by one, by plain loops."""
    found = columns.copy()
    while True:
        before = found.sum()
        for row in M[rows]:
            missing = np.flatnonzero((row != 0) & ~found)
            if len(missing) == 1:
                found[missing] = True
        if found.sum() == before:
            return found


@pytest.mark.parametrize("seed", range(20))
def test_peeling_finds_what_stands_alone_in_a_row_and_nothing_else(seed) -> None:
    rng = np.random.default_rng(seed)
    sizes = (7, 5)
    M = [np.where(rng.random((10, n)) < 0.25, rng.uniform(0.5, 2, (10, n)), 0.0) for n in sizes]
    x = [rng.standard_normal(n) for n in sizes]
    rows, masks = rng.random(10) < 0.8, [rng.random(n) < 0.3 for n in sizes]
    y = known(M[0] @ x[0] + M[1] @ x[1], rows)
    found = graph_rules.peeled(
        tuple(sp.csr_array(m) for m in M), y, [known(v, mask) for v, mask in zip(x, masks, strict=True)]
    )
    expected = closure(np.hstack(M), rows, np.concatenate(masks))
    np.testing.assert_array_equal(np.concatenate([part.known for part in found]), expected)
    for part, truth in zip(found, x, strict=True):
        np.testing.assert_allclose(part.value[part.known], truth[part.known], rtol=0, atol=1e-9)


# ---- values down and up ----

AFFINE = {
    "sum": {"a": ca.Conv2d(4, 1), "it": (ca.Add(), "a", "input")},
    "difference": {"a": ca.Conv2d(4, 1), "it": (ca.Subtract(), "input", "a")},
    "concatenation": {"a": ca.Conv2d(2, 1), "it": (ca.Concatenate(), "a", "input")},
    "average pool": {"it": ca.AvgPool2d(2)},
    "padding": {"it": ca.Pad((1, 2))},
    "normalisation": {"it": ca.Normalise(0.5, 0.25)},
    "batch norm": {"it": ca.BatchNorm(affine=False)},
}


@pytest.mark.parametrize("layers", AFFINE.values(), ids=AFFINE)
def test_values_go_up_where_all_that_an_output_reads_is_known(layers) -> None:
    s = scene(layers)
    layer = s.network.named("it")
    for number in layer.inputs:
        s.tell(s.network.value_name(number), which=some(s.network.shape_of(number), 0.8))
    graph_rules.forward(s.knows, layer)
    from constraint_algebra.networks.operations import affine_maps

    maps, _ = affine_maps(layer, s.knows.observed.parameters)
    open_ones = sum(
        abs(M.toarray()) @ ~s.knows.values[n].known.ravel() for M, n in zip(maps, layer.inputs, strict=True)
    )
    np.testing.assert_array_equal(s.value("it").ravel(), open_ones == 0)
    assert s.value("it").any()


def test_a_sum_gives_the_other_summand_and_a_concatenation_its_parts() -> None:
    s = scene(AFFINE["sum"])
    s.tell("it")
    assert not graph_rules.invert(s.knows, s.network.named("it"))
    mask = some((4, 4, 4))
    s.tell("input", which=mask)
    assert graph_rules.invert(s.knows, s.network.named("it"))
    np.testing.assert_array_equal(s.value("a"), mask)
    s = scene(AFFINE["concatenation"])
    s.tell("it")
    graph_rules.invert(s.knows, s.network.named("it"))
    assert s.value("a").all()
    assert s.value("input").all()


def test_an_average_pool_gives_the_last_unknown_of_a_window() -> None:
    s = scene(AFFINE["average pool"])
    mask = np.ones((4, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, :2, :2] = False
    s.tell("input", which=mask)
    s.tell("it")
    graph_rules.invert(s.knows, s.network.named("it"))
    assert s.value("input")[0].all()
    assert not s.value("input")[1, :2, :2].any()


def test_batch_norm_is_inverted_but_where_its_factor_is_zero() -> None:
    s = scene({"it": ca.BatchNorm(), "out": ca.ReLU()})
    s.knows.observed.parameters["it.weight"][1] = 0.0
    s.values[:] = s.network.forward(s.knows.observed.parameters, s.values[0])
    s.tell("it")
    for name in ("it", "it.normalised"):
        graph_rules.invert(s.knows, s.network.named(name))
    np.testing.assert_array_equal(s.value("input").all(axis=(1, 2)), [True, False, True, True])
    assert not s.value("input")[1].any()


def test_the_last_value_of_a_channel_follows_from_the_gradient_of_its_factor() -> None:
    s = scene({"it": ca.BatchNorm()})
    mask = np.ones((4, 4, 4), dtype=bool)
    mask[0, 1, 2] = mask[1, 0, 0] = mask[1, 3, 3] = False
    s.tell("it.normalised", which=mask)
    s.tell_gradient("it")
    assert graph_solving.by_scale(s.knows, s.network.named("it"))
    assert s.value("it.normalised")[0].all()
    assert s.value("it.normalised")[1].sum() == 14


def test_a_filter_of_zeros_has_no_weight_equations() -> None:
    s = scene({"it": ca.Conv2d(3, 3, padding=1, bias=False), "flat": ca.Flatten()})
    s.knows.observed.parameters["it.weight"][1] = 0.0
    s.values[:] = s.network.forward(s.knows.observed.parameters, s.values[0])
    s.tell("it")
    (reader,) = graph_solving.readers(s.knows, 0)
    np.testing.assert_array_equal(reader.z.known.all(axis=(1, 2)), [True, False, True])
    assert not reader.z.known[1].any()
    graph_solving.solve(s.knows, 0)  # what has neither noise nor coefficients would overflow
    s.value("input")


# ---- gradients down and up ----


def test_a_gradient_comes_down_as_the_sum_over_all_that_read_a_value() -> None:
    s = scene({"a": ca.Conv2d(4, 3, padding=1), "b": (ca.BatchNorm(), "input"), "it": (ca.Add(), "a", "b", "input")})
    s.tell_gradient("it")
    for name in ("a", "b", "b.normalised"):
        graph_rules.pull(s.knows, s.number(name))
        assert s.gradient(name).all()
    assert graph_rules.pull(s.knows, 0)
    assert s.gradient("input").all()


def test_a_gradient_stays_open_where_one_part_is() -> None:
    s = scene({"a": ca.Conv2d(4, 1), "relu": (ca.ReLU(), "input"), "it": (ca.Add(), "a", "relu")})
    s.tell_gradient("a", "it", "relu")
    assert not graph_rules.pull(s.knows, 0)
    mask = some((4, 4, 4))
    s.tell("relu", which=mask)
    graph_rules.pull(s.knows, 0)
    np.testing.assert_array_equal(s.gradient("input"), mask)


def test_a_gradient_goes_up_where_one_part_alone_is_open() -> None:
    s = scene({"a": ca.BatchNorm(), "it": (ca.Concatenate(), "a", "input")})
    s.tell_gradient("a", "input")
    for name in ("a.normalised", "it"):
        graph_rules.pull(s.knows, s.number(name))
        graph_rules.push(s.knows, s.network.named(name))
    assert s.gradient("it")[:4].all()
    s.knows.learn_gradient(s.number("a.normalised"), known(s.sent[s.number("a.normalised")]))
    graph_rules.push(s.knows, s.network.named("it"))
    assert s.gradient("it").all()


def test_the_gradients_on_both_sides_say_which_outputs_of_a_relu_are_zero() -> None:
    s = scene({"act": ca.ReLU(), "flat": ca.Flatten()})
    s.tell_gradient("input", "act")
    assert graph_rules.below_activation(s.knows, s.network.named("act"))
    np.testing.assert_array_equal(s.value("act"), s.values[1] == 0)


def test_the_dual_equations_give_the_gradient_above_a_known_input() -> None:
    s = scene({"it": ca.Conv2d(6, 3, padding=1)}, shape=(4, 3, 3))
    s.tell("input")
    assert dual_equations.dual(s.knows, s.network.named("it"))
    assert s.gradient("it").all()
    # With two channels, one tap and a bias there are three equations for nine outputs.
    s = scene({"it": ca.Conv2d(2, 1)}, shape=(2, 3, 3))
    s.tell("input")
    assert not dual_equations.dual(s.knows, s.network.named("it"))
    assert not s.gradient("it").any()


# ---- selections ----


def pool(x: FloatArray) -> Scene:
    return scene({"it": ca.MaxPool2d(2), "flat": ca.Flatten()}, shape=x.shape, x=x)


def test_a_window_of_known_entries_has_its_winner_and_its_value() -> None:
    x = RNG.standard_normal((2, 4, 4))
    s, mask = pool(x), np.ones((2, 4, 4), dtype=bool)
    mask[1, 0, 0] = False
    s.tell("input", which=mask)
    graph_windows.forward(s.knows, s.network.named("it"))
    assert s.value("it").sum() == 7
    won = s.knows.winners[0]
    assert won[1, 0, 0] == -1
    np.testing.assert_array_equal(x.ravel()[won[won >= 0]], s.values[1][won >= 0])


def test_equal_entries_have_no_clear_winner_but_a_clear_value() -> None:
    s = pool(np.ones((1, 2, 2)))
    s.tell("input")
    graph_windows.forward(s.knows, s.network.named("it"))
    assert s.value("it").all()
    assert (s.knows.winners[0] == -1).all()


def test_the_last_unknown_of_a_window_won_if_all_others_are_smaller() -> None:
    x = np.arange(8.0).reshape(2, 2, 2)
    s, mask = pool(x), np.ones((2, 2, 2), dtype=bool)
    mask[0, 1, 1] = mask[1, 0, 0] = False  # the largest of the first window, the smallest of the second
    s.tell("input", which=mask)
    s.tell("it")
    assert graph_windows.invert(s.knows, s.network.named("it"))
    np.testing.assert_array_equal(s.value("input"), mask | (x == 3))
    assert s.knows.winners[0].ravel().tolist() == [3, -1]


def test_a_pooled_zero_behind_a_relu_makes_its_whole_window_zero() -> None:
    x = -np.ones((1, 4, 4))
    x[0, 2:, 2:] = 1.0
    s = scene({"act": ca.ReLU(), "it": ca.MaxPool2d(2), "flat": ca.Flatten()}, shape=x.shape, x=x)
    s.tell("it")
    s.tell_gradient("it")
    graph_windows.invert(s.knows, s.network.named("it"))
    np.testing.assert_array_equal(s.value("act"), x < 0)


def test_the_gradient_arrives_at_the_winner_alone() -> None:
    s = pool(RNG.standard_normal((2, 4, 4)))
    s.tell_gradient("it", "input")
    layer = s.network.named("it")
    assert graph_windows.by_gradient(s.knows, layer, graph_rules.own_part(s.knows, layer, 0))
    won = s.knows.winners[0]
    np.testing.assert_array_equal(s.values[0].ravel()[won], s.values[1])


def test_a_gradient_of_zero_sends_nothing_whoever_won() -> None:
    s = pool(RNG.standard_normal((2, 4, 4)))
    s.sent[1][0] = 0.0
    s.sent[0][0] = 0.0
    s.tell_gradient("it")
    part = graph_windows.part(s.knows, s.network.named("it"))
    np.testing.assert_array_equal(part.known, np.arange(2).reshape(2, 1, 1) == np.zeros((2, 4, 4)))
    assert not part.value[0].any()


def test_overlapping_windows_add_what_they_send() -> None:
    x = RNG.standard_normal((2, 5, 5))
    s = scene({"it": ca.MaxPool2d(3, stride=1, padding=1), "flat": ca.Flatten()}, shape=x.shape, x=x)
    s.tell("input")
    s.tell_gradient("it")
    graph_windows.forward(s.knows, s.network.named("it"))
    graph_rules.pull(s.knows, 0)
    assert s.gradient("input").all()
