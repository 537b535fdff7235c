"""What weight equations and gradient equations determine each, against depth.

Question: Do gradient equations inform more than weight equations, the more so with depth (the second claim of R-CONV,
Eltaras et al. 2024)?

Hypothesis: Yes where the maps shrink or the channels stay as they are: the weight equations of a layer are as many as
it has outputs, while each gradient equation serves every channel; only the first layer, large with few channels, is
the other way round.

Finding: Yes, from the second layer on. The gradient equations alone determine each of the 168 layers above the first;
weight equations determine 57 of 84 with all outputs active, and 11 of 84 with half of them, where they reach 47 % of
the unknowns on average. Where weight equations do suffice, their condition number is 6 to 8,300 (median 250) against
1.3 to 3.1 for the gradient equations. The first layer is the other way round only in the narrow network: there the
weight equations alone determine the input, with a condition number of 46,000, the gradient equations reach 94 % of it,
and both together determine it with 19. Depth itself adds nothing: what counts is that the maps have become small.

One row a convolution in a chain of `depth` of them, for a way of choosing strides and filters. Ranks are generic
(exact for almost all weights and output gradients), of weight equations, gradient equations and both, everything
above the layer known and the share `active` of its outputs active; the `share` columns divide by the unknowns.
`condition` columns come from values: the ratio of largest to smallest singular value other than zero of the same
equations, rows of unit norm, at PyTorch's own random weights and the gradient of one step on cifar10:3; missing for
layers of more than 1,200 unknowns.
"""

from __future__ import annotations

import itertools
import time
from typing import NamedTuple

import numpy as np

import constraint_algebra as ca
from analysis.executors import Row
from analysis.subjects import output_gradient, sample_step
from constraint_algebra.arrays import BoolArray
from constraint_algebra.equations.stacking import stack
from constraint_algebra.equations.systems import LinearSystem, gradient_equations, weight_equations
from constraint_algebra.layers import PlacedLayer
from constraint_algebra.numerics.null_space import singular_values
from constraint_algebra.numerics.rows import unit_rows
from constraint_algebra.ranks.bounded import bounded_rank
from constraint_algebra.ranks.knowledge import Knowledge

SEED = 0
SAMPLE = "cifar10:3"
DEPTHS = range(1, 9)
SHAPE = (3, 16, 16)
DENSE = 1200  # unknowns up to which singular values are computed
# Filters and stride of the layer at a place in the chain, counted from 0.
FAMILIES = {
    "constant width": lambda place: (8, 2 if place < 2 else 1),
    "growing width": lambda place: (min(4 * 2**place, 32), 2 if place < 2 else 1),
    "narrow (R-CONV)": lambda place: (12 if place == 0 else 16 if place == 1 else 3, 2 if place < 2 else 1),
}
ACTIVE = (1.0, 0.5)


class Run(NamedTuple):
    """A layer of a chain, counted from 1 at the input, and the share of its outputs that are active."""

    family: str
    depth: int
    layer: int
    active: float


KINDS = {"weight": ("weight",), "gradient": ("gradient",), "both": ("weight", "gradient")}
COLUMNS = (
    *Run._fields,
    *("channels", "filters", "unknowns", "weight_rows", "gradient_rows"),
    *(f"{kind}_rank" for kind in KINDS),
    *(f"{kind}_determined_share" for kind in KINDS),
    *(f"{kind}_condition" for kind in KINDS),
    "cpu_s",
)


def runs(*, quick: bool = False) -> list[Run]:
    """Return every layer of every chain; a quick study has chains of two and three."""
    depths = (2, 3) if quick else DEPTHS
    return [
        Run(family, depth, layer, active)
        for family, depth, active in itertools.product(FAMILIES, depths, ACTIVE)
        for layer in range(1, depth + 1)
    ]


def network(family: str, depth: int) -> ca.Network:
    """Return a chain of convolutions 5/s/2 with LeakyReLU, and a head for ten classes."""
    layers: list[ca.Conv2d | ca.LeakyReLU | ca.Flatten | ca.Linear] = []
    for place in range(depth):
        filters, stride = FAMILIES[family](place)
        layers += [ca.Conv2d(filters, 5, stride=stride, padding=2), ca.LeakyReLU(0.2)]
    return ca.Network(SHAPE, [*layers, ca.Flatten(), ca.Linear(10)])


def judge(run: Run) -> Row:
    """Return ranks, determined shares and conditions of one layer."""
    start = time.process_time()
    net = network(run.family, run.depth)
    layer = net.bilinear[run.layer - 1]
    rng = np.random.default_rng([SEED, run.layer])
    active = rng.random(layer.output_shape) < run.active
    known = Knowledge.of(layer, active=active)
    row: Row = {"channels": layer.channels, "filters": layer.filters, "unknowns": layer.unknowns}
    for name, kinds in KINDS.items():
        found = bounded_rank(layer, knowledge=known, kinds=kinds, seed=SEED)
        row[f"{name}_rank"] = found.rank
        row[f"{name}_determined_share"] = None if found.determined is None else float(found.determined.mean())
        row |= {"weight_rows": found.weight_rows, "gradient_rows": found.gradient_rows}  # those of both stay
    if layer.unknowns <= DENSE:
        row |= conditions(net, layer, active)
    return row | {"cpu_s": round(time.process_time() - start, 3)}


def conditions(net: ca.Network, layer: PlacedLayer, active: BoolArray) -> Row:
    """Return the condition of each kind of equations of a layer at the values of a real step."""
    seen = sample_step(net, SAMPLE, seed=SEED)
    k = output_gradient(seen, layer) * active
    weight = weight_equations(layer, seen.parameters[layer.weight_name]).select(active.ravel())
    gradient = gradient_equations(layer, k)
    systems = {"weight": weight, "gradient": gradient, "both": stack(weight, gradient)}
    return {f"{name}_condition": condition(system) for name, system in systems.items()}


def condition(system: LinearSystem) -> float:
    """Return the ratio of the largest singular value to the smallest other than zero, rows of unit norm."""
    sigma = singular_values(unit_rows(system.matrix)[0])
    above = sigma[sigma > max(system.shape) * np.finfo(float).eps * sigma.max()]
    return float(above[0] / above[-1])
