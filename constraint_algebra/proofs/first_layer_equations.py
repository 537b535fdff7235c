"""From gradients alone to the equations of the first layer, each with an error bound.

The network without its first layer is a network too, whose input is the first layer's activation: reconstructing that
yields the activations with error bars. The output gradient follows by the chain rule, value by value where everything
it needs is known. Errors are carried along by absolute values, so that they bound what they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray, ParametersLike
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.activations import formulas
from constraint_algebra.layers.kinds import Activation, PlacedLayer
from constraint_algebra.networks.activation_pattern import CutOffs, nearest, reshaped
from constraint_algebra.networks.activation_pattern import first_layer as lowest
from constraint_algebra.networks.chains import demand_chain
from constraint_algebra.networks.network import Network, NetworkLike, bind, named
from constraint_algebra.networks.walk import Rules, down
from constraint_algebra.proofs.observer import FirstLayer
from constraint_algebra.recursion.backsubstitution import reconstruct
from constraint_algebra.recursion.noise import deviations_of, precision

ELSE = (
    "reconstruct says what an observer knows of every value, and indistinguishable(network, parameters, input).interval"
    " how far a value of a given input may move"
)
SPREAD = 8.0  # standard deviations, of error bars that are themselves estimates


@dataclass(frozen=True)
class _Known:
    """Values with the largest error that noise explains, and where they are known."""

    value: FloatArray
    error: FloatArray
    known: BoolArray

    def reshape(self, shape: tuple[int, ...]) -> _Known:
        return _Known(self.value.reshape(shape), self.error.reshape(shape), self.known.reshape(shape))


@checked
def first_layer_equations(
    network: NetworkLike,
    parameters: ParametersLike,
    gradients: ParametersLike,
    *,
    loss: str | None = "cross_entropy",
    noise: float | Mapping[str, ArrayLike] = 0.0,
    valid_range: tuple[float, float] = (0.0, 1.0),
    spread: float = SPREAD,
    seed: int = 0,
) -> FirstLayer:
    """Return what the gradients yield about the first layer, for `Reconstruction.intervals`.

    An output within `spread` error bars of a cut-off counts as cut off where the bias equations of its filter agree,
    and as unknown where they do not.

    Args:
        network: the architecture.
        parameters: weights and biases, as for `reconstruct`.
        gradients: as for `reconstruct`.
        loss: as for `reconstruct`.
        noise: as for `reconstruct`.
        valid_range: smallest and largest valid value.
        spread: how many standard deviations every error bound stands for.
        seed: of the noise ensembles.

    Raises:
        What `reconstruct` raises; `UnsupportedLayerError` for an activation before the first layer with a weight; and
        `ShapeError` for a network that is no plain chain.
    """
    assert isinstance(network, Network)  # whatever stood for it
    demand_chain(network, "first_layer_equations", ELSE)
    layer = lowest(network)
    seen = _Observation(network, parameters, gradients, loss, noise, spread, seed)
    k = seen.output_gradient(layer)
    y, side, edge = seen.output(layer)
    bias = seen.parameters[layer.bias_name] if layer.bias_name is not None else np.zeros(layer.filters)
    shift = np.broadcast_to(bias.reshape(-1, *(1,) * len(layer.outputs)), layer.output_shape)
    stored = spread * seen.arithmetic * np.abs(shift)
    return FirstLayer(
        layer=layer,
        weight=seen.parameters[layer.weight_name],
        weight_gradient=seen.gradients[layer.weight_name],
        weight_gradient_error=spread * seen.deviations[layer.weight_name],
        output_gradient=np.where(k.known, k.value, 0.0),
        output_gradient_error=np.where(k.known, k.error, 0.0),
        output_gradient_known=k.known,
        output=np.where(y.known, y.value - shift, np.nan),
        output_error=y.error + stored,
        side=side,
        edge=np.where(side != 0, edge - shift, 0.0),
        arithmetic=seen.arithmetic,
        valid_range=valid_range,
        spread=spread,
    )


class _Observation:
    """What an observer has, and what follows from it about a layer: its output and its output gradient."""

    def __init__(
        self,
        network: Network,
        parameters: ParametersLike,
        gradients: ParametersLike,
        loss: str | None,
        noise: float | Mapping[str, ArrayLike],
        spread: float,
        seed: int,
    ) -> None:
        self.network, self.loss, self.noise, self.spread, self.seed = network, loss, noise, spread, seed
        self.parameters = bind(network, parameters, "parameters")
        self.given = named(network, gradients, "gradients")
        self.gradients = bind(network, self.given, "gradients")
        rounding = precision(self.given)
        self.arithmetic = rounding.arithmetic
        self.deviations = deviations_of(self.gradients, rounding, noise)

    def output_gradient(self, layer: PlacedLayer) -> _Known:
        """Return k of a layer."""
        start = self.network.start
        if start is None or layer.index >= start.index:
            return self._at_start(layer)
        above = self.network.bilinear[self.network.bilinear.index(layer) + 1]
        k, W = self.output_gradient(above), self.parameters[above.weight_name]
        value = np.where(k.known, k.value, 0.0)
        arriving = _Known(
            trilinear.input_gradient(above, W, value),
            trilinear.input_gradient(above, np.abs(W), np.where(k.known, k.error, 0.0))
            + self.spread * self.arithmetic * np.sqrt(trilinear.input_gradient(above, W**2, value**2)),
            ~trilinear.touched(above, ~k.known),
        )
        rules = Rules[tuple[_Known, _Known]](
            activation=lambda step, pair: self._through(step.activation, *pair),
            reshape=lambda step, pair: (pair[0].reshape(step.input_shape), pair[1].reshape(step.input_shape)),
        )
        _, found = down(self.network.between(layer, above), (self._input_of(above), arriving), rules)
        return self._checked(layer, found)

    def output(self, layer: PlacedLayer) -> tuple[_Known, FloatArray, FloatArray]:
        """Return z of a layer where it follows, and the side and edge of the outputs that are cut off."""
        later = [other for other in self.network.bilinear if other.index > layer.index]
        start = self.network.start
        if not later or start is None or layer.index >= start.index:
            nothing = np.zeros(layer.output_shape)
            return _Known(nothing, nothing, np.zeros(layer.output_shape, dtype=bool)), nothing, nothing

        def activation(step: PlacedLayer, above: tuple[_Known, CutOffs]) -> tuple[_Known, CutOffs]:
            z, side, edge = self._inverse(step.activation, above[0])
            return z, nearest((side, edge), formulas(step.activation), above[1])

        rules = Rules[tuple[_Known, CutOffs]](
            activation, reshape=lambda step, above: (above[0].reshape(step.input_shape), reshaped(step, above[1]))
        )
        none = np.zeros(later[0].input_shape)
        begin = self._input_of(later[0]), (none, none)
        z, (side, edge) = down(self.network.between(layer, later[0]), begin, rules)
        return z, side, np.where(side != 0, edge, 0.0)

    def _at_start(self, layer: PlacedLayer) -> _Known:
        """Return the k that is at hand: a bias gradient, or what the weight gradient and the input's scale imply."""
        if layer.bias_name is not None:
            value = self.gradients[layer.bias_name].reshape(layer.output_shape)
            error = self.spread * self.deviations[layer.bias_name].reshape(layer.output_shape)
            return _Known(value, error, np.ones(value.shape, dtype=bool))
        x = self._input_of(layer)
        flat, known = np.where(x.known, x.value, 0.0).ravel(), bool(x.known.all() and x.value.any())
        dW = self.gradients[layer.weight_name].reshape(layer.filters, -1)
        square = float(flat @ flat) or 1.0
        value = dW @ flat / square
        spare = self.spread * self.deviations[layer.weight_name].reshape(layer.filters, -1) @ np.abs(flat) / square
        relative = 2 * float(np.linalg.norm(np.where(x.known, x.error, 0.0))) / np.sqrt(square)
        shape = layer.output_shape
        return _Known(value.reshape(shape), (spare + relative * np.abs(value)).reshape(shape), np.full(shape, known))

    def _input_of(self, layer: PlacedLayer) -> _Known:
        """Return the input of a layer, reconstructed from the network that begins there."""
        rest = self.network.layers[layer.index :]
        network = Network(layer.input_shape, [other.layer for other in rest], [other.name for other in rest])
        names = network.parameter_shapes
        noise = {n: v for n, v in self.noise.items() if n in names} if isinstance(self.noise, Mapping) else self.noise
        found = reconstruct(
            network,
            {name: self.parameters[name] for name in names},
            {name: self.given[name] for name in names},
            loss=self.loss,
            noise=noise,
            valid_range=(-np.inf, np.inf),
            search=0.0,  # what a search finds is unique near itself, and the equations have to hold for every input
            seed=self.seed,
        )
        known = found.determined & np.isfinite(found.input)
        return _Known(found.input, self.spread * np.where(known, found.error_bar, 0.0), known)

    def _through(self, activation: Activation, y: _Known, arriving: _Known) -> tuple[_Known, _Known]:
        """Return what is known below an activation, of the value and of the gradient."""
        f, (z, side, _) = formulas(activation), self._inverse(activation, y)
        value = self._off_plateaus(activation, y, side)
        with np.errstate(invalid="ignore"):
            d = np.where(side != 0, 0.0, f.derivative(value))
        steep = y.known & np.isfinite(d)
        d = np.where(steep, d, 0.0)
        slope = np.where(steep & (side == 0), np.abs(f.slope(np.where(y.known, value, 0.0))), 0.0)
        given = np.where(arriving.known, arriving.value, 0.0)
        error = d * arriving.error + (slope * y.error) * (np.abs(given) + arriving.error)
        known = (arriving.known & (steep | ((given == 0) & (arriving.error == 0)))) | (steep & (side != 0))
        return z, _Known(d * given, error, known)

    def _inverse(self, activation: Activation, y: _Known) -> tuple[_Known, FloatArray, FloatArray]:
        """Return z from y, and side and edge where y lies on a plateau."""
        f = formulas(activation)
        side, edge = np.zeros(y.value.shape), np.zeros(y.value.shape)
        for number, level in enumerate(f.plateaus):
            sign = 1.0 if number == 0 else -1.0
            on = y.known & (side == 0) & (sign * (y.value - level) <= y.error)
            side, edge = np.where(on, sign, side), np.where(on, level, edge)
        value = self._off_plateaus(activation, y, side)
        with np.errstate(invalid="ignore"):
            z, steep = f.inverse(value), f.derivative(value)
        known = y.known & (side == 0) & np.isfinite(z) & (steep > 0)
        # Rounding of y when it was stored, and the error of y, divided by the slope there.
        stored = self.spread * self.arithmetic * np.abs(np.where(known, y.value, 0.0))
        error = (y.error + stored) / np.where(known, steep, 1.0)
        return _Known(np.where(known, z, np.nan), np.where(known | (side != 0), error, 0.0), known), side, edge

    def _off_plateaus(self, activation: Activation, y: _Known, side: FloatArray) -> FloatArray:
        """Return y, in the place of unknown values one at which every formula is finite."""
        safe = 0.5 if formulas(activation).value(np.zeros(1))[0] >= 0 else 0.0
        return np.where(y.known & (side == 0), y.value, safe)

    def _checked(self, layer: PlacedLayer, k: _Known) -> _Known:
        """Forget the k of filters whose bias equation does not hold: some output is on the wrong side of a cut-off."""
        if layer.bias_name is None:
            return k
        value, error = (np.where(k.known, v, 0.0).reshape(layer.filters, -1) for v in (k.value, k.error))
        misfit = np.abs(value.sum(axis=1) - self.gradients[layer.bias_name])
        allowed = error.sum(axis=1) + self.spread * self.deviations[layer.bias_name]
        allowed += self.spread * self.arithmetic * np.sqrt((value**2).sum(axis=1))
        whole = k.known.reshape(layer.filters, -1).all(axis=1)
        wrong = whole & (misfit > allowed)
        return _Known(k.value, k.error, k.known & ~wrong.reshape(-1, *(1,) * len(layer.outputs)))
