"""Verdicts agree with the reconstruction, undecided has its reason, and twins are there for all that is ambiguous."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from tests.some import some
from tests.twin_cases import case, random_case

L, R = ca.LeakyReLU(0.2), ca.ReLU()


def agrees(c) -> ca.Certificate:
    """Certify, and hold every verdict against the reconstruction and the stored twins."""
    found = ca.certify(c.model, c.image, c.label)
    result = ca.reconstruct(c.network, c.parameters, c.gradients(), search=0.0)
    assert sum(found.counts.values()) == c.image.size
    assert found.fixed[result.determined].all()
    assert np.abs(result.input - c.image)[result.determined].max(initial=0) <= np.nanmax(found.bound, initial=0)
    # What is fixed without being determined is open by less than delta.
    assert (found.bound[found.fixed] < found.delta).all()
    moved = np.zeros(c.image.shape)
    for witness in found.witnesses:
        assert c.verify(witness.twin.image).equal
        moved = np.maximum(moved, np.abs(witness.twin.difference))
    assert (moved[found.ambiguous] >= found.delta).all()
    assert np.abs(moved[found.fixed]).max(initial=0) <= np.nanmax(found.bound, initial=0)
    if found.undecided.any() or found.fixed_in_region.any():
        above = [layer for layer in result.layers[1:] if layer.determined < layer.unknowns]
        assert above or len(result.layers) < len(c.network.bilinear)
        assert "above the first is not determined" in found.obstacle
    if found.undecided.any():
        assert found.kept is not None
        assert all("above the first is not determined" in text for text, _ in found.reasons)
        np.testing.assert_array_equal(sum(mask.astype(int) for _, mask in found.reasons), found.undecided)
    return found


@pytest.mark.parametrize("seed", some(10, (s for s in range(26) if s != 20)))
def test_where_the_layers_above_are_determined_nothing_stays_undecided(seed: int) -> None:
    assert not agrees(random_case(seed)).undecided.any()


@pytest.mark.parametrize("seed", [20, 31])
def test_what_a_layer_above_hides_is_fixed_in_its_region_where_all_equations_together_fix_it(seed: int) -> None:
    found = agrees(random_case(seed))
    assert found.fixed_in_region.any()
    assert not found.undecided.any()


@pytest.mark.parametrize("filters", [1, 2])
def test_undecided_names_the_layer_above_a_smooth_activation(filters: int) -> None:
    layers = [ca.Conv2d(12, 3, stride=2, padding=1), ca.Tanh(), ca.Conv2d(filters, 1), ca.Flatten(), ca.Linear(6)]
    found = agrees(case(ca.Network((1, 6, 6), layers), np.random.default_rng(0).random((1, 6, 6))))
    assert found.undecided.any()
    pixel = tuple(np.argwhere(found.undecided)[0])
    assert found.verdict(pixel).startswith("undecided: layer '2' above the first is not determined")
    assert "Jacobian" in found.verdict(pixel)


def test_a_determined_network_is_fixed_throughout() -> None:
    net = ca.Network((2, 8, 8), [ca.Conv2d(12, 3, padding=1), L, ca.Conv2d(8, 3), R, ca.Flatten(), ca.Linear(4)])
    found = agrees(case(net, np.random.default_rng(0).random((2, 8, 8))))
    assert found.counts == {"fixed": 128, "fixed_in_region": 0, "ambiguous": 0, "undecided": 0}
    assert np.nanmax(found.bound) < 1e-8
    assert found.strongest is None
    assert found.local is None
    assert found.status == "determined"


def test_other_inputs_that_a_head_without_bias_allows_are_twins() -> None:
    """One logistic output without any bias: the scale of the input may have two solutions."""
    net = ca.Network((2, 4, 4), [ca.Flatten(), ca.Linear(1, bias=False)])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model, x = ca.to_torch(net, seed=seed), 0.3 * rng.random((2, 4, 4))
        parameters = {name: p.detach().numpy() for name, p in model.named_parameters()}
        result = ca.reconstruct(net, parameters, ca.torch_gradients(model, x, 1, "logistic"), loss="logistic")
        found = ca.certify(model, x, 1, loss="logistic")
        inside = [
            a
            for a in result.alternatives
            if a.input.min() >= 0 and a.input.max() <= 1 and np.abs(a.input - x).max() > found.delta
        ]
        if result.status is ca.Status.AMBIGUOUS and inside:
            assert found.ambiguous.any()
            assert not (found.fixed & found.ambiguous).any()
            return
    pytest.fail("no case with two valid inputs among those tried")


@pytest.mark.parametrize("seed", range(6))
def test_another_scale_that_determines_only_part_of_the_input_is_a_twin_and_rules_out_fixed(seed: int) -> None:
    """Pixels 2 and 5 are never read; the others have a second scale, within the range, at the other root."""
    net = ca.Network((1, 8), [ca.Conv1d(2, 2, stride=3, bias=False), ca.Flatten(), ca.Linear(1, bias=False)])
    model, x = ca.to_torch(net, seed=seed), 0.3 * np.random.default_rng(seed).random((1, 8))
    with torch.no_grad():
        model[2].weight.mul_(0.8 / model(torch.tensor(x)[None])[0, 0])  # the margin, whose other root is 1.9
    found = ca.certify(model, x, 1, loss="logistic")
    read = ~np.isin(np.arange(8), (2, 5))[None]
    share = found.seen[1][read] / x[read]
    assert 1.5 < share.min() <= share.max() + 1e-9 < 3
    assert np.ptp(share) < 1e-9
    assert not found.fixed.any()
    assert not found.fixed_in_region.any()
    assert found.ambiguous[(found.moved > found.delta) & read].all()


def test_what_another_scale_leaves_open_rules_out_a_claim_even_where_that_scale_moves_nothing() -> None:
    net = ca.Network((1, 8), [ca.Conv1d(2, 2, stride=3, bias=False), ca.Flatten(), ca.Linear(1, bias=False)])
    model, x = ca.to_torch(net, seed=0), 0.3 * np.random.default_rng(0).random((1, 8))
    x[0, 0] = 0.0
    with torch.no_grad():
        model[2].weight.mul_(0.8 / model(torch.tensor(x)[None])[0, 0])
    found = ca.certify(model, x, 1, loss="logistic")
    assert "allows another input, of which not every value is determined" in found.verdict((0, 0))


def test_no_time_leaves_values_undecided_with_that_reason() -> None:
    c = random_case(8)
    found = ca.certify(c.model, c.image, c.label, time_limit=0.0)
    assert found.undecided.any()
    assert "time limit" in found.verdict(tuple(np.argwhere(found.undecided)[0]))
    assert not found.ambiguous.any()


def test_a_saturated_loss_is_no_crash() -> None:
    """All gradients zero: nothing starts a reconstruction, yet twins exist."""
    net = ca.Network((1, 4, 4), [ca.Conv2d(1, 3, stride=2, padding=1), R, ca.Flatten(), ca.Linear(2)])
    c = case(net, np.random.default_rng(0).random((1, 4, 4)), label=1)
    with torch.no_grad():
        c.model[3].bias.copy_(torch.tensor([-800.0, 800.0]))
    found = ca.certify(c.model, c.image, c.label)
    assert not found.fixed.any()
    assert found.ambiguous.any()


def test_progress_and_bad_requests() -> None:
    c, seen = random_case(8), []
    ca.certify(c.model, c.image, c.label, progress=lambda *args: seen.append(args))
    assert seen[-1][0] == seen[-1][1] == c.image.size
    with pytest.raises(ca.ParameterError, match="delta must be positive"):
        ca.certify(c.model, c.image, c.label, delta=0.0)
    with pytest.raises(ca.ParameterError, match="class from 0 to 3"):
        ca.certify(c.model, c.image, 7)
