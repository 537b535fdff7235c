"""The set of a whole region: twins change what the first layer puts out, and those that keep it are among them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as la
import torch
from scipy.optimize import brentq

import constraint_algebra as ca
from tests.region_cases import EXPANDING, case_of_pieces, jacobian, kernel_of
from tests.twin_cases import Case, case


def drawn_in(found: ca.IndistinguishabilitySet, seed: int) -> np.ndarray:
    """A point of the set on a random way: no solver needed."""
    P = found.polytope
    way = P.draw_in(P.null.basis @ np.random.default_rng(seed).standard_normal(found.nullity))
    low, high = found.valid_range
    return np.clip(found.input + way.reshape(found.input.shape), low, high)


def first_layer_twin(c: Case, seed: int) -> np.ndarray | None:
    """A twin that keeps what the first layer passes on, from its own explicit equations: no other layer's."""
    z = c.model[0](torch.tensor(c.image)[None]).detach().requires_grad_()
    (k,) = torch.autograd.grad(torch.nn.functional.cross_entropy(c.model[1:](z), torch.tensor([c.label])), z)
    y = z.detach()
    passing = torch.ones_like(y, dtype=torch.bool)
    for module in c.model[1:]:
        if not isinstance(module, torch.nn.ReLU | torch.nn.LeakyReLU | torch.nn.Hardtanh):
            break
        w = y.requires_grad_()
        passing &= torch.autograd.grad(module(w).sum(), w)[0] != 0
        y = module(w).detach()
    B = ca.weight_equations(c.network[0], c.parameters["0.weight"]).matrix.toarray()
    A = ca.gradient_equations(c.network[0], k[0].numpy()).matrix.toarray()
    keep = passing[0].numpy().ravel()
    null = la.null_space(np.vstack([A, B[keep]]), rcond=1e-10)
    if not null.shape[1]:
        return None
    way = null @ np.random.default_rng(seed).standard_normal(null.shape[1])
    rise, room = np.abs(B[~keep] @ way), room_of(z.detach().numpy().ravel()[~keep])
    step = min(0.9 * (room[rise > 1e-12] / rise[rise > 1e-12]).min(initial=np.inf), inside(c.image.ravel(), way))
    return c.image + step * way.reshape(c.image.shape) if step > 1e-7 else None


def room_of(z: np.ndarray) -> np.ndarray:
    """How far outputs that are cut off are from the nearest number that is an edge of any activation here."""
    return np.abs(z[:, None] - np.array([0.0, 6.0, -0.5, 0.5])).min(axis=1, initial=np.inf)


def inside(x: np.ndarray, way: np.ndarray) -> float:
    """How far one may go within the valid range."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.where(way > 1e-12, (1 - x) / way, np.where(way < -1e-12, -x / way, np.inf))
    return float(ends.min())


@pytest.mark.parametrize("block", [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 10))])
def test_on_random_networks_twins_verify_and_the_first_layers_twins_are_among_them(block: int) -> None:
    """In all ten blocks: 200 networks."""
    twins = lower = 0
    for seed in range(20 * block, 20 * block + 20):
        c = case_of_pieces(seed)
        found = c.set()
        assert found.kept is None
        for number in range(3) if found.nullity else ():
            twin = drawn_in(found, number)
            twins += np.abs(twin - c.image).max() > 1e-6
            assert c.verify(twin).equal, seed
            assert found.contains(twin)
            assert np.abs(twin - c.image)[found.fixed].max(initial=0) < 1e-9
        below = first_layer_twin(c, seed)
        if below is not None:
            lower += 1
            assert c.verify(below).equal
            assert found.contains(below), seed
    assert twins > 20
    assert lower > 1


def test_a_twin_changes_what_the_first_layer_puts_out() -> None:
    net = ca.Network((1, 12), EXPANDING)
    c = case(net, np.random.default_rng(0).random((1, 12)))
    found = c.set()
    assert (found.nullity, found.dimension, found.fixed.any(), found.whole) == (5, 5, False, True)
    twin = found.twin()
    assert c.verify(twin.image).equal
    assert twin.change > 0.1
    assert np.abs(c.model[0](torch.tensor(twin.difference)[None]).detach().numpy()).max() > 0.05


def test_a_set_is_whole_only_where_equal_gradients_mean_equal_differences() -> None:
    layers = [ca.Conv1d(2, 2), ca.ReLU(), ca.Flatten(), ca.Linear(3)]
    c = case(ca.Network((1, 5), layers), np.full((1, 5), 0.5))
    assert c.set().whole
    assert not ca.indistinguishable(c.network, c.parameters, c.image).whole  # for every class at once
    assert not c.set(loss=None).whole
    bent = case(ca.Network((1, 5), [layers[0], ca.Tanh(), *layers[2:]]), c.image)
    assert (bent.set().whole, bent.set().kept) == (False, "0")
    told = case(ca.Network((1, 5), [*layers[:-1], ca.Linear(3, bias=False)]), np.full((1, 5), 0.5))
    assert told.set().whole  # the first layer's bias gradient tells the scale of k
    silent = case(ca.Network((1, 5), [ca.Conv1d(2, 2, bias=False), *layers[1:-1], ca.Linear(3, bias=False)]), c.image)
    assert not silent.set().whole
    assert not case(ca.Network((1, 5), layers[:2]), c.image).set(loss=None).whole


def test_without_any_bias_another_input_of_the_region_may_have_the_same_gradient() -> None:
    """A larger k and a smaller x have the same product: the set does not hold it and does not claim to."""
    net = ca.Network((2,), [ca.Linear(2, bias=False)])
    c = case(net, np.array([0.3, 0.4]))
    c.model[0].weight.data = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    half = lambda m: m / (1 + np.exp(m))  # noqa: E731
    margin = 2 * c.image.sum()
    other = brentq(lambda m: half(m) - half(margin), 0.1, 1.27)
    twin = c.image * other / margin
    check = ca.verify_twin(c.model, c.image, twin, 0)
    assert check.difference < 1e-9
    found = ca.indistinguishable(net, c.parameters, c.image, 0, valid_range=(0, 10))
    assert not found.whole
    assert not found.contains(twin)


def test_wherever_two_inputs_of_a_region_have_equal_gradients_their_difference_is_in_the_kernel() -> None:
    """Whole: the Jacobian's kernel, and nothing else, is the set."""
    for seed in (3, 8, 21):
        c = case_of_pieces(seed)
        found = c.set()
        rank, _ = kernel_of(jacobian(c))
        assert found.nullity == c.image.size - rank
        outside = np.random.default_rng(seed).standard_normal(c.image.size)
        outside -= found.polytope.null.project(outside)
        if np.abs(outside).max() > 1e-6:
            step = 1e-6 * outside.reshape(c.image.shape) / np.abs(outside).max()
            assert not found.contains(np.clip(c.image + step, 0, 1))


def test_intervals_hold_all_twins_and_their_ends_are_reached() -> None:
    c = case(ca.Network((1, 12), EXPANDING), np.random.default_rng(0).random((1, 12)))
    found = c.set()
    twins = np.array([drawn_in(found, seed) for seed in range(40)])
    for place in range(0, 12, 3):
        one, other = found.interval((0, place)), found.interval((0, place), solver="highs")
        assert one.lower_outer <= twins[:, 0, place].min()
        assert twins[:, 0, place].max() <= one.upper_outer
        assert one.doubt < 1e-5
        assert one.width == pytest.approx(other.width, abs=1e-4)
        end = found.twin((0, place))
        assert c.verify(end.image).equal


def test_an_interval_map_tells_sets_of_equal_size_apart_and_its_own_again(tmp_path) -> None:
    image, path = np.random.default_rng(0).random((1, 12)), tmp_path / "intervals.npz"
    one, again, other = (case(ca.Network((1, 12), EXPANDING), image, seed=seed).set() for seed in (0, 0, 1))
    assert one.nullity == other.nullity
    few = np.arange(12)[None] == 1
    done = ca.interval_map(one, few, path=path)
    assert ca.interval_map(again, few, path=path)[0, 1] == done[0, 1]
    with pytest.raises(ca.StorageError, match="another input or network"):
        ca.interval_map(other, few, path=path)


def test_several_processes_share_a_set() -> None:
    c = case(ca.Network((1, 12), EXPANDING), np.random.default_rng(0).random((1, 12)))
    few = np.zeros((1, 12), dtype=bool)
    few[0, :2] = True
    one, two = ca.interval_map(c.set(), few), ca.interval_map(c.set(), few, workers=2)
    np.testing.assert_allclose(one.lower_outer[few], two.lower_outer[few], atol=1e-12)
