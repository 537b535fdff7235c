"""What tutorials and benchmarks of federated learning train, as shapes.

`mode="training"` gives dropout and batch norm as a client trains them. `softmax` at the end is part of the loss.
"""

from __future__ import annotations

from collections.abc import Callable

from constraint_algebra.layers import (
    Activation,
    AdaptiveAvgPool2d,
    AvgPool2d,
    Concatenate,
    Conv1d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool1d,
    MaxPool2d,
    Shape,
    Sigmoid,
)
from constraint_algebra.networks.zoo_builder import DROPPED, NORMED, Builder, GraphEntry

FAMILY = "federated"
DIGITS: Shape = (1, 28, 28)
FEDAVG = (
    "B. McMahan and others, Communication-efficient learning of deep networks from decentralized data, AISTATS 2017"
)
LEAF = "S. Caldas and others, LEAF: a benchmark for federated settings, 2018; TalwalkarLab/leaf"


def _two_3x3(net: Builder, classes: int, relu: Activation) -> None:
    net.chain(conv1=Conv2d(32, 3), relu1=relu, conv2=Conv2d(64, 3), relu2=relu, pool=MaxPool2d(2))
    net.drop("dropout1", 0.25)
    net.chain(flatten=Flatten(), fc1=Linear(128), relu3=relu)
    net.drop("dropout2", 0.5)
    net.add("fc2", Linear(classes))


def _two_5x5(hidden: int) -> Callable[..., None]:
    def build(net: Builder, classes: int, relu: Activation) -> None:
        net.chain(conv1=Conv2d(32, 5, padding=2), relu1=relu, pool1=MaxPool2d(2))
        net.chain(conv2=Conv2d(64, 5, padding=2), relu2=relu, pool2=MaxPool2d(2), flatten=Flatten())
        net.chain(fc1=Linear(hidden), relu3=relu, fc2=Linear(classes))

    return build


def _tabular(net: Builder, classes: int, relu: Activation) -> None:
    net.chain(fc1=Linear(32), relu1=relu, fc2=Linear(16), relu2=relu, fc3=Linear(classes))


def _two_hidden(net: Builder, classes: int, relu: Activation) -> None:
    net.chain(flatten=Flatten(), fc1=Linear(200), relu1=relu, fc2=Linear(200), relu2=relu, fc3=Linear(classes))


def _celeba(net: Builder, classes: int, relu: Activation) -> None:
    for number in range(1, 5):
        net.add(f"conv{number}", Conv2d(32, 3, padding=1))
        net.normalise(f"bn{number}", 1e-3)
        net.add(f"pool{number}", MaxPool2d(2, ceil_mode=True))
        net.add(f"relu{number}", relu)
    net.chain(flatten=Flatten(), fc=Linear(classes))


def _har(net: Builder, classes: int, relu: Activation) -> None:
    net.chain(conv1=Conv1d(32, 9), relu1=relu, pool1=MaxPool1d(2), conv2=Conv1d(64, 9), relu2=relu, pool2=MaxPool1d(2))
    net.chain(flatten=Flatten(), fc1=Linear(1024), relu3=relu, fc2=Linear(512), relu4=relu, fc3=Linear(classes))


def _cifar(net: Builder, classes: int, relu: Activation) -> None:
    net.chain(conv1=Conv2d(6, 5), relu1=relu, pool1=MaxPool2d(2), conv2=Conv2d(16, 5), relu2=relu, pool2=MaxPool2d(2))
    net.chain(flatten=Flatten(), fc1=Linear(120), relu3=relu, fc2=Linear(84), relu4=relu, fc3=Linear(classes))


def _lenet5(net: Builder, classes: int, sigmoid: Activation) -> None:
    net.chain(conv1=Conv2d(6, 5, padding=2), act1=sigmoid, pool1=AvgPool2d(2))
    net.chain(conv2=Conv2d(16, 5), act2=sigmoid, pool2=AvgPool2d(2), flatten=Flatten())
    net.chain(fc1=Linear(120), act3=sigmoid, fc2=Linear(84), act4=sigmoid, fc3=Linear(classes))


def _all_convolutional(net: Builder, classes: int, relu: Activation) -> None:
    # Filters, kernel, stride, padding: table 1 of the paper, All-CNN-C.
    rows = [(96, 3, 1, 1), (96, 3, 1, 1), (96, 3, 2, 1), (192, 3, 1, 1), (192, 3, 1, 1), (192, 3, 2, 1)]
    rows += [(192, 3, 1, 0), (192, 1, 1, 0), (classes, 1, 1, 0)]
    for number, (filters, kernel, stride, padding) in enumerate(rows, start=1):
        net.add(f"conv{number}", Conv2d(filters, kernel, stride=stride, padding=padding))
        net.add(f"relu{number}", relu)
    net.chain(avgpool=AdaptiveAvgPool2d(1), flatten=Flatten())


def _vae_encoder(net: Builder, classes: int, relu: Activation) -> None:
    hidden = net.chain(flatten=Flatten(), fc1=Linear(400), relu1=relu)
    mean = net.add("fc21", Linear(classes))
    net.add("fc22", Linear(classes), hidden)
    net.add("both", Concatenate(), mean, "fc22")


NETWORKS = {
    "fl-mnist-cnn": GraphEntry(
        "pytorch-examples",
        _two_3x3,
        FAMILY,
        classes=10,
        input_shape=DIGITS,
        options=DROPPED,
        note="pytorch/examples, mnist/main.py.",
    ),
    "fl-emnist": GraphEntry(
        "reddi2021",
        _two_3x3,
        FAMILY,
        classes=62,
        input_shape=DIGITS,
        options=DROPPED,
        note="S. Reddi and others, Adaptive federated optimization, ICLR 2021: TensorFlow Federated's"
        " create_conv_dropout_model, the layers of fl-mnist-cnn with 62 classes.",
    ),
    "fl-fedavg-mnist-cnn": GraphEntry(
        "fedavg2017",
        _two_5x5(512),
        FAMILY,
        classes=10,
        input_shape=DIGITS,
        note=f"{FEDAVG}: the CNN of 1,663,370 parameters. ReLU after the convolutions as in TensorFlow Federated's"
        " create_original_fedavg_cnn_model; the paper does not say.",
    ),
    "fl-fedavg-mnist-2nn": GraphEntry(
        "fedavg2017",
        _two_hidden,
        FAMILY,
        classes=10,
        input_shape=DIGITS,
        note=f"{FEDAVG}: the 2NN of 199,210 parameters.",
    ),
    "fl-tabular": GraphEntry(
        "own",
        _tabular,
        FAMILY,
        classes=2,
        input_shape=(104,),
        note="Of this library, with the sizes of tutorials on the census data of UCI: 104 columns, two hidden layers.",
    ),
    "fl-leaf-femnist": GraphEntry(
        "leaf2018", _two_5x5(2048), FAMILY, classes=62, input_shape=DIGITS, note=f"{LEAF}, models/femnist/cnn.py."
    ),
    "fl-leaf-celeba": GraphEntry(
        "leaf2018",
        _celeba,
        FAMILY,
        classes=2,
        input_shape=(3, 84, 84),
        options=NORMED,
        note=f"{LEAF}, models/celeba/cnn.py; batch norm is in training mode there.",
    ),
    "fl-har-1d": GraphEntry(
        "pfllib2025",
        _har,
        FAMILY,
        classes=6,
        input_shape=(9, 128),
        note="TsingZ0/PFLlib, HARCNN for human activity recognition, which writes its signals as pictures of 1×128;"
        " here along one axis, the same arithmetic.",
    ),
    "fl-flower-cifar": GraphEntry(
        "flower2020",
        _cifar,
        FAMILY,
        classes=10,
        input_shape=(3, 32, 32),
        note="The network of Flower's quickstart for PyTorch, which is that of PyTorch's tutorial on CIFAR-10.",
    ),
    "fl-allconv-cifar": GraphEntry(
        "allconv2015",
        _all_convolutional,
        FAMILY,
        classes=10,
        input_shape=(3, 32, 32),
        note="J. Springenberg and others, Striving for simplicity: the all convolutional net, ICLR 2015 workshop:"
        " All-CNN-C.",
    ),
    "fl-vae-encoder": GraphEntry(
        "pytorch-examples",
        _vae_encoder,
        FAMILY,
        classes=20,
        input_shape=DIGITS,
        loss="other",
        note="pytorch/examples, vae/main.py: the encoder by itself, mean and logarithm of the variance behind each"
        " other; classes is the number of either.",
    ),
    "fl-avgpool-lenet": GraphEntry(
        "d2l",
        _lenet5,
        FAMILY,
        classes=10,
        input_shape=DIGITS,
        activation=Sigmoid(),
        note="A. Zhang and others, Dive into deep learning, section 7.6: LeNet-5 with average pooling and sigmoid.",
    ),
}
