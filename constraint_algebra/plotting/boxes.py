"""A network as boxes: a layer with a weight and what follows it alone, or a whole module of a long network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx

from constraint_algebra.layers.normalisation import MOVES
from constraint_algebra.layers.own_statistics import OwnStatistics
from constraint_algebra.networks.description import shape_text

if TYPE_CHECKING:
    from constraint_algebra.layers import PlacedLayer, Shape
    from constraint_algebra.networks.network import Network

LONG = 26  # characters of a line
MOST = 80  # boxes beyond which modules are folded
# What a box says of layers that have no line of their own; batch norm is two layers, of which one speaks.
WORDS = {"ChannelScale": "", "Standardise": "batch norm", "Flatten": "flatten", "Add": "+", "Subtract": "-"}


@dataclass(frozen=True)
class Box:
    """Layers that are drawn as one.

    Attributes:
        layers: in order, none for the network's input.
        inputs: numbers of the boxes that it reads, in order; a box is there as often as it is read.
        shape: of what it makes.
        module: the common beginning of the names of a folded module, empty otherwise.
    """

    layers: tuple[PlacedLayer, ...]
    inputs: tuple[int, ...]
    shape: Shape
    module: str = ""

    @property
    def value(self) -> int:
        """The number of the value that it makes."""
        return self.layers[-1].number if self.layers else 0

    @property
    def kind(self) -> str:
        """What it is drawn as: "input", "module", "weight", "join", "selection" or "other"."""
        if not self.layers:
            return "input"
        if self.module:
            return "module"
        first = self.layers[0]
        names = {"weight": first.is_bilinear, "join": len(first.inputs) > 1, "selection": first.is_selection}
        return next((name for name, is_so in names.items() if is_so), "other")

    def lines(self) -> list[str]:
        """Return its name, what it does, and the shape of what it makes."""
        if not self.layers:
            return ["input", shape_text(self.shape)]
        return [_title(self.module or self.layers[0].name), *self._words(), f"→ {shape_text(self.shape)}"]

    def _words(self) -> list[str]:
        """Return lines that say what the layers do: the first alone, unless it is a join, then what follows it."""
        if self.module:
            kinds = Counter(layer.kind for layer in self.layers if not _is_small(layer))
            return _packed([f"{count} {kind}" if count > 1 else kind for kind, count in kinds.items()])
        own, *rest = filter(None, map(word, self.layers))
        return _packed([own, *rest]) if self.kind == "join" else [own, *_packed(rest)]


def _packed(words: Sequence[str]) -> list[str]:
    """Return words in lines of at most `LONG` characters, where that is possible."""
    lines: list[str] = []
    for words_of_one in words:
        longer = f"{lines[-1]}, {words_of_one}" if lines else ""
        if lines and len(longer) <= LONG:
            lines[-1] = longer
        else:
            lines.append(words_of_one)
    return lines


def _title(name: str) -> str:
    """Return a layer's name, the first parts of a long one left out.

    >>> _title("features.denseblock1.denselayer12.conv1")
    '…denselayer12.conv1'
    """
    parts = name.split(".")
    while len(parts) > 1 and len(".".join(parts)) > LONG:
        parts = parts[1:]
    short = ".".join(parts)
    return short if short == name else f"…{short}"


def _is_small(layer: PlacedLayer) -> bool:
    """Return whether a module's summary leaves a layer out: normalisations, activations, reshapes."""
    return layer.is_activation or layer.is_normalisation or layer.kind in {"ChannelScale", "Standardise", "Flatten"}


def word(layer: PlacedLayer) -> str:
    """Return what a box says of a layer.

    >>> from constraint_algebra.layers import Conv2d, MaxPool2d
    >>> word(Conv2d(64, 7, stride=2, padding=3).place((3, 224, 224))), word(MaxPool2d(3, stride=2).place((4, 8, 8)))
    ('Conv2d 7×7/2', 'MaxPool2d 3×3/2')
    """
    if isinstance(layer.layer, OwnStatistics):
        return _norm(layer)
    if layer.name.endswith(MOVES):
        return ""
    if layer.kind in WORDS:
        return WORDS[layer.kind]
    return f"{layer.kind} {_window(layer)}".rstrip()


def _norm(layer: PlacedLayer) -> str:
    """Return what a normalisation by the data's own statistics is called, from its groups."""
    own = layer.normalisation
    assert isinstance(own, OwnStatistics)
    if own.across:
        return "batch norm of the sample"
    channels = layer.input_shape[0]
    named = {1: "layer norm", channels: "instance norm"} if own.centred else {}
    groups = f"norm of {own.count} groups" if channels % own.count == 0 else "layer norm"
    return named.get(own.count, groups if own.centred else "RMS norm")


def _window(layer: PlacedLayer) -> str:
    """Return kernel and stride of a convolution or of a pooling layer, `3×3/2`."""
    kernel, stride = (_sizes(getattr(layer.layer, name, None)) for name in ("kernel", "stride"))
    groups = getattr(layer.layer, "groups", 1)
    steps = "" if set(stride) <= {1} else f"/{shape_text(stride) if len(set(stride)) > 1 else stride[0]}"
    return (shape_text(kernel) if kernel else "") + steps + (f", {groups} groups" if groups > 1 else "")


def _sizes(value: object) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Iterable) else ()


def boxes(network: Network, most: int = MOST) -> list[Box]:
    """Return a network as boxes in the order of its layers, the input first.

    A layer without a weight joins the box before it, where it alone reads what that makes. Where there are more boxes
    than `most`, those of one module become one, by names: the deepest modules first.
    """
    found = _single(network)
    depths = range(max(layer.name.count(".") for layer in network.layers), 0, -1)
    for depth in depths:
        if len(found) <= most:
            break
        found = _folded(network, found, depth)
    return found


def _single(network: Network) -> list[Box]:
    members: list[list[PlacedLayer]] = [[]]
    home = {0: 0}  # the box that makes a value
    for layer in network.layers:
        alone = len(layer.inputs) == 1 and len(network.users(layer.inputs[0])) == 1 and home[layer.inputs[0]] > 0
        if alone and (not layer.is_bilinear or layer.kind == "ChannelScale"):
            home[layer.number] = home[layer.inputs[0]]
            members[home[layer.number]].append(layer)
        else:
            home[layer.number] = len(members)
            members.append([layer])
    return _joined(network, members, [""] * len(members))


def _folded(network: Network, single: Sequence[Box], depth: int) -> list[Box]:
    """Fold neighbouring boxes of each module whose name has `depth` parts."""
    runs: list[list[Box]] = []
    names: list[str] = []
    for box in single:
        parts = box.layers[0].name.split(".") if box.layers else [""]
        name = ".".join(parts[:depth]) if len(parts) > depth else ""
        if name and names and names[-1] == name:
            runs[-1].append(box)
        else:
            runs.append([box])
            names.append(name)
    members = [[layer for box in run for layer in box.layers] for run in runs]
    modules = [name if len(run) > 1 else run[0].module for run, name in zip(runs, names, strict=True)]
    return _joined(network, members, modules)


def _joined(network: Network, members: Sequence[Sequence[PlacedLayer]], modules: Sequence[str]) -> list[Box]:
    """Return boxes of these members, with what each reads from outside of itself."""
    home = {layer.number: place for place, member in enumerate(members) for layer in member} | {0: 0}
    made = []
    for place, member in enumerate(members):
        read = tuple(home[number] for layer in member for number in layer.inputs if home[number] != place)
        shape = member[-1].output_shape if member else network.input_shape
        made.append(Box(tuple(member), read, shape, modules[place]))
    return made


def graph(found: Sequence[Box]) -> nx.DiGraph[int]:
    """Return the boxes' numbers as a graph, an edge from each box to those that read it."""
    drawn: nx.DiGraph[int] = nx.DiGraph()
    drawn.add_nodes_from(range(len(found)))
    drawn.add_edges_from((read, number) for number, box in enumerate(found) for read in box.inputs)
    return drawn
