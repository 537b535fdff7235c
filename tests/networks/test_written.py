"""Networks as text and in files: what goes in comes out, and what is no network is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra import layers as kinds
from constraint_algebra import storage, zoo
from constraint_algebra.networks import written
from constraint_algebra.networks.network import Network

STORED = ["lenet-o", "fcn3", "resnet20-cifar", "mobilenetv2", "fl-har-1d", "fl-vae-encoder", "fl-leaf-celeba"]
# Input shapes, and layers that take them; every kind occurs.
EVERY = {
    (4, 6): {
        "scaled": kinds.Scale((1.0, 2.0, 0.5, 3.0), 0.25),
        "normalised": kinds.Normalise(0.5, (1.0, 2.0, 0.5, 3.0)),
        "conv": kinds.Conv1d(4, 3, padding=((1, 1),), groups=2),
        "turned": kinds.ConvTranspose1d(4, 3, stride=2, padding=1, output_padding=1),
        "prelu": kinds.PReLU(4),
        "average": kinds.AvgPool1d(2),
        "largest": kinds.MaxPool1d(3, stride=1, padding=1),
        "to": kinds.AdaptiveAvgPool1d(5),
        "largest to": kinds.AdaptiveMaxPool1d(4),
        "difference": (kinds.Subtract(), "largest to", "largest to"),
        "maxout": kinds.Maxout(2),
        "shaped": kinds.Reshape((4, 2)),
        "mean": kinds.Mean((1,)),
        "elu": kinds.ELU(0.5),
        "softplus": kinds.Softplus(2.0),
        "tanh": kinds.Tanh(),
    },
    (4, 6, 6): {
        "norm": kinds.BatchNorm(eps=1e-3),
        "over all": kinds.LayerNorm(3),
        "own": kinds.BatchNorm(training=True, momentum=None),
        "conv": kinds.Conv2d(8, (3, 2), stride=(1, 2), padding="valid", dilation=(2, 1), bias=False),
        "turned": kinds.ConvTranspose2d(4, 2, stride=2, groups=2),
        "padded": kinds.Pad(((1, 2), (-1, 3)), mode="reflect"),
        "sliced": kinds.Slice(((0, 4, 1), (1, 7, 1), (0, 6, 1))),
        "turned over": kinds.Permute((0, 2, 1)),
        "shuffled": kinds.PixelShuffle(2),
        "back": kinds.PixelUnshuffle(2),
        "up": kinds.Upsample(2),
        "average": kinds.AvgPool2d((2, 3), ceil_mode=True, count_include_pad=False),
        "largest": kinds.MaxPool2d(2, stride=1, dilation=2),
        "to": kinds.AdaptiveAvgPool2d((3, 2)),
        "largest to": kinds.AdaptiveMaxPool2d(2),
        "both": (kinds.Concatenate(1), "largest to", "largest to"),
        "relu": kinds.ReLU(),
        "relu6": kinds.ReLU6(),
        "leaky": kinds.LeakyReLU(0.2),
        "flat": kinds.Flatten(),
        "head": kinds.Linear(3),
    },
    (2, 4, 4, 4): {
        "conv": kinds.Conv3d(2, 2),
        "turned": kinds.ConvTranspose3d(2, 2),
        "average": kinds.AvgPool3d(2),
        "largest": kinds.MaxPool3d(1),
        "to": kinds.AdaptiveAvgPool3d(1),
        "largest to": kinds.AdaptiveMaxPool3d(1),
        "sum": (kinds.Add(), "largest to", "to"),
        "selu": kinds.SELU(),
        "sigmoid": kinds.Sigmoid(),
        "softsign": kinds.Softsign(),
        "silu": kinds.SiLU(),
        "gelu": kinds.GELU("tanh"),
        "mish": kinds.Mish(),
        "dropout": kinds.Dropout(0.25),
        "hardswish": kinds.Hardswish(),
        "hard": kinds.Hardtanh(-0.5, 0.5),
        "same": kinds.Identity(),
    },
}


def networks() -> list[Network]:
    return [Network(shape, layers) for shape, layers in EVERY.items()]


def test_every_kind_of_layer_comes_back_from_text() -> None:
    for network in networks():
        again = written.from_text(written.to_text(network))
        assert again == network
        assert again.parameter_shapes == network.parameter_shapes
        assert again.buffer_shapes == network.buffer_shapes
        assert again.tracked_shapes == network.tracked_shapes
        assert repr(again) == repr(network)
    assert {layer.kind for network in networks() for layer in network} == set(written.KINDS)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("name", STORED)
def test_networks_of_the_zoo_come_back_from_files_with_their_arrays(name, suffix, tmp_path) -> None:
    network = zoo.network(name)
    arrays = {name: np.ones(2) for name in network.buffer_shapes}
    path = storage.save(tmp_path / f"step{suffix}", arrays, network=network, metadata={"loss": "other"})
    assert ca.load_network(path) == network
    assert set(ca.load(path)) == set(arrays)
    assert storage.load_metadata(path)["loss"] == "other"


def test_the_order_of_parameters_comes_back() -> None:
    network = zoo.network("fl-mnist-cnn")
    network.parameter_order = ("unused.weight", *reversed(network.parameter_order))
    assert written.from_text(written.to_text(network)).parameter_order == network.parameter_order


def test_files_without_a_network_are_as_before_and_say_so(tmp_path) -> None:
    path = storage.save(tmp_path / "a.npz", {"x": np.ones(2)})
    assert storage.load_metadata(path) == {}
    with pytest.raises(ca.StorageError, match=r"a\.npz holds no network; write one with save"):
        ca.load_network(path)
    with pytest.raises(ca.StorageError, match="'network' already"):
        storage.save(tmp_path / "b.npz", {}, metadata={"network": "mine"}, network=zoo.network("lenet"))


GOOD = json.loads(written.to_text(Network((4,), {"a": kinds.Linear(4), "sum": (kinds.Add(), "a", "input")})))
# (what replaces entries of a good text, words of the message)
DAMAGED = {
    "no JSON": ("{", "Expecting"),
    "a list": ("[]", "list indices"),
    "another format": ({"format": "network 2"}, "network 2"),
    "no layers": ({"layers": []}, "at least one layer"),
    "a class that is no layer": ({"layers": [GOOD["layers"][0] | {"kind": "Layer"}]}, "no kind of layer"),
    "a foreign kind": ({"layers": [GOOD["layers"][0] | {"kind": "os.system"}]}, "no kind of layer"),
    "unknown settings": ({"layers": [GOOD["layers"][0] | {"settings": {"filters": 4, "x": 1}}]}, "no argument x"),
    "settings that cannot be": ({"layers": [GOOD["layers"][0] | {"settings": {"filters": -4}}]}, "at least 1"),
    "an input that is none": ({"layers": [GOOD["layers"][0] | {"inputs": ["b"]}]}, "no layer before it"),
    "one name twice": ({"layers": [GOOD["layers"][0]] * 2}, "two of its layers have one name"),
    "a name that is no text": ({"layers": [GOOD["layers"][0] | {"name": 3}]}, "mapping of names"),
    "an input shape that is none": ({"input_shape": [-1]}, "at least 1"),
    "parameters without an order": ({"parameter_order": ["a.weight"]}, "order of parameters"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_no_network_is_refused(case) -> None:
    changed, words = DAMAGED[case]
    text = changed if isinstance(changed, str) else json.dumps(GOOD | changed)
    with pytest.raises(ca.StorageError, match=words):
        written.from_text(text)
