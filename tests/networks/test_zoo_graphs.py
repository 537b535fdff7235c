"""The zoo's networks with shortcuts and pooling: their published sizes, and what they compute, against PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.networks.network import bind
from constraint_algebra.networks.zoo_builder import Builder
from constraint_algebra.networks.zoo_residual import Stages
from tests.networks import zoo_models as models

# As torchvision's and the papers' own tables have them; resnet20-cifar with batch norm, its shortcuts without weights.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "vgg16": 138_357_544,
    "mobilenetv2": 3_504_872,
    "densenet121": 7_978_856,
    "resnet18-cifar": 11_173_962,
    "resnet20-cifar": 269_722,
    "fl-mnist-cnn": 1_199_882,
    "fl-emnist": 1_206_590,
    "fl-fedavg-mnist-cnn": 1_663_370,
    "fl-fedavg-mnist-2nn": 199_210,
    "fl-leaf-femnist": 6_603_710,
    "fl-flower-cifar": 62_006,
    "fl-allconv-cifar": 1_369_738,
    "fl-avgpool-lenet": 61_706,
}
GRAPHS = [name for name in zoo.names() if name not in zoo.names("leakage")]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_published_parameter_counts(name) -> None:
    assert zoo.network(name).parameter_count == PARAMETERS[name]


def test_a_1x1_projection_of_resnet20_has_2752_parameters_more() -> None:
    network = zoo.network("resnet20-cifar", shortcuts="projection")
    assert network.parameter_count == PARAMETERS["resnet20-cifar"] + (16 * 32 + 64) + (32 * 64 + 128)
    assert "layer2.0.downsample.0.weight" in network.parameter_shapes


# What the head reads, and the last map below it.
HEADS = {
    "resnet18": (512, (512, 7, 7)),
    "resnet50": (2048, (2048, 7, 7)),
    "mobilenetv2": (1280, (1280, 7, 7)),
    "densenet121": (1024, (1024, 7, 7)),
    "vgg16": (4096, (512, 7, 7)),
    "resnet20-cifar": (64, (64, 8, 8)),
    "resnet18-cifar": (512, (512, 4, 4)),
    "resnet-small-gap": (64, (64, 4, 4)),
    "resnet-small-flatten": (4096, (64, 8, 8)),
    "fl-leaf-celeba": (1152, (32, 6, 6)),
    "fl-har-1d": (512, (64, 26)),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_last_map_and_what_the_head_reads(name) -> None:
    network = zoo.network(name)
    maps = [layer.output_shape for layer in network if math.prod(layer.output_shape[1:]) > 1]
    assert (network.head.channels, maps[-1]) == HEADS[name]


def bottlenecks() -> ca.Network:
    net = Builder((3, 32, 32))
    Stages("bottleneck", (4, 6), (2, 1), 8, large=True)(net, 5, ca.ReLU())
    return ca.Network((3, 32, 32), net.layers)


# (network, the same in PyTorch by hand)
WIRED = {
    "padded": (
        lambda: zoo.network("resnet20-cifar", input_shape=(3, 12, 12)),
        lambda: models.Residual(models.Basic, (16, 32, 64), (3, 3, 3), 16, 12, pad=True),
    ),
    "projected, flatten": (
        lambda: zoo.network("resnet20-cifar", input_shape=(3, 8, 8), head="flatten", shortcuts="projection"),
        lambda: models.Residual(models.Basic, (16, 32, 64), (3, 3, 3), 16, 8, flat=True),
    ),
    "small": (
        lambda: zoo.network("resnet-small-gap"),
        lambda: models.Residual(models.Basic, (32, 48, 64), (1, 1, 1), 32, 16),
    ),
    "bottleneck": (
        bottlenecks,
        lambda: models.Residual(models.Bottleneck, (4, 6), (2, 1), 8, 32, large=True, classes=5),
    ),
    "inverted": (lambda: zoo.network("mobilenetv2", input_shape=(3, 32, 32), classes=10), models.MobileNetV2),
    "dense": (lambda: zoo.network("densenet121", input_shape=(3, 32, 32), classes=10), models.DenseNet121),
}


@pytest.mark.parametrize("case", WIRED)
def test_names_and_values_are_those_of_the_same_network_in_pytorch(case) -> None:
    build, by_hand = WIRED[case]
    network, model = build(), models.prepared(by_hand())
    weights = {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert set(weights) == {*network.parameter_shapes, *network.buffer_shapes}
    assert {name: tuple(weights[name].shape) for name in network.parameter_shapes} == network.parameter_shapes
    x = np.random.default_rng(0).uniform(size=network.input_shape)
    found = network.forward(bind(network, weights, "parameters"), x)[-1]
    expected = model(torch.from_numpy(x[None]))[0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * (1 + np.abs(expected).max()))


def test_vgg16_has_max_pool_after_its_convolutions_2_4_7_10_13() -> None:
    kinds = [layer.kind for layer in zoo.network("vgg16") if layer.kind in {"Conv2d", "MaxPool2d"}]
    before = [kinds[:place].count("Conv2d") for place, kind in enumerate(kinds) if kind == "MaxPool2d"]
    assert before == [2, 4, 7, 10, 13]
    assert zoo.network("vgg16").named("features.28").filters == 512
    assert not zoo.network("vgg16").buffer_shapes


@pytest.mark.parametrize("name", GRAPHS)
def test_every_entry_says_where_it_comes_from(name) -> None:
    entry = zoo.entry(name)
    assert entry.note.endswith(".")
    assert entry.family in zoo.FAMILIES
    assert name in zoo.names(entry.family)
    assert entry.init == "default"
    outputs = zoo.network(name, classes=7).output_shape
    assert outputs == ((14,) if name == "fl-vae-encoder" else (7,))


def test_every_network_is_in_one_family() -> None:
    assert sorted(zoo.names()) == sorted(name for family in zoo.FAMILIES for name in zoo.names(family))


@pytest.mark.parametrize("name", ["resnet20-cifar", "fl-flower-cifar", "fl-avgpool-lenet"])
def test_an_activation_of_the_caller_replaces_all(name) -> None:
    kinds = {layer.kind for layer in zoo.network(name, activation="softplus") if layer.is_activation}
    assert kinds == {"Softplus"}


REFUSED = {
    "family": (lambda: zoo.names("image"), ca.UnknownNameError, "did you mean 'imagenet'"),
    "head": (
        lambda: zoo.network("resnet18", head="flat"),
        ca.UnknownNameError,
        "choice of head.*did you mean 'flatten'",
    ),
    "no shortcuts to choose": (
        lambda: zoo.network("resnet18", shortcuts="padding"),
        ca.UnknownNameError,
        "no choice of shortcuts; .*resnet20-cifar",
    ),
    "a chain has no head to choose": (
        lambda: zoo.network("lenet", head="flatten"),
        ca.UnknownNameError,
        "no choice of head",
    ),
    "too small an input": (lambda: zoo.network("fl-flower-cifar", input_shape=(3, 8, 8)), ca.ShapeError, "Conv2d"),
    "misspelt": (lambda: zoo.network("resnet-50"), ca.UnknownNameError, "did you mean 'resnet50'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case) -> None:
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()
