"""Twins of a model of which only the first layer is looked into, whatever follows: attention, normalisation, GELU.

A model may read its input through one convolution or linear layer alone, `z = B(W) h + b` with h affine in the input x,
`h = R x + c`. Whatever the rest computes, it computes it from z. So let k be the gradient of the loss at z, taken by
one backward pass of the real model, and n a change of the input with

    B(W) R n = 0              no output of the layer changes, hence nothing behind it, k included
    A(k) R n = 0              the gradient of its weight, A(k) h, does not change
    low <= x + n <= high

Then x + n has the same loss and the same gradient of every parameter: it is a twin. Nothing was assumed of the rest but
that it is a function of z, of the parameters, and of nothing else; `first_operation` shows that. Batch normalisation in
training mode is no exception: its statistics are those of what follows z.

The converse does not hold. Other inputs may change z and still have the same gradients, so that what these twins leave
alone is not shown to be fixed. Only where the layer has a single output position and a bias of its own, the bias
gradient is k: then any input with the same gradients obeys the second line.

Where a ReLU or a max-pool is all that reads z, outputs that it cuts off or passes over need not stay, only remain so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import BoolArray, FloatArray
from constraint_algebra.equations.systems import weight_equations
from constraint_algebra.errors import ParameterError, ShapeError, UnsupportedLayerError
from constraint_algebra.networks.network import Network
from constraint_algebra.numerics.rows import unit_rows
from constraint_algebra.proofs.first_layer_rows import kernel_of
from constraint_algebra.proofs.freedom import Freedom, freedom
from constraint_algebra.proofs.indistinguishable import COEFFICIENTS, IndistinguishabilitySet
from constraint_algebra.proofs.polytope import Polytope
from constraint_algebra.pytorch.first_operation import FirstOperation, first_operation
from constraint_algebra.pytorch.unsupported import AS_IT_IS
from constraint_algebra.pytorch.verification import Model
from constraint_algebra.solvers.null_space import RTOL, TOLERANCE, Kernel

NOTHING = 1e-12  # a gradient that is a smaller share of the largest is rounding


@checked
@dataclass(frozen=True, eq=False)
class FirstLayerSet(IndistinguishabilitySet):
    """Inputs that leave the outputs and the weight gradient of a model's first layer as they are: a part of its twins.

    `network` is the part of the model that was looked into, over what its first layer reads; `kept` names that layer.

    Attributes:
        known: which input values all valid inputs with these gradients share, by the first layer's gradients alone.
        reach: how far values that are known may differ at most, infinite for the others.
    """

    known: BoolArray = None  # type: ignore[assignment]
    reach: FloatArray = None  # type: ignore[assignment]

    @property
    def ground(self) -> str:
        """What every statement about the set rests on, as a sentence."""
        freely = ", as far as what alone reads them passes them on" if len(self.network) > 1 else ""
        told = "; its bias gradient is that output gradient, for every input" if self.known.any() else ""
        return (
            f"the first layer, {self.kept!r}, through which alone the model reads its input: twins keep its"
            f" outputs{freely}, and its weight gradient at the output gradient of one real backward pass{told}; the"
            " rest of the model may be anything"
        )

    def __repr__(self) -> str:
        """Return the numbers that matter."""
        return f"FirstLayerSet of layer {self.kept!r}{super().__repr__().removeprefix('IndistinguishabilitySet')}"


def first_layer_set(
    model: Model,
    values: ArrayLike,
    target: int,
    *,
    loss: str = "cross_entropy",
    valid_range: tuple[float, float] = (0.0, 1.0),
    rtol: float = RTOL,
    tolerance: float = TOLERANCE,
) -> FirstLayerSet:
    """Return the twins that any model allows which reads its input through one convolution or linear layer.

    Args:
        model: any model of `torch_gradients`.
        values: one sample without a batch axis, inside the valid range.
        target: its class.
        loss: as for `torch_gradients`.
        valid_range: smallest and largest valid value.
        rtol: singular values below this share of the largest count as zero.
        tolerance: share of a null vector up to which a value counts as fixed.

    Raises:
        UnsupportedLayerError: the input is read by anything else, or by something else first.
        ShapeError, ParameterError: an input that does not fit.
        MemoryLimitError: what the layer leaves open is too much to be held.
    """
    x, (low, high) = np.array(values, dtype=float), valid_range
    if not (np.isfinite([low, high]).all() and low < high):
        raise ParameterError("valid_range", f"valid_range must be (smallest, largest), got {valid_range}")
    if not x.size:
        raise ShapeError(f"input has no values, its shape is {x.shape}; give one sample without a batch axis")
    if not ((x >= low) & (x <= high)).all():
        raise ParameterError(
            "input",
            f"the input must lie in the valid range from {low:g} to {high:g}, got values from {x.min():g} to"
            f" {x.max():g}; pass valid_range=(smallest, largest)",
        )
    found = first_operation(model, x, target, loss)
    free = _freedom(found)
    cut: dict[str, float] = {"rtol": rtol, "tolerance": tolerance}
    kernel = kernel_of(found.layer, found.output_gradient, found.weight, free.kept, found.map, x.shape, **cut)
    names = [found.layer.name, *(f"{found.layer.name} + {i + 1}" for i in range(len(found.then)))]
    known, reach = _known(found, x, valid_range)
    return FirstLayerSet(
        Network(found.layer.input_shape, [found.layer.layer, *found.then], names),
        input=x,
        valid_range=valid_range,
        passing=free.kept.reshape(found.layer.output_shape),
        polytope=_polytope(kernel, x, valid_range, _sides(found, free)),
        kept=found.layer.name,
        known=known,
        reach=reach,
    )


def _freedom(found: FirstOperation) -> Freedom:
    """Return which outputs must stay; all of them where the real gradient contradicts what the layers behind say."""
    free = freedom(found.output, found.then)
    k = np.abs(found.output_gradient).ravel()
    if (k[~free.kept] > NOTHING * k.max(initial=0.0)).any():
        return freedom(found.output, ())
    return free


def _sides(found: FirstOperation, free: Freedom) -> tuple[sp.csr_array, FloatArray]:
    """Return inequalities `C n <= slack` of unit norm for the outputs that may move, over the model's input."""
    if free.kept.all():
        return sp.csr_array((0, found.map.shape[1])), np.zeros(0)
    rows = weight_equations(found.layer, found.weight).matrix
    z, parts, slacks = found.output.ravel(), [], []
    for sign, bound in ((1.0, free.high), (-1.0, free.low)):
        chosen = np.flatnonzero(~free.kept & np.isfinite(bound))
        own, factors = unit_rows(sp.csr_array(rows[chosen] @ found.map))
        some = np.diff(own.indptr) > 0
        parts.append(sign * own[some])
        slacks.append((np.maximum(sign * (bound - z)[chosen], 0.0) * factors)[some])
    return sp.csr_array(sp.vstack(parts, format="csr")), np.concatenate(slacks)


def _polytope(
    kernel: Kernel, x: FloatArray, valid_range: tuple[float, float], sides: tuple[sp.csr_array, FloatArray]
) -> Polytope:
    """Return the differences from the input that keep equations, inequalities and the valid range."""
    (low, high), flat = valid_range, x.ravel()
    return Polytope(
        null=kernel,
        margin=COEFFICIENTS * (high - low) * kernel.blur * kernel.lengths(),
        cut=sides[0],
        slack=sides[1],
        lower=low - flat,
        upper=high - flat,
        blur=COEFFICIENTS,
    )


def _known(found: FirstOperation, x: FloatArray, valid_range: tuple[float, float]) -> tuple[BoolArray, FloatArray]:
    """Return what the gradients of the layer alone fix for all inputs, and to within what.

    With one output position a bias gradient is k itself, and the weight gradient is then linear in the input.
    """
    layer = found.layer
    nothing = np.zeros(x.shape, dtype=bool), np.full(x.shape, np.inf)
    if math.prod(layer.outputs) != 1 or layer.bias_name is None or not found.owned or not found.output_gradient.any():
        return nothing
    none = np.zeros(math.prod(layer.output_shape), dtype=bool)
    kernel = kernel_of(layer, found.output_gradient, found.weight, none, found.map, x.shape)
    polytope = _polytope(kernel, x, valid_range, (sp.csr_array((0, x.size)), np.zeros(0)))
    reach = np.full(x.size, np.inf)
    some = np.flatnonzero(kernel.fixed)
    if len(some):
        reach[some] = polytope.reach(some)
    return kernel.fixed, reach.reshape(x.shape)


def joined(refused: UnsupportedLayerError, other: UnsupportedLayerError) -> UnsupportedLayerError:
    """Return one error with the reasons why a model is no network and why its first layer is not enough."""
    return UnsupportedLayerError([*refused.problems, *other.problems], AS_IT_IS)
