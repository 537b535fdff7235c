"""Layers with no activation between them are solved together: held against the Jacobian of all gradients by autograd.

With the head's output gradient fixed, all gradients of a network without activations are linear in its input. What no
null vector of that map touches is what the gradients determine, whatever method one takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, jacrev

import constraint_algebra as ca
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.pytorch.gradients import load_parameters
from constraint_algebra.recursion import joint_step
from constraint_algebra.recursion.ensemble import MEMBERS, Ensemble
from constraint_algebra.recursion.estimates import Above, Estimate, through_activation
from constraint_algebra.recursion.joint_equations import OpenLayer
from constraint_algebra.recursion.noise import deviations_of, precision
from constraint_algebra.recursion.observation import Observation
from tests.recursion.test_result import Client, client

L = ca.LeakyReLU(0.3)
EXPANDED = (ca.Conv1d(8, 2), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(2))


@dataclass(frozen=True)
class Limit:
    """What all gradients together determine of the input, from the singular values of their Jacobian.

    Attributes:
        rank: their number above rounding.
        determined: the values that no null vector touches.
        smallest: the smallest that counts, relative to the largest, rows of unit norm.
    """

    rank: int
    determined: BoolArray
    smallest: float


def unit_rows(rows: FloatArray) -> FloatArray:
    """Return the rows that are more than rounding, each of size 1."""
    sizes = np.linalg.norm(rows, axis=1)
    return rows[sizes > 1e-12 * sizes.max()] / sizes[sizes > 1e-12 * sizes.max(), None]


def limit(c: Client) -> Limit:
    parameters = {name: p.detach().double() for name, p in c.model.named_parameters()}
    x = torch.tensor(c.image)

    def logits(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return functional_call(c.model, p, (x[None],))[0]

    k = torch.softmax(logits(parameters, x), 0)
    k[c.label] -= 1

    def gradients(x: torch.Tensor) -> list[torch.Tensor]:
        found = grad(lambda p: (logits(p, x) * k).sum())(parameters)
        return [found[name] for name in found if name.endswith("weight")]  # those of biases do not depend on x

    parts = [part.reshape(-1, x.numel()).numpy() for part in (*jacrev(gradients)(x), jacrev(logits, 1)(parameters, x))]
    parts[-1] = parts[-1] - parts[-1].mean(axis=0)
    rows = np.vstack([unit_rows(part) for part in parts])
    s, Vt = np.linalg.svd(rows)[1:]
    rank = int((s > 1e-10 * s.max(initial=0)).sum())
    free = np.sqrt((Vt[rank:] ** 2).sum(axis=0))
    return Limit(rank, (free < 1e-7).reshape(c.image.shape), float(s[rank - 1] / s[0]) if rank else 1.0)


def random_network(rng: np.random.Generator, *, last: ca.Identity | None = None) -> ca.Network:
    """Return one to four convolutions in one or two dimensions, with or without `Identity` between, and a head.

    Args:
        rng: where everything comes from.
        last: activation behind the convolutions, if any.
    """
    kind, size = (ca.Conv1d, rng.integers(3, 13, 1)) if rng.random() < 0.5 else (ca.Conv2d, rng.integers(3, 7, 2))
    shape = current = (int(rng.choice([1, 1, 2, 3])), *map(int, size))
    layers: list[ca.Identity] = []
    for _ in range(rng.integers(1, 5)):
        kernel = [int(min(rng.integers(1, 4), n)) for n in current[1:]]
        depthwise = current[0] > 1 and rng.random() < 0.25
        groups = current[0] if depthwise else 1
        filters = groups * int(rng.integers(1, 3)) if depthwise else int(rng.choice([1, 1, 2, 3, 4, 8]))
        padding = [int(rng.integers(0, n)) for n in kernel]
        options = {"stride": int(rng.integers(1, 3)), "padding": padding, "groups": groups}
        layers.append(kind(filters, kernel, bias=bool(rng.random() < 0.8), **options))
        current = layers[-1].output_shape(current)
        if rng.random() < 0.25:
            layers.append(ca.Identity())
    hidden = [ca.Linear(int(rng.integers(2, 8)), bias=bool(rng.random() < 0.5))] if rng.random() < 0.3 else []
    classes = int(rng.choice([2, 3, 10]))
    return ca.Network(shape, [*layers, *([last] if last else []), ca.Flatten(), *hidden, ca.Linear(classes)])


def random_clients(number: int, *, last: ca.Identity | None = None, **options) -> list[Client]:
    """Clients of random networks whose head, not a convolution with one output position, is where to start."""
    found, seed = [], 0
    while len(found) < number:
        rng, seed = np.random.default_rng(seed), seed + 1
        network = random_network(rng, last=last)
        if network.start.kind == "Linear":
            found.append(client(network, rng.random(network.input_shape), seed=seed, init="default", **options))
    return found


def together(result: ca.Reconstruction) -> dict[str, tuple[str, ...]]:
    return {layer.name: layer.together for layer in result.layers if layer.together}


def test_three_pixels_behind_eight_channels() -> None:
    for seed in range(5):
        c = client(ca.Network((1, 3), EXPANDED), np.random.default_rng(seed).random((1, 3)), seed=seed, init="default")
        result = c.reconstruct(search=0)
        assert result.status is ca.Status.DETERMINED
        np.testing.assert_allclose(result.input, c.image, rtol=0, atol=1e-13)
        lowest, expanded, _ = result.layers
        assert expanded.determined == 0  # of 16 values, which the lowest layer makes of three
        assert together(result) == {"0": ("1",)}
        assert (lowest.unknowns, lowest.weight_rows, lowest.gradient_rows, lowest.rank) == (3, 2, 16 + 8, 3)


def test_only_what_is_determined_is_called_so() -> None:
    layers = [ca.Conv1d(8, 2, stride=2), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(10)]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        c = client(ca.Network((1, 12), layers), rng.random((1, 12)), seed=seed, init="default")
        result, exact = c.reconstruct(search=0), limit(c)
        assert result.layers[0].rank == exact.rank == 7
        assert not exact.determined.any()
        assert result.status is ca.Status.UNDETERMINED
        assert together(result) == {"0": ("1",)}


@pytest.mark.slow
def test_networks_without_activations_give_all_that_their_gradients_determine() -> None:
    joint = partly = 0
    for c in random_clients(70):
        result, exact = c.reconstruct(search=0), limit(c)
        message = f"{c.network!r}"
        np.testing.assert_array_equal(result.determined, exact.determined, err_msg=message)
        error, bars = (np.abs(values[exact.determined]) for values in (result.input - c.image, result.error_bar))
        assert (error <= 6 * bars).all(), message
        if exact.smallest > 1e-5:
            assert error.max(initial=0) < 1e-10, message
        joint += bool(together(result)) and bool(exact.determined.any())
        partly += result.status is ca.Status.PARTIAL
    assert joint > 5
    assert partly > 10


@pytest.mark.parametrize("last", [ca.ReLU(), L], ids=str)
def test_groups_below_an_activation_give_what_its_pattern_leaves(last: ca.Identity) -> None:
    joint = 0
    for c in random_clients(20, last=last):
        result, exact = c.reconstruct(search=0), limit(c)
        np.testing.assert_array_equal(result.determined, exact.determined, err_msg=f"{c.network!r}")
        assert (np.abs(result.input - c.image) <= 6 * result.error_bar)[exact.determined].all()
        joint += bool(together(result))
    assert joint > 5


LAYERS = {
    "Identity between": ((1, 3), [ca.Conv1d(8, 2), ca.Identity(), ca.Conv1d(1, 1), ca.Identity()], {"0": ("2",)}),
    "three layers": ((1, 4), [ca.Conv1d(6, 2), ca.Conv1d(9, 1), ca.Conv1d(1, 2)], {"1": ("2",), "0": ("1", "2")}),
    "depthwise between": (
        (1, 4, 4),
        [ca.Conv2d(6, 2, padding=1), ca.Conv2d(6, 3, groups=6), ca.Conv2d(2, 1)],
        {"1": ("2",), "0": ("1", "2")},
    ),
    "grouped": ((2, 4), [ca.Conv1d(12, 2, groups=2), ca.Conv1d(2, 2, groups=2)], {"0": ("1",)}),
    "below Tanh": ((1, 3), [ca.Conv1d(8, 2), ca.Conv1d(1, 1), ca.Tanh()], {"0": ("1",)}),
    "below a layer with Tanh": ((1, 4), [ca.Conv1d(8, 2), ca.Conv1d(2, 1), ca.Tanh(), ca.Conv1d(6, 1)], {"0": ("1",)}),
    "above an activation": (
        (1, 6),
        [ca.Conv1d(3, 3, padding=1), L, ca.Conv1d(16, 2), ca.Conv1d(4, 1)],
        {"2": ("3",)},
    ),
    "linear layers in a row": (
        (1, 3),
        [ca.Conv1d(8, 2), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(4, bias=False), ca.Linear(3, bias=False)],
        {"0": ("1",)},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_input_comes_back(name: str) -> None:
    shape, layers, joint = LAYERS[name]
    flat = [] if any(isinstance(layer, ca.Flatten) for layer in layers) else [ca.Flatten()]
    for seed in range(3):
        c = client(
            ca.Network(shape, [*layers, *flat, ca.Linear(10)]),
            np.random.default_rng(seed).random(shape),
            seed=seed,
            init="default",
        )
        result = c.reconstruct(search=0)
        assert result.status is ca.Status.DETERMINED
        assert together(result) == joint
        np.testing.assert_allclose(result.input, c.image, rtol=0, atol=1e-10)


def test_values_are_enough_where_no_gradient_arrives() -> None:
    network = ca.Network((1, 3), [ca.Conv1d(8, 2), ca.Conv1d(2, 1), ca.Flatten(), ca.Linear(3)])
    c = client(network, np.array([[0.2, 0.7, 0.4]]), init="default")
    load_parameters(c.model, {**c.parameters, "3.weight": np.zeros((3, 4))})  # nothing passes through
    result = c.reconstruct(search=0)
    assert result.layers[0].gradient_rows == 0
    assert together(result) == {"0": ("1",)}
    np.testing.assert_allclose(result.input, c.image, rtol=0, atol=1e-13)


def scores(c: Client, noise: float = 0.0) -> FloatArray:
    """Return the errors of what is determined in units of their error bars, none of which is more than there is."""
    rng = np.random.default_rng(0)
    gradients = {name: np.asarray(g, dtype=float) for name, g in c.gradients.items()} if noise else c.gradients
    deviations = {name: noise * float(np.abs(g).max()) for name, g in gradients.items()}
    noisy = {name: g + deviations[name] * rng.standard_normal(g.shape) for name, g in gradients.items()}
    options = {"noise": deviations} if noise else {}
    result = ca.reconstruct(c.network, c.parameters, noisy if noise else gradients, batch=1, search=0, **options)
    c.model.double()
    assert result.status is not ca.Status.INCONSISTENT
    assert not (result.determined & ~limit(c).determined).any()
    sent = c.image.astype(np.float32) if not noise else c.image
    return ((result.input - sent) / result.error_bar)[result.determined] if together(result) else np.zeros(0)


@pytest.mark.parametrize("noise", [0.0, *(pytest.param(noise, marks=pytest.mark.slow) for noise in (1e-8, 1e-4))])
def test_error_bars_are_honest(noise: float) -> None:
    options = {} if noise else {"dtype": "float32"}
    clients = random_clients(24, **options)
    for shape, layers, _ in LAYERS.values():
        flat = [] if any(isinstance(layer, ca.Flatten) for layer in layers) else [ca.Flatten()]
        network = ca.Network(shape, [*layers, *flat, ca.Linear(10)])
        clients.append(client(network, np.random.default_rng(1).random(shape), seed=1, init="default", **options))
    z = np.concatenate([scores(c, noise) for c in clients])
    assert len(z) > 30
    assert np.abs(z).max() < 6
    # Of rounding, the standard deviation is an upper bound; of stated noise it is known.
    assert (0.6 if noise else 0.02) < np.sqrt((z**2).mean()) < 1.6


@pytest.mark.parametrize(("name", "most"), [("UNKNOWNS", 2), ("ENTRIES", 40)])
def test_a_system_too_large_is_left_to_the_layer_alone(name: str, most: int, monkeypatch) -> None:
    c = client(ca.Network((1, 3), EXPANDED), np.array([[0.2, 0.7, 0.4]]), init="default")
    assert c.reconstruct(search=0).status is ca.Status.DETERMINED
    monkeypatch.setattr(joint_step, name, most)
    result = c.reconstruct(search=0)
    assert result.status is ca.Status.UNDETERMINED
    assert not together(result)


def test_a_system_beyond_the_memory_is_left_to_the_layer_alone(monkeypatch) -> None:
    layers = ca.Network((1, 3), EXPANDED).bilinear[:2][::-1]
    assert joint_step.fits(layers)
    monkeypatch.setenv("CONSTRAINT_ALGEBRA_MEMORY", "500")
    assert not joint_step.fits(layers)


def test_what_the_joint_solution_settles_of_an_activation_goes_down() -> None:
    network = ca.Network((1, 4), [ca.Conv1d(6, 2), ca.Conv1d(2, 1), L, ca.Flatten(), ca.Linear(4)])
    c = client(network, np.array([[0.9, 0.1, 0.6, 0.3]]), init="default", seed=3)
    values, gradients = c.trace()
    lower, upper = network.bilinear[:2]
    given = c.gradients
    deviations = deviations_of(given, precision(given), 0.0)
    observed = Observation(network, c.parameters, given, deviations, precision(given), Ensemble(0).draw)

    def exact(value: FloatArray, known: BoolArray) -> Estimate:
        return Estimate(np.where(known, value, np.nan), known, np.zeros((*value.shape, MEMBERS)))

    everything = np.ones(upper.output_shape, dtype=bool)
    hidden = everything.copy()
    hidden[0, 0] = False  # on which side the activation worked is open: neither z nor its gradient is known
    above, z = Above(L, exact(gradients[3], everything)), exact(values[2], hidden)
    first = joint_step.take(observed, (), OpenLayer(upper, exact(gradients[2], hidden), z, above))
    assert not first.solved.input.known.all()
    assert not first.k.known.all()
    reached = np.array([[False, True, True]] * 6)
    this = OpenLayer(lower, exact(gradients[1], reached), Estimate.unknown(lower.output_shape, MEMBERS))
    second = joint_step.take(observed, first.open, this)
    assert second.solved.input.known.all()
    assert not second.open
    assert second.k.known.all()
    np.testing.assert_allclose(second.k.value, gradients[1], rtol=0, atol=1e-14)
    np.testing.assert_allclose(second.solved.input.value, c.image, rtol=0, atol=1e-12)


def test_gradients_pass_an_identity_whatever_its_output_is() -> None:
    dy = Estimate(np.array([0.5, -2.0]), np.array([True, False]), np.ones((2, MEMBERS)))
    z, dz = through_activation(ca.Identity(), Estimate.unknown((2,), MEMBERS), dy)
    assert not z.known.any()
    np.testing.assert_array_equal(dz.known, dy.known)
    assert dz.value[0] == 0.5
    np.testing.assert_array_equal(dz.perturbations, dy.perturbations)
    assert not through_activation(L, Estimate.unknown((2,), MEMBERS), dy)[1].known.any()
