"""A layer in words: what a table of a network says of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from constraint_algebra.layers.base import Activation, Layer, PlacedLayer, Shape
from constraint_algebra.layers.convolutions import ChannelScale, Conv


def shape_text(shape: Shape) -> str:
    """Return a shape as people write it.

    >>> shape_text((3, 32, 32))
    '3×32×32'
    """
    return "×".join(map(str, shape)) or "1"


def describe(placed: PlacedLayer) -> str:
    """Return one line that says all about a layer, hyper-parameters at their defaults left out."""
    if isinstance(placed.layer, ChannelScale):
        return ", ".join([f"ChannelScale {placed.channels}", *_bias(placed)])
    if placed.is_bilinear:
        return ", ".join([f"{placed.kind} {placed.channels}→{placed.filters}", *_geometry(placed), *_bias(placed)])
    return ", ".join([placed.kind, *_settings(placed.layer)])


def _geometry(placed: PlacedLayer) -> Iterator[str]:
    conv = placed.bilinear
    if not isinstance(conv, Conv):
        return
    yield f"kernel {shape_text(conv.taps)}"
    for name, value, usual in (
        ("stride", conv.strides, 1),
        ("padding", tuple(a if a == b else f"{a}+{b}" for a, b in conv.paddings), 0),
        ("dilation", conv.dilations, 1),
    ):
        if set(value) != {usual}:
            yield f"{name} {_short(value)}"
    if placed.groups > 1:
        yield f"{placed.groups} groups"


def _bias(placed: PlacedLayer) -> list[str]:
    return [] if placed.bias_name is not None else ["no bias"]


def _settings(layer: Layer) -> Iterator[str]:
    """Yield the hyper-parameters of other layers, those at their defaults left out for operations on windows."""
    for field in fields(layer):
        value = getattr(layer, field.name)
        usual = getattr(layer, "kernel", None) if field.name == "stride" else _normal(field.default, value)
        if isinstance(layer, Activation) or value != usual:
            yield f"{field.name.replace('_', ' ')} {_text(value)}"


def _normal(usual: object, value: object) -> object:
    """Return a default in the form of a value that has one entry an axis."""
    return (usual,) * len(value) if isinstance(value, tuple) and isinstance(usual, int) else usual


def _text(value: object) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f"{value:g}"
    if isinstance(value, tuple) and value and all(isinstance(entry, float | int) for entry in value):
        return _short([f"{entry:g}" for entry in value])
    return str(value)


def _short(values: Sequence[object]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "×".join(map(str, values))
