"""What leaks if the gradient of a single layer is shared: its input and its output gradient, from nothing else.

No parameters, no other layer, no label: `dL/dW` alone is a bilinear function of both, and often an invertible one
(`blind` of the room `solvers`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.display import Table, Tabular
from constraint_algebra.errors import ArgumentRangeError, ShapeError, ZeroGradientError
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks.binding import as_float
from constraint_algebra.networks.network import Network
from constraint_algebra.numerics.blas_threads import one_blas_thread
from constraint_algebra.recursion.ensemble import Ensemble
from constraint_algebra.recursion.noise import STORED_SOLUTION, Precision, deviations_of, precision
from constraint_algebra.solvers import blind, blind_search

FEW_MEMBERS = 1.045  # a normal error lies within so many estimates of twelve members as often as within one deviation
SUMS_TO_ZERO = (
    "the output gradient of each filter sums to zero, as it does below a normalisation of each channel by its own"
    " statistics, such as batch norm in training mode"
)
ACTIVE = 5.0  # error bars from zero beyond which an output gradient is not zero


@checked
@dataclass(frozen=True, repr=False)
class BlindStart(Tabular):
    """The result of `blind_start`.

    Without the factor, k and h are those of equal norms whose h has a positive sum: for some number c of each group
    the true ones are `c k` and `h / c`.

    Attributes:
        layer: the layer.
        found: whether k and h are determined, up to one factor a group at least.
        reason: why not, or on what the finding rests.
        everywhere: whether no other k and h at all have this weight gradient; otherwise only none near these.
        factor_known: whether the factors are known too, so that k and h are the client's own.
        input: h, the layer's input, in its input shape; NaN where nothing is found.
        input_error_bar: one standard deviation of each value, infinite where nothing is found.
        output_gradient: k, the gradient of the loss with respect to the layer's output.
        output_gradient_error_bar: one standard deviation of each of its values.
        misfit: root mean square residual of the weight gradient in units of its noise; about one or less.
        singular: smallest singular value of k and of h in space, relative to the largest.
        certainty: the same in units of its own noise; what a full rank rests on.
    """

    layer: PlacedLayer
    found: bool
    reason: str
    everywhere: bool
    factor_known: bool
    input: FloatArray
    input_error_bar: FloatArray
    output_gradient: FloatArray
    output_gradient_error_bar: FloatArray
    misfit: float
    singular: tuple[float, float]
    certainty: tuple[float, float]

    @property
    def active(self) -> BoolArray:
        """Which output gradients differ from zero by more than noise; of the others the outputs were cut off."""
        return np.asarray(np.abs(self.output_gradient) > ACTIVE * self.output_gradient_error_bar)

    @property
    def conclusion(self) -> str:
        """The outcome in one sentence."""
        if not self.found:
            return f"not determined by this weight gradient: {self.reason}"
        factor = "exactly" if self.factor_known else "up to one factor" + (" a group" * (self.layer.groups > 1))
        return f"input and output gradient are determined {factor}: {self.reason}"

    def _shown(self) -> Table:
        import pandas as pd

        sides = (
            ("input", self.input, self.input_error_bar),
            ("output gradient", self.output_gradient, self.output_gradient_error_bar),
        )
        rows = [
            {
                "value": name,
                "shape": "x".join(map(str, values.shape)),
                "largest": f"{np.abs(values).max():.3g}",
                "largest error bar": f"{bars.max():.1e}",
                "smallest singular value": f"{self.singular[1 - side]:.1e}",
                "in units of its noise": f"{self.certainty[1 - side]:.1e}",
            }
            for side, (name, values, bars) in enumerate(sides)
        ]
        return Table(pd.DataFrame(rows), f"Layer {self.layer.name!r} by itself: {self.conclusion}")


@checked
@one_blas_thread()
def blind_start(
    layer: PlacedLayer | Network,
    weight_gradient: ArrayLike,
    bias_gradient: ArrayLike | None = None,
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> BlindStart:
    """Return what the gradient of one layer alone tells of the layer's input and output gradient.

    For a convolution whose taps reach both neighbours of every position, with at least as many filters and channels (of
    each group) as outputs, `dL/dW` determines both up to one factor, if they have full rank in space; a bias gradient
    gives the factor. Where the k of each filter sums to zero, as below batch norm in training mode, nothing does. A
    small layer of fewer filters or channels is searched from random starts; what that finds is unique near itself.

    Args:
        layer: a convolution or linear layer at its place; or a network in which one layer alone has such a weight.
        weight_gradient: dL/dW of one sample, as PyTorch stores it; its type's precision sets the noise floor.
        bias_gradient: dL/db of the same layer.
        noise: standard deviation of noise added to both, beyond their rounding.
        seed: of the noise ensemble and of the starts of the search.

    Returns:
        A `BlindStart`. That nothing is determined is no error: `.found` and `.reason` say so.

    Raises:
        ShapeError: a layer whose shapes leave more open than a factor, whatever the gradient (with stride 2 and three
            taps as many directions as there are outputs, with a single tap their square), or one of too few filters or
            channels that is too large for a search.
        ParameterError: gradients that do not fit the layer.
        NonFiniteError: NaN or infinity among them.
        ZeroGradientError: a weight gradient of zeros.
        ArgumentRangeError: a negative noise.

    >>> from constraint_algebra.layers import Conv1d, trilinear
    >>> layer, random = Conv1d(6, 3, padding=1).place((5, 4), "conv"), np.random.default_rng(0)
    >>> k, h = random.normal(size=(6, 4)), random.normal(size=(5, 4))
    >>> result = blind_start(layer, trilinear.weight_gradient(layer, k, h), k.sum(axis=1))
    >>> result.factor_known, bool(abs(result.input - h).max() < 1e-13)
    (True, True)
    >>> blind_start(Conv1d(6, 1).place((5, 4), "conv"), np.ones((6, 5, 1)))
    Traceback (most recent call last):
    constraint_algebra.errors.ShapeError: layer conv by itself: its taps leave 16 directions of k and h free, not only
    their common factor (kernel 1, stride 1); with the parameters and gradients of all layers see ca.reconstruct, and
    for what shapes decide ca.feasibility
    """
    if not (noise >= 0 and np.isfinite(noise)):
        raise ArgumentRangeError("noise", f"noise must be a standard deviation, finite and not negative, got {noise!r}")
    placed = _only(layer, weight_gradient) if isinstance(layer, Network) else layer
    _refuse_shapes(placed)
    came = {"weight_gradient": weight_gradient} | ({} if bias_gradient is None else {"bias_gradient": bias_gradient})
    shapes = {"weight_gradient": placed.stored_shape, "bias_gradient": (placed.filters,)}
    given = {name: as_float(name, values, shapes[name], "gradients") for name, values in came.items()}
    if not given["weight_gradient"].any():
        raise ZeroGradientError(
            "weight_gradient", "weight_gradient is zero throughout, which says nothing of the input"
        )
    rounding = precision(came)
    given["weight_gradient"] = np.asarray(placed.canonical(given["weight_gradient"]))
    return _found(placed, given, deviations_of(given, rounding, noise), rounding, seed)


def _only(network: Network, weight_gradient: ArrayLike) -> PlacedLayer:
    """Return the one layer of a network with a weight of the gradient's shape."""
    shape = tuple(np.shape(weight_gradient))
    fitting = [layer for layer in network.bilinear if layer.stored_shape == shape]
    if len(fitting) == 1:
        return fitting[0]
    have = ", ".join(f"{layer.name} {layer.stored_shape}" for layer in network.bilinear)
    which = "several layers" if fitting else "no layer"
    raise ShapeError(
        f"layer: {which} of the network has a weight of shape {shape}, that of weight_gradient; it has {have}; give the"
        " layer itself, such as network[0]"
    )


def _refuse_shapes(layer: PlacedLayer) -> None:
    """Refuse a layer whose shapes leave more than a factor open."""
    if not layer.is_bilinear:
        raise ShapeError(f"layer {layer.name} ({layer.kind}) has no weight, and so no weight gradient; choose another")
    why, large = blind.obstacle(layer), blind_search.too_large(layer)
    if why is not None and large is not None:
        if "free" not in why:  # the shapes leave no more than a factor open
            why = f"{why}, and {large}"
        raise ShapeError(
            f"layer {layer.name} by itself: {why}; with the parameters and gradients of all layers see ca.reconstruct,"
            " and for what shapes decide ca.feasibility"
        )


def _found(
    layer: PlacedLayer, given: dict[str, FloatArray], deviations: dict[str, FloatArray], rounding: Precision, seed: int
) -> BlindStart:
    """Return the result for numbers that fit the layer."""
    dW, own = given["weight_gradient"], deviations["weight_gradient"]
    factored = blind.attempt(layer, dW, own, arithmetic=rounding.arithmetic)
    reason = "no other has this weight gradient"
    if isinstance(factored, blind.Refused):
        centred = blind.attempt(layer, dW, own, arithmetic=rounding.arithmetic, centred=True)
        if isinstance(centred, blind.Factored):
            factored, reason = centred, f"{reason}; {SUMS_TO_ZERO}"
    everywhere = isinstance(factored, blind.Factored)
    if isinstance(factored, blind.Refused) and blind_search.too_large(layer) is None:
        refused = factored.reason
        factored = blind_search.search(layer, dW, own, arithmetic=rounding.arithmetic, seed=seed)
        if isinstance(factored, blind.Refused):
            factored = blind.Refused(f"{refused}; {factored.reason}")
        reason = "no other near it has this weight gradient; that none elsewhere has is not proven"
    if isinstance(factored, blind.Refused):
        return _nothing(layer, factored.reason)
    draw = Ensemble(seed).draw
    moves = blind.moved(factored, draw(factored.deviations, layer.weight_shape))
    k, h = factored.output_gradient, factored.input
    scale = None
    if "bias_gradient" in given:
        db, of_db = given["bias_gradient"], deviations["bias_gradient"]
        scale = blind.scale_from_bias(factored, db, of_db, moved_k=moves[0], draw=draw)
        if scale is None:
            reason += (
                "; the sums of k are zero to their noise or contradict the bias gradient, so that the factor is open"
            )
        else:
            k, h, *after = blind.scaled(factored, scale, moves)
            moves = after[0], after[1]
    of_k, of_h = (_bar(values, by) for values, by in zip((k, h), moves, strict=True))
    evidence = factored.misfit, factored.singular, factored.certainty
    return BlindStart(layer, True, reason, everywhere, scale is not None, h, of_h, k, of_k, *evidence)


def _bar(values: FloatArray, moved: FloatArray) -> FloatArray:
    """Return the error bars of values from how noise moves them."""
    spread = FEW_MEMBERS * np.sqrt((moved**2).mean(axis=-1))
    return np.asarray(np.hypot(spread, STORED_SOLUTION * np.abs(values)))


def _nothing(layer: PlacedLayer, reason: str) -> BlindStart:
    shapes = layer.input_shape, layer.output_shape
    h, k = (np.full(shape, np.nan) for shape in shapes)
    of_h, of_k = (np.full(shape, np.inf) for shape in shapes)
    unknown = (np.nan, np.nan)
    return BlindStart(layer, False, reason, False, False, h, of_h, k, of_k, np.nan, unknown, unknown)
