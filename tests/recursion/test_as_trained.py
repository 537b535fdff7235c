"""Random networks as people train them: nothing wrong is called determined, every verdict fits the gradient."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.ground import Ground
from tests.recursion.trained_models import Drawn, drawn

LOOSE = 1e-7  # error in float64 beyond which a determined value is wrong, unless its own bar says so
BARS = 20.0  # error bars that excuse a larger one
STILL = 1e-4  # share in the null space of the Jacobian up to which a value stands still
COMPLETE = {ca.Status.DETERMINED, ca.Status.GIVEN_RANGE, ca.Status.BY_WINNERS, ca.Status.BY_BRANCHES, ca.Status.LOCAL}


def reconstructed(seed: int) -> tuple[Drawn, ca.Reconstruction]:
    one = drawn(seed)
    network, parameters = ca.from_torch(one.model, one.x.shape)
    gradients, after = ca.torch_gradients(one.model, one.x, one.label, buffers=True)
    tracked = bool(network.tracked_shapes)
    buffers = after if tracked and seed % 2 else None
    return one, ca.reconstruct(network, parameters, gradients, buffers=buffers, batch=1, search=2.0)


def judged(seed: int) -> ca.Reconstruction:
    one, result = reconstructed(seed)
    known = result.determined
    error, bar = np.abs(result.input - one.x)[known], result.error_bar[known]
    wrong = error > np.maximum(LOOSE, BARS * bar)
    assert not wrong.any(), f"seed {seed}: {wrong.sum()} wrong, by up to {error[wrong].max():.1e}, {result.status.name}"
    if result.status in COMPLETE:
        gap = max(np.abs(g - result_g).max() for g, result_g in _recomputed(one, result))
        assert gap < 1e-5, f"seed {seed}: gradients {gap:.1e} apart"
    return result


def _recomputed(one: Drawn, result: ca.Reconstruction):
    given = ca.torch_gradients(one.model, one.x, one.label)
    again = ca.torch_gradients(one.model, result.input, one.label)
    largest = max(
        float(np.abs(g).max()) for g in given.values()
    )  # biases below a normalisation have none, but rounding
    sizes = {name: max(float(np.abs(g).max()), 1e-7 * largest) for name, g in given.items()}
    return [(g / sizes[name], again[name] / sizes[name]) for name, g in given.items()]


def stands_still(seed: int) -> bool:
    """Whether values that equations, or a neighbourhood, determine stand still in the Jacobian's null space."""
    one, result = reconstructed(seed)
    local = (result.ground == Ground.EQUATIONS) | (result.ground == Ground.NEIGHBOURHOOD)
    if not local.any():
        return True
    J = one.jacobian(buffers_too=bool(seed % 2))
    s, vectors = np.linalg.svd(J)[1:]
    null = vectors[int((s > 1e-9 * s[0]).sum()) :]
    moves = np.linalg.norm(null, axis=0).reshape(one.x.shape)
    return bool((moves[local] < STILL).all())


@pytest.mark.parametrize("seed", [*range(8), 254, 259, 399, 533, 1965])
def test_nothing_wrong_is_called_determined(seed) -> None:
    judged(seed)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_nothing_wrong_in_two_thousand_networks() -> None:
    counts = dict.fromkeys(ca.Status, 0)
    for seed in range(2000):
        counts[judged(seed).status] += 1
    assert sum(counts[status] for status in COMPLETE) > 200, counts


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_local_statements_agree_with_the_jacobian(seed) -> None:
    assert stands_still(seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_local_statements_agree_with_the_jacobian_of_many() -> None:
    assert [seed for seed in range(300) if not stands_still(seed)] == []
