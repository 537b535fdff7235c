"""Proofs of ambiguity: the set of all inputs that a network's gradients cannot tell from a given one.

For one sample, let x be the input and k_l the output gradient of layer l. As long as every activation keeps its side
and all of them are linear in pieces, k_l is a constant, and layer l's input moves by `M_l n` where x moves by n. Let

    A_l(k_l) M_l n = 0              for every layer l up to `Network.start`
    z_l + M_l' n on its side        for every output of a layer with a kink behind it

Then x + n has the same loss and the same gradient of every parameter of the whole network. Conversely, a bias at the
head or another bias gradient that is not zero fixes the output gradient of the head, and with it every k_l: two inputs
of one region with the same gradients differ by such an n. All x + n in the valid range form a polytope, the
indistinguishability set of x. Any other point of it is a *twin*: a proof that the gradients do not determine x. Where
no n moves a value, it is *fixed* in its region.

In a graph the winner of every window stays too, and what nothing sees (another entry wins its window, or a ReLU cuts it
off) is free up to its limit, on whichever side of its own kink: see `regions.needs`.

Where an activation bends (a sigmoid, say), k moves with the input. Then the set is that of the inputs which keep what
enters it, a part of all: `IndistinguishabilitySet.kept` names the layer, the lowest one before such an activation.

Where the whole map is too large, the inputs that keep what leaves the first layers, and the gradients of these, are a
part of the set by sparse rows alone: see `regions.first_equations`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra import memory
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray, Parameters, ParametersLike
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.beyond_rank.implied import implied
from constraint_algebra.errors import ParameterError, ShapeError, UnknownNameError
from constraint_algebra.layers import trilinear
from constraint_algebra.networks.activation_pattern import activation_pattern, first_layer
from constraint_algebra.networks.losses import loss_gradients
from constraint_algebra.networks.network import Network, NetworkLike, bind
from constraint_algebra.proofs import intervals, twins
from constraint_algebra.proofs.polytope import Polytope
from constraint_algebra.proofs.twins import Objective, Twin
from constraint_algebra.proofs.wide import WidePolytope
from constraint_algebra.regions.equations import WholeEquations
from constraint_algebra.regions.first_equations import WORK, FirstEquations, whole_size
from constraint_algebra.regions.inequalities import inequalities
from constraint_algebra.regions.limits import limits
from constraint_algebra.solvers.null_space import RTOL, TOLERANCE

COEFFICIENTS = 1e-13  # relative error of the coefficients k and W x that outer bounds allow for
WHOLE, FIRST = PARTS = ("whole", "first layers")
CANCELS = 1e-9  # a sum of output gradients is zero, if it is a smaller share of the sum of their absolute values


@checked
@dataclass(frozen=True, eq=False)
class IndistinguishabilitySet:
    """Inputs with the same gradients as one input, and every activation on the same side.

    Attributes:
        network: the network.
        input: the input x.
        valid_range: smallest and largest valid value.
        passing: which outputs of the first layer pass their value on, in its output shape.
        polytope: the differences from x.
        kept: name of the value that all points share because an activation that bends reads it, or because only the
            first layers were looked into; `None` where every activation that counts is linear in pieces.
        whole: whether the set holds every valid input with these gradients in the activation region of x.
        part: "whole", or "first layers": the inputs that keep `kept`, all that leaves the first layers.
    """

    network: Network
    input: FloatArray
    valid_range: tuple[float, float]
    passing: BoolArray
    polytope: Polytope
    kept: str | None = None
    whole: bool = False
    part: str = WHOLE

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

    @cached_property
    def fixed_by_range(self) -> BoolArray:
        """Which other values every point of the set shares, as range and inequalities leave them no room.

        Each with multipliers that prove it, see `beyond_rank.weak_duality`; none where only the first layers were
        looked into, whose kernel is too wide for that.
        """
        P, none = self.polytope, np.zeros(self.input.shape, dtype=bool)
        if isinstance(P, WidePolytope) or P.dimension == P.null.nullity:
            return none
        family = Family(np.zeros(self.input.size), P.null.basis, np.zeros(self.input.size))
        found = implied(family, P.lower, P.upper, cut=P.cut, slack=P.slack)
        return none if found is None else found.determined.reshape(self.input.shape) & ~self.fixed

    @property
    def gap(self) -> tuple[float, float]:
        """Smallest singular value that counted and largest that did not, relative to their matrix."""
        return self.polytope.null.gap

    def contains(self, image: ArrayLike, *, tolerance: float = 1e-9) -> bool:
        """Whether an image belongs to the set, each equation (rows of unit norm) and bound up to a tolerance.

        What rounding may have done to an equation comes on top.

        Raises:
            ShapeError: an image of another shape.
        """
        array = np.asarray(image, dtype=float)
        if array.shape != self.input.shape:
            raise ShapeError(f"the set holds inputs of shape {self.input.shape}, got {array.shape}")
        n, P = (array - self.input).ravel(), self.polytope
        return bool(
            (np.abs(P.null.applied(n)) <= tolerance + P.margin).all()
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
        part = "" if self.part == WHOLE else f", of those that keep {self.kept!r}"
        return f"IndistinguishabilitySet{part}: nullity {self.nullity:,}, {fixed:,} of {size:,} values fixed, {passing}"


@checked
def indistinguishable(
    network: NetworkLike,
    parameters: ParametersLike,
    input: ArrayLike,  # noqa: A002 -- the word for it
    target: int | None = None,
    *,
    loss: str | None = "cross_entropy",
    valid_range: tuple[float, float] = (0.0, 1.0),
    part: str | None = None,
    rtol: float = RTOL,
    tolerance: float = TOLERANCE,
) -> IndistinguishabilitySet:
    """Return the set of all inputs that the gradients of one sample cannot tell from `input`.

    With a bias at the head it is *all* of them in the activation region of `input` (`whole`), if every activation up to
    `Network.start` is linear in pieces. It is a part where one bends (`kept`), and without a target.

    Limits: one sample; exact, noise-free equality of the gradients; the activation pattern of `input`; coefficients as
    float64 gives them, so that a softmax saturated to 1 - 1e-6 and beyond blurs them. `exact` has no rounding at all.

    Args:
        network: the architecture; in a chain only reshapes may precede its first layer with a weight.
        parameters: weights, biases and buffers by PyTorch's names.
        input: one sample in the network's input shape, inside the valid range.
        target: its class; without it the set of inputs whose gradients agree for every class, a subset.
        loss: "cross_entropy", "logistic", or `None`: any loss of the network's output (and then any target).
        valid_range: smallest and largest valid value.
        part: "whole" for the rows of all layers, "first layers" for a part of the set by sparse rows alone; by default
            the first, and the second for graphs where that would take more than minutes or memory than there is.
        rtol: singular values below this share of the largest count as zero.
        tolerance: share of a null vector up to which a value counts as fixed.

    Raises:
        ShapeError, ParameterError: input, parameters or class that do not fit, or a network without a weight.
        UnsupportedLayerError, UnknownNameError: an activation before the first layer with a weight; another loss.
        MemoryLimitError: what the first layer leaves open is too much to be held.

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
    values = network.forward(bound, x)
    k = loss_gradients(values[-1], target, loss)
    if _takes_first(network, part):
        first = FirstEquations(network, bound, values, k, rtol=rtol, tolerance=tolerance)
        return _of_first_layers(network, x, valid_range, first)
    centred, one_loss = loss == "cross_entropy", loss == "logistic" or (loss is not None and target is not None)
    null = WholeEquations(network, bound, values, k, centred=centred, rtol=rtol, tolerance=tolerance)
    passing, polytope = _passing(network, values, null), _polytope(bound, values, null, valid_range)
    whole = one_loss and null.kept is None and _is_pinned(network, null)
    return IndistinguishabilitySet(network, x, valid_range, passing, polytope, kept=null.kept, whole=whole)


def _takes_first(network: Network, part: str | None) -> bool:
    """Whether only the first layers are looked at."""
    if part not in {None, *PARTS}:
        raise UnknownNameError(f"part must be one of {', '.join(map(repr, PARTS))}, or None, got {part!r}")
    if part is not None or network.is_chain:
        return part == FIRST
    work, size = whole_size(network)
    return work > WORK or size > memory.limit()


def _of_first_layers(
    network: Network, x: FloatArray, valid_range: tuple[float, float], null: FirstEquations
) -> IndistinguishabilitySet:
    """Return the set of the inputs that keep what leaves the first layers, and their gradients."""
    (low, high), flat, layer = valid_range, x.ravel(), network.bilinear[0]
    sides = null.limits((low - flat, high - flat))
    polytope = WidePolytope(
        null=null,
        margin=COEFFICIENTS * (high - low) * null.blur * null.lengths(),
        cut=sides.rows,
        slack=sides.slack,
        lower=low - flat,
        upper=high - flat,
        blur=COEFFICIENTS,
    )
    passing = null.region.passing[layer.name].reshape(layer.output_shape)
    return IndistinguishabilitySet(network, x, valid_range, passing, polytope, kept=null.kept, part=FIRST)


def _polytope(
    parameters: Parameters, values: list[FloatArray], null: WholeEquations, valid_range: tuple[float, float]
) -> Polytope:
    """Return the differences from the input that keep the equations, the valid range, and the sides of activations."""
    (low, high), x = valid_range, values[0].ravel()
    if null.region is None:
        sides = inequalities(null.network, parameters, values, null.sides, null.basis, (low - x, high - x))
    else:
        sides = limits(null.region, null.climb, null.basis, (low - x, high - x))
    return Polytope(
        null=null,
        margin=COEFFICIENTS * (high - low) * null.blur * null.lengths(),
        cut=sides.rows,
        slack=sides.slack,
        lower=low - x,
        upper=high - x,
        reduced=sides.reduced,
        blur=COEFFICIENTS,
    )


def _passing(network: Network, values: list[FloatArray], null: WholeEquations) -> BoolArray:
    """Return which outputs of the first layer count: those that something above sees."""
    if null.region is None:
        return activation_pattern(network, values, first_layer(network))[0]
    layer = network.bilinear[0]
    return null.region.passing[layer.name].reshape(layer.output_shape)


def _is_pinned(network: Network, equations: WholeEquations) -> bool:
    """Whether equal gradients mean equal output gradients, where all activations are linear in pieces.

    The bias gradient of a layer with one output position is its k. Without a bias at the head its gradient leaves a
    factor open, which all k share and every other bias gradient that is not zero betrays.
    """
    start, head = network.start, network.head
    if start is None:
        return False
    if start.bias_name is not None and (equations.covered or (head is not None and head.bias_name is not None)):
        return True
    with_bias = [x for x in network.bilinear if x.bias_name is not None and x.index <= start.index]
    sums = [trilinear.bias_gradient(x, equations.k[x.name][..., 0]) for x in with_bias]
    sizes = [trilinear.bias_gradient(x, np.abs(equations.k[x.name][..., 0])) for x in with_bias]
    told = any((np.abs(a) > CANCELS * b).any() for a, b in zip(sums, sizes, strict=True))
    return start == head and equations.covered and told


def _checked(network: Network, values: ArrayLike, valid_range: tuple[float, float]) -> FloatArray:
    x, (low, high) = np.array(values, dtype=float), valid_range
    if not (np.isfinite([low, high]).all() and low < high):
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
