"""What the equations of a small chain determine, by exact elimination over the rationals.

Every float is a rational number, so that nothing here is rounded. What is exact: the parameters and the input, as they
are, and the gradient of the loss by the outputs, as float64 has it; a chain of convolutions, linear layers and
piecewise linear activations makes all else of these, over integers and powers of two. At the sides on which its
activations work the gradients are linear in the input, and a value that a null vector of all their equations moves has
no single value: the input may go along that vector, a little, and no gradient changes.

Two sets of values:

- `limit`: those that all layers' equations together determine. No more can be determined, whatever the method.
- `reached`: those that are determined layer by layer, from the head down, as long as each layer's input is determined
  wholly by its weight equations and by the outputs that its activation gives away. No less should be found.

Nothing here is the library's: matrices are PyTorch's own layers, read off by automatic differentiation; the elimination
is FLINT's, over the integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from constraint_algebra.arrays import BoolArray, FloatArray
from tests.hunt import oracle
from tests.hunt.subjects import Subject

MOST = 64  # input values of a chain that is small
# Where each piece of an activation ends; its slopes there, as names of attributes of the module or as numbers.
PIECES: dict[type[nn.Module], tuple[tuple[float, ...], tuple[float | str, ...]]] = {
    nn.ReLU: ((0.0,), (0.0, 1.0)),
    nn.LeakyReLU: ((0.0,), ("negative_slope", 1.0)),
    nn.ReLU6: ((0.0, 6.0), (0.0, 1.0, 0.0)),
    nn.Hardtanh: ((-1.0, 1.0), (0.0, 1.0, 0.0)),
}

Integers = NDArray[Any]  # Python integers, which have no size


@dataclass(frozen=True)
class Exact:
    """Rational numbers with one denominator, a power of two.

    Attributes:
        of: numerators.
        bits: binary logarithm of the denominator.
    """

    of: Integers
    bits: int

    def __matmul__(self, other: Exact) -> Exact:
        return Exact(self.of @ other.of, self.bits + other.bits)

    def __mul__(self, other: Exact) -> Exact:
        return Exact(self.of * other.of, self.bits + other.bits)

    def __add__(self, other: Exact) -> Exact:
        bits = max(self.bits, other.bits)
        return Exact((self.of << bits - self.bits) + (other.of << bits - other.bits), bits)


@dataclass(frozen=True)
class Layer:
    """A linear layer and what stands above it.

    Attributes:
        matrix: `(outputs, inputs)`.
        label: the number of the weight that stands at each place of the matrix, -1 for none.
        bias: of each output.
        activation: above it, `None` for none.
    """

    matrix: Exact
    label: NDArray[np.intp]
    bias: Exact
    activation: nn.Module | None


@dataclass(frozen=True)
class Chain:
    """A chain at one input, exactly.

    Attributes:
        layers: from the input on.
        slopes: of the activation above each layer, at its outputs.
        gives: outputs of each layer that what follows them gives away, if it is known itself.
        gradients: by the outputs of each layer, up to one factor.
        on_a_kink: whether an output that moves with the input lies where two pieces of its activation meet.
        rests_on_a_kink: whether one that does not move lies there, so that nobody sees which piece it is on.
    """

    layers: list[Layer]
    slopes: list[Exact]
    gives: list[BoolArray]
    gradients: list[Exact]
    on_a_kink: bool
    rests_on_a_kink: bool


def exact(values: FloatArray) -> Exact:
    """The same numbers as integers over one power of two.

    >>> exact(np.array([0.75, -3.0])).of, exact(np.array([0.75, -3.0])).bits
    (array([3, -12], dtype=object), 2)
    """
    ratios = [float(v).as_integer_ratio() for v in np.ravel(values)]
    bits = max((below.bit_length() - 1 for _, below in ratios), default=0)
    found = np.array([above << bits + 1 - below.bit_length() for above, below in ratios] + [None], dtype=object)
    return Exact(found[:-1].reshape(np.shape(values)), bits)


def applies(subject: Subject) -> bool:
    """Whether a case is small, in float64, and a chain without anything that bends."""
    known = (nn.Conv2d, nn.Linear, nn.Flatten, *PIECES)
    modules = list(subject.model) if isinstance(subject.model, nn.Sequential) else [None]
    small = subject.x.size <= MOST and subject.recipe.precision == "float64"
    return small and all(isinstance(module, known) for module in modules)


def chain(subject: Subject) -> Chain:
    """The chain of a case, at its true input."""
    layers, slopes, gives = _layers(subject), list[Exact](), list[BoolArray]()
    value, moves, on, rests = exact(subject.x.reshape(-1)), np.ones(subject.x.size, dtype=bool), False, False
    for layer in layers:
        output = layer.matrix @ value + layer.bias
        moves = ((layer.matrix.of != 0) & moves).any(1)
        value, slope, at_kink = _activated(layer.activation, output)
        on, rests = on or bool((at_kink & moves).any()), rests or bool((at_kink & ~moves).any())
        slopes.append(slope)
        gives.append(slope.of != 0)
        moves = moves & gives[-1]
    gradients = [exact(_at_outputs(subject))]
    for layer, slope in zip(layers[:0:-1], slopes[-2::-1], strict=True):
        gradients.append(slope * (Exact(layer.matrix.of.T, layer.matrix.bits) @ gradients[-1]))
    return Chain(layers, slopes, gives, gradients[::-1], on, rests)


def limit(chain: Chain) -> BoolArray:
    """The values that all gradients together determine, at the sides of this input."""
    below: Integers = np.eye(chain.layers[0].matrix.of.shape[1], dtype=int).astype(object)
    rows = []
    for layer, slope, gradient in zip(chain.layers, chain.slopes, chain.gradients, strict=True):
        rows.append(weight_rows(layer, gradient.of) @ below)
        below = slope.of[:, None] * (layer.matrix.of @ below)
    return determined(np.concatenate(rows))[1]


def reached(chain: Chain, clear: float) -> BoolArray:
    """The values that are determined layer by layer.

    None are where a layer's equations leave doubt in double precision, or where nobody sees the side of an activation.

    Args:
        chain: the chain.
        clear: the smallest singular value of equations of unit length that leaves no doubt.
    """
    known = np.zeros(chain.layers[0].matrix.of.shape[1], dtype=bool)
    if chain.rests_on_a_kink:
        return known
    for place in range(len(chain.layers) - 1, -1, -1):
        layer, last = chain.layers[place], place == len(chain.layers) - 1
        weights = weight_rows(layer, chain.gradients[place].of)
        outputs = layer.matrix.of[chain.gives[place]][: 0 if last else None]
        rows = np.concatenate([weights, outputs])
        rank, found = determined(rows)
        if rank and _least(rows, rank) < clear:
            return known
        if place == 0:
            return found
        if not found.all():
            return known
    return known


def weight_rows(layer: Layer, gradient: Integers) -> Integers:
    """The gradient of each weight as a sum over the layer's inputs, `(weights, inputs)`."""
    rows: Integers = np.zeros((int(layer.label.max()) + 1, layer.label.shape[1]), dtype=object)
    outputs, inputs = np.nonzero(layer.label >= 0)
    np.add.at(rows, (layer.label[outputs, inputs], inputs), gradient[outputs])
    return rows


def determined(rows: Integers) -> tuple[int, BoolArray]:
    """The rank of equations over the integers, and which unknowns all their solutions agree on.

    >>> determined(np.array([[1, 1, 0], [0, 0, 3]], dtype=object))
    (2, array([False, False,  True]))
    """
    some = rows[(rows != 0).any(1)]
    known = np.zeros(rows.shape[1], dtype=bool)
    if not len(some):
        return 0, known
    reduced, _, rank = flint.fmpz_mat(some.tolist()).rref()
    for row in np.array(reduced.tolist(), dtype=object)[:rank] != 0:
        known[np.flatnonzero(row)[0]] = row.sum() == 1
    return int(rank), known


def _least(rows: Integers, rank: int) -> float:
    """The smallest singular value that is not zero, of rows of unit length; zero where rows are beneath floats."""
    largest = max(1, *(int(abs(v)) for v in rows.flat))
    shift = max(largest.bit_length() - 1000, 0)  # into the range of floats
    numbers = np.array([[float(v >> shift) for v in row] for row in rows])
    sizes = np.linalg.norm(numbers / np.abs(numbers).max(), axis=1)
    numbers = (numbers / np.abs(numbers).max())[sizes > 0] / sizes[sizes > 0, None]
    values = np.linalg.svd(numbers, compute_uv=False)
    return float(values[rank - 1]) if rank <= len(values) else 0.0


def _layers(subject: Subject) -> list[Layer]:
    """Read the layers off the model: what stands at each place of each matrix, by automatic differentiation."""
    found, shape = list[Layer](), subject.x.shape
    assert isinstance(subject.model, nn.Sequential)
    for module in subject.model:
        if isinstance(module, nn.Conv2d | nn.Linear):
            made = torch.zeros(shape, dtype=torch.float64)[None]
            label = _labels(module, made)
            weights = exact(module.weight.detach().numpy().reshape(-1))
            placed = np.where(label >= 0, weights.of[label], 0)
            shape = tuple(module(made).shape[1:])
            bias = torch.zeros(shape[0], dtype=torch.float64) if module.bias is None else module.bias.detach()
            each = np.repeat(bias.numpy(), math.prod(shape[1:]))
            found.append(Layer(Exact(placed, weights.bits), label, exact(each), None))
        elif isinstance(module, nn.Flatten):
            shape = (math.prod(shape),)
        else:
            last = found.pop()
            found.append(Layer(last.matrix, last.label, last.bias, module))
    return found


def _labels(module: nn.Conv2d | nn.Linear, value: Tensor) -> NDArray[np.intp]:
    """Which weight stands at each place: the matrix of the same layer with its weights numbered from one."""
    numbers = torch.arange(1.0, module.weight.numel() + 1, dtype=torch.float64).reshape(module.weight.shape)

    def applied(x: Tensor) -> Tensor:
        if isinstance(module, nn.Linear):
            return nn.functional.linear(x, numbers)
        return nn.functional.conv2d(x, numbers, None, module.stride, module.padding, module.dilation, module.groups)

    matrix: Any = torch.autograd.functional.jacobian(applied, torch.zeros_like(value))
    return np.rint(matrix.reshape(-1, value.numel()).numpy()).astype(np.intp) - 1


def _activated(activation: nn.Module | None, output: Exact) -> tuple[Exact, Exact, BoolArray]:
    """Values, slopes, and which outputs lie where two pieces meet."""
    if activation is None:
        return output, Exact(np.ones_like(output.of), 0), np.zeros(output.of.shape, dtype=bool)
    ends, named = PIECES[type(activation)]
    slopes = [exact(np.array(getattr(activation, s) if isinstance(s, str) else s)) for s in named]
    bits = max(s.bits for s in slopes)
    numbers = [int(s.of) << bits - s.bits for s in slopes]
    borders = np.array([int(end) << output.bits for end in ends] + [None], dtype=object)[:-1]
    piece = np.sum([output.of > border for border in borders], axis=0)
    slope = np.array(numbers, dtype=object)[piece]
    level = np.array([borders[0], borders[-1]], dtype=object)[(piece > 0).astype(int)]  # of a flat piece
    value = np.where(slope == 0, level << bits, slope * output.of)
    at_kink = np.any([output.of == border for border in borders], axis=0)
    return Exact(value, output.bits + bits), Exact(slope, bits), np.asarray(at_kink, dtype=bool)


def _at_outputs(subject: Subject) -> FloatArray:
    output = subject.model(torch.tensor(subject.x)[None])
    (found,) = torch.autograd.grad(oracle._loss(subject, output), output)
    return np.asarray(found.reshape(-1).numpy())
