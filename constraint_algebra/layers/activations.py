"""The activations: hyper-parameters, and value, inverse and derivative, the last two as functions of the *output*.

Back-substitution never sees the pre-activation z. It finds the output y = σ(z) first, as the input of the next layer;
the derivative σ′(z) that the chain rule needs is then a function d(y), and z itself follows wherever σ is one-to-one.
That is why a non-invertible ReLU does not stop the recursion (Eltaras et al. 2024, arXiv 2406.04227): d(y) = [y > 0] is
known everywhere, and only the weight equations of the inactive outputs are lost.

SiLU, GELU, Mish and hardswish fall before they rise: below zero y determines z up to two branches (`two_branches`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from constraint_algebra.arguments import names_checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ShapeError
from constraint_algebra.layers import two_branches
from constraint_algebra.layers.base import Activation, Shape, number, positive, whole
from constraint_algebra.layers.formula import Formulas, Function
from constraint_algebra.layers.two_branches import Branches


@names_checked
@dataclass(frozen=True)
class Identity(Activation):
    """σ(z) = z."""


@names_checked
@dataclass(frozen=True)
class ReLU(Activation):
    """σ(z) = max(z, 0)."""


@names_checked
@dataclass(frozen=True)
class LeakyReLU(Activation):
    """σ(z) = z for z > 0, otherwise slope·z; the slope must be positive, which makes σ invertible."""

    slope: float = 0.01

    def __post_init__(self) -> None:
        """Refuse slopes that are not positive."""
        positive("LeakyReLU", "slope", self.slope, "use ReLU() for a slope of 0")


@names_checked
@dataclass(frozen=True)
class Sigmoid(Activation):
    """σ(z) = 1 / (1 + exp(-z))."""


@names_checked
@dataclass(frozen=True)
class Tanh(Activation):
    """σ(z) = tanh(z)."""


@names_checked
@dataclass(frozen=True)
class ELU(Activation):
    """σ(z) = z for z > 0, otherwise alpha·(exp(z) - 1)."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values of alpha that are not positive."""
        positive("ELU", "alpha", self.alpha, "use ReLU() for an alpha of 0")


@names_checked
@dataclass(frozen=True)
class SELU(Activation):
    """The self-normalising ELU: scale·ELU(z) with PyTorch's two constants."""

    alpha: ClassVar[float] = 1.6732632423543772848170429916717
    scale: ClassVar[float] = 1.0507009873554804934193349852946


@names_checked
@dataclass(frozen=True)
class Softplus(Activation):
    """σ(z) = log(1 + exp(beta·z)) / beta, and z itself where beta·z exceeds the threshold, as in PyTorch."""

    beta: float = 1.0
    threshold: float = 20.0

    def __post_init__(self) -> None:
        """Refuse values of beta that are not positive."""
        positive("Softplus", "beta", self.beta, "a negative one mirrors the function, which has no formulas here")
        number("Softplus", "threshold", self.threshold)


@names_checked
@dataclass(frozen=True)
class Softsign(Activation):
    """σ(z) = z / (1 + |z|)."""


@names_checked
@dataclass(frozen=True)
class Hardtanh(Activation):
    """σ(z) = z between low and high, cut off outside."""

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        number("Hardtanh", "low", self.low)
        number("Hardtanh", "high", self.high)
        if not self.low < self.high:
            raise ShapeError(f"Hardtanh: low must be below high, got {self.low} and {self.high}")


@names_checked
@dataclass(frozen=True)
class ReLU6(Hardtanh):
    """σ(z) = z between 0 and 6, cut off outside."""

    low: float = 0.0
    high: float = 6.0


@names_checked
@dataclass(frozen=True)
class PReLU(Activation):
    """σ(z) = z for z > 0, otherwise slope·z with a slope that is trained (He et al. 2015, arXiv 1502.01852).

    Args:
        parameters: number of slopes: 1, or one for each channel.

    The gradient of a slope is one more equation: `sum_o k min(z, 0) = dL/dslope`. `sloped` gives its formulas.
    """

    parameters: int = 1

    def __post_init__(self) -> None:
        """Check the number of slopes."""
        object.__setattr__(self, "parameters", whole("PReLU", "parameters", self.parameters, least=1))

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the same shape; `ShapeError` where the slopes do not fit its channels."""
        shape = self.single(input_shapes)
        if self.parameters not in {1, shape[0]}:
            raise ShapeError(f"PReLU: {self.parameters} slopes came for the {shape[0]} channels of {shape}")
        return shape


@names_checked
@dataclass(frozen=True)
class SiLU(Activation):
    """σ(z) = z / (1 + exp(-z)), also known as swish; below zero an output has two pre-images."""


@names_checked
@dataclass(frozen=True)
class GELU(Activation):
    """σ(z) = z Φ(z) with the normal distribution function Φ; below zero an output has two pre-images.

    Args:
        approximate: "none", or "tanh" for the approximation `z (1 + tanh(sqrt(2/pi) (z + 0.044715 z³))) / 2`.
    """

    approximate: str = "none"

    def __post_init__(self) -> None:
        """Refuse names of other approximations."""
        if not isinstance(self.approximate, str) or self.approximate not in {"none", "tanh"}:
            raise ShapeError(f'GELU: approximate must be "none" or "tanh", got {self.approximate!r}')


@names_checked
@dataclass(frozen=True)
class Mish(Activation):
    """σ(z) = z tanh(log(1 + exp(z))); below zero an output has two pre-images."""


@names_checked
@dataclass(frozen=True)
class Hardswish(Activation):
    """σ(z) = z (z + 3) / 6 between -3 and 3, 0 below and z above; below zero an output has two pre-images."""


def formulas(activation: Activation) -> Formulas:
    """Return the formulas of an activation.

    >>> relu = formulas(ReLU())
    >>> y = relu.value(np.array([-2.0, 3.0])); y
    array([0., 3.])
    >>> relu.derivative(y), relu.inverse(y)
    (array([0., 1.]), array([nan,  3.]))
    """
    zero: Function = np.zeros_like
    match activation:
        case Identity():
            return Formulas(lambda z: z, lambda y: y, np.ones_like, zero)
        case ReLU():
            return _cut(0.0, np.inf)
        case Hardtanh(low, high):
            return _cut(low, high)
        case LeakyReLU(a):
            return Formulas(
                value=lambda z: np.where(z > 0, z, a * z),
                inverse=lambda y: np.where(y > 0, y, y / a),
                derivative=lambda y: np.where(y > 0, 1.0, a),
                slope=zero,
                kink=(a, 1.0),
            )
        case Sigmoid():
            return Formulas(
                value=expit,
                inverse=lambda y: _finite(logit, y),
                derivative=lambda y: np.clip(y * (1 - y), 0, None),
                slope=lambda y: 1 - 2 * y,
            )
        case Tanh():
            return Formulas(
                value=np.tanh,
                inverse=lambda y: _finite(np.arctanh, y),
                derivative=lambda y: np.clip(1 - y * y, 0, None),
                slope=lambda y: -2 * y,
                cancels=True,
            )
        case ELU(alpha):
            return _exponential(1.0, alpha)
        case SELU():
            return _exponential(SELU.scale, SELU.alpha)
        case Softplus(beta, threshold):
            return _softplus(beta, threshold)
        case Softsign():
            return Formulas(
                value=lambda z: z / (1 + np.abs(z)),
                inverse=lambda y: _finite(lambda v: v / (1 - np.abs(v)), np.where(np.abs(y) < 1, y, np.nan)),
                derivative=lambda y: np.clip(1 - np.abs(y), 0, None) ** 2,
                slope=lambda y: -2 * np.sign(y) * np.clip(1 - np.abs(y), 0, None),
            )
        case SiLU() | GELU() | Mish() | Hardswish():
            return _branched(_BRANCHES[activation])
    raise TypeError(f"no formulas for {activation!r}; write them as a new case of formulas()")


def sloped(slopes: FloatArray) -> Formulas:
    """Return the formulas of PReLU at given slopes, which must broadcast to the values.

    An output determines z where the slope is positive, or where it is zero and the output positive.

    >>> f = sloped(np.array([0.25, 0.0]))
    >>> f.value(np.array([-2.0, -2.0])), f.inverse(np.array([-0.5, 0.0]))
    (array([-0.5, -0. ]), array([-2., nan]))
    """
    safe = np.where(slopes > 0, slopes, 1.0)
    return Formulas(
        value=lambda z: np.where(z > 0, z, slopes * z),
        inverse=lambda y: np.where(slopes < 0, np.nan, np.where(y > 0, y, np.where(slopes > 0, y / safe, np.nan))),
        derivative=lambda y: np.where(slopes < 0, np.nan, np.where(y > 0, 1.0, slopes)),
        slope=np.zeros_like,
    )


def has_two_branches(activation: Activation) -> bool:
    """Return whether an activation falls before it rises, so that an output below zero has two pre-images.

    >>> has_two_branches(SiLU()), has_two_branches(ELU())
    (True, False)
    """
    return isinstance(activation, SiLU | GELU | Mish | Hardswish)


def is_piecewise_linear(activation: Activation) -> bool:
    """Return whether an activation is linear in pieces, so that its derivative is constant on either side of a kink.

    >>> is_piecewise_linear(ReLU()), is_piecewise_linear(ELU())
    (True, False)
    """
    return isinstance(activation, Identity | ReLU | LeakyReLU | Hardtanh | PReLU)


def apply(activation: Activation, z: ArrayLike) -> FloatArray:
    """Return σ(z)."""
    return np.asarray(formulas(activation).value(np.asarray(z, dtype=float)))


def _cut(low: float, high: float) -> Formulas:
    """The identity between low and high, cut off outside: ReLU, Hardtanh, ReLU6."""
    return Formulas(
        value=lambda z: np.clip(z, low, high),
        inverse=lambda y: np.where((y > low) & (y < high), y, np.nan),
        derivative=lambda y: ((y > low) & (y < high)).astype(float),
        slope=np.zeros_like,
        plateaus=tuple(edge for edge in (low, high) if np.isfinite(edge)),
    )


def _exponential(scale: float, alpha: float) -> Formulas:
    """scale·z for z > 0, otherwise scale·alpha·(exp(z) - 1): ELU, SELU."""
    depth = scale * alpha
    return Formulas(
        value=lambda z: np.where(z > 0, scale * z, depth * np.expm1(np.minimum(z, 0))),
        inverse=lambda y: np.where(y > 0, y / scale, _finite(lambda v: np.log1p(v / depth), np.minimum(y, 0))),
        derivative=lambda y: np.where(y > 0, scale, np.clip(y + depth, 0, None)),
        slope=lambda y: np.where(y > 0, 0.0, 1.0),
        kink=(depth, scale) if depth != scale else None,
        at_input=lambda z: np.where(z > 0, scale, depth * np.exp(np.minimum(z, 0))),
    )


def _softplus(beta: float, threshold: float) -> Formulas:
    """log(1 + exp(beta·z)) / beta, and z itself above the threshold."""

    def inverse(y: FloatArray) -> FloatArray:
        return y + np.log(-np.expm1(-beta * np.maximum(y, 0))) / beta  # below zero there is none: NaN by `_finite`

    def pieces(y: FloatArray, curved: FloatArray | float, straight: FloatArray | float) -> FloatArray:
        """One formula up to the threshold, one beyond; NaN where σ jumps down to z and an output has two pre-images."""
        jump = np.logaddexp(0, threshold)
        return np.where(beta * y > jump, straight, np.where(beta * y > threshold, np.nan, curved))

    return Formulas(
        value=lambda z: np.where(beta * z > threshold, z, np.logaddexp(0, beta * z) / beta),
        inverse=lambda y: pieces(y, _finite(inverse, y), y),
        derivative=lambda y: pieces(y, -np.expm1(-beta * np.maximum(y, 0)), 1.0),
        slope=lambda y: pieces(y, beta * np.exp(-beta * np.maximum(y, 0)), 0.0),
    )


_BRANCHES: dict[Activation, Branches] = {
    SiLU(): two_branches.SILU,
    GELU(): two_branches.GELU,
    GELU("tanh"): two_branches.GELU_TANH,
    Mish(): two_branches.MISH,
    Hardswish(): two_branches.HARDSWISH,
}


def _branched(b: Branches) -> Formulas:
    """An activation that falls before it rises; a positive output has one pre-image, any other has two or more."""

    def inverse(y: FloatArray) -> FloatArray:
        alone = y > 0
        return np.where(alone, b.inverse(np.where(alone, y, 1.0), np.ones(np.shape(y), dtype=bool)), np.nan)

    def slope(y: FloatArray) -> FloatArray:
        z = inverse(y)
        return np.asarray(b.curvature(z) / b.derivative(z))

    return Formulas(
        value=b.value,
        inverse=inverse,
        derivative=lambda y: b.derivative(inverse(y)),
        slope=slope,
        branches=b,
        at_input=b.derivative,
    )


def _finite(inverse: Function, y: FloatArray) -> FloatArray:
    """Return `inverse(y)`, NaN where a saturated or out-of-range y has no finite pre-image."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = inverse(y)
    return np.where(np.isfinite(z), z, np.nan)
