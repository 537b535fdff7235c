"""Verdicts by the map of the whole network: what is fixed for all inputs, what in its region, what only nearby.

The oracles are automatic differentiation (the Jacobian of all gradients) and real gradients of twins found without the
library: along random null vectors of that Jacobian, cut back until the gradients agree.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.layers.activations import formulas
from tests.some import some
from tests.twin_cases import Case, case

F, L, R = ca.Flatten(), ca.LeakyReLU(0.2), ca.ReLU()


def drawn(shape: tuple[int, ...], *layers, seed: int = 0) -> Case:
    """A network of random weights and an image inside the range."""
    image = 0.1 + 0.8 * np.random.default_rng(seed).random(shape)
    return case(ca.Network(shape, list(layers)), image, seed=seed)


def certify(c: Case, **options) -> ca.Certificate:
    return ca.certify(c.model, c.image, c.label, **options)


def null_space(c: Case) -> np.ndarray:
    """Directions in which no gradient moves to first order, by automatic differentiation."""
    jacobian = ca.gradient_jacobian(c.model, c.image, c.label)
    rows = np.concatenate([values.reshape(-1, c.image.size) for values in jacobian.values()])
    _, s, vt = np.linalg.svd(rows)
    return vt[int((s > 1e-10 * s[0]).sum()) :].T


def moves(c: Case) -> np.ndarray:
    return (np.linalg.norm(null_space(c), axis=1) > 1e-7).reshape(c.image.shape)


def sides(c: Case, image: np.ndarray) -> list[np.ndarray]:
    """The derivative of each activation with a kink, which says on which side it works."""
    values = c.network.forward(c.parameters, image)
    bent = [layer for layer in c.network.layers if layer.is_activation and not isinstance(layer.activation, ca.Tanh)]
    return [formulas(layer.activation).derivative(values[layer.index + 1]) for layer in bent]


def keeps_sides(c: Case, image: np.ndarray) -> bool:
    pairs = zip(sides(c, image), sides(c, c.image), strict=True)
    return all((one == other).all() for one, other in pairs)


def own_twins(c: Case, number: int, seed: int = 0) -> list[np.ndarray]:
    """Twins along random null vectors of the Jacobian, as far as range and equal gradients go."""
    rng, N, found = np.random.default_rng(seed), null_space(c), []
    for _ in range(number if N.size else 0):
        way = (N @ rng.standard_normal(N.shape[1])).reshape(c.image.shape)
        room = np.where(way > 0, 1 - c.image, c.image)
        step = (room / np.maximum(np.abs(way), 1e-9)).min()
        for _ in range(12):
            twin = np.clip(c.image + step * way, 0, 1)
            if c.verify(twin).equal:
                found.append(twin)
                break
            step /= 3
    return found


NARROW_1 = ((1, 12), ca.Conv1d(8, 2, stride=2), ca.Conv1d(1, 1), F, ca.Linear(10))
NARROW_2 = ((1, 8, 8), ca.Conv2d(24, 3, stride=2, padding=1), ca.Conv2d(2, 1), F, ca.Linear(10))


@pytest.mark.parametrize("network", [NARROW_1, NARROW_2], ids=["1x12", "1x8x8"])
def test_below_a_narrow_layer_without_activation_all_values_are_ambiguous(network) -> None:
    c = drawn(*network)
    found = certify(c)
    assert moves(c).all()
    assert found.counts == {"fixed": 0, "fixed_in_region": 0, "ambiguous": c.image.size, "undecided": 0}
    assert found.nullity == null_space(c).shape[1]
    # No set that keeps the first layer's outputs has such twins.
    first = ca.Network(c.image.shape, [c.network.layers[0]])
    parameters = {name: c.parameters[name] for name in first.parameter_shapes}
    outputs = [first.forward(parameters, image)[1] for image in (c.image, found.strongest.twin.image)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


@pytest.mark.parametrize(
    "network",
    [
        ((1, 3), ca.Conv1d(8, 2), ca.Conv1d(1, 1), F, ca.Linear(2)),
        ((1, 6), ca.Conv1d(8, 2), ca.Conv1d(3, 1), ca.Conv1d(6, 2), ca.Conv1d(2, 1), F, ca.Linear(4)),
    ],
    ids=["three pixels", "a chain"],
)
def test_a_chain_without_activation_has_one_region_and_is_fixed_for_all_inputs(network) -> None:
    c = drawn(*network)
    assert not moves(c).any()
    found = certify(c)
    assert found.counts == {"fixed": c.image.size, "fixed_in_region": 0, "ambiguous": 0, "undecided": 0}
    assert found.obstacle is None
    assert found.bound.max() < 1e-8
    assert "F holds for all valid inputs" in str(found.to_dict()["assumptions"])


def test_with_leaky_relu_between_all_values_are_fixed_in_their_region() -> None:
    shape, conv, *rest = NARROW_2
    c = drawn(shape, conv, L, *rest)
    assert not moves(c).any()
    found = certify(c)
    assert found.counts == {"fixed": 0, "fixed_in_region": 64, "ambiguous": 0, "undecided": 0}
    assert found.bound.max() < 1e-6
    assert found.obstacle.startswith("layer '2' above the first is not determined")
    assert found.verdict((0, 3, 4)).startswith("fixed in its region: unique to within")
    assert found.local is None
    assert "R holds for the valid inputs on which every activation works on the same side" in str(found.to_dict())


def test_a_value_that_hardly_moves_is_fixed_in_its_region_as_well() -> None:
    """Every filter reads a pair of pixels in one ratio: one of them can move by a millionth of the other's way."""
    c = drawn((1, 16), ca.Conv1d(6, 2, stride=2), L, ca.Conv1d(2, 1), F, ca.Linear(4))
    with torch.no_grad():
        c.model[0].weight[:, :, 1] = 1e-6 * c.model[0].weight[:, :, 0]
    found = certify(c)
    even = np.arange(16).reshape(1, 16) % 2 == 0
    assert found.fixed_in_region[even].all()
    assert moves(c)[even].any()
    np.testing.assert_array_equal(found.ambiguous, moves(c) & ~even)
    assert 1e-8 < found.bound[even].max() < 1e-5


def test_what_a_layer_above_a_smooth_activation_hides_stays_undecided() -> None:
    shape, conv, *rest = NARROW_2
    c = drawn(shape, conv, ca.Tanh(), *rest)
    found = certify(c)
    assert found.kept == "0"
    assert found.counts == {"fixed": 0, "fixed_in_region": 0, "ambiguous": 0, "undecided": 64}
    words = found.verdict((0, 0, 0))
    assert words.startswith("undecided: layer '2' above the first is not determined")
    assert "no other input nearby has these gradients (the Jacobian has full column rank)" in words
    assert found.local.unique == (not moves(c).any())


def test_a_relu_below_a_smooth_activation_keeps_its_side_in_the_claim() -> None:
    """The layer above Tanh is determined, that above ReLU is not: what is kept is known, the sides below are not."""
    c = drawn((1, 6), ca.Conv1d(8, 2), L, ca.Conv1d(2, 1), ca.Tanh(), F, ca.Linear(4))
    found = certify(c)
    assert found.kept == "2"
    assert found.fixed_in_region.any()
    assert not found.fixed.any()
    assert not (found.fixed_in_region & moves(c)).any()
    place = tuple(np.argwhere(found.fixed_in_region)[0])
    assert "every activation below the output of layer '2' works on the same side" in found.verdict(place)
    assert "twins keep the output of layer '2'" in str(found.to_dict()["assumptions"])


def test_half_of_a_relu_inactive_and_the_layer_above_open() -> None:
    c = drawn((1, 6, 6), ca.Conv2d(12, 3, padding=1), R, ca.Conv2d(3, 1), F, ca.Linear(8))
    active = sides(c, c.image)[0].mean()
    assert 0.2 < active < 0.8
    result = ca.reconstruct(c.network, c.parameters, c.gradients(), search=0.0)
    assert not result.determined.any()
    found = certify(c)
    np.testing.assert_array_equal(found.fixed_in_region, ~moves(c))
    assert found.fixed_in_region.any()
    assert not found.undecided.any()


def test_time_that_is_up_leaves_what_the_equations_fix() -> None:
    shape, conv, *rest = NARROW_2
    found = certify(drawn(shape, conv, L, *rest), time_limit=0.0)
    assert found.fixed_in_region.all()
    assert found.obstacle == "the time limit came before the layers above the first were reconstructed"
    assert certify(drawn((1, 3), ca.Conv1d(8, 2), ca.Conv1d(1, 1), F, ca.Linear(2)), time_limit=0.0).fixed.all()


def test_without_a_bias_at_the_start_nothing_rests_on_an_unfinished_reconstruction() -> None:
    """Then k itself is one of several, and which of them explain the gradients the reconstruction has to show."""
    layers = [ca.Conv2d(24, 3, stride=2, padding=1, bias=False), L, ca.Conv2d(2, 1, bias=False)]
    c = drawn((1, 8, 8), *layers, F, ca.Linear(10, bias=False))
    found = certify(c, time_limit=0.0)
    assert not found.fixed.any()
    assert not found.fixed_in_region.any()


@cache
def random_certificate(seed: int) -> ca.Certificate:
    return certify(random_network(seed))


def random_network(seed: int) -> Case:
    """Expand, project, with any activation between or none: 1-D and 2-D, whole and depthwise."""
    rng = np.random.default_rng(seed)
    flat = rng.random() < 0.5
    conv = ca.Conv1d if flat else ca.Conv2d
    channels = int(rng.integers(1, 3))
    shape = (channels, int(rng.integers(6, 13))) if flat else (channels, *map(int, rng.integers(3, 6, 2)))
    between = ([], [R], [L], [ca.Hardtanh(-0.3, 0.4)], [ca.ReLU6()], [ca.Tanh()])
    pick = lambda: between[int(rng.choice(6, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.05]))]  # noqa: E731
    groups = channels if rng.random() < 0.3 else 1
    layers = [conv(groups * int(rng.integers(1, 7)), 2, stride=int(rng.integers(1, 3)), groups=groups), *pick()]
    layers += [conv(int(rng.integers(1, 4)), 1), *pick()]
    if rng.random() < 0.4:
        layers += [conv(int(rng.integers(2, 5)), 2, padding=1), *pick()]
    return drawn(shape, *layers, F, ca.Linear(int(rng.integers(2, 6))), seed=seed)


@pytest.mark.parametrize("seed", some(15, range(40)))
def test_no_verified_twin_moves_a_value_that_is_fixed(seed: int) -> None:
    c, found = random_network(seed), random_certificate(seed)
    assert sum(found.counts.values()) == c.image.size
    whole = found.kept is None
    if whole:  # the equations are those of the Jacobian
        assert found.nullity == null_space(c).shape[1]
        assert not (found.ambiguous & ~moves(c)).any()
        assert not found.undecided.any()
    for twin in own_twins(c, 6, seed):
        change = np.abs(twin - c.image)
        assert (change[found.fixed] <= found.bound[found.fixed] + 1e-9).all()
        assert not (change > found.delta)[found.fixed].any()
        if keeps_sides(c, twin):
            assert (change[found.fixed_in_region] <= found.bound[found.fixed_in_region] + 1e-9).all()
            assert not whole or (found.ambiguous | (change < found.delta)).all()


def test_the_random_networks_have_all_verdicts() -> None:
    seen = [random_certificate(seed).counts for seed in range(40)]
    total = {name: sum(counts[name] > 0 for counts in seen) for name in seen[0]}
    assert min(total["fixed"], total["fixed_in_region"], total["ambiguous"]) >= 5
