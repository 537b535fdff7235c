"""Random layer geometries for property tests, with values to fill them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from constraint_algebra.arrays import FloatArray
from constraint_algebra.layers import Conv1d, Conv2d, Conv3d, PlacedLayer

CONV = {1: Conv1d, 2: Conv2d, 3: Conv3d}


@dataclass(frozen=True)
class Geometry:
    """One convolution at its place, in plain numbers that both the library and PyTorch understand."""

    channels: int
    filters: int
    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...] | str
    dilation: tuple[int, ...]
    sizes: tuple[int, ...]
    bias: bool
    seed: int

    @property
    def axes(self) -> int:
        return len(self.kernel)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.channels, *self.sizes)

    @property
    def layer(self) -> PlacedLayer:
        conv = CONV[self.axes](
            self.filters,
            self.kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias,
        )
        return conv.place(self.input_shape)

    def values(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Random weight, bias and input; whole numbers divided by 8, so that none is tiny and zeros occur."""
        rng = np.random.default_rng(self.seed)
        weight = (self.filters, self.channels // self.groups, *self.kernel)
        return tuple(rng.integers(-16, 17, size=shape) / 8 for shape in (weight, (self.filters,), self.input_shape))


@st.composite
def geometries(draw: st.DrawFn, largest: int = 8) -> Geometry:
    """Draw a convolution in one to three axes whose kernel fits, by construction, its padded input."""
    axes = draw(st.sampled_from([1, 2, 2, 3]))
    largest = min(largest, 5) if axes == 3 else largest
    each = lambda strategy: tuple(draw(strategy) for _ in range(axes))  # noqa: E731
    kernel = each(st.integers(1, 5 if axes < 3 else 3))
    dilation = each(st.integers(1, 3 if axes < 3 else 2))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    same = draw(st.integers(0, 4)) == 0
    if same:
        padding: tuple[tuple[int, int], ...] | str = "same"
        stride, least = (1,) * axes, [1] * axes
    else:
        side = st.integers(0, 3)
        padding = each(st.one_of(side.map(lambda p: (p, p)), st.tuples(side, side)))
        stride = each(st.integers(1, 4))
        least = [max(1, span - sum(pad)) for span, pad in zip(spans, padding, strict=True)]
    sizes = tuple(draw(st.integers(n, max(n, largest))) for n in least)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, filters = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    bias, seed = draw(st.booleans()), draw(st.integers(0, 2**16))
    return Geometry(channels, filters, groups, kernel, stride, padding, dilation, sizes, bias, seed)
