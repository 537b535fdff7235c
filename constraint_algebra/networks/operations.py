"""What each operation of a network does to values, to tangents that come up, and to cotangents that come down.

Values are numbered: 0 is the network's input, and layer i makes value i + 1. At fixed patterns (the slope of every
activation, the winner of every window, the statistics of every group) a tangent goes up through the linear part of each
operation, a cotangent down through the transpose, and where several layers read a value their cotangents add up. Arrays
are float64, weights in the order `(filters, channels / groups, *taps)`; several tangents or cotangents stand along a
last axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.errors import LayerProblem, ParameterError, UnsupportedLayerError
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.activations import PReLU, formulas, sloped
from constraint_algebra.layers.base import Affine, PlacedLayer, Shape
from constraint_algebra.layers.dropout import Dropout
from constraint_algebra.layers.formula import Formulas
from constraint_algebra.layers.normalisation import BUFFERS, COUNTER, SUFFIX, Standardise
from constraint_algebra.layers.own_statistics import OwnStatistics, Statistics, statistics

# By the layer's name: slopes of an activation, winners of a selection, statistics of a normalisation.
Pattern = dict[str, FloatArray | IntArray | Statistics]


def buffer_names(layer: PlacedLayer) -> tuple[str, str]:
    """Return the names of the running mean and variance of a normalisation: those it takes, or those it moves."""
    mean, var = (_buffer_name(layer, name) for name in BUFFERS)
    return mean, var


def counter_name(layer: PlacedLayer) -> str:
    """Return the name of the number of steps so far of a normalisation, which counts where it has no momentum."""
    return _buffer_name(layer, COUNTER)


def moved_shapes(layer: PlacedLayer) -> dict[str, Shape]:
    """Return the shapes of the buffers that a layer moves in a step by their names, none for most layers."""
    operation = layer.layer
    if not (isinstance(operation, OwnStatistics) and operation.tracked):
        return {}
    counter: dict[str, Shape] = {counter_name(layer): ()} if operation.momentum is None else {}
    return {**dict.fromkeys(buffer_names(layer), (operation.count,)), **counter}


def _buffer_name(layer: PlacedLayer, name: str) -> str:
    owner = layer.name.removesuffix(SUFFIX)
    return f"{owner}.{name}" if owner else name


def mask_name(layer: PlacedLayer) -> str:
    """Return the name of the mask of a dropout: one where a value is kept, zero where it is dropped."""
    return f"{layer.name}.mask" if layer.name else "mask"


def check_masks(layers: Iterable[PlacedLayer], parameters: Mapping[str, FloatArray]) -> None:
    """Refuse masks of dropout that are missing, or hold anything but ones and zeros."""
    dropouts = [layer for layer in layers if isinstance(layer.layer, Dropout)]
    missing = [layer for layer in dropouts if mask_name(layer) not in parameters]
    if missing:
        advice = (
            "read the model in evaluation mode (model.eval()), which draws none; where the mask is known give it among"
            " the parameters as {name!r}; feasibility(network) says what the gradient determines whatever the mask"
        )
        reason = "dropout in training mode draws a mask that nobody else sees"
        raise UnsupportedLayerError(
            [LayerProblem(layer.name, reason, advice.format(name=mask_name(layer))) for layer in missing]
        )
    for name in map(mask_name, dropouts):
        wrong = parameters[name][~np.isin(parameters[name], (0, 1))]
        if wrong.size:
            raise ParameterError(name, f"parameters: {name!r} is a mask of ones and zeros, and holds {wrong[0]:g}")


def check_variances(layers: Iterable[PlacedLayer], parameters: Mapping[str, FloatArray]) -> None:
    """Refuse running variances of which batch norm cannot take the root."""
    for layer in layers:
        if isinstance(layer.layer, Standardise):
            name = buffer_names(layer)[1]
            least = float(parameters[name].min())
            if not least + layer.layer.eps > 0:
                raise ParameterError(
                    name,
                    f"parameters: {name!r} has {least:g}, and a variance needs to be positive with eps ="
                    f" {layer.layer.eps:g} added; give the running variance of the model",
                )


def formulas_of(layer: PlacedLayer, parameters: Mapping[str, FloatArray]) -> Formulas:
    """Return the formulas of an activation, with its trained slopes if it has any."""
    if isinstance(layer.layer, PReLU):
        return sloped(parameters[layer.weight_name].reshape(-1, *(1,) * (len(layer.output_shape) - 1)))
    return formulas(layer.activation)


def affine_maps(
    layer: PlacedLayer, parameters: Mapping[str, FloatArray]
) -> tuple[tuple[sp.csr_array, ...], FloatArray | None]:
    """Return M for each input, and c, of an operation `M x + c` with known coefficients."""
    operation = layer.layer
    if isinstance(operation, Standardise):
        mean, var = (parameters[name] for name in buffer_names(layer))
        matrix, constant = operation.coefficients(mean, var, layer.input_shape)
        return (matrix,), constant
    if isinstance(operation, Dropout):
        return (operation.coefficients(parameters[mask_name(layer)]),), None
    assert isinstance(operation, Affine)
    if "_maps" not in layer.__dict__:
        shapes = layer.input_shapes
        layer.__dict__["_maps"] = operation.maps(*shapes), operation.constant(*shapes)
    maps: tuple[tuple[sp.csr_array, ...], FloatArray | None] = layer.__dict__["_maps"]
    return maps


def windows(layer: PlacedLayer) -> IntArray:
    """Return the flat indices of the entries of each window of a selection, -1 where a window has fewer."""
    if "_windows" not in layer.__dict__:
        layer.__dict__["_windows"] = layer.selection.windows(layer.input_shape)
    table: IntArray = layer.__dict__["_windows"]
    return table


def winners(layer: PlacedLayer, x: FloatArray) -> IntArray:
    """Return the flat index of the largest entry of each window, of equal ones the first, in the output's shape."""
    table = windows(layer)
    seen = np.where(table >= 0, x.ravel()[table], -np.inf)
    best = seen.argmax(axis=1)
    return np.asarray(np.take_along_axis(table, best[:, None], axis=1)[:, 0].reshape(layer.output_shape))


def value(layer: PlacedLayer, parameters: Mapping[str, FloatArray], inputs: Sequence[FloatArray]) -> FloatArray:
    """Return what a layer makes of what it reads."""
    x = inputs[0]
    if layer.is_bilinear:
        y = trilinear.forward(layer, parameters[layer.weight_name], x)
        bias = parameters[layer.bias_name].reshape(-1, *(1,) * len(layer.outputs)) if layer.bias_name else None
        return y if bias is None else y + bias
    if layer.is_activation:
        return np.asarray(formulas_of(layer, parameters).value(x))
    if layer.is_selection:
        return np.asarray(x.ravel()[winners(layer, x)])
    if layer.is_normalisation:
        return statistics(layer.normalisation, x).normalised
    if layer.is_reshape:
        return x.reshape(layer.output_shape)
    maps, constant = affine_maps(layer, parameters)
    flat = sum(M @ x.ravel() for M, x in zip(maps, inputs, strict=True))
    return np.asarray(flat if constant is None else flat + constant).reshape(layer.output_shape)


def pattern(
    layers: Iterable[PlacedLayer], parameters: Mapping[str, FloatArray], values: Sequence[FloatArray]
) -> Pattern:
    """Return the slopes of all activations and the winners of all selections.

    Args:
        layers: a network, or its layers in order.
        parameters: parameter values by name.
        values: what `Network.forward` returned.
    """
    found: Pattern = {}
    for layer in layers:
        if isinstance(layer.layer, PReLU):
            slopes = parameters[layer.weight_name].reshape(-1, *(1,) * (len(layer.output_shape) - 1))
            found[layer.name] = np.where(values[layer.inputs[0]] > 0, 1.0, slopes)
        elif layer.is_activation:
            found[layer.name] = formulas(layer.activation).derivative_at(values[layer.inputs[0]], values[layer.number])
        elif layer.is_selection:
            found[layer.name] = winners(layer, values[layer.inputs[0]])
        elif layer.is_normalisation:
            found[layer.name] = statistics(layer.normalisation, values[layer.inputs[0]])
    return found


def tangent(
    layer: PlacedLayer, parameters: Mapping[str, FloatArray], at: Pattern, inputs: Sequence[FloatArray]
) -> FloatArray:
    """Return what tangents `(*shape, n)` of the inputs become at the output."""
    d, n = inputs[0], inputs[0].shape[-1]
    if layer.is_bilinear:
        return trilinear.forward(layer, parameters[layer.weight_name], d)
    fixed = at.get(layer.name)
    if isinstance(fixed, Statistics):
        return fixed.through(d)
    if layer.is_activation:
        assert fixed is not None
        return np.asarray(fixed[..., None] * d)
    if layer.is_selection:
        return np.asarray(d.reshape(-1, n)[fixed])
    if layer.is_reshape:
        return d.reshape(*layer.output_shape, n)
    maps, _ = affine_maps(layer, parameters)
    flat = sum(M @ part.reshape(-1, n) for M, part in zip(maps, inputs, strict=True))
    return np.asarray(flat).reshape(*layer.output_shape, n)


def cotangents(
    layer: PlacedLayer, parameters: Mapping[str, FloatArray], at: Pattern, k: FloatArray
) -> tuple[FloatArray, ...]:
    """Return what one cotangent of the output, or several `(*shape, n)`, becomes at each input."""
    several = k.shape[len(layer.output_shape) :]
    if layer.is_bilinear:
        return (trilinear.input_gradient(layer, parameters[layer.weight_name], k),)
    fixed = at.get(layer.name)
    if isinstance(fixed, Statistics):
        return (fixed.through(k),)
    if layer.is_activation:
        assert fixed is not None
        return (np.asarray(k * (fixed[..., None] if several else fixed)),)
    flat = k.reshape(math.prod(layer.output_shape), *several)
    if layer.is_selection:
        assert fixed is not None
        arriving = np.zeros((math.prod(layer.input_shape), *several))
        np.add.at(arriving, fixed.ravel().astype(np.intp), flat)
        return (arriving.reshape(layer.input_shape + several),)
    if layer.is_reshape:
        return (k.reshape(layer.input_shape + several),)
    maps, _ = affine_maps(layer, parameters)
    return tuple(
        np.asarray(M.T @ flat).reshape(shape + several) for M, shape in zip(maps, layer.input_shapes, strict=True)
    )


def rise(
    layers: Iterable[PlacedLayer], parameters: Mapping[str, FloatArray], at: Pattern, x: FloatArray
) -> list[FloatArray]:
    """Return what tangents `(*input_shape, n)` of the network's input become at every value, by number."""
    found = [x]
    for layer in layers:
        found.append(tangent(layer, parameters, at, [found[number] for number in layer.inputs]))
    return found


def fall(
    layers: Iterable[PlacedLayer], parameters: Mapping[str, FloatArray], at: Pattern, k: FloatArray
) -> list[FloatArray]:
    """Return what cotangents of the network's output become at every value, by number, summed over all that read it."""
    placed = list(layers)
    several = k.shape[len(placed[-1].output_shape) :]
    found: list[FloatArray | None] = [None] * len(placed) + [k]
    for layer in reversed(placed):
        arriving = found[layer.number]
        if arriving is None:  # nothing reads it
            arriving = found[layer.number] = np.zeros(layer.output_shape + several)
        for number, part in zip(layer.inputs, cotangents(layer, parameters, at, arriving), strict=True):
            before = found[number]
            found[number] = part if before is None else before + part
    return [np.zeros(placed[0].input_shape + several) if part is None else part for part in found]


def slope_gradient(layer: PlacedLayer, z: FloatArray, k: FloatArray) -> FloatArray:
    """Return the gradient of the slopes of PReLU, `sum k min(z, 0)` over all values or over each channel."""
    assert isinstance(layer.layer, PReLU)
    return np.asarray((k * np.minimum(z, 0)).reshape(layer.layer.parameters, -1).sum(axis=1))
