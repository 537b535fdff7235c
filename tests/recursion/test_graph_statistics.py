"""The rules at a normalisation by own statistics: what each may learn, that it is true, and several samples at once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from torch import nn

import constraint_algebra as ca
from constraint_algebra.ground import Ground
from constraint_algebra.layers.normalisation import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from constraint_algebra.layers.own_statistics import statistics
from constraint_algebra.recursion import graph_rules, graph_statistics
from constraint_algebra.recursion.ensemble import MEMBERS
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import Moments
from constraint_algebra.recursion.open_values import Beyond
from tests.recursion.normalised_models import batch
from tests.recursion.test_graph_rules import RNG, Scene, known, scene

NORMS = {
    "batch": BatchNorm(training=True, tracked=False),
    "group": GroupNorm(2),
    "layer": LayerNorm((4, 4, 4)),
    "layer, last axis": LayerNorm((4,)),
    "RMS": RMSNorm((4, 4)),
}


def normalised(norm) -> tuple[Scene, object]:
    """A normalisation between two convolutions."""
    s = scene({"below": ca.Conv2d(4, 1), "norm": norm, "above": ca.Conv2d(2, 1)})
    return s, next(layer for layer in s.knows.network if layer.is_normalisation)


def tell_statistics(s: Scene, layer) -> None:
    x = s.values[layer.inputs[0]].reshape(layer.normalisation.runs(layer.input_shape), -1)
    mean = x.mean(axis=1) if layer.normalisation.centred else np.zeros(len(x))
    scale = np.sqrt(((x - mean[:, None]) ** 2).mean(axis=1) + layer.normalisation.epsilon)
    s.knows.learn_moments(layer, Moments(known(mean), known(scale)))


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_values_go_up_and_statistics_follow_where_groups_are_known(norm) -> None:
    s, layer = normalised(norm)
    s.tell("below")
    assert graph_rules.forward(s.knows, layer)
    assert s.value(layer.name).all()
    again, _ = normalised(norm)
    tell_statistics(again, layer)
    found, right = s.knows.statistics[layer.index], again.knows.statistics[layer.index]
    np.testing.assert_allclose(found.mean.value, right.mean.value, atol=1e-14)
    np.testing.assert_allclose(found.scale.value, right.scale.value, atol=1e-14)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_values_come_down_entry_by_entry_with_known_statistics_alone(norm) -> None:
    s, layer = normalised(norm)
    which = RNG.random(layer.output_shape) < 0.5
    s.tell(layer.name, which=which)
    graph_rules.invert(s.knows, layer)
    assert not s.value("below").any()
    tell_statistics(s, layer)
    assert graph_rules.invert(s.knows, layer)
    groups = which.reshape(layer.normalisation.runs(layer.input_shape), -1)
    lonely = (~groups).sum(axis=1, keepdims=True) == 1  # all of a group add up to zero
    expected = groups | (lonely & layer.normalisation.centred)
    np.testing.assert_array_equal(s.value("below"), expected.reshape(which.shape))


def test_the_last_value_of_a_group_follows_from_the_sum() -> None:
    s, layer = normalised(NORMS["batch"])
    which = np.ones(layer.output_shape, dtype=bool)
    which[0, 1, 2] = which[3, 0, 0] = which[1, :2, 0] = False
    s.tell(layer.name, which=which)
    assert graph_rules.invert(s.knows, layer)
    which[0, 1, 2] = which[3, 0, 0] = True
    np.testing.assert_array_equal(s.value(layer.name), which)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_gradients_come_down_and_go_up(norm) -> None:
    s, layer = normalised(norm)
    s.tell(layer.name)
    tell_statistics(s, layer)
    s.tell_gradient(layer.name)
    assert graph_rules.pull(s.knows, s.number("below"))
    assert s.gradient("below").all()
    other, layer = normalised(norm)
    other.tell(layer.name)
    tell_statistics(other, layer)
    other.tell_gradient("below")
    # What comes back leaves both means open; factors and shifts tell them where their channels are whole groups.
    up = graph_rules.push(other.knows, layer)
    assert up == (norm not in (NORMS["layer, last axis"], NORMS["RMS"]))
    assert other.gradient(layer.name).all() == up


def test_means_follow_from_factors_where_a_gradient_is_open() -> None:
    s, layer = normalised(NORMS["group"])
    K = s.sent[layer.number].reshape(2, -1)
    first, second = graph_statistics.means(s.knows, layer)
    assert first.known.all()
    assert second.known.all()
    np.testing.assert_allclose(first.value[:, 0], K.mean(axis=1), atol=1e-13)
    x = s.values[layer.number].reshape(2, -1)
    np.testing.assert_allclose(second.value[:, 0], (K * x).mean(axis=1), atol=1e-13)


def test_nothing_comes_back_from_a_group_at_which_nothing_arrives() -> None:
    s, layer = normalised(NORMS["batch"])
    silent = known(np.zeros(layer.output_shape), np.arange(4).reshape(4, 1, 1) == np.ones((1, 4, 4)))
    s.knows.learn_gradient(layer.number, silent)
    part = graph_statistics.part(s.knows, layer)
    np.testing.assert_array_equal(part.known, silent.known)
    assert not part.value[part.known].any()


def test_noise_is_carried_to_first_order() -> None:
    s, layer = normalised(NORMS["group"])
    x, d = s.values[s.number("below")], 1e-6 * RNG.standard_normal((4, 4, 4))
    moved = np.repeat(d[..., None], MEMBERS, axis=-1)
    s.knows.learn_value(s.number("below"), Estimate(x, np.ones(x.shape, dtype=bool), moved))
    graph_rules.forward(s.knows, layer)
    change = statistics(layer.normalisation, x + d).normalised - statistics(layer.normalisation, x).normalised
    found = s.knows.values[layer.number].perturbations.mean(axis=-1)
    np.testing.assert_allclose(found, change, atol=1e-10)


def test_four_samples_of_one_step_stack_along_an_axis_of_their_own() -> None:
    graph, x = batch(nn.ReLU, 4, (2, 4, 24), 4)
    by_equations = graph.to_input()
    assert by_equations is not None
    assert not by_equations.input.known.any()
    found = graph.to_input(Beyond(Ground.NEIGHBOURHOOD, (0.0, 1.0), time.monotonic() + 60, 0))
    assert found is not None
    assert found.input.known.all()
    assert np.abs(found.input.value - x).max() < 1e-10
    assert next(line for line in found.summaries if line.name == "3").weight_rows < 4 * 4 * 16


def test_several_samples_are_solved_at_once_where_nothing_is_hidden() -> None:
    graph, x = batch(lambda: nn.LeakyReLU(0.2), 3, (2, 4, 24), 4)
    found = graph.to_input()
    assert found is not None
    assert found.input.known.all()
    assert np.abs(found.input.value - x).max() < 1e-10
