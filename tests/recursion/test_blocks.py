"""Blocks of EfficientNet, ConvNeXt and the like on real gradients of PyTorch, in training mode, default weights.

What a block adds up going down is a function of what comes in going up: `upward_equations`. The oracles are the true
input, PyTorch's own gradients of it, and the rank of the Jacobian by automatic differentiation.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.layers import GELU, Conv2d, Hardswish, Hardtanh, Identity, ReLU
from constraint_algebra.layers.own_statistics import statistics
from constraint_algebra.networks.network import Network, bind
from constraint_algebra.recursion.ensemble import MEMBERS, Ensemble
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge, Moments
from constraint_algebra.recursion.noise import deviations_of, precision
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.upward_equations import UpwardEquations, upward
from constraint_algebra.recursion.upward_solution import Upward
from tests.recursion.blocks import convnext, efficient, post_activation, seeded
from tests.recursion.trained_models import Drawn

EXACT = 1e-11
SMALL = {
    "EfficientNet": (partial(efficient, 4), True),
    "EfficientNet without buffers": (partial(efficient, 4), False),
    "ConvNeXt": (partial(convnext, 4), False),
    "ConvNeXt, one group": (partial(convnext, 4, kernel=3, grouped=True), False),
    "activation behind the sum": (partial(post_activation, 4), True),
    "activation behind the sum, no norm": (partial(post_activation, 4, act=nn.SiLU, normed=False), False),
}


QUICK = "EfficientNet", "ConvNeXt", "activation behind the sum"
LONG = (pytest.mark.slow,)
CASES = [pytest.param(case, id=name, marks=LONG * (name not in QUICK)) for name, case in SMALL.items()]


def image(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(1000 + seed).random((3, size, size))  # none that a search starts from


def reconstructed(model: nn.Module, x: np.ndarray, *, buffers: bool, noise: float = 0.0, search: float = 5.0):
    network, parameters = ca.from_torch(model, x.shape)
    gradients, after = ca.torch_gradients(model, x, 2, buffers=True)
    rng = np.random.default_rng(1)
    gradients = {name: g + noise * rng.standard_normal(g.shape) for name, g in gradients.items()}
    shared = after if buffers and network.tracked_shapes else None
    return ca.reconstruct(network, parameters, gradients, buffers=shared, batch=1, noise=noise, search=search)


@pytest.mark.parametrize("case", CASES)
def test_what_a_block_adds_up_is_found_going_up(case) -> None:
    make, buffers = case
    x = image(4)
    result = reconstructed(seeded(0, make), x, buffers=buffers)
    assert result.status is ca.Status.LOCAL
    assert np.abs(result.input - x).max() < EXACT
    assert (result.ground == ca.Ground.NEIGHBOURHOOD).all()
    assert max(result.discrepancy.values()) < EXACT
    assert any("a search found 48 values" in note for note in result.notes)


def test_without_a_search_it_stops_at_the_block() -> None:
    result = reconstructed(seeded(0, SMALL["ConvNeXt"][0]), image(4), buffers=False, search=0.0)
    assert result.status is ca.Status.UNDETERMINED
    assert any("the recursion stops at the input of layer '2.body.4'" in note for note in result.notes)


def test_error_bars_hold() -> None:
    x = image(4)
    model = seeded(1, SMALL["activation behind the sum, no norm"][0])
    result = reconstructed(model, x, buffers=False, noise=1e-7)
    ratio = np.abs(result.input - x) / result.error_bar
    assert result.determined.all()
    assert (ratio < 5).all()
    assert 0.4 < np.sqrt((ratio**2).mean()) < 2


@pytest.mark.slow
def test_noise_over_which_equations_bend_is_not_taken_for_an_error_bar() -> None:
    """Batch norm without bias and buffers leaves a factor to eps alone, and noise moves it far."""
    result = reconstructed(
        seeded(0, SMALL["EfficientNet without buffers"][0]), image(4), buffers=False, noise=1e-4, search=1.0
    )
    error = np.abs(result.input - image(4))[result.determined]
    assert (error <= 8 * result.error_bar[result.determined]).all()


def test_gradients_that_a_normalisation_makes_zero_do_not_contradict() -> None:
    """With an average behind the block its own gradients are rounding; statistics suffice."""
    x = image(4)
    result = reconstructed(seeded(0, partial(efficient, 4, pooled=True)), x, buffers=True)
    assert result.status is ca.Status.LOCAL
    assert np.abs(result.input - x).max() < EXACT


def test_a_search_that_takes_longer_is_not_made() -> None:
    result = reconstructed(seeded(0, partial(efficient, 6, pooled=True)), image(6), buffers=True, search=0.5)
    assert result.status is ca.Status.UNDETERMINED
    assert not result.determined.any()
    assert any("a search for 108 values" in note and "was not made: it takes search=" in note for note in result.notes)
    assert not any("guessing" in note for note in result.notes)  # too few equations to try


def equations(model: nn.Module, x: np.ndarray, buffers: bool, monkeypatch: pytest.MonkeyPatch) -> UpwardEquations:
    """The equations of the input with all gradients of PyTorch, up to the value that the head reads, which is known."""
    monkeypatch.setattr("constraint_algebra.recursion.upward_equations.ENOUGH", np.inf)
    network, parameters = ca.from_torch(model, x.shape)
    given = bind(network, ca.torch_gradients(model, x, 2), "gradients")
    rounding, bound = precision(given), bind(network, parameters, "parameters")
    observed = Observation(network, bound, given, deviations_of(given, rounding, 0.0), rounding, Ensemble(0).draw)
    knows, head = GraphKnowledge.nothing(observed), network.layers[-1]
    values = network.forward(bound, x)
    value = values[head.inputs[0]]
    for layer in network:
        if layer.is_normalisation and buffers:
            own = statistics(layer.normalisation, values[layer.inputs[0]])
            knows.learn_moments(layer, Moments(_known(own.mean), _known(own.scale)))
    found = torch.nn.functional.softmax(torch.tensor(values[-1].ravel()), dim=0).numpy()
    k = bound[head.weight_name].reshape(10, -1).T @ (found - np.eye(10)[2])
    knows.learn_value(head.inputs[0], _known(value))
    knows.learn_gradient(head.inputs[0], _known(k.reshape(value.shape)))
    return upward(knows, 0)


def _known(values: np.ndarray) -> Estimate:
    return Estimate(values, np.ones(values.shape, dtype=bool), np.zeros((*values.shape, MEMBERS)))


@pytest.mark.parametrize("name", ["EfficientNet", "ConvNeXt", "activation behind the sum, no norm"])
def test_the_gradients_of_pytorch_are_those_of_the_true_input(name, monkeypatch) -> None:
    x = image(4)
    make, buffers = SMALL[name]
    e = equations(seeded(2, make), x, buffers, monkeypatch)
    of_gradients = sum(g.size for g in e.gradients.given)
    assert of_gradients > 500
    assert np.abs(e.lacking(x.ravel()) / e.sizes).max() < 1e-12
    u, d, step = image(4, seed=3).ravel(), np.random.default_rng(4).standard_normal(48), 1e-5
    by_differences = (e.lacking(u + step * d) - e.lacking(u - step * d)) / (2 * step)
    assert np.abs(by_differences / e.sizes)[-of_gradients:].max() > 0.1
    np.testing.assert_allclose(e.jacobian(u) @ d / e.sizes, by_differences / e.sizes, atol=1e-6)


KINKS = {"ReLU": (ReLU(), 0.0), "hardtanh": (Hardtanh(), 1.0), "hardswish": (Hardswish(), 3.0)}
NO_KINKS = {"GELU": (GELU(), 0.0), "identity": (Identity(), 0.0)}


@pytest.mark.parametrize("case", (KINKS | NO_KINKS).values(), ids=KINKS | NO_KINKS)
def test_a_kink_within_the_noise_is_seen(case) -> None:
    activation, kink = case
    network = Network((1, 3, 3), [Conv2d(1, 3), activation])
    knows = GraphKnowledge.nothing(Observation(network, {}, {}, {}, precision({"x": np.zeros(1)}), Ensemble(0).draw))
    search = Upward(UpwardEquations(knows, 0, network.layers, ()))

    def is_clear(distance: float) -> bool:
        noise = np.full((1, 1, 1, MEMBERS), 1e-3)
        z = Estimate(np.full((1, 1, 1), kink + distance), np.ones((1, 1, 1), dtype=bool), noise)
        return search._is_clear_of_kinks(network.layers[1], z)

    assert is_clear(-0.1)
    assert is_clear(0.1)
    assert is_clear(1e-3) is (activation in {a for a, _ in NO_KINKS.values()})


LARGE = {
    "EfficientNet": (partial(efficient, 8, 24, 4), 8, True),
    "EfficientNet, two blocks": (partial(efficient, 8, 12, 4, blocks=2), 8, True),
    "EfficientNet, three blocks": (partial(efficient, 8, 12, 4, blocks=3), 8, True),
    "EfficientNet with hardswish": (partial(efficient, 8, 24, 4, act=nn.Hardswish), 8, True),
    "ConvNeXt": (partial(convnext, 8, 24), 8, False),
    "ConvNeXt, three blocks": (partial(convnext, 8, 12, blocks=3), 8, False),
    "ConvNeXt, 12x12": (partial(convnext, 12, 24), 12, False),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_blocks_of_usual_widths(case) -> None:
    make, size, buffers = case
    found = []
    for seed in range(3):
        x = image(size, seed)
        result = reconstructed(seeded(seed, make), x, buffers=buffers, search=30.0)
        assert not result.determined.any() or np.abs(result.input - x)[result.determined].max() < EXACT
        found.append(bool(result.determined.all()))
    assert sum(found) >= 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_wrong_in_random_blocks() -> None:
    """Narrow blocks of random kinds; what counts as found is right, and stands still in the Jacobian's null space."""
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        size, c = int(rng.integers(3, 6)), int(rng.integers(2, 9))
        act = (nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, nn.ReLU)[rng.integers(5)]
        kinds = (
            partial(efficient, size, c, int(rng.integers(1, 4)), act=act, pooled=bool(rng.random() < 0.3)),
            partial(convnext, size, c, int(rng.integers(1, 4)), kernel=3, grouped=bool(rng.random() < 0.5)),
            partial(post_activation, size, c, act=act, normed=bool(rng.random() < 0.5)),
        )
        one = Drawn(seeded(seed, kinds[rng.integers(3)]), image(size, seed), 2)
        buffers = bool(rng.random() < 0.5)
        result = reconstructed(one.model, one.x, buffers=buffers, search=2.0)
        error, known = np.abs(result.input - one.x), result.determined
        assert (error <= np.maximum(1e-7, 20 * result.error_bar))[known].all(), f"seed {seed}: {error[known].max():.1e}"
        assert result.status is not ca.Status.INCONSISTENT
        if known.any():
            J = one.jacobian(buffers)
            s, vectors = np.linalg.svd(J)[1:]
            null = vectors[int((s > 1e-9 * s[0]).sum()) :]
            assert (np.linalg.norm(null, axis=0).reshape(known.shape)[known] < 1e-4).all(), f"seed {seed}"
            found += 1
    assert found > 20
