"""What is known of an activation as formulas: value, inverse, derivatives, and where it is cut off or falls."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers.two_branches import Branches

Function = Callable[[FloatArray], FloatArray]


class Formulas(NamedTuple):
    """The formulas of one activation.

    Attributes:
        value: σ(z).
        inverse: z from y, NaN where y does not determine it.
        derivative: σ′(z) from y, the function d; NaN where y does not determine it.
        slope: d′(y), which carries an error of y into an error of the derivative.
        plateaus: the outputs that whole intervals of z share, where σ is cut off.
        kink: derivatives below and above an output of zero, where they differ and both sides have an inverse.
        cancels: whether the derivative is computed as a difference of numbers near 1, whose rounding it inherits.
        branches: what z and σ′ are on either side of the minimum, for an activation that falls before it rises; the
            inverse and the derivative from y are NaN where y has two pre-images or more.
        at_input: σ′ from z itself, where it differs from that of y, a difference of numbers that nearly cancel
            where σ is flat.
    """

    value: Function
    inverse: Function
    derivative: Function
    slope: Function
    plateaus: tuple[float, ...] = ()
    kink: tuple[float, float] | None = None
    cancels: bool = False
    branches: Branches | None = None
    at_input: Function | None = None

    def derivative_at(self, z: FloatArray, y: FloatArray | None = None) -> FloatArray:
        """Return σ′(z) from z itself, which is known wherever z is; y is σ(z), for those who have it already.

        >>> import numpy as np
        >>> from constraint_algebra.layers.activations import ELU, SiLU, formulas
        >>> formulas(SiLU()).derivative_at(np.array([-2.0, 0.0])).round(3)
        array([-0.091,  0.5  ])
        >>> formulas(ELU()).derivative_at(np.array([-30.0])).tolist() == np.exp([-30.0]).tolist()
        True
        """
        if self.at_input is not None:
            return self.at_input(z)
        return self.derivative(self.value(z) if y is None else y)
