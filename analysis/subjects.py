"""What the studies look at: small networks, digits to train on, and one training step as an observer sees it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

import constraint_algebra as ca
from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.errors import MissingPackageError
from constraint_algebra.experiments.capture import Capture
from constraint_algebra.experiments.samples import fit
from constraint_algebra.layers import PlacedLayer
from constraint_algebra.networks.network import chain_rule
from constraint_algebra.networks.walk import down

if TYPE_CHECKING:
    from torch import nn


ACTIVATIONS: dict[str, ca.ReLU | ca.LeakyReLU] = {"ReLU": ca.ReLU(), "LeakyReLU(0.2)": ca.LeakyReLU(0.2)}
SMALL = (3, 16, 16)  # input shape of networks that are reconstructed often
DIGIT = (1, 8, 8)


def small_network(activation: str = "LeakyReLU(0.2)", *, filters: int = 12) -> ca.Network:
    """Return LeNet-O cut to a 16×16 image: three convolutions and a head for ten classes.

    With LeakyReLU throughout every value is determined; ReLU comes in the last convolution, as in the original.
    """
    layers = [
        ca.Conv2d(filters, 5, stride=2, padding=2),
        ca.LeakyReLU(0.2),
        ca.Conv2d(16, 5, stride=2, padding=2),
        ca.LeakyReLU(0.2),
    ]
    return ca.Network(
        SMALL, [*layers, ca.Conv2d(6, 5, stride=1, padding=2), ACTIVATIONS[activation], ca.Flatten(), ca.Linear(10)]
    )


def digit_network(activation: str) -> ca.Network:
    """Return two convolutions and a head for ten classes, on digits of 8×8 pixels."""
    act = ACTIVATIONS[activation]
    layers = [
        ca.Conv2d(12, 3, stride=1, padding=1),
        act,
        ca.Conv2d(12, 3, stride=2, padding=1),
        act,
        ca.Flatten(),
        ca.Linear(10),
    ]
    return ca.Network(DIGIT, layers)


@lru_cache(maxsize=1)
def digits() -> tuple[FloatArray, IntArray]:
    """Return scikit-learn's 1,797 digits `(1797, 1, 8, 8)` in [0, 1] and their labels.

    They are the test set of the optical recognition data of E. Alpaydin and C. Kaynak (UCI, 1998).

    Raises:
        MissingPackageError: scikit-learn, which carries them, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackageError(
            "the digits come with scikit-learn, which is not installed; pip install scikit-learn"
        ) from error
    found = load_digits()
    return found.images[:, None] / 16, found.target.astype(np.intp)


def step(
    model: nn.Module, network: ca.Network, image: FloatArray, label: int, *, loss: str = "cross_entropy"
) -> Capture:
    """Return one training step on one image, brought to the network's shape and rounded to the model's type."""
    from constraint_algebra.pytorch.gradients import to_tensor

    dtype = next(iter(model.parameters())).dtype
    truth = image if image.shape == network.input_shape else fit(image, network.input_shape)
    rounded = np.asarray(to_tensor(truth).to(dtype).double().numpy())
    _, parameters = ca.from_torch(model, network.input_shape)
    return Capture(network, parameters, ca.torch_gradients(model, rounded, label, loss), loss, {}, rounded, batch=1)


def sample_step(
    network: ca.Network, sample: str, *, seed: int, dtype: str = "float64", init: str = "default"
) -> Capture:
    """Return one training step on a sample at random weights."""
    model = ca.to_torch(network, seed=seed, init=init, dtype=dtype)
    found = ca.samples.load(sample)
    assert found.label is not None
    return step(model, network, found.image, found.label)


def output_gradient(seen: Capture, layer: PlacedLayer) -> FloatArray:
    """Return the true gradient with respect to the output of a layer, which an observer has to work for."""
    assert seen.truth is not None
    weights = {name: a.astype(float) for name, a in seen.parameters.items()}
    values, head = seen.network.forward(weights, seen.truth), seen.network.layers[-1]
    k = seen.gradients[f"{head.name}.bias"].astype(float).reshape(head.output_shape)
    return down(seen.network.layers[layer.index + 1 :], k, chain_rule(weights, values))


def trained(network: ca.Network, epochs: tuple[int, ...], *, seed: int = 0) -> Iterator[tuple[int, Any, float, float]]:
    """Yield a float32 model of digits after so many epochs each: epoch, model, training loss, share right.

    Adam with PyTorch's own settings, batches of 32, PyTorch's own start. Share right is that of the 297 digits that
    are not trained on.
    """
    import torch

    model: Any = ca.to_torch(network, seed=seed, init="default", dtype="float32")
    images, labels = (torch.as_tensor(a) for a in digits())
    images = images.float()
    held = slice(1500, None)
    optimiser, rng = torch.optim.Adam(model.parameters()), np.random.default_rng(seed)
    loss_of = torch.nn.CrossEntropyLoss()
    for epoch in range(max(epochs) + 1):
        if epoch in epochs:
            with torch.no_grad():
                right = float((model(images[held]).argmax(1) == labels[held]).float().mean())
                loss = float(loss_of(model(images[:1500]), labels[:1500]))
            yield epoch, model, loss, right
        for batch in np.array_split(rng.permutation(1500), 47):
            optimiser.zero_grad()
            loss_of(model(images[batch]), labels[batch]).backward()
            optimiser.step()
