"""Networks with SiLU, GELU, Mish and hardswish on real gradients of PyTorch, branches unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.recursion.branch_search import _is_checked
from constraint_algebra.recursion.strategies.branches import ByBranches

MODULES = {
    "SiLU": nn.SiLU(),
    "GELU": nn.GELU(),
    "GELU by tanh": nn.GELU(approximate="tanh"),
    "Mish": nn.Mish(),
    "hardswish": nn.Hardswish(),
}
FOUR = ("SiLU", "GELU", "Mish", "hardswish")
RANGE = (-1.0, 1.0)


@dataclass
class Client:
    """A model, its input and its gradient."""

    model: nn.Module
    x: np.ndarray
    gradients: dict

    def result(self, **options) -> ca.Reconstruction:
        network, parameters = ca.from_torch(self.model, self.x.shape)
        return ca.reconstruct(network, parameters, self.gradients, valid_range=RANGE, **options)


def client(model: nn.Module, shape, *, dtype=torch.float64, kaiming=True, seed=0) -> Client:
    """A client with Kaiming's or PyTorch's initialisation."""
    torch.manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
            if kaiming:
                nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            for values, low, high in ((layer.weight, 0.5, 1.5), (layer.bias, -1, 1), (layer.running_var, 0.5, 2)):
                nn.init.uniform_(values, low, high)
    x = (2 * torch.rand(1, *shape, dtype=torch.float64) - 1).to(dtype)
    model = model.to(dtype).eval()
    loss = nn.functional.cross_entropy(model(x), torch.tensor([1]))
    gradients = dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, model.parameters()), strict=True))
    return Client(model, x[0].double().numpy(), gradients)


def two_layers(name: str, c=(3, 8, 12), size=8) -> nn.Module:
    torch.manual_seed(0)
    last = c[2] * ((size + 1) // 2) ** 2
    act = MODULES[name]
    convs = nn.Conv2d(c[0], c[1], 3, 1, 1), nn.Conv2d(c[1], c[2], 3, 2, 1)
    return nn.Sequential(convs[0], act, convs[1], act, nn.Flatten(), nn.Linear(last, 10))


def assert_honest(c: Client, result: ca.Reconstruction, bars: float = 6.0) -> None:
    """What counts as known is right to within its error bar."""
    known = result.determined
    assert (np.abs(result.input - c.x)[known] <= bars * result.error_bar[known]).all()


@pytest.mark.parametrize(
    ("name", "kaiming"), [*((name, True) for name in MODULES), ("SiLU", False)], ids=[*MODULES, "default"]
)
def test_two_layers_come_back_exactly(name, kaiming) -> None:
    c = client(two_layers(name, (1, 5, 9), 7), (1, 7, 7), kaiming=kaiming)
    result = c.result()
    assert result.status is ca.Status.BY_BRANCHES
    assert max(result.discrepancy.values()) < 1e-9
    assert np.abs(result.input - c.x).max() < 1e-12
    assert (result.ground == ca.Ground.BRANCHES).all()
    assert_honest(c, result)


def test_where_nearer_branches_turn_in_circles_the_alternation_finds_them(monkeypatch) -> None:
    c = client(two_layers("GELU", (1, 5, 9), 7), (1, 7, 7), seed=1)
    assert c.result().status is ca.Status.BY_BRANCHES
    monkeypatch.setattr("constraint_algebra.recursion.branch_search.LARGEST", 0)
    assert c.result().status is not ca.Status.BY_BRANCHES


def test_where_equations_suffice_nothing_is_guessed(monkeypatch) -> None:
    """Outputs above zero alone make as many equations as there are unknowns."""

    def never(*_: object) -> bool:
        raise AssertionError("asked for branches")

    monkeypatch.setattr(ByBranches, "learn", never)
    model = nn.Sequential(nn.Conv2d(1, 12, 3, 1, 1), nn.SiLU(), nn.Flatten(), nn.Linear(432, 5))
    c = client(model, (1, 6, 6))
    result = c.result()
    assert result.status is ca.Status.DETERMINED
    assert np.abs(result.input - c.x).max() < 1e-12


class Residual(nn.Module):
    """Batch norm in evaluation mode, and a shortcut into an activation with two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(2, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6)
        self.conv, self.norm = nn.Conv2d(6, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(216, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.silu(self.first(self.stem(x)))
        y = nn.functional.gelu(self.norm(self.conv(h)) + h)
        return self.head(y.flatten(1))


def test_batch_norm_between_a_convolution_and_the_activation() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.SiLU()),
        *(nn.Conv2d(6, 10, 3, 2, 1, bias=False), nn.BatchNorm2d(10), nn.Hardswish()),
        *(nn.Flatten(), nn.Linear(160, 5)),
    )
    c = client(model, (2, 8, 8))
    result = c.result()
    assert result.status is ca.Status.BY_BRANCHES
    assert np.abs(result.input - c.x).max() < 1e-11


def test_nothing_wrong_is_known_of_a_residual_block() -> None:
    c = client(Residual(), (2, 6, 6))
    result = c.result()
    assert_honest(c, result)
    assert result.status is not ca.Status.INCONSISTENT


@pytest.mark.parametrize(
    ("name", "dtype", "error"),
    [("SiLU", torch.float32, 1e-4), ("GELU", torch.float32, 1e-4), ("hardswish", torch.bfloat16, 0.2)],
)
def test_rounded_gradients_have_honest_error_bars(name, dtype, error) -> None:
    c = client(two_layers(name, (2, 5, 14), 6), (2, 6, 6), dtype=dtype)
    result = c.result()
    assert_honest(c, result)
    assert result.status is ca.Status.BY_BRANCHES
    assert np.abs(result.input - c.x).max() < error


def test_a_noise_that_is_stated_is_in_the_error_bars() -> None:
    c = client(two_layers("SiLU", (2, 5, 10), 6), (2, 6, 6))
    rng = np.random.default_rng(0)
    clean = {name: g.numpy() for name, g in c.gradients.items()}
    noise = {name: np.full(g.shape, 1e-7 * np.abs(g).max()) for name, g in clean.items()}
    c.gradients = {name: g + noise[name] * rng.standard_normal(g.shape) for name, g in clean.items()}
    result = c.result(noise=noise)
    assert result.status is ca.Status.BY_BRANCHES
    ratio = (result.input - c.x) / result.error_bar
    assert (np.abs(ratio) < 6).all()
    assert 0.3 < np.sqrt((ratio**2).mean()) < 2


def test_too_few_filters_are_not_determined() -> None:
    c = client(two_layers("GELU", (3, 2, 3)), (3, 8, 8))
    result = c.result()
    assert result.status is ca.Status.UNDETERMINED
    assert not result.determined.any()


def test_few_checks_do_not_tell_many_branches() -> None:
    """A check shared by sixty outputs says of none of them, however exact; shared by four it does, if it is exact."""
    gap = np.array([1e13, 1e13, 30.0, 30.0, 5.0])
    leverage = np.array([1 - 1 / 60, 0.75, 0.75, 0.0, 0.0])
    assert _is_checked(gap, leverage).tolist() == [False, True, False, True, False]


def random_client(seed: int, dtype: torch.dtype) -> Client:
    """A small network of random geometry; many are short of rank."""
    rng = np.random.default_rng(seed)
    act = list(MODULES.values())[rng.integers(5)]
    c, size = (rng.integers(1, 4), rng.integers(2, 8), rng.integers(2, 14)), int(rng.integers(4, 9))
    first = nn.Conv2d(int(c[0]), int(c[1]), 3, 1, 1, bias=bool(rng.random() < 0.7))
    second = nn.Conv2d(int(c[1]), int(c[2]), int(rng.integers(2, 4)), int(rng.integers(1, 3)), 1)
    norms = [nn.BatchNorm2d(int(n)) if rng.random() < 0.3 else nn.Identity() for n in c[1:]]
    body = nn.Sequential(first, norms[0], act, second, norms[1], act, nn.Flatten())
    shape = int(c[0]), size, size
    width = body(torch.zeros(1, *shape)).numel()
    model = nn.Sequential(*body, nn.Linear(width, 6))
    return client(model, shape, dtype=dtype, kaiming=bool(rng.random() < 0.6), seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_nineteen_of_twenty_come_back_exactly(name) -> None:
    exact = 0
    for seed in range(20):
        c = client(two_layers(name, (3, 16, 40), 12), (3, 12, 12), kaiming=seed % 2 == 0, seed=seed)
        result = c.result()
        assert_honest(c, result)
        exact += bool(result.determined.all() and np.abs(result.input - c.x).max() < 1e-11)
    assert exact >= 19


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_none_of_many_random_networks_is_wrong(dtype) -> None:
    found = []
    for seed in range(100):
        c = random_client(seed, dtype)
        result = c.result()
        assert_honest(c, result, bars=8.0)
        assert result.status is not ca.Status.INCONSISTENT
        found.append(result.status)
    assert found.count(ca.Status.BY_BRANCHES) > 20
