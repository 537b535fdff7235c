"""Back-substitution with entries missing: against the truth, the exact answer layer by layer, and the library."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from analysis import missing
from analysis.sharing import Shared, observe
from analysis.subjects import output_gradient, sample_step, step
from constraint_algebra.equations.stacking import stack
from constraint_algebra.equations.systems import gradient_equations, weight_equations

LAYERS = [
    ca.Conv2d(6, 3, stride=2, padding=1),
    ca.LeakyReLU(0.2),
    ca.Conv2d(5, 3, stride=1, padding=1),
    ca.ReLU(),
    ca.Flatten(),
    ca.Linear(10),
]
NETWORK = ca.Network((1, 8, 8), LAYERS)


def everything(seen):
    return {name: np.ones(g.shape, dtype=bool) for name, g in seen.gradients.items()}


@pytest.fixture(scope="module")
def seen():
    """One step on a digit, float64."""
    return sample_step(NETWORK, "mnist:3", seed=1, init="uniform")


def test_a_true_output_gradient_is_that_of_autograd(seen) -> None:
    for layer in NETWORK.bilinear:
        k = output_gradient(seen, layer)
        bias = k.reshape(layer.filters, -1).sum(axis=1)
        np.testing.assert_allclose(bias, seen.gradients[layer.bias_name], rtol=1e-9, atol=1e-14)


def test_with_nothing_missing_the_image_comes_back(seen) -> None:
    result = missing.reconstruct_partly(seen, everything(seen))
    assert result.status is ca.Status.DETERMINED
    np.testing.assert_allclose(result.input, seen.truth, atol=1e-10)
    assert np.isnan(result.error_bar).all()
    theirs = ca.reconstruct(NETWORK, seen.parameters, seen.gradients)
    assert [(x.rank, x.determined) for x in result.layers] == [(x.rank, x.determined) for x in theirs.layers]


@pytest.mark.parametrize("kept", [0.6, 0.3, 0.1, 0.0])
def test_entries_missing_from_the_first_layer_determine_what_the_exact_answer_says(seen, kept) -> None:
    first = NETWORK.bilinear[0]
    sent = everything(seen)
    mask = np.random.default_rng(5).random(first.weight_shape) < kept
    active = np.random.default_rng(6).random(first.output_shape) < 0.4  # z of the others is not to be had
    sent[first.weight_name] = mask
    rows = np.moveaxis(mask.reshape(first.filters, first.channels, -1), 1, 0).ravel()  # (c, f, tap)
    system = stack(weight_equations(first), gradient_equations(first).select(rows))
    assert missing.reconstruct_partly(seen, sent).determined.sum() == ca.determined(system).sum()
    chosen = stack(weight_equations(first).select(active.ravel()), gradient_equations(first).select(rows))
    z = np.where(active, 0.0, np.nan)
    values = stack(weight_equations(first, output=z), gradient_equations(first))
    usable = missing._usable(first, values, z, np.ones(first.output_shape, dtype=bool), mask)
    assert list(values.select(usable).rows) == list(chosen.rows)


def test_values_that_are_called_determined_are_right_with_half_of_all_weights_missing(seen) -> None:
    rng = np.random.default_rng(7)
    sent = {
        n: np.ones(g.shape, bool) if n.endswith("bias") else rng.random(g.shape) < 0.5
        for n, g in seen.gradients.items()
    }
    result = missing.reconstruct_partly(seen, sent)
    assert result.determined.any()
    np.testing.assert_allclose(result.input[result.determined], seen.truth[result.determined], atol=1e-8)


def test_rows_whose_output_gradient_is_not_known_do_not_count(seen) -> None:
    sent = everything(seen)
    sent["5.weight"] = np.random.default_rng(0).random(sent["5.weight"].shape) < 0.25
    result = missing.reconstruct_partly(seen, sent)
    head, middle, first = reversed(result.layers)
    assert head.determined < head.unknowns  # so that some activations below it are not known, nor their k
    assert 0 < middle.gradient_rows < 6 * 5 * 9
    assert first.gradient_rows == 0
    assert result.status is ca.Status.DETERMINED
    np.testing.assert_allclose(result.input, seen.truth, atol=1e-10)


def test_a_withheld_layer_is_the_same_to_the_library_and_entry_by_entry(seen) -> None:
    for layer in NETWORK.bilinear[:2]:
        sent = everything(seen)
        for name in (layer.weight_name, layer.bias_name):
            sent[name] = np.zeros_like(sent[name])
        shared = Shared({n: np.where(sent[n], g, 0) for n, g in seen.gradients.items()}, {}, sent)
        mine, theirs = missing.reconstruct_partly(seen, sent), observe(seen, shared)
        assert mine.status is theirs.status
        np.testing.assert_array_equal(mine.determined, theirs.determined)
        ranks = [(x.name, x.rank, x.determined) for x in mine.layers]
        assert ranks == [(x.name, x.rank, x.determined) for x in theirs.layers]


def test_without_the_head_nothing_follows(seen) -> None:
    sent = everything(seen)
    sent["5.bias"] = np.zeros_like(sent["5.bias"])
    assert not missing.reconstruct_partly(seen, sent).determined.any()
    shared = Shared({n: np.where(sent[n], g, 0) for n, g in seen.gradients.items()}, {}, sent)
    assert observe(seen, shared).status is ca.Status.UNDETERMINED


def test_large_layers_are_refused() -> None:
    network = ca.Network((1, 64, 64), [ca.Conv2d(2, 3, stride=4), ca.ReLU(), ca.Flatten(), ca.Linear(3)])
    large = step(ca.to_torch(network), network, np.zeros((1, 64, 64)), 0)
    with pytest.raises(ca.ShapeError, match="4,096 unknowns, and dense least squares takes at most 1,600"):
        missing.reconstruct_partly(large, everything(large))
