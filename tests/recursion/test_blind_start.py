"""What the gradient of one layer tells by itself, on real networks: PyTorch's own values are the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca


class Watched(nn.Module):
    """A convolution that keeps the input it saw and the gradient that came back."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x):
        self.seen = x.detach()
        z = self.conv(x)
        z.register_hook(lambda k: setattr(self, "back", k.detach()))
        return z


def pooled(seed, dtype=torch.float64, *, norm=False, bias=True, groups=1):
    """A network with a global average pool, after one step: its watched last convolution and what came after it."""
    torch.manual_seed(seed)
    watched = Watched(nn.Conv2d(32, 40, 3, padding=1, bias=bias, groups=groups))
    after = nn.BatchNorm2d(40) if norm else nn.Identity()
    layers = [nn.Conv2d(3, 32, 3, padding=1, stride=2), nn.ReLU(), watched, after, nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10)).to(dtype).eval()
    if norm:
        with torch.no_grad():
            after.running_mean.uniform_(-0.2, 0.2)
            after.running_var.uniform_(0.5, 2)
            after.weight.uniform_(0.5, 2)
            after.bias.uniform_(-0.2, 0.2)
    x = torch.rand(1, 3, 8, 8, dtype=dtype)
    nn.functional.cross_entropy(model(x), torch.tensor([seed % 10])).backward()
    return watched, after


LAYER = ca.Conv2d(40, 3, padding=1).place((32, 4, 4), "last")


def truths(watched):
    return watched.seen[0].double().numpy(), watched.back[0].double().numpy()


@pytest.mark.parametrize("seed", range(3))
def test_below_a_global_average_pool_both_come_back_exactly(seed) -> None:
    watched, _ = pooled(seed)
    h, k = truths(watched)
    result = ca.blind_start(LAYER, watched.conv.weight.grad, watched.conv.bias.grad)
    assert result.found
    assert result.everywhere
    assert result.factor_known
    assert np.abs(result.input - h).max() < 1e-12 * h.max()
    assert np.abs(result.output_gradient - k).max() < 1e-12 * np.abs(k).max()
    # Which outputs were cut off is in k itself.
    assert (result.active == (k != 0)).all()
    assert 0 < result.active.sum() < k.size


def test_without_a_bias_one_factor_stays_open() -> None:
    watched, _ = pooled(0)
    h, k = truths(watched)
    result = ca.blind_start(LAYER, watched.conv.weight.grad)
    assert (result.found, result.factor_known) == (True, False)
    c = h.sum() / result.input.sum()
    assert abs(c - 1) > 0.1
    assert np.abs(c * result.input - h).max() < 1e-12 * h.max()
    assert np.abs(result.output_gradient / c - k).max() < 1e-12 * np.abs(k).max()
    assert "up to one factor" in result.conclusion


def test_a_batch_norm_above_gives_the_factor() -> None:
    from constraint_algebra.solvers import blind

    watched, norm = pooled(0, norm=True, bias=False)
    h, k = truths(watched)
    found = blind.factor(LAYER, watched.conv.weight.grad.numpy())
    multiple = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
    scale = blind.scale_from_bias(found, norm.bias.grad.numpy(), multiple=multiple)
    assert np.abs(found.input / scale.values[0] - h).max() < 1e-12 * h.max()
    assert np.abs(found.output_gradient * scale.values[0] - k).max() < 1e-12 * np.abs(k).max()
    assert blind.scale_from_bias(found, norm.bias.grad.numpy()) is None  # without the multiples it contradicts k


def test_a_map_of_masks_that_lacks_rank_is_refused() -> None:
    watched, _ = pooled(1, norm=True, bias=False)
    _, k = truths(watched)
    assert np.linalg.matrix_rank(k.reshape(40, 16)) == 15  # one position whose outputs are all cut off
    result = ca.blind_start(LAYER, watched.conv.weight.grad)
    assert not result.found
    assert "rank of 15" in result.reason


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_below_a_batch_norm_in_training_mode_all_but_the_factor_comes_back(dtype) -> None:
    torch.manual_seed(0)
    watched = Watched(nn.Conv2d(32, 40, 3, padding=1))
    layers = [nn.Conv2d(3, 32, 3, padding=1, stride=2), nn.ReLU(), watched, nn.BatchNorm2d(40), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10)).to(dtype).train()
    nn.functional.cross_entropy(model(torch.rand(1, 3, 8, 8, dtype=dtype)), torch.tensor([3])).backward()
    h, k = truths(watched)
    assert np.linalg.matrix_rank(k.reshape(40, 16), rtol=1e-5) == 15
    result = ca.blind_start(LAYER, watched.conv.weight.grad, watched.conv.bias.grad)
    assert (result.found, result.everywhere, result.factor_known) == (True, True, False)
    assert "sums to zero, as it does below a normalisation of each channel" in result.conclusion
    assert "so that the factor is open" in result.conclusion
    c = h.sum() / result.input.sum()
    exact = 1e-12 if dtype is torch.float64 else 1e-4
    assert np.abs(c * result.input - h).max() < exact * h.max()
    assert np.abs(result.output_gradient / c - k).max() < exact * np.abs(k).max()
    assert (np.abs(c * result.input - h) <= 6 * c * result.input_error_bar).mean() > 0.99


def test_float32_with_honest_error_bars() -> None:
    scores = []
    for seed in range(8):
        watched, _ = pooled(seed, torch.float32)
        result = ca.blind_start(LAYER, watched.conv.weight.grad, watched.conv.bias.grad, seed=seed)
        assert result.factor_known
        sides = (result.input, result.input_error_bar), (result.output_gradient, result.output_gradient_error_bar)
        for (values, bars), truth in zip(sides, truths(watched), strict=True):
            assert np.abs(values - truth).max() < 1e-4 * np.abs(truth).max()
            assert np.isfinite(bars).all()
            scores.append((np.abs(values - truth) / bars).ravel())
    scores = np.concatenate(scores)
    assert 0.6 < (scores < 1).mean() < 0.85
    assert (scores < 4).mean() > 0.995


def test_noise_is_taken_into_account() -> None:
    watched, _ = pooled(0)
    h, _ = truths(watched)
    dW, db = watched.conv.weight.grad.numpy(), watched.conv.bias.grad.numpy()
    random, level = np.random.default_rng(0), 1e-6 * np.abs(dW).max()
    noisy = [values + level * random.normal(size=values.shape) for values in (dW, db)]
    result = ca.blind_start(LAYER, *noisy, noise=level)
    scores = np.abs(result.input - h) / result.input_error_bar
    assert 0.5 < (scores < 1).mean() < 0.85
    assert scores.max() < 8
    hidden = ca.blind_start(LAYER, dW + random.normal(size=dW.shape), noise=1.0)
    assert not hidden.found
    assert np.isnan(hidden.input).all()
    assert np.isinf(hidden.input_error_bar).all()
    # Noise that nobody stated is no gradient of one sample.
    assert not ca.blind_start(LAYER, noisy[0]).found


def test_two_samples_and_groups() -> None:
    one, other = pooled(0)[0], pooled(1)[0]
    both = ca.blind_start(LAYER, one.conv.weight.grad + other.conv.weight.grad)
    assert not both.found
    assert "rank is above 16" in both.reason
    grouped, _ = pooled(2, groups=2)
    layer = ca.Conv2d(40, 3, padding=1, groups=2).place((32, 4, 4))
    h, k = truths(grouped)
    result = ca.blind_start(layer, grouped.conv.weight.grad, grouped.conv.bias.grad)
    if result.found:
        assert np.abs(result.input - h).max() < 1e-11 * h.max()
        assert np.abs(result.output_gradient - k).max() < 1e-11 * np.abs(k).max()
    else:  # sixteen channels for sixteen positions
        parts = [*k.reshape(2, 20, 16), *h.reshape(2, 16, 16)]
        assert min(np.linalg.matrix_rank(part) for part in parts) < 16


def test_a_small_layer_of_few_filters_is_found_nearby_alone() -> None:
    torch.manual_seed(0)
    watched = Watched(nn.Conv2d(4, 5, 3, padding=1))
    model = nn.Sequential(watched, nn.Tanh(), nn.Flatten(), nn.Linear(45, 3)).double()
    x = torch.rand(1, 4, 3, 3, dtype=torch.float64)
    nn.functional.cross_entropy(model(x), torch.tensor([1])).backward()
    layer = ca.Conv2d(5, 3, padding=1).place((4, 3, 3))
    result = ca.blind_start(layer, watched.conv.weight.grad, watched.conv.bias.grad)
    assert (result.found, result.everywhere, result.factor_known) == (True, False, True)
    assert np.abs(result.input - x[0].numpy()).max() < 1e-9
    assert "not proven" in result.conclusion


REFUSED = [
    (ca.Conv2d(24, 3, padding=1, stride=2).place((40, 4, 4)), "leave 4 directions"),
    (ca.Conv2d(24, 3, padding=1, stride=2).place((40, 6, 6)), "leave 9 directions"),
    (ca.Conv2d(24, 1).place((40, 4, 4)), "leave 256 directions"),
    (ca.Conv2d(64, 3, padding=1).place((3, 8, 8)), "3 channels are fewer than its 64 outputs"),
    (ca.Conv2d(16, 3, padding=1, bias=False).place((64, 8, 8)), "16 filters .* too many for a search"),
    (ca.ReLU().place((3, 8, 8)), "no weight"),
]


@pytest.mark.parametrize(("layer", "words"), REFUSED)
def test_shapes_that_leave_more_open_are_refused(layer, words) -> None:
    shape = layer.weight_shape if layer.is_bilinear else (1,)
    with pytest.raises(ca.ShapeError, match=words):
        ca.blind_start(layer, np.ones(shape))


def test_wrong_arrays_are_refused() -> None:
    dW = pooled(0)[0].conv.weight.grad.numpy()
    with pytest.raises(ca.ParameterError, match="shape"):
        ca.blind_start(LAYER, dW[1:])
    with pytest.raises(ca.ParameterError, match="bias_gradient"):
        ca.blind_start(LAYER, dW, np.ones(7))
    with pytest.raises(ca.ZeroGradientError, match="zero"):
        ca.blind_start(LAYER, 0 * dW)
    with pytest.raises(ca.ArgumentRangeError, match="noise"):
        ca.blind_start(LAYER, dW, noise=-1.0)
    with pytest.raises(ca.NonFiniteError):
        ca.blind_start(LAYER, np.where(dW > 0, np.nan, dW))


def test_a_network_stands_for_its_one_layer_of_that_shape() -> None:
    watched, _ = pooled(0)
    network = ca.Network(
        (3, 8, 8), [ca.Conv2d(32, 3, padding=1, stride=2), ca.ReLU(), ca.Conv2d(40, 3, padding=1), ca.Flatten()]
    )
    result = ca.blind_start(network, watched.conv.weight.grad)
    assert result.found
    assert result.layer == network[2]
    with pytest.raises(ca.ShapeError, match="no layer"):
        ca.blind_start(network, np.ones((40, 32, 5, 5)))


def test_it_shows_itself_as_a_table() -> None:
    watched, _ = pooled(0)
    result = ca.blind_start(LAYER, watched.conv.weight.grad, watched.conv.bias.grad)
    text = repr(result)
    assert "Layer 'last' by itself: input and output gradient are determined exactly" in text
    assert "32x4x4" in text
    assert "<table" in result._repr_html_()
    none = ca.blind_start(LAYER, np.random.default_rng(0).normal(size=LAYER.weight_shape))
    assert "not determined" in repr(none)
    assert f"{np.abs(result.input).max():.3g}" in text
