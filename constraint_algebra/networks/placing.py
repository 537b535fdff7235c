"""Layers as they are written, brought to their places: names, inputs and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from constraint_algebra.errors import ArgumentError, ShapeError
from constraint_algebra.layers.activations import PReLU, has_two_branches
from constraint_algebra.layers.base import Compound, Layer, PlacedLayer, Shape
from constraint_algebra.layers.kinds import Conv1d, Conv2d, Conv3d, Flatten, Linear

INPUT = "input"  # the name of the network's own input

Written = tuple[str, Layer, tuple[str, ...] | None]  # name, layer, names of its inputs; None reads the one before


def placed(
    input_shape: Shape, layers: Sequence[Layer | PlacedLayer] | Mapping[str, Any], names: Sequence[str] | None
) -> list[PlacedLayer]:
    """Return every layer at its place; `ShapeError` where shapes or names do not fit."""
    found: list[PlacedLayer] = []
    numbers, shapes = {INPUT: 0}, [input_shape]
    for name, layer, reads in _parts(_written(layers, names), shapes, numbers):
        index = len(found)
        inputs = (index,) if reads is None else tuple(_number(numbers, name, read) for read in reads)
        given = tuple(shapes[number] for number in inputs)
        try:
            output = layer.output_shape(*given)
        except ShapeError as error:
            before = "what precedes it" if index else "the input_shape"
            raise ShapeError(f"layer {name!r} (number {index}) does not fit {before}: {error}") from None
        found.append(PlacedLayer(layer, name, index, given[0], output, inputs, given[1:]))
        shapes.append(output)
        numbers[name] = index + 1
    _check_names(found)
    _check_read(found)
    return found


def is_link(layer: PlacedLayer) -> bool:
    """Return whether a layer is one of a plain chain."""
    kinds = Conv1d, Conv2d, Conv3d, Linear, Flatten
    if layer.is_activation and (isinstance(layer.layer, PReLU) or has_two_branches(layer.activation)):
        return False
    plain = type(layer.layer) in kinds or layer.is_activation
    return plain and layer.inputs == (layer.index,)


def _written(
    layers: Sequence[Layer | PlacedLayer] | Mapping[str, Any], names: Sequence[str] | None
) -> Iterator[Written]:
    """Yield name, layer and inputs of every entry."""
    if isinstance(layers, Mapping):
        if names is not None:
            raise ShapeError("names: layers that come by name have them already; leave names out")
        for name, entry in layers.items():
            yield _entry(name, entry)
        return
    if names is not None and len(names) != len(layers):
        raise ShapeError(f"names: expected one for each of {len(layers)} layers, got {len(names)}")
    taken = {0: INPUT}  # of a network whose layers are taken again: the name here of each of its values
    for index, layer in enumerate(layers):
        name = names[index] if names is not None else str(index)
        if not isinstance(layer, PlacedLayer):
            yield name, layer, None
        elif layer.inputs == (layer.index,):
            yield name, layer.layer, None
        elif set(layer.inputs) <= set(taken):
            yield name, layer.layer, tuple(taken[number] for number in layer.inputs)
        else:
            raise ShapeError(
                f"layers: {layer.name!r} reads layers of its network that are not among those before it here; take"
                " them as well, or name its inputs"
            )
        if isinstance(layer, PlacedLayer):
            taken[layer.number] = name


def _entry(name: str, entry: Any) -> Written:
    layer, *reads = entry if isinstance(entry, tuple) and entry else (entry,)
    layer = layer.layer if isinstance(layer, PlacedLayer) else layer
    if not isinstance(name, str) or not isinstance(layer, Layer) or not all(isinstance(read, str) for read in reads):
        raise ArgumentError(
            "layers",
            "Network: layers by name are {name: layer} or {name: (layer, 'name of an input', ...)}, got "
            f"{name!r}: {entry!r}",
        )
    if name == INPUT:
        raise ShapeError(f"names: {INPUT!r} is the network's own input; give the layer another name")
    return name, layer, tuple(reads) or None


def _parts(written: Iterator[Written], shapes: list[Shape], numbers: dict[str, int]) -> Iterator[Written]:
    """Yield every layer, a compound one as its parts; who reads it by its name then reads the last of these."""
    for name, layer, reads in written:
        if not isinstance(layer, Compound):
            yield name, layer, reads
            continue
        shape = shapes[-1] if reads is None else shapes[_number(numbers, name, reads[0])]
        if reads is not None and len(reads) > 1:
            raise ShapeError(f"layer {name!r}: {type(layer).__name__} reads one value, got {len(reads)}")
        for number, (suffix, part) in enumerate(layer.parts(shape)):
            yield f"{name}{suffix}", part, None if number else reads
        numbers[name] = len(shapes) - 1


def _number(numbers: Mapping[str, int], name: str, read: str) -> int:
    if read not in numbers:
        raise ShapeError(
            f"layer {name!r} reads {read!r}, which is no layer before it; there are {', '.join(map(repr, numbers))}"
        )
    return numbers[read]


def _check_names(layers: Sequence[PlacedLayer]) -> None:
    names = [layer.name for layer in layers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ShapeError(
            f"names: each layer needs a name of its own, since parameters go by it; {', '.join(map(repr, twice))}"
            " came more than once"
        )


def _check_read(layers: Sequence[PlacedLayer]) -> None:
    """Refuse a value that nothing reads: it has no part in the output."""
    read = {number for layer in layers for number in layer.inputs}
    unread = [layer.name for layer in layers[:-1] if layer.number not in read]
    if unread or 0 not in read:
        what = f"layer {unread[0]!r}" if unread else "the network's input"
        raise ShapeError(f"nothing reads the output of {what}, so that it has no part in the network's; leave it out")
