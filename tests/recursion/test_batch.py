"""Gradients that cannot tell one sample from several: the status says so, and what holds for any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.pytorch.gradients import to_numpy
from constraint_algebra.recursion.batch import tells_one_from_several

RNG = np.random.default_rng(11)


def mean_gradients(network, loss, images, targets):
    """Parameters and the gradient of the mean loss over a batch, by automatic differentiation."""
    model = ca.to_torch(network, seed=3, dtype="float64")
    output = model(torch.tensor(np.stack(images)))
    loss(output, torch.tensor(targets)).backward()
    named = dict(model.named_parameters())
    return ({name: to_numpy(p) for name, p in named.items()}, {name: p.grad.numpy() for name, p in named.items()})


def logistic(output, target):
    return torch.nn.functional.binary_cross_entropy_with_logits(output[:, 0], target.double())


def squares(output, target):
    return torch.nn.functional.mse_loss(output[:, 0], target.double())


CASES = {  # the smallest heads, whose gradient has rank one whatever the batch
    "one logistic output": (ca.Network((20,), [ca.Linear(1)]), logistic, "logistic"),
    "two classes": (ca.Network((20,), [ca.Linear(2)]), torch.nn.functional.cross_entropy, "cross_entropy"),
    "squared error of one output": (ca.Network((2,), [ca.Linear(1)]), squares, None),
}


@pytest.mark.parametrize(("network", "loss", "name"), CASES.values(), ids=CASES)
def test_two_samples_are_not_called_one(network, loss, name) -> None:
    images = RNG.random((2, *network.input_shape))
    parameters, gradients = mean_gradients(network, loss, images, [1, 0])
    result = ca.reconstruct(network, parameters, gradients, loss=name, valid_range=(-np.inf, np.inf))
    assert np.abs(result.input - images).max(axis=1).min() > 0.05  # neither of both, as the head alone must have it
    assert result.status is ca.Status.IF_SINGLE
    assert "layer '0' is their mean there" in result.conclusion
    assert "batch=1" in result.conclusion


@pytest.mark.parametrize(("network", "loss", "name"), CASES.values(), ids=CASES)
def test_the_result_is_the_weighted_mean_of_any_batch(network, loss, name) -> None:
    images, targets = RNG.random((3, *network.input_shape)), [1, 0, 1]
    parameters, gradients = mean_gradients(network, loss, images, targets)
    alone = [mean_gradients(network, loss, images[[i]], [targets[i]])[1]["0.bias"][0] for i in range(3)]
    mean = np.tensordot(alone, images, axes=1) / np.sum(alone)
    result = ca.reconstruct(network, parameters, gradients, loss=name)
    np.testing.assert_allclose(result.input, mean, rtol=1e-9)


@pytest.mark.parametrize(("network", "loss", "name"), CASES.values(), ids=CASES)
def test_who_knows_that_it_is_one_sample_says_so(network, loss, name) -> None:
    image = RNG.random((1, *network.input_shape))
    parameters, gradients = mean_gradients(network, loss, image, [1])
    result = ca.reconstruct(network, parameters, gradients, loss=name, batch=1)
    assert result.status is ca.Status.DETERMINED
    assert result.notes == ()
    np.testing.assert_allclose(result.input, image[0], rtol=1e-9)


def test_samples_on_one_linear_piece_look_like_their_mean_through_the_whole_network() -> None:
    """All units active: no equation of any layer fails for two samples of a deep network with one output."""
    network = ca.Network((1, 6, 6), [ca.Conv2d(9, 3), ca.ReLU(), ca.Flatten(), ca.Linear(12), ca.ReLU(), ca.Linear(1)])
    model = ca.to_torch(network, seed=0, dtype="float64")
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.abs_().mul_(0.03) if name.endswith("weight") else p.fill_(0.1)
    images = torch.tensor(RNG.random((2, *network.input_shape)))
    logistic(model(images), torch.tensor([1, 1])).backward()
    parameters = {name: to_numpy(p) for name, p in model.named_parameters()}
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    result = ca.reconstruct(network, parameters, gradients, loss="logistic")
    assert max(result.discrepancy.values()) < 1e-9
    assert min(float(np.abs(result.input - x.numpy()).max()) for x in images) > 0.1
    assert result.status is ca.Status.IF_SINGLE


def test_a_curved_activation_tells_them_apart() -> None:
    network = ca.Network((12,), [ca.Linear(30), ca.Tanh(), ca.Linear(1)])
    assert tells_one_from_several(network, "logistic")
    images = RNG.random((2, 12))
    parameters, gradients = mean_gradients(network, logistic, images, [1, 0])
    with pytest.raises(ca.BatchError, match="at least 2 gradients"):
        ca.reconstruct(network, parameters, gradients, loss="logistic")
    parameters, gradients = mean_gradients(network, logistic, images[:1], [1])
    assert ca.reconstruct(network, parameters, gradients, loss="logistic").status is ca.Status.DETERMINED


@pytest.mark.parametrize("batch", [0, 2, 64])
def test_another_batch_size_is_refused(batch) -> None:
    network, loss, name = CASES["two classes"]
    parameters, gradients = mean_gradients(network, loss, RNG.random((1, 20)), [0])
    with pytest.raises(ca.BatchError, match=f"got {batch}: only one sample"):
        ca.reconstruct(network, parameters, gradients, loss=name, batch=batch)


def test_several_local_steps_are_named_as_a_cause_of_rank() -> None:
    network = ca.Network((20,), [ca.Linear(10)])
    model = ca.to_torch(network, seed=0, dtype="float64")
    before = {name: to_numpy(p).copy() for name, p in model.named_parameters()}
    image, optimiser = torch.tensor(RNG.random((1, 20))), torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(image), torch.tensor([3])).backward()
        optimiser.step()
    update = {name: before[name] - to_numpy(p) for name, p in model.named_parameters()}
    # One layer alone: its input never moves, so that the update has rank one and gives the image all the same.
    np.testing.assert_allclose(ca.reconstruct(network, before, update).input, image[0], rtol=1e-9)
    mixed = {name: g.copy() for name, g in update.items()}
    mixed["0.weight"][:, :10] += RNG.standard_normal((10, 10))
    with pytest.raises(ca.BatchError, match="several local steps on one, as in a difference of weights"):
        ca.reconstruct(network, before, mixed)
