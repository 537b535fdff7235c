"""How a network with shortcuts or pooling is written down for the zoo: layers by name, one after the other.

Names are those of PyTorch's modules, `layer1.0.conv1`, so that parameters bear the names that a model of torchvision
gives them. Modules without parameters that PyTorch leaves nameless, such as additions, have names of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from constraint_algebra.layers import Activation, BatchNorm, Conv2d, Dropout, GroupNorm, Layer, ReLU, Shape

INPUT = "input"
RELU = ReLU()
MODES = ("evaluation", "training")
NORMS = ("batch", "group")
GROUPS = 2  # of a group norm in the place of a batch norm, the least that is another one than layer norm
NORMED = {"mode": MODES, "norm": NORMS}  # choices of a network with batch norm
DROPPED = {"mode": MODES}  # of one with dropout


class Builder:
    """Layers by name in order, each with the names of what it reads.

    Args:
        input_shape: shape of the network's input.
        mode: "evaluation", or "training", in which batch norm takes the data's own statistics and dropout drops.
        norm: what stands where the authors have batch norm: "batch" itself, or "group" for a group norm.

    Attributes:
        layers: what `Network` takes.
        last: the name of what the last layer makes.

    >>> from constraint_algebra.layers import Add
    >>> net = Builder((3, 8, 8))
    >>> start = net.add("conv", Conv2d(3, 3, padding=1))
    >>> net.add("relu", RELU), net.add("sum", Add(), "relu", start), net.shape()
    ('relu', 'sum', (3, 8, 8))
    >>> net.layers["sum"][1:]
    ('relu', 'conv')
    """

    def __init__(self, input_shape: Shape, mode: str = MODES[0], norm: str = NORMS[0]) -> None:
        """Begin with the input alone."""
        self.training, self.norm = mode == "training", norm
        self.layers: dict[str, tuple[Layer | str, ...]] = {}
        self.last = INPUT
        self._shapes = {INPUT: tuple(input_shape)}

    def add(self, name: str, layer: Layer, *inputs: str) -> str:
        """Put a layer behind all others, reading the last one unless `inputs` says otherwise, and return its name."""
        read = inputs or (self.last,)
        self._shapes[name] = layer.output_shape(*(self._shapes[other] for other in read))
        self.layers[name] = (layer, *read)
        self.last = name
        return name

    def chain(self, **layers: Layer) -> str:
        """Put several layers behind each other, by name."""
        for name, layer in layers.items():
            self.add(name, layer)
        return self.last

    def shape(self, name: str | None = None) -> Shape:
        """Return the shape of a value, by default of the last one."""
        return self._shapes[self.last if name is None else name]

    def conv_norm(self, name: str, norm: str, filters: int, kernel: int, *inputs: str, **options: Any) -> str:
        """Put a convolution that keeps the size at stride 1, without bias, and a batch norm behind it."""
        self.add(name, Conv2d(filters, kernel, padding=kernel // 2, bias=False, **options), *inputs)
        return self.normalise(norm)

    def normalise(self, name: str, eps: float = 1e-5) -> str:
        """Put a batch norm, or what stands for it, behind the last layer."""
        if self.norm == "group":
            return self.add(name, GroupNorm(GROUPS, eps=eps))
        return self.add(name, BatchNorm(eps=eps, training=self.training))

    def drop(self, name: str, p: float) -> str:
        """Put a dropout behind the last layer, which in evaluation mode does nothing and is left out."""
        return self.add(name, Dropout(p)) if self.training else self.last


@dataclass(frozen=True)
class GraphEntry:
    """A network of the zoo that is more than convolutions, activations and linear layers in a row.

    Attributes:
        paper: the key of where it comes from; `note` has the whole reference.
        build: puts its layers into a builder, given the outputs of the head, the activation and the options by name.
        family: the group that it is listed under.
        classes: outputs of the head, unless the caller says otherwise.
        input_shape: shape of the input, unless the caller says otherwise.
        loss: the loss that it is meant for: "cross_entropy", or "other" for one that `reconstruct` has no name for.
        init: the initialisation of random weights, as `to_torch` calls it.
        activation: the activation of its authors.
        options: what a caller may choose beyond that, by argument: the choices, the authors' first.
        note: where it comes from, and what is worth knowing.
    """

    paper: str
    build: Callable[..., None]
    family: str
    classes: int
    input_shape: Shape
    loss: str = "cross_entropy"
    init: str = "default"
    activation: Activation = RELU
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""
