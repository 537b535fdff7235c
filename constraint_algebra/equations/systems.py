"""Weight, gradient and bias equations of a layer as explicit sparse linear systems with named rows and unknowns.

For a layer with input x, weight W, bias b, pre-activation z and output gradient k = dL/dz:

    weight equations     B(W) x = z - b                rows z[f, o],         unknowns x[c, q]
    gradient equations   A(k) x[c] = dL/dW[:, c]       rows dL/dW[f, c, t],  unknowns x[c, q]
    bias equations       sum over o of k[f, o] = dL/db[f]                    unknowns k[f, o]

(Eltaras et al. 2024, arXiv 2406.04227; Zhu and Blaschko 2021, arXiv 2010.07733.) All three are contractions of one
incidence. `A` does not depend on the channel: the gradient equations of a layer are the Kronecker product of an
identity with `gradient_block`, one block for each group.

Order: unknowns (c, *position), weight rows (f, *output) and gradient rows (c, f, *tap), each in C order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from constraint_algebra import memory
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.display import draw
from constraint_algebra.equations.names import Names
from constraint_algebra.errors import ParameterError, ShapeError
from constraint_algebra.layers.incidence import incidence
from constraint_algebra.layers.kinds import PlacedLayer, Shape
from constraint_algebra.numerics.blocks import blocks
from constraint_algebra.numerics.modular import echelon, residues
from constraint_algebra.numerics.null_space import NullSpace, null_space, numerical_rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What each array's axes are, for messages.
AXES = {
    "weight": "(filters, channels / groups, *kernel)",
    "weight_gradient": "the weight's, (filters, channels / groups, *kernel)",
    "bias": "(filters,)",
    "bias_gradient": "(filters,)",
    "output": "the layer's output shape, (filters, *positions)",
    "output_gradient": "the layer's output shape, (filters, *positions)",
}

ENTRY = 64.0  # bytes for each coefficient: its number and place, once while collected and once sorted by rows


@checked
@dataclass(frozen=True)
class LinearSystem:
    """A sparse linear system `matrix @ unknowns = rhs` that knows the names of its rows, unknowns and coefficients.

    Attributes:
        layer: the layer it belongs to.
        kinds: for each row "weight", "gradient" or "bias", shape `(rows,)`.
        pattern: `csr_array` of the coefficients' numbers, counted from 1: equal numbers are the same value.
        rows, unknowns: their names, such as `dL/dW[2,0,1,1]` and `x[0,3,7]`.
        coefficients: the names of the coefficients, such as `W[2,0,1,1]` and `k[2,5,5]`.
        values: value of each coefficient, `None` where the system comes from shapes alone.
        rhs: right-hand sides, shape `(rows,)`, NaN where unknown, `None` where none is known.

    From shapes alone a system has a pattern and no matrix: what holds for almost all values say `generic_rank`,
    `rank_ladder` and `determined`, and `at_random` draws values.

    >>> from constraint_algebra.layers import Conv2d
    >>> system = weight_equations(Conv2d(2, 3).place((1, 8, 8)))
    >>> system.pattern.shape, system.values is None
    ((72, 64), True)
    >>> system.rank(), system.at_random(seed=0).rank(), system.at_random(seed=0).null_space().dimension
    (56, 56, 8)
    """

    layer: PlacedLayer
    kinds: NDArray[np.str_]
    pattern: sp.csr_array
    rows: Names
    unknowns: Names
    coefficients: Names
    values: FloatArray | None = None
    rhs: FloatArray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of unknowns."""
        return len(self.rows), len(self.unknowns)

    @cached_property
    def matrix(self) -> sp.csr_array:
        """The matrix, shape `(rows, unknowns)`.

        Raises:
            ParameterError: the system comes from shapes alone.
        """
        return self.evaluate(self._known_values("a matrix"))

    def evaluate(self, values: ArrayLike) -> sp.csr_array:
        """Return the matrix with other values for the coefficients; a value that rows share stays shared.

        Args:
            values: one for each of `coefficients`, of any type of number.

        Raises:
            ShapeError: another number of values, or no numbers.

        >>> from constraint_algebra.layers import Conv1d
        >>> weight_equations(Conv1d(1, 2).place((1, 3))).evaluate([5, 7]).toarray()
        array([[5, 7, 0],
               [0, 5, 7]])
        """
        array, p = np.asarray(values), self.pattern
        if array.shape != (len(self.coefficients),) or array.dtype.kind not in "buifc":
            raise ShapeError(
                f"values: evaluate needs a number for each of {len(self.coefficients)} coefficients,"
                f" {self.coefficients!r}, got shape {array.shape} of {array.dtype}; at_random(seed) draws them"
            )
        return sp.csr_array((array[p.data - 1], p.indices, p.indptr), shape=p.shape)

    @checked
    def at_random(self, seed: int = 0) -> LinearSystem:
        """Return a system from shapes with standard normal values and, since those of others do not fit, no `rhs`.

        Kinds of equations draw apart, so that weights and output gradients from one seed are independent.

        Raises:
            ParameterError: the system has values already.
        """
        if self.values is not None:
            raise ParameterError(
                "values",
                f"at_random draws values for a system from shapes alone, and {self!r} has values: take its matrix,"
                " or evaluate(values) for others",
            )
        return replace(self, values=self.coefficients.drawn(seed), rhs=None)

    @checked
    def rank(self, *, rtol: float | None = None) -> int:
        """Return the rank: with values the numerical one, from shapes alone the generic one.

        The numerical rank counts singular values above a tolerance, rows scaled to unit norm; `rank_ladder` says it
        together with the tolerance, the gap and the other rungs, `null_space` with the directions left open. The
        generic rank is that of almost all values, found modulo a prime; `generic_rank(layer)` is faster for a layer.

        Args:
            rtol: tolerance relative to the largest singular value, `max(shape) * eps` by default; needs values.

        Raises:
            ParameterError: a tolerance that is not from 0 to 1, or one for a system from shapes.
            NonFiniteError: NaN or infinity among the coefficients.
            ShapeError: the dense singular values would take too much memory.
        """
        if self.values is not None:
            return numerical_rank(self.matrix, rtol).rank
        if rtol is not None:
            raise ParameterError(
                "rtol",
                f"rtol is a tolerance for numbers, got {rtol!r} for a system from shapes alone, whose generic rank has"
                " none; leave it out, or take at_random(seed).rank(rtol=...)",
            )
        A = self.evaluate(residues(len(self.coefficients), np.random.default_rng(0)))
        return sum(echelon(A[part.rows][:, part.columns]).rank for part in blocks(A))

    @checked
    def null_space(self, *, rtol: float | None = None) -> NullSpace:
        """Return an orthonormal basis of the directions that no equation notices, with its tolerance and the gap.

        Singular values up to the tolerance count as zero, those of the matrix with rows scaled to unit norm.

        Args:
            rtol: tolerance relative to the largest singular value, `max(shape) * eps` by default.

        Raises:
            ParameterError: the system comes from shapes alone, or a tolerance that is not from 0 to 1.
            NonFiniteError: NaN or infinity among the coefficients.
            ShapeError: the dense singular vectors would take too much memory.

        >>> from constraint_algebra.layers import Conv1d
        >>> system = gradient_equations(Conv1d(1, 2).place((1, 3)), output_gradient=[[1, 1]])
        >>> space = system.null_space()
        >>> space.rank, space.dimension, abs(space.basis.T).round(3)
        (2, 1, array([[0.577, 0.577, 0.577]]))
        """
        self._known_values("a null space in numbers")
        return null_space(self.matrix, rtol)

    def _known_values(self, what: str) -> FloatArray:
        if self.values is None:
            raise ParameterError(
                "values",
                f"{what} needs values, which {self!r} has not: .pattern says which coefficient stands where,"
                " .at_random(seed) draws values and .evaluate(values) takes some; what holds for almost all values say"
                " generic_rank(layer), rank_ladder(system) and determined(system)",
            )
        return self.values

    def select(self, keep: ArrayLike) -> LinearSystem:
        """Return the system of the rows where the mask `keep` is true.

        Raises:
            ShapeError: no boolean mask with one entry for each row.
        """
        mask = np.asarray(keep)
        if mask.shape != (len(self.rows),) or (mask.size and mask.dtype != bool):
            raise ShapeError(
                f"keep: select needs a boolean mask with one entry for each of {len(self.rows)} rows, got"
                f" {mask.shape} of {mask.dtype}; for numbers of rows take np.isin(np.arange({len(self.rows)}), numbers)"
            )
        mask = mask.astype(bool)
        return replace(
            self,
            kinds=self.kinds[mask],
            pattern=self.pattern[mask],
            rows=self.rows.select(mask),
            rhs=None if self.rhs is None else self.rhs[mask],
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the pattern in the order of its Dulmage-Mendelsohn decomposition, see `plotting.decomposition`."""
        drawn: Axes = draw(self, ax)
        return drawn

    def __repr__(self) -> str:
        """Return one line: kinds, layer, size, where the values come from."""
        kinds = " and ".join(dict.fromkeys(self.kinds.tolist())) or "no"
        source = "from shapes" if self.values is None else "with values"
        size = f"{self.shape[0]} rows, {self.shape[1]} unknowns, {self.pattern.nnz} entries"
        return f"<{kinds} equations of layer {self.layer.name!r} ({self.layer.kind}): {size}, {source}>"


@checked
def weight_equations(
    layer: PlacedLayer,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    output: ArrayLike | None = None,
) -> LinearSystem:
    """Return the weight equations `B(W) x = z - b`, one row for every output.

    Args:
        layer: a convolution or linear layer at its place, such as `network[0]`.
        weight: `(filters, channels / groups, *taps)`; without it the system comes from shapes alone.
        bias: `(filters,)`; left out it counts as zero.
        output: the pre-activation z in the layer's output shape, NaN where the activation does not determine it.

    Raises:
        ShapeError: an array of another shape than the layer needs.

    >>> from constraint_algebra.layers import Conv1d
    >>> B = weight_equations(Conv1d(2, 2).place((1, 3)), weight=[[[1, 2]], [[3, 4]]])
    >>> B.matrix.toarray()
    array([[1., 2., 0.],
           [0., 1., 2.],
           [3., 4., 0.],
           [0., 3., 4.]])
    >>> list(B.rows)
    ['z[0,0]', 'z[0,1]', 'z[1,0]', 'z[1,1]']
    """
    S = incidence(layer)
    F, C, G, Q, O, T = *_counts(layer), S.position_count, S.output_count, S.tap_count
    _demand("weight", layer, F * (C // G) * len(S))
    f, c, s = np.indices((F, C // G, len(S))).reshape(3, -1)
    rows = f * O + S.output[s]
    columns = (f // (F // G) * (C // G) + c) * Q + S.position[s]
    numbers = (f * (C // G) + c) * T + S.tap[s]
    shift, rhs = np.zeros(F) if bias is None else _shaped(bias, (F,), "bias"), None
    if output is not None:
        rhs = _shaped(output, layer.output_shape, "output").ravel() - np.repeat(shift, O)
    return LinearSystem(
        layer=layer,
        kinds=np.full(F * O, "weight"),
        pattern=_pattern(numbers, rows, columns, (F * O, C * Q)),
        rows=Names("z", layer.output_shape),
        unknowns=Names("x", layer.input_shape),
        coefficients=Names("W", layer.weight_shape),
        values=_values(weight, layer.weight_shape, "weight"),
        rhs=rhs,
    )


@checked
def gradient_equations(
    layer: PlacedLayer, output_gradient: ArrayLike | None = None, weight_gradient: ArrayLike | None = None
) -> LinearSystem:
    """Return the gradient equations `A(k) x[c] = dL/dW[:, c]` of all channels.

    Args:
        layer: a convolution or linear layer at its place.
        output_gradient: k = dL/dz in the layer's output shape; without it the system comes from shapes alone.
        weight_gradient: dL/dW in the weight's shape.

    Raises:
        ShapeError: an array of another shape than the layer needs.

    >>> from constraint_algebra.layers import Conv1d
    >>> A = gradient_equations(Conv1d(1, 2).place((2, 3)), output_gradient=[[5, 7]])
    >>> A.matrix.toarray()
    array([[5., 7., 0., 0., 0., 0.],
           [0., 5., 7., 0., 0., 0.],
           [0., 0., 0., 5., 7., 0.],
           [0., 0., 0., 0., 5., 7.]])
    >>> list(A.rows)
    ['dL/dW[0,0,0]', 'dL/dW[0,0,1]', 'dL/dW[0,1,0]', 'dL/dW[0,1,1]']
    """
    F, C, G = _counts(layer)
    taps = incidence(layer).tap_count
    _demand("gradient", layer, C * (F // G) * len(incidence(layer)))
    # Row (c, f, t) bears the name of the weight's entry [f, c within its group, t].
    c, f, t = np.indices((C, F // G, taps)).reshape(3, -1)
    entry = ((c // (C // G) * (F // G) + f) * (C // G) + c % (C // G)) * taps + t
    rhs = _values(weight_gradient, layer.weight_shape, "weight_gradient")
    return LinearSystem(
        layer=layer,
        kinds=np.full(len(entry), "gradient"),
        pattern=sp.csr_array(sp.block_diag([gradient_block(layer, c // (C // G)) for c in range(C)], format="csr")),
        rows=Names("dL/dW", layer.weight_shape, entry),
        unknowns=Names("x", layer.input_shape),
        coefficients=Names("k", layer.output_shape),
        values=_values(output_gradient, layer.output_shape, "output_gradient"),
        rhs=None if rhs is None else rhs[entry],
    )


def gradient_block(layer: PlacedLayer, group: int = 0) -> sp.csr_array:
    """Return the pattern of `A` for one channel of a group: rows (f, *tap) with f in the group, columns *position.

    The entries are the numbers of k[f, *output], counted from 1 over all filters, as in `LinearSystem.pattern`.
    """
    S = incidence(layer)
    F = layer.filters // layer.groups
    f, s = np.indices((F, len(S))).reshape(2, -1)
    rows, numbers = f * S.tap_count + S.tap[s], (group * F + f) * S.output_count + S.output[s]
    return _pattern(numbers, rows, S.position[s], (F * S.tap_count, S.position_count))


@checked
def bias_equations(layer: PlacedLayer, bias_gradient: ArrayLike | None = None) -> LinearSystem:
    """Return the bias equations `sum over o of k[f, o] = dL/db[f]`: a check on the output gradient k.

    Raises:
        ShapeError: the layer has no bias, or the array has another shape than `(filters,)`.

    >>> from constraint_algebra.layers import Linear
    >>> bias_equations(Linear(2).place((5,))).matrix.toarray()
    array([[1., 0.],
           [0., 1.]])
    """
    if layer.bias_name is None:
        raise ShapeError(
            f"layer {layer.name!r} has no bias and therefore no bias equations; take its weight or gradient equations"
        )
    F, O = layer.filters, math.prod(layer.outputs)
    return LinearSystem(
        layer=layer,
        kinds=np.full(F, "bias"),
        pattern=_pattern(np.zeros(F * O, dtype=np.intp), np.repeat(np.arange(F), O), np.arange(F * O), (F, F * O)),
        rows=Names("dL/db", (F,)),
        unknowns=Names("k", layer.output_shape),
        coefficients=Names("one", ()),
        values=np.ones(1),
        rhs=_values(bias_gradient, (F,), "bias_gradient"),
    )


def _demand(kind: str, layer: PlacedLayer, entries: int) -> None:
    """Refuse a matrix that the memory does not hold, before anything of it is there."""
    what = f"the {kind} equations of layer {layer.name!r}, {entries:,} coefficients,"
    advice = "take a smaller layer; feasibility and polyphase_law need no matrix"
    memory.demand(what, ENTRY * entries, advice)


def _counts(layer: PlacedLayer) -> tuple[int, int, int]:
    return layer.filters, layer.channels, layer.groups


def _pattern(numbers: IntArray, rows: IntArray, columns: IntArray, shape: tuple[int, int]) -> sp.csr_array:
    """Return coefficient numbers, counted from 1 so that none is a stored zero, at their places."""
    pattern = sp.coo_array((numbers + 1, (rows, columns)), shape=shape).tocsr()
    pattern.sort_indices()
    return pattern


def _values(values: ArrayLike | None, shape: Shape, what: str) -> FloatArray | None:
    return None if values is None else _shaped(values, shape, what).ravel()


def _shaped(values: ArrayLike, shape: Shape, what: str) -> FloatArray:
    array = np.asarray(values, dtype=float)
    if array.shape != shape:
        advice = "leave out the batch axis" if array.shape == (1, *shape) else f"that is {AXES[what]}"
        raise ShapeError(f"{what} must have shape {shape}, got {array.shape}; {advice}")
    return array
