"""The whole map of any PyTorch model: rank, gap and determined values are those of a Jacobian by double backward."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from constraint_algebra.pytorch import whole_map
from constraint_algebra.pytorch.gradients import seeded

HASHED = pytest.mark.parametrize("kept", [whole_map.KEPT, 0], ids=["all rows", "hashed"])


def dense(model: nn.Module, image: FloatArray, label: int) -> FloatArray:
    """All gradients at the output gradient of cross-entropy held fixed, and the logits up to a constant."""
    model = copy.deepcopy(model).double()
    x, parameters = torch.tensor(image[None], dtype=torch.float64, requires_grad=True), list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):  # the other kernels have no second derivative
        z = model(x)
    k = torch.softmax(z.detach(), 1) - functional.one_hot(torch.tensor([label]), z.shape[1])
    gradients = torch.autograd.grad((k * z).sum(), parameters, create_graph=True, allow_unused=True)
    rows = [g.ravel() / g.norm().detach() for g in gradients if g is not None and g.requires_grad]
    every = torch.cat([*rows, (z - z.mean()).ravel()])
    unit = torch.eye(len(every), dtype=every.dtype)
    J = torch.cat(
        [torch.autograd.grad(every, x, part, retain_graph=True, is_grads_batched=True)[0] for part in unit.split(256)]
    )
    return J.numpy().reshape(len(every), -1)


def check(found: ca.WholeMap, J: FloatArray, rtol: float = 1e-11) -> None:
    _, s, vectors = np.linalg.svd(np.linalg.qr(J, mode="r"))
    rank = int((s > rtol * s[0]).sum())
    space = vectors[rank:]
    assert found.rank == rank
    np.testing.assert_array_equal(found.determined.ravel(), np.sqrt((space**2).sum(axis=0)) < 1e-7)
    assert not found.linear
    if rank < J.shape[1]:
        np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(found.nullity), atol=1e-12)
        np.testing.assert_allclose(np.abs(space @ found.basis @ found.basis.T - space), 0, atol=1e-6)


CHAINS = {
    "narrow": nn.Sequential(nn.Conv1d(1, 8, 2, 2), nn.Conv1d(8, 1, 1), nn.Flatten(), nn.Linear(6, 10)),
    "wide": nn.Sequential(nn.Conv1d(1, 8, 2), nn.ReLU(), nn.Conv1d(8, 4, 2), nn.Flatten(), nn.Linear(40, 3)),
    "bent": nn.Sequential(nn.Conv1d(1, 2, 2, 2), nn.Tanh(), nn.Conv1d(2, 1, 1), nn.Flatten(), nn.Linear(6, 2)),
    "unseen": nn.Sequential(nn.Conv1d(1, 2, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)),
    "few gradients": nn.Sequential(nn.Flatten(), nn.Linear(12, 1), nn.Linear(1, 2)),
}


@HASHED
@pytest.mark.parametrize("name", CHAINS)
def test_of_a_chain(name: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_map, "KEPT", kept)
    with seeded(1):
        model = copy.deepcopy(CHAINS[name])
        for p in model.parameters():
            nn.init.uniform_(p, -1, 1)
    image = np.random.default_rng(0).random((1, 12))
    check(ca.torch_whole_map(model, image, 1), dense(model, image, 1))


class Block(nn.Module):
    """Two convolutions and a shortcut, with batch normalisation."""

    def __init__(self, channels: int, filters: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters))
        self.second = nn.Sequential(nn.Conv2d(filters, filters, 3, 1, 1, bias=False), nn.BatchNorm2d(filters))
        other = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))
        self.short = nn.Identity() if channels == filters else other

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.short(x))


class Unused(nn.Module):
    """The input itself, and a weight that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Root(nn.Module):
    """The square root, whose slope at 0 is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


def residual(width: int) -> nn.Module:
    with seeded(0):
        stem = (nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks = (Block(width, width), Block(width, 2 * width, 2))
        return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)).eval()


def test_of_a_residual_network_with_batch_normalisation_and_global_pooling() -> None:
    """A model that is no chain of layers; its null directions move no gradient."""
    model, image = residual(4).double(), np.random.default_rng(0).random((3, 12, 12))
    found = ca.torch_whole_map(model, image, 3)
    check(found, dense(model, image, 3))
    assert 250 < found.rank < 350
    assert found.gap[0] > 1e8 * found.gap[1]
    away = np.random.default_rng(1).standard_normal(image.shape)
    assert ca.verify_twin(model, image, image + 1e-6 * away / np.linalg.norm(away), 3).difference > 1e-10
    step = 1e-6 * found.basis[:, 0].reshape(image.shape)
    assert ca.verify_twin(model, image, image + step, 3).difference < 1e-13


def test_rank_is_that_of_the_gradients_own_jacobian_where_a_bias_ends_the_model() -> None:
    """Twice as wide, the gradient determines all of the same picture."""
    model, image = residual(8).double(), np.random.default_rng(0).random((3, 12, 12))
    own = ca.local_uniqueness(ca.gradient_jacobian(model, image, 3), image.shape, rtol=whole_map.RTOL)
    assert ca.torch_whole_map(model, image, 3).rank == own.rank == 432


@pytest.mark.parametrize("seed", range(3))
def test_hashing_loses_no_rank_and_no_determined_value(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = residual(2).double(), np.random.default_rng(0).random((3, 8, 8))
    whole = ca.torch_whole_map(model, image, 3)
    monkeypatch.setattr(whole_map, "KEPT", 0)
    hashed = ca.torch_whole_map(model, image, 3, seed=seed)
    assert 0 < whole.rank < 192
    assert hashed.rank == whole.rank
    np.testing.assert_array_equal(hashed.determined, whole.determined)
    np.testing.assert_allclose(hashed.basis @ hashed.basis.T, whole.basis @ whole.basis.T, atol=1e-6)


@HASHED
def test_few_rows_that_count_among_many_of_zeros_are_not_lost_by_hashing(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows as unknowns: were each added to one sum only, a third of them would meet and be lost."""
    monkeypatch.setattr(whole_map, "KEPT", kept)
    model = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 2)).double()
    with torch.no_grad():
        model[0].bias.fill_(-100.0)  # off, but for one unit
        model[0].bias[7] = 100.0
    assert ca.torch_whole_map(model, np.random.default_rng(0).random(300), 1).full


@HASHED
def test_of_pooling_by_maxima_attention_and_layer_normalisation(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_map, "KEPT", kept)
    with seeded(0):
        pooled = nn.Sequential(
            *(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten()),
            nn.Linear(8, 3),
        )
        tokens = nn.Sequential(
            nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(20, 3)
        ).eval()
    for model, shape in ((pooled, (1, 8, 8)), (tokens, (5, 4))):
        image = np.random.default_rng(0).random(shape)
        check(ca.torch_whole_map(model, image, 1), dense(model, image, 1))


def test_a_float32_model_is_doubled_and_stays_as_it_is() -> None:
    model, image = residual(2), np.random.default_rng(0).random((3, 8, 8))
    before = copy.deepcopy(model.state_dict())
    found = ca.torch_whole_map(model, torch.tensor(image, dtype=torch.float32), 3)
    check(found, dense(model, image.astype(np.float32).astype(float), 3))
    assert found.gap[1] < 1e-13
    assert all(torch.equal(v, before[n]) and v.dtype == before[n].dtype for n, v in model.state_dict().items())
    assert not model.training


def test_a_saturated_softmax_does_not_hide_what_the_logits_tell() -> None:
    """Equal output gradients imply equal logits up to a constant, also of a class of probability 1e-26."""
    model = nn.Linear(2, 3, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[60.0, 0.0], [59.0, 0.0], [0.0, 1.0]]))
        model.bias.zero_()
    model.weight.requires_grad_(False)  # the bias alone has a gradient
    assert ca.torch_whole_map(model, [1.0, 0.0], 0).full


def test_another_loss_tells_of_the_output_what_its_gradient_does() -> None:
    image = [1.0, 2.0, 3.0]
    model = nn.Linear(3, 2, dtype=torch.float64)
    model.weight.requires_grad_(False)
    square = ca.torch_whole_map(model, image, torch.zeros(1, 2), lambda z, y: ((z - y) ** 2).sum())
    flat = ca.torch_whole_map(model, image, torch.zeros(1), lambda z, _: z.sum())
    assert (square.rank, flat.rank) == (2, 0)  # the bias alone: of the outputs both, or nothing
    single = nn.Linear(3, 1, dtype=torch.float64)
    single.weight.requires_grad_(False)
    assert ca.torch_whole_map(single, image, 1, "logistic").rank == 1


def test_a_gradient_at_the_output_that_no_bias_has_is_said_to_be_taken_as_known() -> None:
    model = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    with pytest.warns(ca.AssumptionWarning, match="no bias has the gradient at the output"):
        assert ca.torch_whole_map(model, [1.0, 2.0, 3.0], 1).full


def test_without_a_basis_the_verdict_is_the_same() -> None:
    model, image = CHAINS["narrow"], np.random.default_rng(0).random((1, 12))
    with_basis, without = (ca.torch_whole_map(model, image, 1, basis=b) for b in (True, False))
    assert without.basis is None
    assert with_basis.basis.shape == (12, with_basis.nullity)
    np.testing.assert_array_equal(with_basis.determined, without.determined)


def test_a_cut_without_a_gap_is_said() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0.0, 1, 0, 0]]))
    with pytest.warns(ca.AssumptionWarning, match="singular values lie close at the cut"):
        ca.torch_whole_map(model, [1.0, 2.0, 3.0, 4.0], 1, rtol=0.5)


def test_what_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ca.UnknownNameError, match="no loss is called"):
        ca.torch_whole_map(model, [1.0, 2.0], 1, "hinge")
    with pytest.raises(ca.ParameterError, match="whole targets from 0 to 1"):
        ca.torch_whole_map(model, [1.0, 2.0], 5)
    with pytest.raises(ca.ShapeError, match="does not take the input"):
        ca.torch_whole_map(model, [1.0, 2.0, 3.0], 1)
    with pytest.raises(ca.ShapeError, match="no values"):
        ca.torch_whole_map(model, np.zeros(0), 1)
    with pytest.raises(ca.NonFiniteError, match=r"input is inf at \(1,\); give finite"):
        ca.torch_whole_map(model, [1.0, np.inf], 1)
    broken = nn.Linear(2, 2)
    with torch.no_grad():
        broken.weight[0, 1] = np.nan
    with pytest.raises(ca.NonFiniteError, match="output of the model is not finite"):
        ca.torch_whole_map(broken, [1.0, 2.0], 1)
    root = nn.Sequential(nn.Linear(2, 2), nn.Hardtanh(0, 1), Root(), nn.Linear(2, 2))
    with torch.no_grad():
        root[0].weight.zero_()
        root[0].bias.fill_(1e-320)
    with pytest.raises(ca.NonFiniteError, match="by no finite amount"):
        ca.torch_whole_map(root, [1.0, 2.0], 1)
    with pytest.raises(ca.ZeroGradientError, match="gradient of the loss at the output is zero"):
        ca.torch_whole_map(model, [1.0, 2.0], torch.zeros(1), lambda z, _: (0 * z).sum())
    with pytest.raises(ca.ParameterError, match="no parameter has a gradient"):
        ca.torch_whole_map(nn.Linear(2, 2).requires_grad_(False), [1.0, 2.0], 1)
    with pytest.raises(ca.ParameterError, match="depends on no parameter"):
        ca.torch_whole_map(Unused(), [1.0, 2.0], 1)
    dropping = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Dropout(), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(ca.ShapeError, match=r"model.eval\(\)"):
        ca.torch_whole_map(dropping, np.ones((1, 4)), 1)


@pytest.mark.parametrize("tracked", [True, False])
def test_gradients_that_are_zero_by_a_normalisation_tell_nothing(tracked: bool) -> None:
    """Its mean goes out of each channel: the input is open up to a constant, and the bias has no gradient."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3, track_running_stats=tracked)
    model = nn.Sequential(nn.Conv1d(1, 3, 2), norm, nn.Tanh(), nn.Flatten(), nn.Linear(9, 2)).double()
    before = {name: b.clone() for name, b in model.named_buffers()}
    x = np.random.default_rng(0).random((1, 4))
    seen = ca.torch_whole_map(model, x, 1)
    assert seen.rank == 3
    assert not seen.determined.any()
    assert np.allclose(np.abs(seen.basis), 0.5)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())


def test_memory_is_asked_for_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSTRAINT_ALGEBRA_MEMORY", "1M")
    with pytest.raises(ca.MemoryLimitError, match="take a smaller input"):
        ca.torch_whole_map(residual(4), np.random.default_rng(0).random((3, 12, 12)), 1)
