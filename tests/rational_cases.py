"""Random small networks of a few rational numbers, on whose kinks values often lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray
from constraint_algebra.pytorch.gradients import load_parameters, to_numpy

ACTIVATIONS = (ca.ReLU(), ca.ReLU(), ca.LeakyReLU(0.25), ca.Hardtanh(-0.25, 0.5), ca.ReLU6(), ca.Identity())


@dataclass(frozen=True)
class Small:
    """A small network whose parameters and input are multiples of 1/4: values on a kink are frequent."""

    network: ca.Network
    model: torch.nn.Module
    image: FloatArray

    @property
    def parameters(self) -> dict[str, FloatArray]:
        return {name: to_numpy(p) for name, p in self.model.named_parameters()}


def small(seed: int) -> Small:
    """Bottlenecks, expansions, groups, no activation between, half of the activations off, one axis or two."""
    rng = np.random.default_rng(seed)
    conv, side = (ca.Conv1d, (int(rng.integers(3, 8)),)) if rng.random() < 0.5 else (ca.Conv2d, (3, 3))
    channels = int(rng.integers(1, 3))
    layers: list[ca.Layer] = [ca.Flatten()] if rng.random() < 0.1 else []
    flat, shape = bool(layers), (channels, *side)
    for _ in range(int(rng.integers(1, 4))):
        filters, bias = int(rng.choice([1, 1, 2, 3, 4])), bool(rng.random() < 0.7)
        if flat:
            layers.append(ca.Linear(filters + 1, bias=bias))
        else:
            groups = channels if rng.random() < 0.4 and filters % channels == 0 else 1
            layers.append(conv(filters, int(rng.integers(1, 3)), padding=1, stride=2, groups=groups, bias=bias))
            channels = filters
        layers += [ACTIVATIONS[int(i)] for i in rng.integers(len(ACTIVATIONS), size=int(rng.choice([0, 1, 1, 2])))]
    layers += [ca.Flatten()] * (not flat)
    if flat or rng.random() < 0.9 or channels > 2:  # every output is one more gradient at the output
        layers.append(ca.Linear(int(rng.integers(1, 4)), bias=bool(rng.random() < 0.7)))
    network = ca.Network(shape, layers)
    model = ca.to_torch(network)
    load_parameters(model, {n: rng.integers(-4, 5, s) / 4 for n, s in network.parameter_shapes.items()})
    return Small(network, model, rng.integers(0, 5, network.input_shape) / 4)
