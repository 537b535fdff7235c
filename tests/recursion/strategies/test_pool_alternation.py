"""Winners of max-pools by robust alternation, on PyTorch's gradients with its default initialisation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.ground import Ground
from constraint_algebra.recursion.backsubstitution import _observation
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.open_values import Beyond
from constraint_algebra.recursion.pooled import pooled
from constraint_algebra.recursion.solved_windows import SolvedWindows, shiftable
from constraint_algebra.recursion.strategies.pool_alternation import PoolAlternation
from tests.recursion.strategies.pooled_models import Step, lenet, two_pools

Build = Callable[[], nn.Sequential]
ALONE = (PoolAlternation(),)
PATIENT = 120.0  # seconds that a search may take where others use the machine as well


def learnt(step: Step, module: int) -> tuple[GraphKnowledge, bool]:
    """Learn all that equations tell, then let the strategy look at one pool alone."""
    _, knows = step.reconstruct(only=ALONE, search=0.0)
    layer, strategy = step.network.named(str(module)), PoolAlternation()
    beyond = Beyond(Ground.WINNERS, (0.0, 1.0), time.monotonic() + PATIENT, 0)
    return knows, strategy.applies(knows, layer) and strategy.learn(knows, layer, beyond)


def assert_right(step: Step, module: int, knows: GraphKnowledge) -> None:
    """All windows that get a gradient have PyTorch's winner."""
    found, right = knows.winners[step.network.named(str(module)).index], step.winners(module)
    np.testing.assert_array_equal(found[right >= 0], right[right >= 0])


def small(*middle: nn.Module, width: int) -> Build:
    """A convolution and a pool that hide the input, then the layers in question, then a linear head."""

    def build() -> nn.Sequential:
        first = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        modules = [type(module)(**settings) for module, settings in ((m, vars_of(m)) for m in middle)]
        return nn.Sequential(*first, *modules, nn.Flatten(), nn.Linear(width, 24), nn.ReLU(), nn.Linear(24, 10))

    return build


def vars_of(module: nn.Module) -> dict[str, object]:
    """Return the arguments that make a module anew, so that the seed decides its parameters."""
    if isinstance(module, nn.Conv2d):
        return {
            "in_channels": module.in_channels,
            "out_channels": module.out_channels,
            "kernel_size": module.kernel_size,
            "padding": module.padding,
            "groups": module.groups,
        }
    if isinstance(module, nn.BatchNorm2d):
        return {"num_features": module.num_features}
    names = {nn.MaxPool2d: ("kernel_size", "stride", "padding"), nn.AdaptiveMaxPool2d: ("output_size",)}
    return {name: getattr(module, name) for name in names.get(type(module), ())}


def blob(size: int, seed: int) -> np.ndarray:
    """A smooth spot on a constant background, so that windows tie."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = np.zeros((size, size))
    for _ in range(4):
        a, b = rng.uniform(0.3, 0.7, 2)
        image += rng.uniform(0.5, 1) * np.exp(-((y - a) ** 2 + (x - b) ** 2) / 0.01)
    return np.where(image > 0.1, np.clip(image, 0, 1), 0.0)[None]


CONV = nn.Conv2d(6, 24, 3, padding=1)
POOLS: dict[str, tuple[nn.Module, ...]] = {
    "relu then pool": (CONV, nn.ReLU(), nn.MaxPool2d(2)),
    "pool then relu": (CONV, nn.MaxPool2d(2), nn.ReLU()),
    "no relu": (CONV, nn.MaxPool2d(2)),
    "tanh then pool": (CONV, nn.Tanh(), nn.MaxPool2d(2)),
    "batch norm in evaluation mode": (CONV, nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
    "overlapping": (CONV, nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    "adaptive": (CONV, nn.ReLU(), nn.AdaptiveMaxPool2d(3)),
    "two groups": (nn.Conv2d(6, 32, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(2)),
}


@pytest.mark.parametrize("order", POOLS)
def test_hidden_values_come_back_whatever_lies_around_the_pool(order: str) -> None:
    middle = POOLS[order]
    width = 9 * (32 if order == "two groups" else 24)
    step = Step(small(*middle, width=width), blob(12, 1), seed=1)
    result, knows = step.reconstruct(only=ALONE, search=PATIENT)
    share, error = step.error_after(2, knows)
    assert share > 0.95  # a corner that no winner sees may stay open
    assert error < 1e-10
    assert result.status is not ca.Status.INCONSISTENT


def test_pytorch_takes_the_first_of_equal_entries() -> None:
    step = Step(lambda: two_pools(16, (8, 24), 3, 40), blob(16, 2), seed=2)
    knows, found = learnt(step, 5)
    assert found
    layer = step.network.named("5")
    view = pooled(knows, layer)
    assert view is not None
    t = np.sort(view.entries(step.values[4]), axis=1)
    assert ((t[:, -1] - t[:, -2] < 1e-12) & view.live).sum() > 5  # otherwise this tests nothing
    assert_right(step, 5, knows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_winners_of_fedavg_on_a_digit(dtype: torch.dtype) -> None:
    step = Step(lambda: two_pools(28, (32, 64), 5, 32), ca.samples.load("mnist:3").image, dtype=dtype)
    knows, found = learnt(step, 5)
    assert found
    assert_right(step, 5, knows)


def test_it_is_not_asked_where_counting_says_no() -> None:
    step = Step(lambda: two_pools(16, (8, 4), 3, 40), blob(16, 2))
    _, knows = step.reconstruct(only=ALONE, search=0.0)
    layer = step.network.named("5")
    assert knows.gradients[layer.number].known.all()
    assert not PoolAlternation().applies(knows, layer)


def test_where_it_finds_nothing_it_says_so_and_nothing_is_learnt() -> None:
    step = Step(lenet, ca.samples.load("mnist:2").image, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("constraint_algebra.recursion.strategies.pool_alternation.STARTS", 1)
        result, knows = step.reconstruct(only=ALONE, search=PATIENT)
    assert not result.determined.any()
    assert (knows.winners[5] < 0).all()
    assert any("robust alternation" in note and "'5'" in note for note in result.notes)


def test_a_wrong_winner_is_not_confirmed() -> None:
    step = Step(lambda: two_pools(16, (8, 24), 3, 40), blob(16, 2), seed=2)
    _, knows = step.reconstruct(only=ALONE, search=0.0)
    layer = step.network.named("5")
    view = pooled(knows, layer)
    assert view is not None
    asked = view.k.value != 0
    right = np.where(asked, view.entries(step.values[4]).argmax(axis=1), -1)
    assert (SolvedWindows.of(knows, view, right).sure()[asked] >= 0).all()
    t = np.sort(view.entries(step.values[4]), axis=1)
    clear = np.flatnonzero(asked & (t[:, -1] - t[:, -2] > 1e-3))
    for row in clear[:: len(clear) // 5]:
        wrong = right.copy()
        wrong[row] = (right[row] + 1) % 4
        solved = SolvedWindows.of(knows, view, wrong)
        assert (solved.sure() < 0).all()
        np.testing.assert_array_equal(solved.own_winners(), right)  # the others tell


def test_windows_that_noise_leaves_equal_stay_open() -> None:
    step = Step(lambda: two_pools(16, (8, 24), 3, 40), blob(16, 2), seed=2)
    _, knows = step.reconstruct(only=ALONE, search=0.0)
    view = pooled(knows, step.network.named("5"))
    assert view is not None
    right = np.where(view.k.value != 0, view.entries(step.values[4]).argmax(axis=1), -1)
    solved = SolvedWindows.of(knows, view, right)
    row = int(np.flatnonzero(right == 0)[0])
    vague = replace(solved, slack=np.where(np.arange(len(right))[:, None] == row, 10.0, solved.slack))
    assert vague.sure()[row] == 0  # the gradient shows the difference
    silent = replace(view, k=replace(view.k, value=np.where(np.arange(len(right)) == row, 1e-20, view.k.value)))
    assert replace(vague, view=silent).sure()[row] == -1


def test_winners_that_could_be_moved_together_do_not_count() -> None:
    network = ca.Network((1, 6, 12), [ca.Conv2d(2, 3, padding=1), ca.MaxPool2d(2), ca.Flatten(), ca.Linear(2)])
    given = {name: np.ones(shape) for name, shape in network.parameter_shapes.items()}
    observed = _observation(network, given, {n: np.ones_like(a) for n, a in given.items()}, 0.0, 0)
    view = pooled(GraphKnowledge.nothing(observed), network.layers[1])
    assert view is not None
    winners = np.full((2, 3, 6), -1)
    winners[0, 0, 0], winners[1, 1, 1] = 0, 1  # upper left and upper right: both may go down, in one part
    winners[0, 0, 4], winners[1, 1, 4] = 3, 0  # lower right and upper left: a part that has no room
    found = shiftable(view, winners.ravel()).reshape(winners.shape)
    np.testing.assert_array_equal(found, (winners >= 0) & (np.arange(6) < 3))


# ---- on purpose: minutes ----


def random_pooled(rng: np.random.Generator) -> tuple[list[nn.Module], np.ndarray]:
    """Draw one or two convolutions with pools of some kind, and an input that may have constant parts."""
    size, padded, order = int(rng.integers(6, 13)), bool(rng.random() < 0.7), int(rng.integers(3))
    modules, channels, width = list[nn.Module](), 1, size
    for filters in (int(rng.integers(1, 9)), int(rng.choice([2, 4, 8, 12, 16, 24]))):
        kernel = int(rng.choice([3, 3, 5]))
        made = width if padded else width - kernel + 1
        if made < 2:
            break
        pool = nn.MaxPool2d(3, 2, 1) if rng.random() < 0.25 else nn.MaxPool2d(2)
        between = [(nn.ReLU(), pool), (pool, nn.ReLU()), (pool,)][order]
        modules += [nn.Conv2d(channels, filters, kernel, padding=kernel // 2 if padded else 0), *between]
        width, channels = (made + 1) // 2 if pool.kernel_size == 3 else made // 2, filters
    x = rng.random((1, size, size))
    if rng.random() < 0.5:
        x[:, : size // 2] = 0.0
    if rng.random() < 0.3:
        x[:, :, : size // 3] = 0.5
    head = (nn.Flatten(), nn.Linear(channels * width**2, 12), nn.ReLU(), nn.Linear(12, 5))
    return [*modules, *head], x


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("dtype", "seeds", "least"), [(torch.float64, range(300), 1e-9), (torch.float32, range(1000, 1150), 1e-4)]
)
def test_nothing_wrong_in_random_networks(dtype: torch.dtype, seeds: range, least: float) -> None:
    determined = won = 0
    for seed in seeds:
        modules, x = random_pooled(np.random.default_rng(seed))
        torch.manual_seed(seed)
        step = Step(lambda modules=modules: nn.Sequential(*modules), x, seed=seed, label=1, dtype=dtype)
        try:
            result, knows = step.reconstruct(only=ALONE, search=20.0)
        except ca.errors.ZeroGradientError:
            continue
        assert result.status is not ca.Status.INCONSISTENT
        d = result.determined
        determined += int(d.all())
        assert (np.abs(result.input - x)[d] <= 8 * result.error_bar[d] + least).all(), seed
        for number, module in enumerate(step.model):
            held = knows.values[step.network.named(str(number)).number]
            off = np.abs(held.value - step.values[number + 1])
            assert (off <= 10 * held.deviation + least)[held.known].all(), seed
            if isinstance(module, nn.MaxPool2d) and module.kernel_size == 2:
                found, right = knows.winners[step.network.named(str(number)).index], step.winners(number)
                both = (found >= 0) & (right >= 0)
                np.testing.assert_array_equal(found[both], right[both])
                won += int(both.sum())
    assert determined >= len(seeds) // 40  # otherwise this tests nothing
    assert won > 5 * len(seeds)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("digit", range(20))
def test_second_convolution_of_fedavg(digit: int, seed: int) -> None:
    step = Step(
        lambda: two_pools(28, (32, 64), 5, 512), ca.samples.load(f"mnist:{digit}").image, seed=100 * seed + digit
    )
    knows, found = learnt(step, 5)
    assert found
    assert_right(step, 5, knows)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_second_convolution_of_lenet() -> None:
    done = 0
    for number in range(40):
        step = Step(lenet, ca.samples.load(f"mnist:{number % 20}").image, seed=number)
        knows, found = learnt(step, 5)
        done += found
        if found:
            assert_right(step, 5, knows)
        else:
            assert (knows.winners[5] < 0).all()
    assert done >= 24
