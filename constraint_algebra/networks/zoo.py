"""Networks of the literature, by name, as shapes.

Shapes are those of the cited papers' own code, and an entry's note says where not; tests pin the parameter counts.

>>> names("leakage")
('cnn6', 'cnn6-classes', 'cnn6-d', 'cnn6-o', 'fcn3', 'lenet', 'lenet-4relu', 'lenet-all-relu', 'lenet-dlg', 'lenet-o',
 'rconv', 'rconv-leakyrelu', 'rconv-relu', 'rconv-sigmoid', 'rconv-tanh')
>>> names("cifar"), names("imagenet")
(('resnet18-cifar', 'resnet20-cifar'), ('densenet121', 'mobilenetv2', 'resnet18', 'resnet50', 'vgg16'))
>>> network("lenet-o").parameter_count, network("resnet18").parameter_count
(26459, 11689512)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from constraint_algebra import layers as kinds
from constraint_algebra.errors import ShapeError, UnknownNameError
from constraint_algebra.layers import Activation, Conv2d, Flatten, Layer, Linear, Shape, check_shape
from constraint_algebra.networks import zoo_blocks, zoo_imagenet, zoo_residual, zoo_tutorials
from constraint_algebra.networks.network import Network
from constraint_algebra.networks.zoo_builder import Builder, GraphEntry

LEAKY, RELU, SIGMOID = kinds.LeakyReLU(0.2), kinds.ReLU(), kinds.Sigmoid()
ACTIVATIONS: dict[str, Activation] = {
    "relu": RELU,
    "leakyrelu": LEAKY,
    "sigmoid": SIGMOID,
    "tanh": kinds.Tanh(),
    "elu": kinds.ELU(),
    "selu": kinds.SELU(),
    "softplus": kinds.Softplus(),
    "softsign": kinds.Softsign(),
    "identity": kinds.Identity(),
    "silu": kinds.SiLU(),
    "gelu": kinds.GELU(),
    "mish": kinds.Mish(),
    "hardswish": kinds.Hardswish(),
}


# The groups that networks are listed in.
FAMILIES = {
    "leakage": "of papers on gradient leakage",
    "cifar": "residual, for pictures of 32×32",
    "imagenet": "for pictures of 224×224",
    "federated": "of tutorials and benchmarks of federated learning",
    "small": "residual, of this library: their gradients can be solved in seconds",
    "blocks": "one block of a modern network between a stem and a head, of this library",
}


# A convolution and the activation after it: filters, "kernel/stride/padding", activation.
Block = tuple[int, str, Activation]


@dataclass(frozen=True)
class ZooEntry:
    """A network of papers on gradient leakage: convolutions, activations and linear layers in a row.

    Attributes:
        family: the group that it is listed under.
        paper: the key of the paper whose code has the network.
        blocks: its convolutions, as (filters, "kernel/stride/padding", activation).
        classes: outputs of the head, unless the caller says otherwise.
        hidden: features of the linear layers before the head, each followed by LeakyReLU(0.2).
        bias: whether the convolutions have biases.
        head_bias: whether the head has a bias.
        loss: the loss that the network is meant for, "cross_entropy" or "logistic".
        init: the initialisation of the authors, as `to_torch` calls it.
        input_shape: shape of the input, unless the caller says otherwise.
        free: how many of the last activations the authors leave open, where they do; the others are then fixed.
        note: what is worth knowing.
    """

    family: ClassVar[str] = "leakage"

    paper: str
    blocks: tuple[Block, ...]
    classes: int
    hidden: tuple[int, ...] = ()
    bias: bool = True
    head_bias: bool = True
    loss: str = "cross_entropy"
    init: str = "uniform"
    input_shape: Shape = (3, 32, 32)
    free: int | None = None
    note: str = ""


def _rconv(activation: Activation) -> ZooEntry:
    blocks = ((12, "5/2/2", LEAKY), (16, "5/2/2", LEAKY), (12, "5/1/2", activation), (3, "5/1/2", activation))
    note = "The authors' default network; the activation of its last two convolutions is selectable."
    return ZooEntry("rconv2024", blocks, classes=100, free=2, note=note)


def _cnn6(second: int = 36) -> tuple[Block, ...]:
    filters = (12, second, 36, 36, 64, 128)
    geometries = ("4/2/2", "3/2/1", "3/1/1", "3/1/1", "3/2/1", "3/1/1")
    return tuple((f, g, LEAKY) for f, g in zip(filters, geometries, strict=True))


def _rgap(
    blocks: tuple[Block, ...], note: str, hidden: tuple[int, ...] = (), input_shape: Shape = (3, 32, 32)
) -> ZooEntry:
    """A network without biases and with one logistic output."""
    return ZooEntry(
        "rgap2021",
        blocks,
        classes=1,
        hidden=hidden,
        bias=False,
        head_bias=False,
        loss="logistic",
        init="default",
        input_shape=input_shape,
        note=note,
    )


NETWORKS: dict[str, ZooEntry | GraphEntry] = {
    "lenet": ZooEntry(
        "rconv2024",
        ((12, "5/2/2", LEAKY), (16, "5/2/2", LEAKY), (12, "5/1/2", RELU), (12, "5/1/2", RELU)),
        classes=100,
        note='R-CONV\'s LeNet; the authors call it "the architecture of DLG", which it is not: see lenet-dlg.',
    ),
    "lenet-o": ZooEntry(
        "rconv2024",
        ((12, "5/2/2", LEAKY), (16, "5/2/2", LEAKY), (3, "5/1/2", RELU), (3, "5/1/2", RELU)),
        classes=100,
        note="As lenet, with as few filters as suffice.",
    ),
    "cnn6-o": ZooEntry(
        "rconv2024",
        ((12, "5/2/2", LEAKY), (16, "5/2/2", LEAKY), *[(3, "5/1/2", RELU)] * 4),
        classes=10,
        note='The authors call it "the architecture of R-GAP", which it is not: see cnn6.',
    ),
    "lenet-4relu": ZooEntry(
        "rconv2024",
        ((12, "5/2/2", LEAKY), (22, "5/2/2", RELU), (3, "5/1/2", RELU), (3, "5/1/2", RELU)),
        classes=100,
        note="More filters in the second convolution, whose ReLU cuts off equations.",
    ),
    "lenet-all-relu": ZooEntry(
        "rconv2024",
        ((77, "5/2/2", RELU), (22, "5/2/2", RELU), (3, "5/1/2", RELU), (3, "5/1/2", RELU)),
        classes=100,
        note="ReLU everywhere, paid for with 77 filters in the first convolution.",
    ),
    "rconv": _rconv(RELU),
    "rconv-relu": _rconv(RELU),
    "rconv-leakyrelu": _rconv(LEAKY),
    "rconv-sigmoid": _rconv(SIGMOID),
    "rconv-tanh": _rconv(ACTIVATIONS["tanh"]),
    "lenet-dlg": ZooEntry(
        "dlg2019",
        ((12, "5/2/2", SIGMOID), (12, "5/2/2", SIGMOID), (12, "5/1/2", SIGMOID)),
        classes=100,
        note="The LeNet of Deep Leakage from Gradients.",
    ),
    "cnn6": _rgap(_cnn6(), "The CNN6 of R-GAP."),
    "cnn6-classes": ZooEntry(
        "rgap2021", _cnn6(), 10, bias=False, init="default", note="CNN6 with a head for several classes, with a bias."
    ),
    "cnn6-d": _rgap(
        _cnn6(second=20), "CNN6 with too few filters in its second convolution: rank-deficient on purpose."
    ),
    "fcn3": _rgap(
        (),
        "Fully connected. The authors' model has a LeakyReLU after the head as well, which their attack ignores; here"
        " the head gives the logit.",
        hidden=(1000, 100),
        input_shape=(1, 28, 28),
    ),
    **zoo_residual.NETWORKS,
    **zoo_imagenet.NETWORKS,
    **zoo_tutorials.NETWORKS,
    **zoo_blocks.NETWORKS,
}


def names(family: str | None = None) -> tuple[str, ...]:
    """Return the names of all networks in alphabetical order, or of those of one group of `FAMILIES`.

    Raises:
        UnknownNameError: no group has this name.
    """
    if family is not None:
        _known("family", family, FAMILIES)
    return tuple(sorted(name for name, found in NETWORKS.items() if family in {None, found.family}))


def entry(name: str) -> ZooEntry | GraphEntry:
    """Return what is known of a network: its paper, loss, initialisation.

    Raises:
        UnknownNameError: no network has this name.

    >>> entry("cnn6").paper, entry("cnn6").loss
    ('rgap2021', 'logistic')
    """
    return NETWORKS[_known("network", name, NETWORKS)]


def network(
    name: str,
    *,
    classes: int | None = None,
    activation: str | Activation | None = None,
    input_shape: Sequence[int] | None = None,
    head: str | None = None,
    shortcuts: str | None = None,
    mode: str | None = None,
    norm: str | None = None,
) -> Network:
    """Return a network of the literature.

    Args:
        name: one of `names()`.
        classes: outputs of the head, by default those of the paper; a network with one logistic output has no choice.
        activation: a name of `ACTIVATIONS` or a layer, in place of the activations that the authors leave open; where
            they leave none open, in place of all of them.
        input_shape: shape of the input, by default that of the paper, such as 3×32×32.
        head: of a residual network, what its last layer reads: "average" for the mean of the map, "flatten" for all.
        mode: of a network with batch norm or dropout: "evaluation", or "training", in which batch norm takes the data's
            own statistics and dropout drops.
        norm: of a network with batch norm: "batch", or "group" for a group norm of two groups in its place.
        shortcuts: of resnet20-cifar, where a block changes the shape: "padding" with zeros, or a 1×1 "projection".

    Raises:
        UnknownNameError: no network, activation or choice has this name; the message says which is closest.
        ShapeError: the input shape or the number of classes does not fit.

    >>> network("lenet-dlg", classes=10)
    Network: input 3×32×32, 8 layers, 15,826 parameters
    name                                         layer   output  parameters
       0  Conv2d 3→12, kernel 5×5, stride 2, padding 2 12×16×16         912
       1                                       Sigmoid 12×16×16           0
       2 Conv2d 12→12, kernel 5×5, stride 2, padding 2   12×8×8        3612
       3                                       Sigmoid   12×8×8           0
       4           Conv2d 12→12, kernel 5×5, padding 2   12×8×8        3612
       5                                       Sigmoid   12×8×8           0
       6                                       Flatten      768           0
       7                                 Linear 768→10       10        7690
    """
    found = entry(name)
    if found.loss == "logistic" and classes not in {None, 1}:
        raise ShapeError(f'{name} has one logistic output, got classes={classes}; use "cnn6-classes" for several')
    if isinstance(activation, str):
        activation = ACTIVATIONS[_known("activation", activation, ACTIVATIONS)]
    shape = check_shape(found.input_shape if input_shape is None else input_shape)
    outputs = found.classes if classes is None else classes
    choices = {"head": head, "shortcuts": shortcuts, "mode": mode, "norm": norm}
    options = {key: value for key, value in choices.items() if value is not None}
    _check_options(name, found, options)
    if isinstance(found, ZooEntry):
        return Network(shape, _chain(found, outputs, activation))
    usual = {key: offered[0] for key, offered in found.options.items()} | options
    net = Builder(shape, **{key: usual.pop(key) for key in ("mode", "norm") if key in usual})
    found.build(net, outputs, activation or found.activation, **usual)
    return Network(shape, net.layers)


def _chain(found: ZooEntry, classes: int, activation: Activation | None) -> list[Layer]:
    """Return the layers of a chain."""
    layers: list[Layer] = []
    fixed = 0 if found.free is None else len(found.blocks) - found.free
    for index, (filters, geometry, usual) in enumerate(found.blocks):
        kernel, stride, padding = map(int, geometry.split("/"))
        layers.append(Conv2d(filters, kernel, stride=stride, padding=padding, bias=found.bias))
        layers.append(activation if activation is not None and index >= fixed else usual)
    layers.append(Flatten())
    for features in found.hidden:
        layers += [Linear(features, bias=found.bias), activation or LEAKY]
    return [*layers, Linear(classes, bias=found.head_bias)]


def _check_options(name: str, found: ZooEntry | GraphEntry, options: dict[str, str]) -> None:
    """Refuse a choice that a network does not leave."""
    offered = found.options if isinstance(found, GraphEntry) else {}
    for key, value in options.items():
        if key not in offered:
            others = ", ".join(other for other, entry in NETWORKS.items() if key in getattr(entry, "options", {}))
            raise UnknownNameError(f"{name} leaves no choice of {key}; leave it out, or take one of {others}")
        _known(f"choice of {key}", value, offered[key])


def _known(what: str, name: str, known: Iterable[str]) -> str:
    """Return the name if it is known, and otherwise say which ones are."""
    choices = sorted(known)
    if name in choices:
        return name
    close = difflib.get_close_matches(str(name).lower(), choices, n=1)
    hint = f", did you mean {close[0]!r}?" if close else "."
    raise UnknownNameError(f"no {what} is called {name!r}{hint} The names are {', '.join(choices)}")
