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

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray, ParametersLike
from constraint_algebra.equations.systems import weight_equations
from constraint_algebra.errors import ParameterError, ShapeError
from constraint_algebra.networks.activation_pattern import activation_pattern, first_layer
from constraint_algebra.networks.losses import loss_gradients
from constraint_algebra.networks.network import Network, NetworkLike, bind, chain_rule
from constraint_algebra.networks.walk import down
from constraint_algebra.numerics.rows import unit_rows
from constraint_algebra.proofs import intervals, twins
from constraint_algebra.proofs.polytope import Polytope
from constraint_algebra.proofs.twins import Objective, Twin
from constraint_algebra.solvers.null_space import RTOL, TOLERANCE, NullSpace

COEFFICIENTS = 1e-13  # relative error of the coefficients k and W x that outer bounds allow for


@checked
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


@checked
def indistinguishable(
    network: NetworkLike,
    parameters: ParametersLike,
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
    softmax saturated to 1 - 1e-6 and beyond blurs them. `exact` has no rounding at all.

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
    assert isinstance(network, Network)  # whatever stood for it
    bound, x = bind(network, parameters, "parameters"), _checked(network, input, valid_range)
    layer = first_layer(network)
    values = network.forward(bound, x)
    outputs = loss_gradients(values[-1], target, loss)
    last = outputs.T.reshape(*network.output_shape, len(outputs))
    k = down(network.layers[layer.index + 1 :], last, chain_rule(bound, values))
    passing, side, edge = activation_pattern(network, values, layer)
    B, factors = unit_rows(weight_equations(layer, bound[layer.weight_name]).matrix)
    null = NullSpace(layer, np.moveaxis(k, -1, 0), sp.csr_array(B[passing.ravel()]), rtol=rtol, tolerance=tolerance)
    room = side * (edge - values[layer.index + 1]) * factors.reshape(side.shape)
    low, high = valid_range
    polytope = _polytope(null, x, (low, high), B, side, room)
    return IndistinguishabilitySet(network, input=x, valid_range=(low, high), passing=passing, polytope=polytope)


def _polytope(
    null: NullSpace,
    x: FloatArray,
    valid_range: tuple[float, float],
    B: sp.csr_array,
    side: FloatArray,
    room: FloatArray,
) -> Polytope:
    """Return the differences from x that keep the equations, the valid range, and the outputs that are cut off so.

    Args:
        null: the null space of the equations.
        x: the input.
        valid_range: smallest and largest valid value.
        B: weight equations of all outputs, of unit norm.
        side: on which side each output is cut off, 0 where it passes.
        room: how far it may move until it passes.
    """
    (low, high), cut = valid_range, side.ravel() != 0
    return Polytope(
        null=null,
        margin=COEFFICIENTS * (high - low) * np.asarray(abs(null.matrix).sum(axis=1), dtype=float),
        cut=sp.csr_array(B[cut] * side.ravel()[cut][:, None]),
        slack=np.maximum(room.ravel()[cut], 0.0),
        lower=low - x.ravel(),
        upper=high - x.ravel(),
    )


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
