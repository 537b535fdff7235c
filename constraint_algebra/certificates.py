"""Proofs of ambiguity: the set of all inputs that a network's gradients cannot tell from a given one.

For one sample, let x be the input of the first layer with a weight, A its gradient equations and B its weight
equations. Let n satisfy

    A n[c] = 0                      for every channel c
    B_r n = 0                       for every output r whose activation passes its value on
    B_r (x + n) + b_r cut off       for every output that a ReLU or the like cuts off at x, on the same side

Then x + n has the same activations, the same loss, and the same gradient of every parameter of the whole network: the
layers above see no difference, and the first layer's gradient is `A (x + n) = A x`. All such x + n in the valid range
form a polytope, the indistinguishability set of x. Any other point of it is a *twin*: a proof that the gradients do not
determine x. Where the null space of A and B is zero, a value is *fixed* given the layer's activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax

from constraint_algebra import contractions, intervals, twins
from constraint_algebra.activations import formulas
from constraint_algebra.equations import weight_equations
from constraint_algebra.errors import LayerProblem, ParameterError, ShapeError, UnknownNameError, UnsupportedLayerError
from constraint_algebra.layers import Activation, Flatten, PlacedLayer
from constraint_algebra.network import Network, Parameters, bind
from constraint_algebra.null_space import RTOL, TOLERANCE, NullSpace, unit_rows
from constraint_algebra.polytope import Polytope
from constraint_algebra.twins import Objective, Twin

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

COEFFICIENTS = 1e-13  # relative error of the coefficients k and W x that outer bounds allow for


@dataclass(frozen=True, eq=False)
class IndistinguishabilitySet:
    """All inputs with the same gradients as one input, the activation pattern of its first layer kept.

    Attributes:
        network: the network.
        input: the input x.
        valid_range: smallest and largest valid value.
        passing: which outputs of the first layer pass their value on, in its output shape.
        polytope: the differences from x.
    """

    network: Network
    input: FloatArray
    valid_range: tuple[float, float]
    passing: BoolArray
    polytope: Polytope

    @property
    def nullity(self) -> int:
        """Dimension of the null space of the equations, before the inequalities."""
        return self.polytope.null.nullity

    @property
    def dimension(self) -> int:
        """Dimension of the set: the nullity, less the inequalities that leave no room on either side."""
        return self.polytope.dimension

    @property
    def fixed(self) -> BoolArray:
        """Which values every point of the set shares by the equations alone, in the input shape."""
        return self.polytope.null.fixed.reshape(self.input.shape)

    @property
    def gap(self) -> tuple[float, float]:
        """Smallest singular value that counted and largest that did not, relative to their matrix."""
        return self.polytope.null.gap

    def contains(self, image: ArrayLike, *, tolerance: float = 1e-9) -> bool:
        """Whether an image belongs to the set, each equation (rows of unit norm) and bound up to a tolerance.

        Raises:
            ShapeError: an image of another shape.
        """
        array = np.asarray(image, dtype=float)
        if array.shape != self.input.shape:
            raise ShapeError(f"the set holds inputs of shape {self.input.shape}, got {array.shape}")
        n, P = (array - self.input).ravel(), self.polytope
        return bool(
            (np.abs(P.null.matrix @ n) <= tolerance).all()
            and (P.cut @ n <= P.slack + tolerance).all()
            and (n >= P.lower - tolerance).all()
            and (n <= P.upper + tolerance).all()
        )

    def interval(
        self, pixel: tuple[int, ...], *, time_limit: float | None = None, solver: str | None = None
    ) -> intervals.Interval:
        """Return the smallest and the largest value of a pixel over the set, by linear programming.

        Each end comes from inside (a point of the set has it) and from outside (weak duality), so that a result after
        `time_limit` seconds is as sound as a finished one. `solver` is "interior-point" or "highs"; by default the
        first, whose dense coordinates suit these sets, and HiGHS for a set without an interior.

        Raises:
            ShapeError: no such pixel.
            UnknownNameError: no such solver.
        """
        return intervals.interval(
            self.polytope, self.input, pixel, self.valid_range, time_limit=time_limit, solver=solver
        )

    def twin(self, objective: Objective = "mean", *, seed: int = 0, time_limit: float | None = None) -> Twin | None:
        """Return a twin of the input, or `None` where there is none; see `twins.find_twin` for the objectives."""
        return twins.find_twin(self.polytope, self.input, objective, seed=seed, time_limit=time_limit)

    def __repr__(self) -> str:
        """Return the numbers that matter."""
        fixed, size = int(self.fixed.sum()), self.fixed.size
        passing = f"{int(self.passing.sum()):,} of {self.passing.size:,} outputs pass"
        return f"IndistinguishabilitySet: nullity {self.nullity:,}, {fixed:,} of {size:,} values fixed, {passing}"


def indistinguishable(
    network: Network,
    parameters: Mapping[str, Any],
    input: ArrayLike,  # noqa: A002 -- the word for it
    target: int | None = None,
    *,
    loss: str | None = "cross_entropy",
    valid_range: tuple[float, float] = (0.0, 1.0),
    rtol: float = RTOL,
    tolerance: float = TOLERANCE,
) -> IndistinguishabilitySet:
    """Return the set of all inputs that the gradients of one sample cannot tell from `input`.

    Limits: one sample; exact, noise-free equality of the gradients; the activation pattern of `input` in the first
    layer (other patterns may hold more inputs with the same gradients); coefficients as float64 gives them, so that a
    softmax saturated to 1 - 1e-6 and beyond blurs them. `exact_certificates` has no rounding at all.

    Args:
        network: the architecture; only reshapes may precede its first layer with a weight.
        parameters: weights and biases by PyTorch's names.
        input: one sample in the network's input shape, inside the valid range.
        target: its class; without it the set of inputs whose gradients agree for every class, a subset.
        loss: "cross_entropy", "logistic", or `None`: any loss of the network's output (and then any target).
        valid_range: smallest and largest valid value.
        rtol: singular values below this share of the largest count as zero.
        tolerance: share of a null vector up to which a value counts as fixed.

    Raises:
        ShapeError: an input of another shape, or a network without a weight.
        ParameterError: parameters that do not fit, an input outside the valid range, a class that does not exist.
        UnsupportedLayerError: an activation before the first layer with a weight.
        UnknownNameError: a loss of another name.

    >>> from constraint_algebra.layers import Conv1d, Flatten, Linear, ReLU
    >>> net = Network((1, 4), [Conv1d(1, 2, stride=2), ReLU(), Flatten(), Linear(2, bias=False)])
    >>> values = {"0.weight": [[[1.0, 1.0]]], "0.bias": [-1.0], "3.weight": [[1.0, 2.0], [2.0, 1.0]]}
    >>> found = indistinguishable(net, values, [[0.75, 0.5, 0.25, 0.5]], target=0)  # the second output is cut off
    >>> found.fixed, found.dimension
    (array([[ True,  True, False, False]]), 2)
    >>> found.interval((0, 2))
    Interval: from 0 to 1, at least from 0 to 1
    >>> found.twin((0, 2)).image.round(3)
    array([[0.75, 0.5 , 1.  , 0.  ]])
    """
    bound, x = bind(network, parameters, "parameters"), _checked(network, input, valid_range)
    layer = first_layer(network)
    values = network.forward(bound, x)
    k = _output_gradients(network, bound, values, layer, _loss_gradients(values[-1], target, loss))
    passing, sign, edge = activation_pattern(network, values, layer)
    B, factors = unit_rows(weight_equations(layer, bound[layer.weight_name]).matrix)
    null = NullSpace(layer, k, sp.csr_array(B[passing.ravel()]), rtol=rtol, tolerance=tolerance)
    cut, low, high = ~passing.ravel(), *valid_range
    z, sign, edge = values[layer.index + 1].ravel()[cut], sign.ravel()[cut], edge.ravel()[cut]
    C = sp.csr_array(B[cut] * sign[:, None])
    slack = np.maximum(sign * (edge - z) * factors[cut], 0.0)
    return IndistinguishabilitySet(
        network=network,
        input=x,
        valid_range=(low, high),
        passing=passing,
        polytope=Polytope(
            null=null,
            margin=COEFFICIENTS * (high - low) * np.asarray(abs(null.matrix).sum(axis=1), dtype=float),
            cut=C,
            slack=slack,
            lower=low - x.ravel(),
            upper=high - x.ravel(),
        ),
    )


def first_layer(network: Network) -> PlacedLayer:
    """Return the first layer with a weight.

    Raises:
        ShapeError: there is none.
        UnsupportedLayerError: something other than a reshape precedes it.
    """
    if not network.bilinear:
        raise ShapeError("the network has no layer with a weight, and so no gradient")
    layer = network.bilinear[0]
    before = [other for other in network.layers[: layer.index] if not isinstance(other.layer, Flatten)]
    if before:
        reason = f"{before[0].kind} before the first layer with a weight bends the set of inputs"
        advice = "certify the network from that layer on, for its output as input"
        raise UnsupportedLayerError([LayerProblem(before[0].name, reason, advice)])
    return layer


def activation_pattern(
    network: Network, values: list[FloatArray], layer: PlacedLayer
) -> tuple[BoolArray, FloatArray, FloatArray]:
    """Return which outputs of a layer pass, and for those cut off the side and the edge: `side * (z - edge) <= 0`.

    An activation that is one-to-one passes everything. Where several follow each other, the edge of a later one is
    carried back through the earlier ones.
    """
    passing = np.ones(layer.output_shape, dtype=bool)
    side, edge = np.zeros(layer.output_shape), np.zeros(layer.output_shape)
    earlier: list[Activation] = []
    for later in network.layers[layer.index + 1 :]:
        if later.is_bilinear:
            break
        if not isinstance(later.layer, Activation):
            continue
        z = values[later.index].reshape(layer.output_shape)
        for number, level in enumerate(formulas(later.layer).plateaus):
            sign = 1.0 if number == 0 else -1.0
            limit = np.array(level)
            for before in reversed(earlier):
                limit = formulas(before).inverse(limit)
            cut = passing & (sign * (z - level) <= 0) & np.isfinite(limit)
            passing, side, edge = passing & ~cut, np.where(cut, sign, side), np.where(cut, limit, edge)
        earlier.append(later.layer)
    return passing, side, edge


def _checked(network: Network, values: ArrayLike, valid_range: tuple[float, float]) -> FloatArray:
    x, (low, high) = np.array(values, dtype=float), valid_range
    if not low < high:
        raise ParameterError("valid_range", f"valid_range must be (smallest, largest), got {valid_range}")
    if x.shape != network.input_shape:
        raise ShapeError(f"the input must have shape {network.input_shape}, one sample without batch; got {x.shape}")
    if not ((x >= low) & (x <= high)).all():
        raise ParameterError(
            "input",
            f"the input must lie in the valid range from {low:g} to {high:g}, got values from {x.min():g} to"
            f" {x.max():g}; pass valid_range=(smallest, largest)",
        )
    return x


def _loss_gradients(output: FloatArray, target: int | None, loss: str | None) -> FloatArray:
    """Return a basis of the gradients that the loss can have at the output, `(number, outputs)`."""
    z = output.ravel()
    if loss is None:
        return np.eye(len(z))
    if loss not in {"cross_entropy", "logistic"}:
        raise UnknownNameError(f'loss must be "cross_entropy", "logistic" or None, got {loss!r}')
    classes = 2 if loss == "logistic" else len(z)
    if target is not None and (int(target) != target or not 0 <= target < classes):
        raise ParameterError("target", f"target must be a class from 0 to {classes - 1}, got {target!r}")
    if loss == "logistic":
        if len(z) != 1:
            raise ShapeError(f'loss="logistic" needs one output, the network has {len(z)}; use "cross_entropy"')
        return np.array([[1.0 if target is None else expit(z[0]) - target]])
    gradients = np.tile(softmax(z), (classes, 1))
    np.fill_diagonal(gradients, 0.0)
    gradients -= np.diag(gradients.sum(axis=1))  # p - 1 without cancellation
    return gradients if target is None else gradients[[target]]


def _output_gradients(
    network: Network, parameters: Parameters, values: list[FloatArray], layer: PlacedLayer, outputs: FloatArray
) -> FloatArray:
    """Return the gradients at the output of a layer, `(number, *output_shape)`."""
    k = outputs.T.reshape(*network.output_shape, len(outputs))
    for above in reversed(network.layers[layer.index + 1 :]):
        if above.is_bilinear:
            k = contractions.input_gradient(above, parameters[above.weight_name], k)
        elif isinstance(above.layer, Activation):
            k = k * formulas(above.layer).derivative(values[above.index + 1])[..., None]
        else:
            k = k.reshape(*above.input_shape, -1)
    return np.moveaxis(k, -1, 0)
