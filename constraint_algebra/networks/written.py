"""A network as text, for files: what every layer is and reads, and nothing that would have to be executed.

The text is JSON: format, input shape, one entry a layer, and the order in which a sequence of parameters comes.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from constraint_algebra import layers as kinds
from constraint_algebra.errors import ConstraintAlgebraError, StorageError
from constraint_algebra.layers import Layer, transposed
from constraint_algebra.networks.network import Network

FORMAT = "constraint-algebra network 1"
# What no layer of a network is by itself: what several kinds share, and what stands for several layers.
SHARED = {
    "Layer",
    "Parametric",
    "Affine",
    "Rearrangement",
    "Activation",
    "Selection",
    "Normalisation",
    "Compound",
    "Conv",
}
INNER = (transposed.TurnedConv1d, transposed.TurnedConv2d, transposed.TurnedConv3d)
# What a text that is none makes of json, of the constructors and of what looks into the text.
_DAMAGE = (ConstraintAlgebraError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


def _kinds() -> dict[str, type[Layer]]:
    public = (getattr(kinds, name) for name in kinds.__all__)
    found = [kind for kind in public if isinstance(kind, type) and issubclass(kind, Layer)]
    usable = [kind for kind in found if kind.__name__ not in SHARED and not issubclass(kind, kinds.Compound)]
    return {kind.__name__: kind for kind in (*usable, *INNER)}


KINDS = _kinds()


def to_text(network: Network) -> str:
    """Return a network as text, from which `from_text` makes an equal one.

    >>> from constraint_algebra.layers import Add, Linear
    >>> net = Network((4,), {"a": Linear(4), "sum": (Add(), "a", "input")})
    >>> print(to_text(net))
    {"format": "constraint-algebra network 1", "input_shape": [4], "layers":
    [{"name": "a", "kind": "Linear", "inputs": ["input"], "settings": {"filters": 4, "bias": true}},
    {"name": "sum", "kind": "Add", "inputs": ["a", "input"], "settings": {}}],
    "parameter_order": ["a.weight", "a.bias"]}
    >>> from_text(to_text(net)) == net
    True
    """
    entries = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "inputs": [network.value_name(number) for number in layer.inputs],
            "settings": {field.name: getattr(layer.layer, field.name) for field in fields(layer.layer)},
        }
        for layer in network.layers
    ]
    whole = {"format": FORMAT, "input_shape": network.input_shape, "layers": entries}
    return json.dumps({**whole, "parameter_order": network.parameter_order}, ensure_ascii=False)


def from_text(text: str) -> Network:
    """Return the network of a text.

    Raises:
        StorageError: the text is not one of `to_text`, or tells of a network that cannot be.
    """
    try:
        told = json.loads(text)
        if told["format"] != FORMAT:
            raise StorageError(f"its format is {told['format']!r}, and {FORMAT!r} is known")
        layers = {entry["name"]: (_layer(entry), *entry["inputs"]) for entry in told["layers"]}
        if len(layers) < len(told["layers"]):
            raise StorageError("two of its layers have one name")
        network = Network(_tuples(told["input_shape"]), layers)
        order = tuple(told["parameter_order"])
    except _DAMAGE as error:
        raise StorageError(f"this is no network as text ({error}); write it again with save(network=...)") from error
    if not {*network.parameter_shapes} <= {*order} or not all(isinstance(name, str) for name in order):
        raise StorageError("this is no network as text: its order of parameters lacks some; write it again")
    network.parameter_order = order
    return network


def _layer(entry: dict[str, Any]) -> Layer:
    kind = KINDS.get(entry["kind"])
    if kind is None:
        raise StorageError(f"layer {entry['name']!r} is a {entry['kind']!r}, which is no kind of layer here")
    return kind(**_tuples(entry["settings"]))


def _tuples(value: Any) -> Any:
    """Return lists as tuples, at any depth: JSON knows lists alone."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {name: _tuples(entry) for name, entry in value.items()} if isinstance(value, dict) else value
