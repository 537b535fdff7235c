"""How far outputs may go before anything behind them changes: ReLU, batch normalisation and max-pool by PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from constraint_algebra.layers import MaxPool2d, ReLU, Scale
from constraint_algebra.proofs.freedom import freedom

RELU, POOL, WIDE = ReLU(), MaxPool2d(2), MaxPool2d(3, stride=2, padding=1)
SCALE = Scale((1.5, -0.7, 0.0), (0.2, -0.1, 0.3))
CASES = {
    "nothing": [],
    "relu": [RELU],
    "relu, pool": [RELU, POOL],
    "pool, relu": [WIDE, RELU],
    "pool": [WIDE],
    "scale": [SCALE],
    "scale, relu": [SCALE, RELU],
    "scale, relu, pool": [SCALE, RELU, WIDE],
    "pool, scale, relu": [POOL, SCALE, RELU],
    "two pools": [POOL, RELU, POOL],
}


def behind(layers: list, z: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        if isinstance(layer, ReLU):
            z = torch.relu(z)
        elif isinstance(layer, Scale):
            factor, shift = (torch.tensor(v, dtype=z.dtype).reshape(3, 1, 1) for v in (layer.factor, layer.shift))
            z = factor * z + shift
        else:
            z = functional.max_pool2d(z, layer.kernel, layer.stride, layer.padding)
    return z


def output_and_gradient(layers: list, z: np.ndarray, k: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    leaf = torch.tensor(z, requires_grad=True)
    out = behind(layers, leaf)
    return out.detach().numpy(), torch.autograd.grad((k * out).sum(), leaf)[0].numpy()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_within_its_bounds_nothing_changes_and_beyond_them_something_does(name, seed) -> None:
    rng, layers = np.random.default_rng(seed), CASES[name]
    z = rng.standard_normal((3, 8, 8))
    k = torch.from_numpy(rng.standard_normal(behind(layers, torch.from_numpy(z)).shape))
    kept, low, high = (part.reshape(z.shape) for part in freedom(z, layers))
    out, gradient = output_and_gradient(layers, z, k)
    assert (gradient[~kept] == 0).all()
    assert ((low <= z) & (z <= high))[~kept].all()
    for _ in range(10):
        inside = np.maximum(low, z - 3) + rng.random(z.shape) * (np.minimum(high, z + 3) - np.maximum(low, z - 3))
        other = np.where(kept, z, inside)
        moved, its = output_and_gradient(layers, other, k)
        np.testing.assert_array_equal(moved, out)
        np.testing.assert_array_equal(its, gradient)
    hidden = (np.arange(3) == 2)[:, None, None] & (SCALE in layers)  # a factor of zero hides the last channel
    low = np.where(name == "pool, scale, relu", -np.inf, low)  # below a winner that falls another may win, as high
    for index in np.argwhere(~kept & (np.isfinite(low) | np.isfinite(high)) & ~hidden):
        place, other = tuple(index), z.copy()
        other[place] = high[place] + 1e-6 if np.isfinite(high[place]) else low[place] - 1e-6
        assert (output_and_gradient(layers, other, k)[0] != out).any()
    if layers and name != "scale":
        assert (~kept).any()
