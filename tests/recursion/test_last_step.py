"""The search where the recursion stops: what it must find, and that it never takes a wrong input for the right one.

The oracle is the true input, and PyTorch's Jacobian of all gradients there.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.recursion import last_step
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.noise import precision
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.sides_by_sums import slopes_by_sums
from constraint_algebra.regions.gradient_map import GradientMap

TANH = ca.Network((1, 3), [ca.Conv1d(8, 2), ca.Tanh(), ca.Conv1d(1, 1), ca.Flatten(), ca.Linear(2)])
LEAKY = ca.Network(
    (1, 8, 8),
    [ca.Conv2d(24, 3, stride=2, padding=1), ca.LeakyReLU(), ca.Conv2d(2, 1), ca.Flatten(), ca.Linear(10)],
)
BLOCK = ca.Network(
    (2, 4, 4),
    [
        ca.Conv2d(8, 1),
        ca.ReLU6(),
        ca.Conv2d(8, 3, padding=1, groups=8),
        ca.ReLU6(),
        ca.Conv2d(3, 1),
        ca.Flatten(),
        ca.Linear(5),
    ],
)


def step(network, seed, *, dtype="float64", gain=1.0, image=None, noise=0.0):
    """Parameters, an input and its gradients by PyTorch, with noise added if that is asked for."""
    rng = np.random.default_rng(seed + 1000)
    model = ca.to_torch(network, seed=seed, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain)
    x = rng.random(network.input_shape) if image is None else image
    gradients = ca.torch_gradients(model, x, int(rng.integers(network.output_shape[0])))
    if noise:
        gradients = {name: g + noise * rng.standard_normal(g.shape) for name, g in gradients.items()}
    return model, ca.from_torch(model, network.input_shape)[1], x, gradients


def rank_by_torch(model, x):
    """The rank of the Jacobian of all gradients, the output's gradient free to move."""
    rows = np.concatenate([j.reshape(-1, x.size) for j in ca.gradient_jacobian(model, x, 0).values()])
    return int(np.linalg.matrix_rank(rows / np.maximum(1e-300, np.abs(rows).max()), tol=1e-9))


@pytest.mark.parametrize(
    ("network", "seeds"), [(TANH, range(5)), (LEAKY, range(3)), pytest.param(BLOCK, (0, 3), marks=pytest.mark.slow)]
)
def test_the_input_comes_back_where_the_layers_one_by_one_say_nothing(network, seeds) -> None:
    for seed in seeds:
        model, parameters, x, gradients = step(network, seed)
        alone = ca.reconstruct(network, parameters, gradients, batch=1, search=0)
        assert alone.status is ca.Status.UNDETERMINED
        result = ca.reconstruct(network, parameters, gradients, batch=1, search=60)
        assert rank_by_torch(model, x) == x.size
        assert result.status is ca.Status.LOCAL
        assert result.determined.all()
        assert np.abs(result.input - x).max() < 1e-13
        assert (np.abs(result.input - x) < 5 * result.error_bar.max()).all()
        assert max(result.discrepancy.values()) < 1e-13
        assert f"rank {x.size} of {x.size}" in result.notes[-1]
        assert "starts ended" in result.notes[-1]
        assert result.layers == alone.layers


KINDS = ["plain", "plain", "float32", "noisy", "mixed", "saturated"]
BENT = [ca.Tanh(), ca.Sigmoid(), ca.Softplus(), ca.ELU(), ca.Softsign()]
PIECES = [ca.ReLU(), ca.LeakyReLU(0.1), ca.ReLU6(), ca.Hardtanh(-0.4, 0.6)]


def random_network(rng):
    """A small network that narrows, so that its layers one by one often stop; some leave values open in truth."""
    sigma, other = (rng.choice(BENT + PIECES) for _ in range(2))
    width, narrow, classes = int(rng.integers(2, 9)), int(rng.integers(1, 3)), int(rng.integers(2, 6))
    bias = bool(rng.integers(0, 4))
    if rng.random() < 0.5:
        size = int(rng.integers(3, 8))
        layers = [ca.Conv1d(width, 2, bias=bias), sigma, ca.Conv1d(narrow, 1), ca.Flatten(), ca.Linear(classes)]
        return ca.Network((int(rng.integers(1, 3)), size), layers)
    size = int(rng.integers(3, 6))
    first = ca.Conv2d(width, 2, stride=int(rng.integers(1, 3)), padding=1, bias=bias)
    depthwise = [ca.Conv2d(width, 2, groups=width), other] if rng.random() < 0.3 else []
    layers = [first, sigma, *depthwise, ca.Conv2d(narrow, 1), ca.Flatten(), ca.Linear(classes)]
    return ca.Network((1, size, size), layers)


def agrees(network, parameters, gradients, given, x, noise):
    """Whether PyTorch's gradients at x, for the output gradient that is given, are those given to the noise."""
    model = ca.to_torch(network)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(parameters[name]))
    k = torch.tensor(given[network.start.bias_name])
    again = ca.torch_gradients(model, x, k, lambda output, k: (output.ravel() * k).sum())
    return all(np.abs(again[name] - g).max() <= noise + 1e-5 * np.abs(g).max() for name, g in gradients.items())


def run(seed: int) -> str:
    """One search: "none", "right", or "other" for another input with the same gradients; anything else fails."""
    rng = np.random.default_rng(seed)
    network, kind = random_network(rng), KINDS[seed % len(KINDS)]
    noise = 1e-6 if kind == "noisy" else 0.0
    options = {"dtype": "float32" if kind == "float32" else "float64", "gain": 30.0 if kind == "saturated" else 1.0}
    try:
        _, parameters, x, gradients = step(network, seed, noise=noise, **options)
        if kind == "mixed":
            another = step(network, seed, image=rng.random(network.input_shape))[3]
            gradients = {name: (another if i % 4 == 1 else gradients)[name] for i, name in enumerate(gradients)}
        result = ca.reconstruct(network, parameters, gradients, batch=1, noise=noise, search=30)
    except ca.ConstraintAlgebraError:  # nothing arrives at the head, or two samples are seen: no search
        return "refused"
    tried = [result, *result.alternatives] if result.status in {ca.Status.LOCAL, ca.Status.AMBIGUOUS} else []
    if not tried:
        return "none"
    assert all(r.error_bar[r.determined].max(initial=0.0) < 0.05 for r in tried), (seed, kind, network)
    if kind != "mixed" and any((np.abs(r.guess - x) <= 8 * r.error_bar + 1e-10).all() for r in tried):
        return "right"
    bound = {n: np.asarray(p, dtype=float) for n, p in parameters.items()}
    given = {n: np.asarray(g, dtype=float) for n, g in gradients.items()}
    assert all(agrees(network, bound, given, given, r.guess, 10 * noise) for r in tried), (seed, kind, network)
    return "other"


def tally(seeds) -> dict[str, int]:
    found = [run(seed) for seed in seeds]
    return {word: found.count(word) for word in ("right", "other", "none", "refused")}


@pytest.mark.slow
def test_a_wrong_input_is_never_accepted() -> None:
    found = tally(range(25))
    assert found["right"] >= 10
    assert found["none"] >= 5


@pytest.mark.slow
def test_a_wrong_input_is_never_accepted_in_300_runs() -> None:
    found = tally(range(300))
    assert found["right"] >= 140
    assert found["other"] <= 5


def test_the_pattern_follows_from_the_bias_gradients() -> None:
    _, parameters, x, gradients = step(LEAKY, 2)
    of_x = GradientMap(LEAKY, parameters, LEAKY.start, gradients["4.bias"])
    observed = Observation(
        LEAKY, parameters, gradients, {n: 1e-17 + 0 * g for n, g in gradients.items()}, precision(gradients), np.zeros
    )
    wrong = {1: np.full(LEAKY[1].output_shape, 0.01)}
    y = LEAKY.forward(parameters, x)[2]
    np.testing.assert_array_equal(slopes_by_sums(observed, of_x, wrong)[1], np.where(y > 0, 1.0, 0.01))
    # Out of time, every filter keeps what it had.
    np.testing.assert_array_equal(slopes_by_sums(observed, of_x, wrong, lambda: True)[1], wrong[1])


def test_a_network_whose_jacobian_falls_short_stays_as_it_was_bit_by_bit() -> None:
    network = ca.Network(
        (1, 8, 8), [ca.Conv2d(24, 3, stride=2, padding=1), ca.Conv2d(2, 1), ca.Flatten(), ca.Linear(10)]
    )
    model, parameters, x, gradients = step(network, 0)
    assert rank_by_torch(model, x) < x.size
    one, other = (ca.reconstruct(network, parameters, gradients, batch=1, search=s) for s in (0, 60))
    assert one.status is other.status is ca.Status.UNDETERMINED
    assert one.notes == other.notes
    assert one.guess.tobytes() == other.guess.tobytes()


def test_a_determined_chain_is_not_searched(monkeypatch) -> None:
    network = ca.Network((1, 6), [ca.Conv1d(6, 3), ca.Tanh(), ca.Flatten(), ca.Linear(30), ca.Tanh(), ca.Linear(4)])
    _, parameters, _, gradients = step(network, 0)
    expected = ca.reconstruct(network, parameters, gradients, batch=1, search=0)
    assert expected.status is ca.Status.DETERMINED
    monkeypatch.setattr(last_step.Problem, "solved", None)
    found = ca.reconstruct(network, parameters, gradients, batch=1)
    assert found.input.tobytes() == expected.input.tobytes()
    assert found.error_bar.tobytes() == expected.error_bar.tobytes()


def test_gradients_mixed_from_two_inputs_leave_the_result_with_a_note() -> None:
    _, parameters, _, gradients = step(TANH, 0)
    other = step(TANH, 0, image=np.random.default_rng(7).random((1, 3)))[3]
    mixed = {**gradients, "0.weight": other["0.weight"]}
    alone = ca.reconstruct(TANH, parameters, mixed, batch=1, search=0)
    result = ca.reconstruct(TANH, parameters, mixed, batch=1)
    assert result.status is ca.Status.UNDETERMINED
    assert result.guess.tobytes() == alone.guess.tobytes()
    assert "a search from 6 starts found no input" in " ".join(result.notes)


def test_the_same_seed_gives_the_same_bits_and_a_time_of_zero_no_search() -> None:
    _, parameters, _, gradients = step(TANH, 1)
    one, other = (ca.reconstruct(TANH, parameters, gradients, batch=1, seed=5, search=60) for _ in range(2))
    assert one.input.tobytes() == other.input.tobytes()
    assert one.error_bar.tobytes() == other.error_bar.tobytes()
    with pytest.raises(ca.ArgumentRangeError, match="search must be"):
        ca.reconstruct(TANH, parameters, gradients, search=-1.0)


@pytest.mark.parametrize(
    ("dtype", "noise"),
    [
        ("float64", 0.0),
        pytest.param("float32", 0.0, marks=pytest.mark.slow),
        pytest.param("float64", 1e-6, marks=pytest.mark.slow),
    ],
)
def test_error_bars_cover_the_true_error(dtype: str, noise: float) -> None:
    shares = []
    for seed in range(12):
        _, parameters, x, gradients = step(TANH, seed, dtype=dtype, noise=noise)
        result = ca.reconstruct(TANH, parameters, gradients, batch=1, noise=noise)
        if result.status is ca.Status.LOCAL:
            shares += list((np.abs(result.input - x) / result.error_bar).ravel())
    assert len(shares) >= 24
    assert np.max(shares) < 5
    assert np.mean(np.array(shares) < 1) > 0.6


def test_two_inputs_that_pass_are_ambiguous_and_one_out_of_range_is_no_rival() -> None:
    def solution(value: float) -> last_step.Solution:
        x = np.array([0.5, value])
        return last_step.Solution(Estimate(x, np.ones(2, dtype=bool), np.full((2, 12), 1e-9)), 0.1, 0.5)

    def judge(x: Estimate) -> ca.Reconstruction:
        return ca.Reconstruction(x.value, x.known, x.deviation, ca.Status.DETERMINED, (), None, {})

    nothing = ca.Reconstruction(
        np.full(2, np.nan), np.zeros(2, bool), np.full(2, np.inf), ca.Status.UNDETERMINED, (), None, {}
    )
    search = last_step.Search(1.0, 0, (0.0, 1.0))
    two = last_step.concluded(nothing, [solution(0.1), solution(0.7), solution(0.7)], judge, search, 3)
    assert two.status is ca.Status.AMBIGUOUS
    assert two.guess[1] == 0.7  # where more starts ended
    assert not two.determined.any()
    assert [other.guess[1] for other in two.alternatives] == [0.1]
    outside = last_step.concluded(nothing, [solution(0.1), solution(1.7), solution(1.7)], judge, search, 3)
    assert outside.status is ca.Status.LOCAL
    assert outside.guess[1] == 0.1
    assert len(outside.alternatives) == 1


def test_bounds_for_all_inputs_do_not_rest_on_what_holds_near_one() -> None:
    _, parameters, x, gradients = step(TANH, 0)
    result = ca.reconstruct(TANH, parameters, gradients, batch=1)
    assert result.status is ca.Status.LOCAL
    bounds = result.intervals(ca.first_layer_equations(TANH, parameters, gradients))
    assert not bounds.fixed.any()
    assert ((bounds.lower <= x) & (x <= bounds.upper)).all()
