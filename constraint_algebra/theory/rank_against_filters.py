"""The ranks of one layer over its number of filters: where counting is right, and where it is not.

Everything else stays as it is: input shape, kernel, stride, padding, groups. All outputs count as active and known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ParameterError, ShapeError, UnknownNameError
from constraint_algebra.layers.kinds import PlacedLayer, Shape
from constraint_algebra.ranks.bounded import bounded_rank
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.ranks.structural import layer_structural_rank
from constraint_algebra.theory.simulated_layer import by_range, input_at_bounds

if TYPE_CHECKING:
    import pandas as pd

EQUATIONS = ("gradient", "weight", "both")


@checked
def rank_against_filters(
    layer: PlacedLayer,
    filters: Sequence[int] | None = None,
    equations: str = "gradient",
    *,
    seed: int = 0,
    at_bound: float | None = None,
    values: ArrayLike | None = None,
    valid_range: tuple[float, float] = (0.0, 1.0),
) -> pd.DataFrame:
    """Return the ranks of a layer's equations for each number of filters, as `plotting.rank_against_filters` draws it.

    All outputs count as active and known. A row for each number of filters, in that order, with the columns

    - `filters`, `unknowns`, `weight_rows`, `gradient_rows`: sizes; `counted`: the smaller of rows and unknowns,
    - `structural_rank`: size of a largest matching, missing where the graph is too large,
    - `rank`: the generic rank, missing where its bounds `low` and `high` do not meet,
    - `determined`: whether all unknowns are determined for certain; `determined_values`: how many, missing where
      undecided,
    - `error`: upper bound of the probability that the rank is too small;

    and with `at_bound` or `values`, for one draw of random weights and output gradients, to which more filters add,

    - `ranged`: the rank with the bounds that the range of the input implies,
    - `determined_in_range`: the share of the values that equations and range determine.

    Args:
        layer: a convolution or linear layer at its place; its own number of filters does not matter.
        filters: the numbers to try, positive multiples of the layer's groups; by default the first 24.
        equations: "gradient", "weight" or "both"; those of a head are gradient equations, as its output is not known.
        seed: of the random residues, and of what is drawn.
        at_bound: share of input values at an end of the range, independently and at either end; the others lie between.
        values: an input of the layer instead, such as a picture.
        valid_range: smallest and largest valid value.

    Raises:
        UnknownNameError: other equations.
        ParameterError: numbers of filters that the layer cannot have; no share, both it and values, or a wrong range.
        ShapeError: values of another shape than the layer's input.

    >>> from constraint_algebra.layers import Conv2d
    >>> frame = rank_against_filters(Conv2d(1, 3, stride=2, padding=1).place((1, 8, 8)), [4, 8, 12, 16])
    >>> frame[["filters", "counted", "structural_rank", "rank", "determined"]]
       filters  counted  structural_rank  rank  determined
    0        4       36               36    36       False
    1        8       64               56    56       False
    2       12       64               60    60       False
    3       16       64               64    64        True
    """
    import pandas as pd

    if equations not in EQUATIONS:
        raise UnknownNameError(f"equations must be one of {', '.join(EQUATIONS)}, got {equations!r}")
    counts, x = _checked_filters(layer, filters), _input(layer, at_bound, values, valid_range, seed)

    def row(one: PlacedLayer) -> dict[str, int | float | bool | None]:
        ranged = {} if x is None else _ranged(one, equations, x, valid_range, seed)
        return _ranks(one, equations, seed) | ranged

    return pd.DataFrame([row(layer.with_filters(count)) for count in counts])


def _input(
    layer: PlacedLayer, at_bound: float | None, values: ArrayLike | None, valid_range: tuple[float, float], seed: int
) -> FloatArray | None:
    """Return the input whose range is asked for, `None` where it is not."""
    low, high = valid_range
    if not low < high:
        raise ParameterError("valid_range", f"valid_range must have its smaller value first, got {valid_range!r}")
    if at_bound is not None and values is not None:
        raise ParameterError("at_bound", "at_bound draws an input and values gives one; give one of them")
    if at_bound is not None:
        if not 0 <= at_bound <= 1:
            raise ParameterError("at_bound", f"at_bound must be a share from 0 to 1, got {at_bound!r}")
        if not np.isfinite([low, high]).all():
            raise ParameterError(
                "valid_range",
                f"valid_range must be finite for at_bound, which draws values at both ends, got {valid_range!r};"
                " give both ends, or values",
            )
        return input_at_bounds(layer.input_shape, at_bound, valid_range, np.random.default_rng(seed))
    if values is None:
        return None
    x = np.asarray(values, dtype=float)
    if x.shape != layer.input_shape:
        raise ShapeError(f"values have shape {x.shape}, expected the input shape {layer.input_shape} of the layer")
    if not np.isfinite(x).all():
        raise ParameterError("values", f"values must be finite, got {x[~np.isfinite(x)][0]:g}; give an input")
    if not (x.min() >= low and x.max() <= high):
        raise ParameterError(
            "values", f"values lie from {x.min():g} to {x.max():g}, outside valid_range {valid_range!r}; give theirs"
        )
    return x


def _ranged(
    layer: PlacedLayer, equations: str, x: FloatArray, valid_range: tuple[float, float], seed: int
) -> dict[str, int | float]:
    """Return rank and share of determined values with the range, for one draw."""
    weight, k = (_nested(layer, shape, [seed, i]) for i, shape in enumerate((layer.weight_shape, layer.output_shape)))
    known = np.full(layer.output_shape, equations != "gradient")
    found = by_range(layer, (known, equations != "weight"), weight, k, x, valid_range, seed)
    rank = layer.unknowns - found.directions
    return {"ranged": rank + found.added, "determined_in_range": found.share}


def _nested(layer: PlacedLayer, shape: Shape, seed: list[int]) -> FloatArray:
    """Return random values of each filter, which stay the same where more filters join the groups."""
    drawn = np.random.default_rng(seed).standard_normal((layer.filters // layer.groups, layer.groups, *shape[1:]))
    return np.ascontiguousarray(drawn.swapaxes(0, 1)).reshape(shape)


def _ranks(layer: PlacedLayer, equations: str, seed: int) -> dict[str, int | float | bool | None]:
    none = np.zeros(layer.output_shape, dtype=bool)
    known = Knowledge.of(
        layer, output=none if equations == "gradient" else None, gradient=none if equations == "weight" else None
    )
    found = bounded_rank(layer, knowledge=known, seed=seed)
    return {
        "filters": layer.filters,
        "unknowns": found.unknowns,
        "weight_rows": found.weight_rows,
        "gradient_rows": found.gradient_rows,
        "counted": found.counted,
        "structural_rank": layer_structural_rank(layer, known, generic_low=found.low, seed=seed),
        "rank": found.rank,
        "low": found.low,
        "high": found.high,
        "determined": found.low == found.unknowns,
        "determined_values": None if found.determined is None else int(found.determined.sum()),
        "error": found.error,
    }


def _checked_filters(layer: PlacedLayer, filters: Sequence[int] | None) -> list[int]:
    first = range(layer.groups, 24 * layer.groups + 1, layer.groups)
    counts = list(first if filters is None else filters)
    wrong = [count for count in counts if count < 1 or count % layer.groups]
    if wrong or not counts:
        step = f", multiples of the {layer.groups} groups of layer {layer.name!r}" if layer.groups > 1 else ""
        raise ParameterError(
            "filters",
            f"filters must be positive whole numbers{step}, such as {first}, got {wrong[0] if wrong else 'none'}",
        )
    return counts
