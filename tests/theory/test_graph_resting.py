"""Gradients at rest: a special network with the same values, and what it says of almost all, against all rows."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.arrays import BoolArray
from constraint_algebra.numerics.modular import PRIME, Echelon, residues
from constraint_algebra.ranks.modular_network import ModularNetwork
from constraint_algebra.theory import graph_recursion
from constraint_algebra.theory.activity import settled
from constraint_algebra.theory.graph_feasibility import drawn_network, graph_whole_map
from constraint_algebra.theory.graph_moving import shared_statistics
from constraint_algebra.theory.graph_resting import solve_at_rest
from constraint_algebra.theory.graph_state import GraphState
from constraint_algebra.theory.resting_network import RestingNetwork
from tests.recursion.residual_models import residual


def network(*widths: int, blocks: int = 1) -> ca.Network:
    made: ca.Network = ca.from_torch(residual(widths, blocks=blocks), (3, 4, 4))[0]
    return made


def resting(net: ca.Network, seed: int = 0) -> tuple[ModularNetwork, RestingNetwork]:
    drawn = drawn_network(net, settled(net, 0.5), seed)
    return drawn, RestingNetwork(drawn, [layer.name for layer in shared_statistics(net)])


def test_the_special_network_has_the_same_values_and_its_own_gradients() -> None:
    drawn, still = resting(network(9, 10))
    assert len(still.resting) > 3
    changed = [x for x in drawn.network.bilinear if (still.weight(x) != drawn.weight(x)).any()]
    assert changed
    again = ModularNetwork.values.func(still)  # type: ignore[attr-defined]
    for one, other in zip(drawn.values, again, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(still.gradients, ModularNetwork.gradients.func(still), strict=True):  # type: ignore[attr-defined]
        np.testing.assert_array_equal(one, other)
    assert (still.gradients[1] != drawn.gradients[1]).any()


def test_there_gradients_below_normalisations_do_not_move_with_what_leaves_their_means_and_scales() -> None:
    drawn, still = resting(network(9, 10))
    for layer in drawn.network:
        if not layer.is_normalisation:
            continue
        own, K = still.statistics(layer), still.gradients[layer.number].astype(float)
        groups, size = own.off.shape
        # Differences of values that leave mean, scale, and mean(K x̂) alone: three equations a group.
        rows = np.stack([np.ones_like(own.off), own.off, K.reshape(groups, size)], axis=1)
        d = np.stack([_leaves(row, np.random.default_rng(3)) for row in rows]).reshape(*layer.input_shape, 1)
        moved = own.bend(K, d).any()
        assert moved == (layer.name not in still.resting)


def _leaves(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    form = Echelon(rows.shape[1]).absorb(np.remainder(rows, PRIME))
    return form.null(residues((rows.shape[1] - form.rank, 1), rng))[:, 0]


def found(net: ca.Network, seed: int, active: float, monkeypatch: pytest.MonkeyPatch, *, at_rest: bool) -> GraphState:
    """What the recursion finds with the special network, or with all rows of the general one."""
    left_out = "solve_nearby" if at_rest else "solve_at_rest"
    with monkeypatch.context() as patch:
        patch.setattr(graph_recursion, left_out, lambda *_: False)
        drawn = drawn_network(net, settled(net, active), seed)
        return graph_recursion.recursion(drawn, [layer.name for layer in shared_statistics(net)])


def by_rest(net: ca.Network, seed: int, active: float, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], BoolArray]:
    """The values found at rest, all of which the general network knows as well, and what is known of the input."""
    learnt = list[int]()

    def noted(state: GraphState, number: int) -> bool:
        said = solve_at_rest(state, number)
        learnt.extend([number] if said else [])
        return said

    with monkeypatch.context() as patch:
        patch.setattr(graph_recursion, "solve_at_rest", noted)
        special = found(net, seed, active, monkeypatch, at_rest=True)
    general = found(net, seed, active, monkeypatch, at_rest=False)
    for one, other in zip(special.values, general.values, strict=True):
        assert not (one & ~other).any()
    return learnt, special.values[0]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_found_at_rest_is_found_by_all_rows_and_by_the_jacobian(monkeypatch, seed) -> None:
    net = network(5, 6, blocks=2)
    learnt, inputs = by_rest(net, seed, 0.5, monkeypatch)
    limit = graph_whole_map(net, settled(net, 0.5), seed, [layer.name for layer in shared_statistics(net)])
    assert limit is not None
    assert not (inputs & ~limit.determined).any()
    assert learnt or seed


@pytest.mark.parametrize(("width", "enough"), [(3, True), (1, False)])
def test_too_few_filters_leave_open_what_they_do(monkeypatch, width, enough) -> None:
    # Sixteen positions a channel: three filters have twenty-seven gradient equations for each, one has nine.
    net = network(width, 6)
    learnt, inputs = by_rest(net, 0, 0.5, monkeypatch)
    assert any(number < net.named("4.conv1").number for number in learnt) == enough
    assert inputs.all() == enough
