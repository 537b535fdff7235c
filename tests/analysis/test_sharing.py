"""Defences: what they change, and that the observer is told the truth about it."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from analysis import sharing
from analysis.subjects import sample_step

NETWORK = ca.Network(
    (1, 8, 8),
    [
        ca.Conv2d(16, 3, stride=2, padding=1),
        ca.LeakyReLU(0.2),
        ca.Conv2d(5, 3, stride=1, padding=1),
        ca.LeakyReLU(),
        ca.Flatten(),
        ca.Linear(10),
    ],
)
RULES = {rule.name: rule for rule in sharing.defences(NETWORK)}


@pytest.fixture(scope="module")
def seen():
    """One step on a digit, float64."""
    return sample_step(NETWORK, "mnist:3", seed=1, init="uniform")


def shared(seen, name: str) -> sharing.Shared:
    return RULES[name].share(seen.gradients, np.random.default_rng(0))


def test_names_are_unique_and_the_first_is_none() -> None:
    assert len(RULES) == len(sharing.defences(NETWORK))
    assert next(iter(RULES)) == "none"


def test_clipping_scales_to_the_norm_and_takes_nothing(seen) -> None:
    found = shared(seen, "clipping, norm 1")
    assert sharing.norm(seen.gradients) > 1
    assert sharing.norm(found.gradients) == pytest.approx(1)
    assert sharing.observe(seen, found).status is ca.Status.DETERMINED


def test_dp_sgd_adds_the_noise_that_it_tells(seen) -> None:
    found, clipped = shared(seen, "DP-SGD, multiplier 1e-02"), shared(seen, "clipping, norm 1")
    added = np.concatenate([(found.gradients[n] - clipped.gradients[n]).ravel() for n in seen.gradients])
    assert added.std() == pytest.approx(0.01, rel=0.1)
    assert set(found.noise.values()) == {0.01}


@pytest.mark.parametrize(("kept", "share"), [("90% kept", 0.9), ("50% kept", 0.5), ("1% kept", 0.01)])
def test_pruning_keeps_the_largest(seen, kept, share) -> None:
    found = shared(seen, f"top-k pruning, {kept}")
    for name, mask in found.sent.items():
        g = seen.gradients[name]
        if name.endswith("bias"):
            assert mask.all()
            continue
        assert mask.sum() == max(1, round(share * g.size))
        assert np.abs(g[mask]).min() >= np.abs(g[~mask]).max()
        np.testing.assert_array_equal(found.gradients[name], np.where(mask, g, 0))


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_quantisation_leaves_so_many_steps_and_tells_the_error(seen, bits) -> None:
    found = shared(seen, f"quantisation, {bits} bits")
    for name, g in seen.gradients.items():
        assert len(np.unique(found.gradients[name])) <= 2**bits - 1
        error = found.gradients[name] - g
        step = found.noise[name] * np.sqrt(12)
        assert np.abs(error).max() <= 0.5001 * step
    weight = "0.weight" if bits < 16 else "5.weight"
    assert (found.gradients[weight] - seen.gradients[weight]).std() == pytest.approx(found.noise[weight], rel=0.3)


def test_signs_are_signs(seen) -> None:
    found = shared(seen, "sign, 1 bit")
    assert set(np.unique(found.gradients["0.weight"])) <= {-1.0, 0.0, 1.0}
    assert not sharing.observe(seen, found).determined.any()


def test_what_is_withheld_is_what_the_name_says(seen) -> None:
    def sent(name: str) -> set[str]:
        masks = shared(seen, name).sent
        assert all(mask.all() or not mask.any() for mask in masks.values())
        return {n for n, mask in masks.items() if mask.all()}

    every = set(seen.gradients)
    assert sent("withheld, layer 1 of 3") == every - {"0.weight", "0.bias"}
    assert sent("withheld, layer 2 of 3") == every - {"2.weight", "2.bias"}
    assert sent("withheld, head") == every - {"5.weight", "5.bias"}
    assert sent("only shared, head") == {"5.weight", "5.bias"}
    assert sent("only shared, biases") == {"0.bias", "2.bias", "5.bias"}


def test_weight_equations_do_without_the_first_layers_gradient(seen) -> None:
    result = sharing.observe(seen, shared(seen, "withheld, layer 1 of 3"))
    assert result.status is ca.Status.DETERMINED
    np.testing.assert_allclose(result.input, seen.truth, atol=1e-8)


def test_a_gradient_that_does_not_fit_stays_inconsistent(seen) -> None:
    found = shared(seen, "withheld, layer 1 of 3")
    wrong = dict(found.gradients) | {"2.weight": found.gradients["2.weight"] * 1.5}
    assert sharing.observe(seen, found._replace(gradients=wrong)).status is not ca.Status.DETERMINED
