"""Certificates of networks with shortcuts, batch normalisation and max-pool: real gradients and dense Jacobians."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import constraint_algebra as ca


class Residual(nn.Module):
    """A stem and one block with a shortcut, batch normalisation behind each convolution; the mean or all at the end."""

    def __init__(self, stem: int, width: int, *, pooled: bool) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, stem, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(stem)
        self.a, self.norm_a = nn.Conv2d(stem, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.b, self.norm_b = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(stem, width, 1, bias=False)
        self.pooled, self.head = pooled, nn.Linear(width if pooled else 9 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        h = torch.relu(self.norm_a(self.a(y)))
        y = torch.relu(self.norm_b(self.b(h)) + self.shortcut(y))
        return self.head(y.mean((2, 3)) if self.pooled else y.flatten(1))


def tutorial() -> nn.Module:
    """What every tutorial begins with: convolution, ReLU, max-pool, twice, and a linear layer."""
    block = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*block, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(6, 4))


MODELS = {
    "narrow residual": lambda: Residual(2, 3, pooled=True),
    "wide residual": lambda: Residual(16, 12, pooled=False),
    "tutorial": tutorial,
}


@cache
def model_of(name: str) -> nn.Module:
    torch.manual_seed(1)
    model = MODELS[name]().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
    return model


def image() -> np.ndarray:
    return 0.1 + 0.8 * np.random.default_rng(0).random((2, 6, 6))


@cache
def certificate_of(name: str) -> ca.Certificate:
    return ca.certify(model_of(name), image(), 1)


@cache
def null_space(name: str) -> np.ndarray:
    """Directions in which no gradient moves to first order, by automatic differentiation."""
    jacobian = ca.gradient_jacobian(model_of(name), image(), 1)
    rows = np.concatenate([values.reshape(-1, 72) for values in jacobian.values()])
    _, s, vt = np.linalg.svd(np.linalg.qr(rows)[1])
    return vt[int((s > 1e-11 * s[0]).sum()) :].T


def relative(name: str, twin: np.ndarray) -> float:
    first, second = (ca.torch_gradients(model_of(name), values, 1) for values in (image(), twin))
    return max(float(np.abs(first[n] - second[n]).max() / np.abs(first[n]).max()) for n in first if first[n].any())


@pytest.mark.parametrize("name", MODELS)
def test_a_value_is_fixed_or_free_as_the_jacobian_says(name) -> None:
    found, moves = certificate_of(name), (np.linalg.norm(null_space(name), axis=1) > 1e-7).reshape(2, 6, 6)
    assert found.nullity == null_space(name).shape[1]
    assert not (found.ambiguous & ~moves).any()
    assert not ((found.fixed | found.fixed_in_region) & moves & (found.bound > 1e-6)).any()
    np.testing.assert_array_equal(found.fixed | found.fixed_in_region | found.undecided, ~found.ambiguous)
    np.testing.assert_array_equal(found.ambiguous, moves)


def test_what_the_recursion_does_not_determine_is_fixed_in_its_region_only() -> None:
    name = "narrow residual"
    network, parameters = ca.from_torch(model_of(name), (2, 6, 6))
    gradients = ca.torch_gradients(model_of(name), image(), 1)
    assert not ca.reconstruct(network, parameters, gradients, search=0.0).determined.any()
    found = certificate_of(name)
    assert not found.fixed.any()
    assert found.fixed_in_region.any()
    assert "not all of its sides are shown" in found.obstacle


@pytest.mark.parametrize("name", MODELS)
def test_every_twin_has_the_gradients_of_the_image(name) -> None:
    found = certificate_of(name)
    for witness in found.witnesses:
        assert relative(name, witness.twin.image) < 1e-12
        assert np.abs(witness.twin.difference)[found.fixed | found.fixed_in_region].max(initial=0.0) <= np.nanmax(
            found.bound, initial=0.0
        )
    assert (found.moved[found.ambiguous] >= found.delta).all()


@pytest.mark.parametrize("name", MODELS)
def test_twins_found_without_the_library_move_nothing_that_is_fixed(name) -> None:
    found, N, rng = certificate_of(name), null_space(name), np.random.default_rng(0)
    claimed = found.fixed | found.fixed_in_region
    for _ in range(8 if N.size else 0):
        way = (N @ rng.standard_normal(N.shape[1])).reshape(2, 6, 6)
        for step in 0.1 ** np.arange(1, 6):
            twin = np.clip(image() + step * way, 0, 1)
            if relative(name, twin) < 1e-11:
                assert np.abs(twin - image())[claimed].max(initial=0.0) <= np.nanmax(found.bound, initial=0.0) + 1e-9
                break


def test_what_the_recursion_determines_is_fixed_for_all_inputs() -> None:
    name = "wide residual"
    network, parameters = ca.from_torch(model_of(name), (2, 6, 6))
    gradients = ca.torch_gradients(model_of(name), image(), 1)
    result = ca.reconstruct(network, parameters, gradients, search=0.0)
    assert result.determined.all()
    assert certificate_of(name).fixed.all()
    assert certificate_of(name).bound.max() < 1e-7


def test_behind_a_max_pool_the_pattern_is_named() -> None:
    found = certificate_of("tutorial")
    assert "the entry that every maximum is" in found.ground
    assert "every maximum is the same entry" in found.sides
    assert not found.fixed.all()
    assert "which entry of each window" in found.obstacle
    assert "MaxPool2d" in found.architecture


def test_intervals_of_a_graph_hold_its_twins() -> None:
    name = "narrow residual"
    network, parameters = ca.from_torch(model_of(name), (2, 6, 6))
    found, twin = ca.indistinguishable(network, parameters, image(), 1), certificate_of(name).strongest.twin
    mask = np.zeros((2, 6, 6), dtype=bool)
    place = tuple(int(i) for i in np.unravel_index(np.abs(twin.difference).argmax(), mask.shape))
    mask[place] = True
    interval = ca.interval_map(found, mask)[place]
    assert interval.contains(twin.image[place])
    assert interval.width >= twin.change - 1e-9


@pytest.mark.parametrize("name", ["exact_certificate", "first_layer_equations"])
def test_what_takes_chains_only_says_so_and_what_to_use_instead(name) -> None:
    network, parameters = ca.from_torch(model_of("tutorial"), (2, 6, 6))
    given = image() if name == "exact_certificate" else ca.torch_gradients(model_of("tutorial"), image(), 1)
    with pytest.raises(ca.ConstraintAlgebraError, match=rf"{name} takes a plain chain.*MaxPool2d.*indistinguishable"):
        getattr(ca, name)(network, parameters, given)


def test_local_uniqueness_takes_any_model() -> None:
    found = ca.local_uniqueness(ca.gradient_jacobian(model_of("tutorial"), image(), 1), (2, 6, 6))
    assert found.rank == 72 - null_space("tutorial").shape[1]
