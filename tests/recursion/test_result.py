"""Networks of the literature: real images back from real gradients, and what is open agrees with exact algebra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import constraint_algebra as ca
from constraint_algebra import samples, zoo
from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import activations, trilinear
from constraint_algebra.pytorch.gradients import to_numpy
from constraint_algebra.ranks.generic import generic_rank
from constraint_algebra.ranks.knowledge import Knowledge

LOSSES = {
    "cross_entropy": lambda z, label: torch.nn.functional.cross_entropy(z[None], torch.tensor([label])),
    "logistic": lambda z, label: torch.nn.functional.softplus(-z[0] if label else z[0]),
}


@dataclass(frozen=True)
class Client:
    """A network at random parameters, one sample, and the gradients that PyTorch computes for it."""

    network: ca.Network
    model: torch.nn.Module
    image: FloatArray
    label: int
    loss: str

    @property
    def parameters(self) -> dict[str, FloatArray]:
        return {name: to_numpy(p) for name, p in self.model.named_parameters()}

    @property
    def gradients(self) -> dict[str, FloatArray]:
        return ca.torch_gradients(self.model, self.image, self.label, self.loss)

    def reconstruct(self, **options) -> ca.Reconstruction:
        return ca.reconstruct(self.network, self.parameters, self.gradients, loss=self.loss, batch=1, **options)

    def trace(self) -> tuple[list[FloatArray], list[FloatArray]]:
        """The output of every module and the gradient of the loss there, from automatic differentiation."""
        values = [torch.tensor(self.image)[None].requires_grad_()]
        for module in self.model:
            values.append(module(values[-1]))
        gradients = torch.autograd.grad(LOSSES[self.loss](values[-1][0], self.label), values)
        return [v.detach().numpy()[0] for v in values], [g.numpy()[0] for g in gradients]


def client(network, image, label=1, *, loss="cross_entropy", seed=0, init="uniform", dtype="float64") -> Client:
    model = ca.to_torch(network, seed=seed, init=init, dtype=dtype)
    return Client(network, model, np.asarray(image, dtype=float), label, loss)


def zoo_client(name: str, seed: int, index: int) -> Client:
    entry = zoo.entry(name)
    sample = samples.load(f"{'mnist' if name == 'fcn3' else 'cifar10'}:{index}")
    label = sample.label % 2 if entry.loss == "logistic" else sample.label
    return client(zoo.network(name), sample.image, label, loss=entry.loss, seed=seed, init=entry.init)


def mse(result: ca.Reconstruction, image: FloatArray) -> float:
    """The mean squared error on the determined part, 0 where there is none."""
    return float(((result.input - image)[result.determined] ** 2).mean()) if result.determined.any() else 0.0


def exactly_known(c: Client) -> tuple[dict[str, tuple[int | None, int | None]], NDArray[np.bool_] | None]:
    """What the layers determine, from masks alone: rank and determined unknowns of each layer, and the input's mask.

    The true forward and backward pass say which outputs an activation lets pass and where a gradient is exactly zero;
    everything else is elimination modulo a prime. The recursion ends at a layer too large for it.
    """
    values, gradients = c.trace()
    z_known = np.zeros(c.network.output_shape, dtype=bool)
    k_known = ~z_known
    found: dict[str, tuple[int | None, int | None]] = {}
    for layer in reversed(c.network.layers):
        y, dy = values[layer.index + 1], gradients[layer.index + 1]
        if layer.is_bilinear:
            exact = generic_rank(layer, knowledge=Knowledge(z_known, k_known, dy != 0))
            if exact.determined is None:
                return found, None
            found[layer.name] = exact.rank, int(exact.determined.sum())
            z_known, k_known = exact.determined, ~trilinear.touched(layer, ~k_known)
        elif not isinstance(layer.layer, ca.Flatten):
            k_known = k_known & (z_known | (dy == 0))
            z_known = z_known & np.isfinite(activations.formulas(layer.layer).inverse(y))
        z_known, k_known = z_known.reshape(layer.input_shape), k_known.reshape(layer.input_shape)
    return found, z_known


def agrees_with_exact_algebra(c: Client, result: ca.Reconstruction) -> None:
    exact, mask = exactly_known(c)
    for layer in result.layers:
        if layer.name in exact and layer.rank is not None:
            assert (layer.rank, layer.determined) == exact[layer.name], layer
        elif layer.name in exact:
            assert layer.determined == exact[layer.name][1], layer
    if mask is not None:
        np.testing.assert_array_equal(result.determined, mask)


SMOOTH = {"rconv-sigmoid", "rconv-tanh", "lenet-dlg"}


def has_the_right_answer(c: Client, result: ca.Reconstruction, *, smooth: bool) -> None:
    assert mse(result, c.image) <= (1e-12 if smooth else 1e-18)
    whole, some = result.determined.all(), result.determined.any()
    expected = ca.Status.DETERMINED if whole else ca.Status.PARTIAL if some else ca.Status.UNDETERMINED
    assert result.status is expected
    np.testing.assert_array_equal(np.isfinite(result.error_bar), result.determined)
    assert [layer.name for layer in result.layers] == [layer.name for layer in c.network.bilinear][
        -len(result.layers) :
    ]
    if whole:
        # A saturated tanh makes the input ill-conditioned; then the error bar says so, and the gradients follow it.
        explained = max(1e-10, 10 * float(result.error_bar[result.determined].max())) if smooth else 1e-12
        assert max(result.discrepancy.values()) < explained
        error = np.abs(result.input - c.image)
        assert error.max() < 50 * result.error_bar.max()


# One image each; together they have landscapes, animals and vehicles, bright and dark.
DETERMINED = [
    ("lenet", 0, 7),
    ("lenet-o", 1, 3),
    ("lenet-4relu", 0, 3),
    ("lenet-all-relu", 0, 0),
    ("lenet-dlg", 0, 11),
    ("lenet-dlg", 1, 0),
    ("cnn6-o", 0, 0),
    ("cnn6-o", 1, 5),
    ("cnn6-classes", 0, 4),
    ("rconv-relu", 0, 1),
    ("rconv-leakyrelu", 0, 2),
    ("rconv-sigmoid", 0, 5),
    ("rconv-sigmoid", 1, 15),
    ("rconv-tanh", 0, 6),
    ("rconv-tanh", 2, 3),
    ("fcn3", 0, 0),
    ("fcn3", 1, 7),
]


@pytest.mark.parametrize(
    ("name", "seed", "index"),
    [case if case[1] == 0 else pytest.param(*case, marks=pytest.mark.slow) for case in DETERMINED],
)
def test_the_image_comes_back(name: str, seed: int, index: int) -> None:
    c = zoo_client(name, seed, index)
    result = c.reconstruct()
    assert result.determined.all()
    assert result.label == c.label
    has_the_right_answer(c, result, smooth=name in SMOOTH)


@pytest.mark.slow
def test_cnn6_with_its_logistic_head() -> None:
    c = zoo_client("cnn6", 0, 0)
    result = c.reconstruct()
    assert result.determined.all()
    assert result.label == c.label
    has_the_right_answer(c, result, smooth=False)


# A filter of a ReLU layer is dead, or nearly, in each of these.
PARTIAL = [
    pytest.param("cnn6-o", 1, 8, {"4": (764, 288), "2": (288, 0)}, marks=pytest.mark.slow),
    ("lenet-all-relu", 0, 2, {"4": (1403, 198)}),
    ("lenet-all-relu", 0, 8, {"4": (1196, 0)}),
    ("lenet-all-relu", 2, 1, {"4": (1186, 0)}),
    pytest.param(
        "lenet-all-relu", 1, 19, {"4": (1144, 1144), "2": (18172, 18172), "0": (2964, 2964)}, marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("name", "seed", "index", "stated"), PARTIAL)
def test_what_dead_filters_leave_open_is_what_exact_algebra_says(name, seed, index, stated) -> None:
    c = zoo_client(name, seed, index)
    result = c.reconstruct(search=0)
    assert not result.determined.all()
    has_the_right_answer(c, result, smooth=False)
    agrees_with_exact_algebra(c, result)
    found = {layer.name: (layer.rank, layer.determined) for layer in result.layers}
    assert stated.items() <= found.items()


@pytest.mark.slow
def test_rank_and_determined_unknowns_by_a_dense_factorisation_of_a_layer_with_a_dead_filter() -> None:
    # The third convolution of lenet-all-relu, whose middle filter is active at one of 64 outputs.
    c = zoo_client("lenet-all-relu", 0, 2)
    values, gradients = c.trace()
    layer = c.network[4]
    active, k = values[5] > 0, gradients[5]
    assert (np.count_nonzero(active, axis=(1, 2)) == [49, 1, 58]).all()
    B = ca.weight_equations(layer, c.parameters["4.weight"]).matrix.toarray()[active.ravel()]
    A = ca.gradient_equations(layer, k).matrix.toarray()
    rows = np.vstack([B, A])
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    _, s, Vt = np.linalg.svd(rows)
    assert s[1402] > 1e-4
    assert s[1403] < 1e-13
    found = next(layer for layer in c.reconstruct(search=0).layers if layer.name == "4")
    shares = np.linalg.norm(Vt[1403:], axis=0)
    assert (found.rank, found.determined) == (1403, np.count_nonzero(shares < 1e-8))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "name", [name for name in zoo.names("leakage") if name not in {"rconv", "cnn6-d", "fcn3", "cnn6"}]
)
def test_twenty_images(name: str, seed: int) -> None:
    problems = []
    for index in range(20):
        c = zoo_client(name, seed, index)
        result = c.reconstruct(search=0)
        try:
            has_the_right_answer(c, result, smooth=name in SMOOTH)
            agrees_with_exact_algebra(c, result)
        except AssertionError as error:
            problems.append(f"cifar10:{index}: {error}")
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_cnn6_with_too_few_filters_stops_at_its_second_convolution() -> None:
    c = zoo_client("cnn6-d", 0, 0)
    result = c.reconstruct()
    # 180 gradient rows of rank 164 for 289 pixels: only the residue class of 8 × 8 odd pixels is determined, in each
    # of 12 channels. In the first layer they give the weight equations of windows that do not overlap.
    found = {layer.name: (layer.rank, layer.unknowns, layer.determined) for layer in result.layers}
    assert found["2"] == (3188, 3468, 12 * 64)
    assert found["0"] == (768, 3072, 0)
    assert result.status is ca.Status.UNDETERMINED
    agrees_with_exact_algebra(c, result)


def test_the_table_has_a_row_for_each_layer() -> None:
    result = zoo_client("lenet-o", 0, 7).reconstruct()
    frame = result.to_frame()
    assert frame["name"].tolist() == ["0", "2", "4", "6", "9"]
    assert frame["unknowns"].tolist() == [3072, 3072, 1024, 192, 192]
    assert frame["determined"].tolist() == frame["unknowns"].tolist()
    assert repr(result).startswith(f"Reconstruction: {ca.Status.DETERMINED.value} (3,072 of 3,072 values)\n")
    assert "<table" in result._repr_html_()


def test_a_status_is_a_sentence() -> None:
    assert all(len(status.value.split()) > 5 for status in ca.Status)


def test_a_status_says_how_far_it_reaches() -> None:
    assert "in its neighbourhood" in ca.Status.LOCAL.value
    assert "not proven" in ca.Status.LOCAL.value
