"""The equations of a value that several layers read, against singular values of all of them at once.

The oracle takes every row from automatic differentiation in PyTorch, and knows nothing of two stages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.recursion import healing, value_equations
from constraint_algebra.recursion.ensemble import MEMBERS, Ensemble
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.noise import deviations_of, precision
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.value_equations import Reader, ValueEquations

SHAPE = (4, 4, 3)
KERNELS = {"a": (3, 1, 1), "b": (1, 0, 2)}  # taps, padding, groups


@dataclass(frozen=True)
class Scene:
    """A value h, and two convolutions that read it, with what is known at their outputs."""

    observed: Observation
    h: FloatArray
    value: Estimate
    readers: list[Reader]


def known(values: FloatArray, which: BoolArray) -> Estimate:
    return Estimate(np.where(which, values, np.nan), which, np.zeros((*values.shape, MEMBERS)))


def scene(seed: int, filters: tuple[int, int], shares: tuple[float, float, float]) -> Scene:
    """Return a scene in which such shares of k, of z and of h are known."""
    rng = np.random.default_rng(seed)
    layers = {
        name: (ca.Conv2d(f, taps, padding=padding, groups=groups), "input")
        for (name, (taps, padding, groups)), f in zip(KERNELS.items(), filters, strict=True)
    }
    network = ca.Network(SHAPE, layers | {"join": (ca.Concatenate(), "a", "b")})
    h = rng.standard_normal(SHAPE)
    parameters = {name: rng.standard_normal(shape) for name, shape in network.parameter_shapes.items()}
    gradients, readers = {}, []
    for name, (_, padding, groups) in KERNELS.items():
        W, b = (torch.tensor(parameters[f"{name}.{part}"], requires_grad=True) for part in ("weight", "bias"))
        z = functional.conv2d(torch.tensor(h)[None], W, b, padding=padding, groups=groups)[0]
        k = np.where(rng.random(z.shape) < 0.3, 0.0, rng.standard_normal(z.shape))
        (z * torch.tensor(k)).sum().backward()
        gradients |= {f"{name}.weight": W.grad.numpy(), f"{name}.bias": b.grad.numpy()}
        k_known = rng.random((len(k), 1, 1)) < shares[0]  # whole filters, and single outputs of the others
        k_known = k_known | (rng.random(k.shape) < 0.3)
        z_known = rng.random(z.shape) < shares[1]
        readers.append(Reader(network.named(name), known(k, k_known), known(z.detach().numpy(), z_known)))
    rounding = precision(gradients)
    deviations = deviations_of(gradients, rounding, 0.0)
    observed = Observation(network, parameters, gradients, deviations, rounding, Ensemble(0).draw)
    return Scene(observed, h, known(h, rng.random(SHAPE) < shares[2]), readers)


def rows(s: Scene) -> tuple[FloatArray, FloatArray]:
    """Every equation that counts, from automatic differentiation, and its right-hand side."""
    n = s.h.size
    basis = torch.eye(n, dtype=torch.float64).reshape(n, *SHAPE)
    left, right = [np.eye(n)[s.value.known.ravel()]], [s.h[s.value.known]]
    for reader in s.readers:
        name = reader.layer.name
        _, padding, groups = KERNELS[name]
        W = torch.tensor(s.observed.parameters[f"{name}.weight"], requires_grad=True)
        b = s.observed.parameters[f"{name}.bias"][:, None, None]

        def gradient(x: torch.Tensor, k: FloatArray, W=W, padding=padding, groups=groups) -> FloatArray:
            z = functional.conv2d(x[None], W, padding=padding, groups=groups)[0]
            return torch.autograd.grad((z * torch.tensor(k)).sum(), W)[0].numpy()

        k, missing = reader.k.filled(), (~reader.k.known).astype(float)
        # A row counts where no unknown k takes part, and one that is not zero does.
        ones = torch.ones(SHAPE, dtype=torch.float64)
        counts = (gradient(ones, missing) == 0) & (gradient(ones, k**2) > 0)
        left.append(np.array([gradient(e, k)[counts] for e in basis]).T)
        right.append(s.observed.gradients[f"{name}.weight"][counts])
        outputs = functional.conv2d(basis, W.detach(), padding=padding, groups=groups).numpy()
        left.append(outputs[:, reader.z.known].T)
        right.append((reader.z.value - b)[reader.z.known])
    return np.concatenate(left), np.concatenate(right)


CASES = [(seed, filters, shares) for seed in range(4) for filters in ((2, 2), (4, 2), (6, 4)) for shares in (
    (0.7, 0.0, 0.0), (0.5, 0.3, 0.0), (0.6, 0.2, 0.4), (0.0, 0.5, 0.2)
)]  # fmt: skip


@pytest.mark.parametrize(("seed", "filters", "shares"), CASES)
def test_rank_determined_values_and_solution_are_those_of_all_rows_at_once(seed, filters, shares) -> None:
    s = scene(seed, filters, shares)
    A, rhs = rows(s)
    A, rhs = A / np.linalg.norm(A, axis=1, keepdims=True), rhs / np.linalg.norm(A, axis=1)
    _, singular, Vt = np.linalg.svd(A)
    rank = int(np.count_nonzero(singular > 1e-9 * singular[0]))
    determined = np.linalg.norm(Vt[rank:], axis=0).reshape(SHAPE) < 1e-6
    equations = ValueEquations(s.observed, s.value, s.readers)
    assert equations.rank == rank
    found = equations.estimate()
    np.testing.assert_array_equal(found.known, determined)
    np.testing.assert_allclose(found.value[found.known], s.h[found.known], rtol=0, atol=1e-9)
    solution = np.linalg.lstsq(A, rhs, rcond=None)[0].reshape(SHAPE)
    np.testing.assert_allclose(found.value[determined], solution[determined], rtol=0, atol=1e-9)


def test_the_cases_cover_full_and_partial_and_no_determination() -> None:
    shares = [
        ValueEquations(s.observed, s.value, s.readers).estimate().known.mean() for s in (scene(*case) for case in CASES)
    ]
    assert max(shares) == 1
    assert any(0.2 < share < 0.8 for share in shares)
    assert min(shares) < 0.2


def test_two_readers_determine_what_neither_does() -> None:
    s = scene(1, (2, 2), (0.6, 0.3, 0.0))
    alone = [ValueEquations(s.observed, s.value, [reader]).estimate().known for reader in s.readers]
    both = ValueEquations(s.observed, s.value, s.readers).estimate().known
    assert not any(one.all() for one in alone)
    assert both.all()


def test_a_filter_that_contradicts_the_rest_is_left_out() -> None:
    s = scene(1, (12, 4), (1.0, 0.2, 0.0))
    wrong = s.readers[0].k.value.copy()
    wrong[3, 1, 1] += 0.5
    readers = [replace(s.readers[0], k=known(wrong, np.ones(wrong.shape, dtype=bool))), s.readers[1]]
    whole = ValueEquations(s.observed, s.value, readers)
    system, found, out = healing.healed(whole, readers)
    assert [np.flatnonzero(left).tolist() for left in out] == [[3], []]
    assert whole.misfit(whole.estimate().value) > 8
    assert system.misfit(found.value) < 4
    np.testing.assert_allclose(found.value[found.known], s.h[found.known], rtol=0, atol=1e-9)
    assert found.known.all()


@pytest.mark.parametrize("seed", range(4))
def test_error_bars_cover_the_errors_of_noisy_gradients(seed) -> None:
    s = scene(seed, (12, 6), (1.0, 0.0, 0.0))
    rng = np.random.default_rng(seed)
    size = 1e-6
    noisy = {name: g + size * rng.standard_normal(g.shape) for name, g in s.observed.gradients.items()}
    deviations = {name: np.full(g.shape, size) for name, g in noisy.items()}
    found = ValueEquations(replace(s.observed, gradients=noisy, deviations=deviations), s.value, s.readers).estimate()
    assert found.known.all()
    ratio = np.abs(found.value - s.h) / found.deviation
    assert ratio.max() < 8
    assert 0.5 < (ratio <= 1).mean() < 0.98


@pytest.mark.parametrize("seed", range(3))
def test_all_at_once_sharp_weight_equations_count_beside_blurred_gradients(seed) -> None:
    """Two stages take what the gradient equations blur from these alone; at once, all rows count by their noise."""
    s = scene(seed, (12, 6), (1.0, 1.0, 0.0))
    size = 1e-4
    draws = np.random.default_rng(seed)
    noisy = {name: g + size * draws.standard_normal(g.shape) for name, g in s.observed.gradients.items()}
    deviations = {name: np.full(g.shape, size) for name, g in noisy.items()}
    observed = replace(s.observed, gradients=noisy, deviations=deviations)
    staged = ValueEquations(observed, s.value, s.readers).estimate()
    at_once = ValueEquations(observed, s.value, s.readers, together=True).estimate()
    assert at_once.known.all()
    assert np.abs(staged.value - s.h).max() > 1e-6
    assert np.abs(at_once.value - s.h).max() < 1e-10  # the weight equations have full rank, and no noise


def test_rows_without_noise_are_measured_without_overflow() -> None:
    np.testing.assert_allclose(value_equations.longest(np.array([[3e200, 4e200], [1.0, 0.0]])), 5e200)
    assert value_equations.longest(np.zeros((2, 3))) == 0
    assert value_equations.longest(np.zeros((0, 3))) == 0


def test_no_rows_at_all_leave_everything_open() -> None:
    s = scene(0, (2, 2), (0.0, 0.0, 0.0))
    nothing = [
        replace(r, k=Estimate.unknown(r.layer.output_shape, MEMBERS), z=Estimate.unknown(r.layer.output_shape, MEMBERS))
        for r in s.readers
    ]
    found = ValueEquations(s.observed, s.value, nothing).estimate()
    assert not found.known.any()
