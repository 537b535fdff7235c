"""What several drawings show."""

from __future__ import annotations

import numpy as np
import pytest

import constraint_algebra as ca


@pytest.fixture(scope="module")
def solved():
    """A network, what its gradients determine of an image by equations, and the image."""
    network = ca.Network((3, 8, 8), [ca.Conv2d(30, 3, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(5)])
    model = ca.to_torch(network, seed=0, dtype="float64")
    image = np.random.default_rng(0).random((3, 8, 8))
    _, parameters = ca.from_torch(model, image.shape)
    return network, ca.reconstruct(network, parameters, ca.torch_gradients(model, image, 1)), image
