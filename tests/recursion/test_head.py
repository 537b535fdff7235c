"""The head: every k that explains a gradient, found by brute force and held against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.networks import losses
from constraint_algebra.recursion import head
from constraint_algebra.recursion.ensemble import Ensemble
from constraint_algebra.recursion.noise import deviations_of, precision
from constraint_algebra.recursion.observation import Observation


def softmax_gradient(W, x, label):
    """The output gradient k and dL/dW of a softmax head without bias, from automatic differentiation."""
    weight = torch.tensor(W, requires_grad=True)
    z = weight @ torch.tensor(x)
    z.retain_grad()
    torch.nn.functional.cross_entropy(z[None], torch.tensor([label])).backward()
    return z.grad.numpy(), weight.grad.numpy()


def logistic_gradient(w, x, label):
    weight = torch.tensor(w, requires_grad=True)
    z = weight @ torch.tensor(x)
    z.retain_grad()
    torch.nn.functional.binary_cross_entropy_with_logits(z, torch.tensor([float(label)], dtype=z.dtype)).backward()
    return z.grad.numpy(), weight.grad.numpy()


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_softmax_finds_the_true_output_gradient(classes, scale) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        W, x = scale * rng.standard_normal((classes, 20)), rng.random(20)
        k, dW = softmax_gradient(W, x, label=seed % classes)
        found = losses.cross_entropy(W, dW)
        # Each entry to relative accuracy: rows of tiny k count as much as the others. PyTorch's own k is off by 1e-16.
        errors = [np.abs(c - k).max(where=np.abs(k) > 1e-8, initial=0.0) for c in found]
        assert min(errors) < 1e-9 * np.abs(k).max()
        for candidate in found:
            again = softmax_gradient(W, candidate @ dW / (candidate @ candidate), int(np.argmin(candidate)))[1]
            np.testing.assert_allclose(again, dW, rtol=0, atol=1e-4 * np.abs(dW).max())


@pytest.mark.parametrize("label", [1, 2])
def test_tiny_entries_of_a_saturated_softmax_are_accurate(label) -> None:
    # So small that a singular vector of dL/dW, accurate to rounding of its largest entry, has them wrong.
    rng = np.random.default_rng(1)
    W, x = rng.standard_normal((6, 300)), rng.random(300)
    W[:, 0] += np.array([0, 10, -10, -25, -15, 5]) / x[0]
    k, dW = softmax_gradient(W, x, label)
    assert 0 < np.abs(k).min() < 1e-13
    (found,) = losses.cross_entropy(W, dW)
    np.testing.assert_allclose(found, k, rtol=1e-9)


def test_softmax_roots_of_two_classes_by_a_fine_grid() -> None:
    # With two classes the scale t solves s |u_y| = t (1 - p_y(t)): count the sign changes on a fine grid.
    for seed in range(6):
        rng = np.random.default_rng(seed)
        W, x = 2 * rng.standard_normal((2, 8)), rng.random(8)
        k, dW = softmax_gradient(W, x, label=seed % 2)
        direction = dW[0] / np.linalg.norm(dW[0])
        roots = []
        for sign in (1.0, -1.0):
            v = sign * direction
            margin, size = (W[0] - W[1]) @ v, dW[0] @ v  # k0 t = size, k0 = p0 - [y = 0]
            t = np.exp(np.linspace(-12, 12, 1_000_001))
            for y in (0, 1):
                p0 = 1 / (1 + np.exp(np.clip(-t * margin, -700, 700)))
                f = t * (p0 - (y == 0)) - size
                roots += [size / t[i] for i in np.flatnonzero(f[:-1] * f[1:] < 0)]
        found = sorted(float(c[0]) for c in losses.cross_entropy(W, dW))
        np.testing.assert_allclose(found, sorted(roots), rtol=1e-4)
        assert min(abs(c - k[0]) for c in found) < 1e-10


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("size", [0.01, 0.5, 2.0, 6.0, -0.3, -3.0])
def test_logistic_finds_every_output_gradient(size, label) -> None:
    rng = np.random.default_rng(3)
    w, x = rng.standard_normal((1, 9)), rng.standard_normal(9)
    x *= size / float((w @ x)[0])  # the logit is `size`
    k, dw = logistic_gradient(w, x, label)
    found = losses.logistic(w, dw)
    margin = size if label else -size
    assert len(found) == (4 if margin > 0 else 2)
    assert min(abs(c[0] - k[0]) for c in found) < 1e-10 * abs(k[0])
    for candidate in found:
        explanation = dw[0] / candidate[0]
        again = logistic_gradient(w, explanation, losses.label_of(candidate, "logistic"))
        np.testing.assert_allclose(again[0], candidate, rtol=1e-9)
        np.testing.assert_allclose(again[1], dw, rtol=1e-9)


def test_a_gradient_that_no_margin_explains() -> None:
    # m / (1 + exp(m)) never exceeds 0.2785.
    assert losses.logistic(np.array([[1.0]]), np.array([[-0.28]])) == []
    assert len(losses.logistic(np.array([[1.0]]), np.array([[-0.278]]))) == 4


@pytest.mark.parametrize("label", range(5))
def test_the_label_of_a_softmax(label) -> None:
    rng = np.random.default_rng(label)
    k, _ = softmax_gradient(rng.standard_normal((5, 4)), rng.random(4), label)
    assert losses.label_of(k, "cross_entropy") == label
    assert losses.label_of(k, None) is None


def test_no_label_where_the_output_gradient_is_not_that_of_the_loss() -> None:
    assert losses.label_of(np.array([0.5, -0.2, -0.3]), "cross_entropy") is None
    assert losses.label_of(np.array([0.5, -0.2, 0.3]), "cross_entropy") is None  # does not sum to zero


def test_the_recursion_starts_at_the_lowest_layer_with_one_position_and_a_bias() -> None:
    network = ca.Network(
        (1, 5, 5),
        [ca.Conv2d(3, 3), ca.Conv2d(4, 3), ca.Flatten(), ca.Linear(6, bias=False), ca.Linear(5), ca.Linear(3)],
    )
    model = ca.to_torch(network)
    gradients = ca.torch_gradients(model, np.random.default_rng(0).random((1, 5, 5)), 1)
    parameters = {name: p.detach().numpy() for name, p in model.named_parameters()}
    deviations = {name: np.full(g.shape, 1e-17) for name, g in gradients.items()}
    start, (k,) = head.output_gradients(network, parameters, gradients, "cross_entropy", deviations)
    # The second convolution has one output position: its bias gradient is its k.
    assert start.name == "1"
    np.testing.assert_array_equal(k, gradients["1.bias"])


def test_groups_at_one_position_are_of_rank_one_each() -> None:
    net = ca.Network((4, 3, 3), [ca.Conv2d(8, 3, groups=4), ca.Sigmoid(), ca.Flatten(), ca.Linear(5)])
    model = ca.to_torch(net, seed=0, dtype="float64")
    x = np.random.default_rng(0).random((4, 3, 3))
    net, parameters = ca.from_torch(model, x.shape)
    result = ca.reconstruct(net, parameters, ca.torch_gradients(model, x, 1))
    np.testing.assert_allclose(result.input, x, atol=1e-12)
    both = [ca.torch_gradients(model, image, 1) for image in (x, 1 - x)]
    mixed = {name: values + both[1][name] for name, values in both[0].items()}
    with pytest.raises(ca.BatchError, match="rank 2"):
        ca.reconstruct(net, parameters, mixed)


def test_rounding_of_a_factorisation_is_no_second_sample() -> None:
    """What singular values leave of a zero grows with their largest, whatever few entries the gradient has."""
    layers = [ca.Conv2d(1, 3, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(10)]
    network = ca.Network((1, 28, 28), layers)
    for seed in range(20):
        model = ca.to_torch(network, seed=seed)
        parameters = {name: p.detach().numpy() for name, p in model.named_parameters()}
        gradients = ca.torch_gradients(model, ca.samples.load(f"mnist:{seed}").image, 3)
        given = deviations_of(gradients, precision(gradients), 0.0)
        head.output_gradients(network, parameters, gradients, "cross_entropy", given)


def noisy_head(seed, dtype, scale, classes):
    """A head without bias: how far the nearest k found is from PyTorch's, in deviations, and their size beside k."""
    rng = np.random.default_rng(seed)
    network = ca.Network((30,), [ca.Linear(classes, bias=False)])
    layer, x = network.bilinear[0], torch.tensor(rng.random(30), dtype=dtype)
    W = torch.tensor(scale * rng.standard_normal((classes, 30)) / np.sqrt(30), dtype=dtype, requires_grad=True)
    z = W @ x
    z.retain_grad()
    if classes == 1:
        target = torch.tensor([float(seed % 2)], dtype=dtype)
        torch.nn.functional.binary_cross_entropy_with_logits(z, target).backward()
    else:
        torch.nn.functional.cross_entropy(z[None], torch.tensor([seed % classes])).backward()
    k, name = z.grad.double().numpy(), layer.weight_name
    if not k.any():
        return None
    parameters, gradients = {name: W.detach().double().numpy()}, {name: W.grad.double().numpy()}
    rounding = precision({name: W.grad.numpy()})
    deviations = deviations_of(gradients, rounding, 0.0)
    observed = Observation(network, parameters, gradients, deviations, rounding, Ensemble(0).draw)
    candidates = (losses.logistic if classes == 1 else losses.cross_entropy)(parameters[name], gradients[name])
    if not candidates:
        return None
    nearest, label = min(candidates, key=lambda c: np.abs(c - k).max()), int(np.abs(k).argmax())
    deviation = np.sqrt((head.by_loss(layer, nearest, observed) ** 2).mean(axis=-1))
    return np.abs(nearest - k)[label] / deviation[label], deviation[label] / np.abs(k[label])


@pytest.mark.parametrize("classes", [1, 2, 7])
@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_noise_of_a_head_without_bias_is_that_of_its_scalar_equation(dtype, scale, classes) -> None:
    """It was once taken for that of the weight gradient: too small by up to 3,000, the label's probability near 1."""
    seen = [one for seed in range(10) if (one := noisy_head(seed, dtype, scale, classes)) is not None]
    off, size = np.array(seen).T
    assert off.max() < 6
    assert np.median(size) < 1e3 * torch.finfo(dtype).eps  # and no larger than it must be
