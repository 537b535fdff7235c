"""The networks of the literature: their published sizes, options and misspelt names."""

from __future__ import annotations

import pytest

import constraint_algebra as ca
from constraint_algebra import zoo

# The parameter counts of the published codes. 30,743 is R-CONV's default network with 100 classes (13,373 with 10).
PARAMETERS = {
    "lenet": 91_052,
    "lenet-o": 26_459,
    "cnn6-o": 9_545,
    "lenet-4relu": 28_715,
    "lenet-all-relu": 69_405,
    "rconv": 30_743,
    "lenet-dlg": 85_036,
    "cnn6-classes": 154_266,
    "fcn3": 784 * 1000 + 1000 * 100 + 100,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_published_parameter_counts(name) -> None:
    assert zoo.network(name).parameter_count == PARAMETERS[name]


def test_the_default_network_with_ten_classes() -> None:
    assert zoo.network("rconv", classes=10).parameter_count == PARAMETERS["rconv"] - 90 * (192 + 1)


def test_cnn6_has_no_bias_and_its_head_3200_inputs() -> None:
    network = zoo.network("cnn6")
    assert not [name for name in network.parameter_shapes if name.endswith("bias")]
    assert network[-1].weight_shape == (1, 3200)
    classes = zoo.network("cnn6-classes")
    assert [name for name in classes.parameter_shapes if name.endswith("bias")] == ["13.bias"]
    assert network.parameter_count == PARAMETERS["cnn6-classes"] - 9 * 3200 - 10


def test_cnn6_d_differs_from_cnn6_in_one_layer() -> None:
    pairs = zip(zoo.network("cnn6").bilinear, zoo.network("cnn6-d").bilinear, strict=True)
    assert [(a.filters, b.filters) for a, b in pairs if a.layer != b.layer] == [(36, 20)]


def kinds_of_activations(network: ca.Network) -> list[str]:
    return [layer.kind for layer in network if not layer.is_bilinear and layer.kind != "Flatten"]


# (name, options, activations)
OPTIONS = {
    "the default": ("rconv", {}, ["LeakyReLU", "LeakyReLU", "ReLU", "ReLU"]),
    "selected by the network's name": ("rconv-sigmoid", {}, ["LeakyReLU", "LeakyReLU", "Sigmoid", "Sigmoid"]),
    "only the open ones are replaced": ("rconv", {"activation": "tanh"}, ["LeakyReLU", "LeakyReLU", "Tanh", "Tanh"]),
    "all, where none is open": ("lenet-dlg", {"activation": "relu"}, ["ReLU"] * 3),
    "a layer instead of a name": ("lenet", {"activation": ca.ELU(2.0)}, ["ELU"] * 4),
    "linear layers too": ("fcn3", {"activation": "sigmoid"}, ["Sigmoid"] * 2),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_activations(case) -> None:
    name, options, expected = OPTIONS[case]
    assert kinds_of_activations(zoo.network(name, **options)) == expected


def test_leaky_slopes_are_those_of_the_papers() -> None:
    slopes = {layer.layer.slope for name in zoo.names() for layer in zoo.network(name) if layer.kind == "LeakyReLU"}
    assert slopes == {0.2}


def test_input_shape_and_classes() -> None:
    network = zoo.network("lenet-o", input_shape=(1, 28, 28), classes=7)
    assert network.input_shape == (1, 28, 28)
    assert network.output_shape == (7,)
    assert network[-1].channels == 3 * 7 * 7
    assert zoo.network("fcn3").input_shape == (1, 28, 28)


@pytest.mark.parametrize("name", zoo.names("leakage"))
def test_every_entry_says_where_it_comes_from_and_fits_its_loss(name) -> None:
    entry = zoo.entry(name)
    assert entry.paper in {"rconv2024", "rgap2021", "dlg2019"}
    assert entry.init in {"uniform", "default"}
    assert (zoo.network(name).output_shape == (1,)) == (entry.loss == "logistic")
    assert zoo.network(name)[-1].kind == "Linear"


REFUSED = {
    "misspelt": (lambda: zoo.network("lenet_o"), ca.UnknownNameError, "did you mean 'lenet-o'"),
    "capitals": (lambda: zoo.network("CNN6"), ca.UnknownNameError, "did you mean 'cnn6'"),
    "far off": (lambda: zoo.network("resnet-50"), ca.UnknownNameError, "cnn6, .*rconv-tanh"),
    "activation": (lambda: zoo.network("rconv", activation="gely"), ca.UnknownNameError, "'gelu'.*softplus"),
    "logistic classes": (lambda: zoo.network("cnn6", classes=10), ca.ShapeError, "cnn6-classes"),
    "no classes": (lambda: zoo.network("lenet", classes=0), ca.ShapeError, "at least 1"),
    "input without channels": (lambda: zoo.network("lenet", input_shape=(32, 32)), ca.ShapeError, "channels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case) -> None:
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()
