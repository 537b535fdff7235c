"""What the range, zeros and bits add to a reconstruction: against known truths and linear programmes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import constraint_algebra as ca
from constraint_algebra.ground import Ground
from constraint_algebra.layers import Conv2d, Flatten, Hardtanh, LeakyReLU, Linear, MaxPool2d, ReLU
from constraint_algebra.recursion import open_values
from constraint_algebra.recursion.chain_recursion import Chain
from constraint_algebra.recursion.result import OPEN

STATUS = ca.Status


class Case:
    """A network with an input of which a share lies at the ends of the range, and its gradients."""

    def __init__(
        self,
        network: ca.Network,
        x: np.ndarray,
        seed: int,
        dtype: str = "float64",
        shift: dict[str, float] | None = None,
        zero: tuple[str, ...] = (),
    ) -> None:
        self.network, self.x = network, x
        self.model = ca.to_torch(network, seed=seed, dtype=dtype)
        for name, by in (shift or {}).items():
            dict(self.model.named_parameters())[name].data += by
        for name in zero:
            dict(self.model.named_parameters())[name].data.zero_()
        self.parameters = {name: p.detach().numpy() for name, p in self.model.named_parameters()}
        self.gradients = ca.torch_gradients(self.model, x.astype(dtype), 1)

    def reconstruct(self, **options: Any) -> ca.Reconstruction:
        return ca.reconstruct(self.network, self.parameters, self.gradients, batch=1, **options)

    def wrong(self, result: ca.Reconstruction, floor: float = 1e-9) -> np.ndarray:
        """Return which values are said to be known and are not."""
        off = np.abs(result.guess - self.x) > floor + 30 * np.where(result.determined, result.error_bar, np.inf)
        return off & result.determined


def at_bounds(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> np.ndarray:
    """Return values in [0, 1], a share of them at either end, most of them dark."""
    ends = (rng.random(shape) < 0.2).astype(float)
    return np.where(rng.random(shape) < share, ends, rng.random(shape))


def one_layer(seed: int, dtype: str = "float64") -> Case:
    """Return a random convolution with a cut-off, short of equations, on an input with many values at the ends."""
    rng = np.random.default_rng([27, seed])
    channels, size, kernel = int(rng.integers(1, 3)), int(rng.integers(4, 8)), int(rng.integers(2, 4))
    conv = Conv2d(
        int(rng.integers(1, 4)), kernel, stride=int(rng.integers(1, 3)), padding=int(rng.integers(0, 2)),
        bias=bool(rng.random() < 0.7),
    )  # fmt: skip
    cut_off = [ReLU(), Hardtanh(0.0, 6.0), LeakyReLU(0.1)][int(rng.integers(3))]
    network = ca.Network((channels, size, size), [conv, cut_off, Flatten(), Linear(4)])
    return Case(network, at_bounds(rng, network.input_shape, rng.choice([0.0, 0.5, 0.8, 0.95])), seed, dtype)


def widths(case: Case, some: np.ndarray) -> np.ndarray:
    """Return the width of the interval of some flat values, by linear programmes over rows that PyTorch computed.

    Every input with the same gradients has the same head, the same known outputs and the same k, and what is cut off at
    zero stays so.
    """
    conv, x = case.model[0], torch.tensor(case.x, requires_grad=True)
    f = case.model[1]
    z = conv(x[None])
    y = f(z)
    logits = case.model[3](case.model[2](y))
    k = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, torch.tensor([1])), z)[0].detach()
    inside = torch.autograd.functional.jacobian(f, z.detach()).reshape(z.numel(), -1).diagonal() != 0

    def linear(v: torch.Tensor) -> torch.Tensor:
        out = torch.nn.functional.conv2d(v[None], conv.weight, None, conv.stride, conv.padding)
        rows = torch.autograd.grad(
            (torch.nn.functional.conv2d(v[None], w := conv.weight.detach().requires_grad_(), None, conv.stride,
                                        conv.padding) * k).sum(), w, create_graph=True)[0]  # fmt: skip
        return torch.cat([out.flatten()[inside], rows.flatten()])

    J = torch.autograd.functional.jacobian(linear, x.detach()).reshape(-1, x.numel()).numpy()
    J = J[np.abs(J).max(axis=1) > 0]
    J = J / np.linalg.norm(J, axis=1)[:, None]
    off = (~inside & (y.flatten() == 0)).numpy()
    C = torch.autograd.functional.jacobian(lambda v: conv(v[None]).flatten(), x.detach()).reshape(-1, x.numel())
    C, b = C.numpy()[off], (C @ x.detach().flatten() - z.detach().flatten()).numpy()[off]
    rhs, found = J @ case.x.ravel(), []
    for j in some:
        ends = []
        for sign in (1.0, -1.0):
            c = np.zeros(J.shape[1])
            c[j] = sign
            slack = 1e-9
            limits = np.concatenate([rhs + slack, slack - rhs, b + slack])
            done = linprog(c, np.vstack([J, -J, C]), limits, bounds=(0, 1))
            ends.append(sign * done.fun if done.status == 0 else np.nan)
        found.append(ends[1] - ends[0])
    return np.array(found)


def looked_at(seeds: range) -> Iterator[tuple[Case, ca.Reconstruction]]:
    for seed in seeds:
        case = one_layer(seed)
        try:
            result = case.reconstruct()
        except ca.ZeroGradientError:
            continue
        yield case, result


def test_what_is_determined_given_the_range_is_right_and_has_no_width() -> None:
    by_range = 0
    for case, result in looked_at(range(14)):
        assert not case.wrong(result).any()
        some = np.flatnonzero((result.ground == Ground.RANGE).ravel())
        by_range += len(some)
        if len(some):
            assert np.nanmax(widths(case, some[:: max(1, len(some) // 4)])) < 1e-5
    assert by_range > 60


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_value_of_five_thousand_small_layers_is_wrong() -> None:
    counts, wrong = dict.fromkeys(Ground, 0), 0
    for case, result in looked_at(range(5000)):
        wrong += int(case.wrong(result).sum())
        for ground, count in result.grounds.items():
            counts[ground] += count
    assert wrong == 0
    assert counts[Ground.RANGE] > 10_000


def test_a_value_known_by_equations_keeps_its_ground_and_its_bits() -> None:
    mixed = 0
    for seed in range(14):
        case = one_layer(seed)
        alone, more = case.reconstruct(search=0), case.reconstruct()
        assert (alone.ground[alone.determined] == Ground.EQUATIONS).all()
        np.testing.assert_array_equal(more.input[alone.determined], alone.input[alone.determined])
        assert (more.ground[alone.determined] == Ground.EQUATIONS).all()
        assert (more.ground[~more.determined] == OPEN).all()
        mixed += Ground.RANGE in more.grounds and Ground.EQUATIONS in more.grounds
    assert mixed


def two_layers(seed: int, cut_off: Any = None, dtype: str = "float64") -> Case:
    """Return a network whose second convolution has too few filters for what it reads."""
    layers = [Conv2d(5, 3, padding=1), cut_off or ReLU(), Conv2d(3, 5, padding=2), ReLU(), Flatten(), Linear(10)]
    network = ca.Network((1, 8, 8), layers)
    return Case(network, np.random.default_rng([28, seed]).random(network.input_shape), seed, dtype)


STUCK = (2, 3, 12, 16)  # seeds at which equations alone leave the input of the second convolution open


@pytest.mark.parametrize("seed", STUCK)
def test_the_range_of_a_relu_decides_what_a_layer_reads_for_all_inputs(seed: int) -> None:
    case = two_layers(seed)
    assert not case.reconstruct(search=0).determined.all()
    result = case.reconstruct()
    assert result.status is STATUS.GIVEN_RANGE
    assert result.everywhere.all()
    np.testing.assert_allclose(result.input, case.x, atol=1e-9)
    (note,) = [note for note in result.notes if "rest on the range" in note]
    assert "they lie in it for every input" in note  # no more than that was used
    hidden = dict(result.layers[1].grounds)
    assert sum(hidden.values()) == result.layers[1].unknowns
    assert hidden["range"] > 0


@pytest.mark.parametrize("seed", STUCK[:2])
def test_zeros_decide_where_the_range_is_not_asked(seed: int) -> None:
    case = two_layers(seed)
    with mock.patch.object(open_values, "implied", return_value=None):
        result = case.reconstruct()
    assert result.status is STATUS.BY_ZEROS
    assert not result.everywhere[result.ground == Ground.ZEROS].any()
    assert Ground.ZEROS in result.grounds
    np.testing.assert_allclose(result.input, case.x, atol=1e-9)
    assert any("zeros that are no accident" in note for note in result.notes)


@pytest.mark.parametrize("seed", STUCK)
def test_float32_gradients_give_the_same_to_their_noise(seed: int) -> None:
    case = two_layers(seed, dtype="float32")
    result = case.reconstruct()
    assert result.status in {STATUS.GIVEN_RANGE, STATUS.BY_ZEROS}  # noise leaves the range no proof at two of the seeds
    assert not case.wrong(result, 0.0).any()
    assert result.error_bar.max() < 1e-3


def test_relu6_has_two_plateaus() -> None:
    for seed in STUCK[:2]:
        case = two_layers(seed, Hardtanh(0.0, 6.0))
        result = case.reconstruct()
        assert result.status is STATUS.GIVEN_RANGE
        np.testing.assert_allclose(result.input, case.x, atol=1e-9)


def wrong_bounds(family: Any, *_: Any, **__: Any) -> Any:
    """Say of values that are not zero that they are."""
    at = np.where(family.moving & (np.arange(len(family.p)) % 2 == 0), 0.0, np.nan)
    return mock.Mock(at=at, width=np.zeros(len(at)))


@pytest.mark.parametrize("seed", STUCK[2:3])
def test_bounds_that_contradict_the_equations_are_not_taken_in(seed: int) -> None:
    case = two_layers(seed)
    with mock.patch.object(open_values, "implied", wrong_bounds):
        result = case.reconstruct()
    complete = {STATUS.DETERMINED, STATUS.GIVEN_RANGE, STATUS.BY_ZEROS, STATUS.BY_BITS}
    assert result.status not in complete or not case.wrong(result).any()


@pytest.mark.slow
def test_behind_a_max_pool_zeros_decide_what_a_graph_reads() -> None:
    """A pooled map has zeros where all of a window is cut off; which entry won stays open."""
    layers = [Conv2d(4, 3, padding=1), ReLU(), MaxPool2d(2), Conv2d(2, 5, padding=2), ReLU(), Flatten(), Linear(10)]
    network = ca.Network((1, 10, 10), layers)
    decided = 0
    for seed in range(12):
        x = np.random.default_rng([29, seed]).random(network.input_shape)
        case = Case(network, x, seed, shift={"0.bias": -0.6})
        result = case.reconstruct()
        counts = dict(result.layers[1].grounds)
        decided += counts.get("range", 0) + counts.get("zeros", 0)
        assert not case.wrong(result).any()
    assert decided


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "status"), [(24, STATUS.GIVEN_RANGE), (38, STATUS.BY_ZEROS), (14, STATUS.BY_BITS)])
def test_lenet_with_four_relus_comes_back_where_rank_ends(seed: int, status: ca.Status) -> None:
    """At seed 38 what is known in part below says more of the layer above, from where it goes on."""
    network = ca.zoo.network("lenet-4relu")
    case = Case(network, ca.samples.load(f"cifar10:{seed % 20}").image, seed)
    case.gradients = ca.torch_gradients(case.model, case.x, 3)
    assert case.reconstruct(search=0).status is STATUS.UNDETERMINED
    result = case.reconstruct(search=60)
    assert result.status is status
    np.testing.assert_allclose(result.input, case.x, atol=1e-9)
    if seed == 38:
        with mock.patch.object(Chain, "_learnt_from_below", return_value=False):
            assert case.reconstruct(search=60).status is not status


def test_in_a_graph_what_the_range_decides_rests_on_the_range() -> None:
    """A max-pool of windows of one entry makes a graph of a chain, and changes nothing of what it determines."""
    layers = [Conv2d(4, 5, stride=2, padding=2), ReLU(), MaxPool2d(1), Flatten(), Linear(10)]
    network = ca.Network((1, 28, 28), layers)
    assert not network.is_chain
    case = Case(network, ca.samples.load("mnist:0").image, 0)
    assert case.reconstruct(search=0).status is STATUS.UNDETERMINED
    result = case.reconstruct()
    assert result.status is STATUS.GIVEN_RANGE
    assert result.grounds == {Ground.RANGE: 784}
    np.testing.assert_allclose(result.input, case.x, atol=1e-9)


def test_a_dark_border_of_a_layer_without_bias_is_no_contradiction() -> None:
    """Outputs over it lie on the edge of the ReLU, and rounding of the border would pick a side."""
    network = ca.Network((1, 8, 8), [Conv2d(6, 3, padding=1), ReLU(), Flatten(), Linear(10)])
    statuses = set()
    for seed in range(8):
        x = np.zeros(network.input_shape)
        x[0, 2:6, 2:6] = np.random.default_rng([31, seed]).random((4, 4))
        case = Case(network, x, seed, zero=("0.bias",))
        for search in (0.0, 5.0):
            result = case.reconstruct(search=search)
            assert not case.wrong(result).any()
            assert result.status is not STATUS.INCONSISTENT
            statuses.add(result.status)
    assert {STATUS.DETERMINED, STATUS.GIVEN_RANGE} & statuses


def test_a_value_next_to_a_bound_is_given_an_honest_bar() -> None:
    """A row that hardly sees a value leaves it a narrow interval: noise is divided by the coefficient."""
    network = ca.Network((1, 2), [ca.Conv1d(1, 2, bias=False), LeakyReLU(0.5), Flatten(), Linear(3)])
    for small in (1e-7, 1e-6, 1e-5):
        case = Case(network, np.array([[0.0, small]]), 3, "float32")
        result = case.reconstruct()
        assert not case.wrong(result, 0.0).any()


def test_values_outside_of_the_range_that_is_stated_are_told() -> None:
    case = next(c for c in map(one_layer, range(40)) if c.reconstruct(search=0).status is STATUS.PARTIAL)
    result = case.reconstruct(valid_range=(5.0, 6.0))
    assert Ground.RANGE not in result.grounds
    assert any("lie outside of valid_range, 5 to 6" in note for note in result.notes)


def test_slopes_that_are_learnt_below_an_open_layer_are_no_obstacle() -> None:
    layers = [Conv2d(5, 3, padding=1), ca.PReLU(), Conv2d(2, 3, padding=1), ReLU(), Flatten(), Linear(10)]
    network = ca.Network((1, 8, 8), layers)
    case = Case(network, np.random.default_rng(33).random(network.input_shape), 0)
    assert case.reconstruct().status is STATUS.UNDETERMINED
