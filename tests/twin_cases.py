"""Random small networks that leave something open, and what PyTorch says about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from constraint_algebra.pytorch.gradients import to_numpy

ACTIVATIONS = (ca.ReLU(), ca.ReLU(), ca.LeakyReLU(0.2), ca.Tanh(), ca.Hardtanh(-0.3, 0.5), ca.ReLU6(), ca.Sigmoid())


@dataclass(frozen=True)
class Case:
    """A network, its PyTorch model, one image and its class."""

    network: ca.Network
    model: torch.nn.Module
    image: FloatArray
    label: int

    @property
    def parameters(self) -> dict[str, FloatArray]:
        return {name: to_numpy(p) for name, p in self.model.named_parameters()}

    def set(self, **options) -> ca.IndistinguishabilitySet:
        return ca.indistinguishable(self.network, self.parameters, self.image, self.label, **options)

    def verify(self, twin: FloatArray) -> ca.TwinVerification:
        return ca.verify_twin(self.model, self.image, twin, self.label)

    def gradients(self, image: FloatArray | None = None, dtype: torch.dtype = torch.float64) -> dict[str, FloatArray]:
        model = self.model if dtype == torch.float64 else ca.to_torch(self.network, dtype="float32")
        if model is not self.model:
            model.load_state_dict({k: v.to(dtype) for k, v in self.model.state_dict().items()})
        return ca.torch_gradients(model, self.image if image is None else image, self.label)


def case(network: ca.Network, image: FloatArray, label: int = 1, seed: int = 0) -> Case:
    """A case with PyTorch's own initialisation, whose softmax is far from saturation."""
    return Case(network, ca.to_torch(network, seed=seed, init="default"), np.asarray(image, dtype=float), label)


def random_case(seed: int) -> Case:
    """Draw a network of one or two convolutions, of few filters on a small image, some of its values at the edge."""
    rng = np.random.default_rng(seed)
    channels, height, width = int(rng.integers(1, 4)), int(rng.integers(5, 10)), int(rng.integers(5, 10))
    groups = channels if rng.random() < 0.2 else 1
    kernel, stride = int(rng.integers(2, 4)), int(rng.integers(1, 3))
    pick = lambda: ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))]  # noqa: E731
    layers: list = [
        ca.Conv2d(
            groups * int(rng.integers(1, 4)), kernel, stride=stride, padding=int(rng.integers(0, 2)), groups=groups
        ),
        pick(),
    ]
    if rng.random() < 0.5:
        layers += [ca.Conv2d(int(rng.integers(2, 6)), 2, stride=1, padding=1), pick()]
    image = rng.random((channels, height, width))
    image = np.where(rng.random(image.shape) < 0.1, np.round(image), image)
    network = ca.Network(image.shape, [*layers, ca.Flatten(), ca.Linear(4)])
    return case(network, image, label=int(rng.integers(4)), seed=seed)
