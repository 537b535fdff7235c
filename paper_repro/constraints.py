"""How much each kind of equation tells of a layer's input, and how many equations the literature counts and needs.

Ranks are generic: exact for almost all weights and output gradients, by elimination modulo a prime. Each layer counts
by itself, with all that is above it known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from constraint_algebra import zoo
from constraint_algebra.layers import Conv, PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.ranks.bounded import bounded_rank
from constraint_algebra.ranks.knowledge import Knowledge
from constraint_algebra.theory.activity import activity_of
from constraint_algebra.theory.minimum_filters import minimum_filters
from paper_repro.plan import AS_PUBLISHED, Run
from paper_repro.study import step_of

COUNTED = ("cnn6", "lenet")  # the networks whose constraints the paper's table counts
INFORMED = ("lenet", "lenet-o", "lenet-dlg", "cnn6", "cnn6-o")
KINDS = {"weight": ("weight",), "gradient": ("gradient",), "both": ("weight", "gradient")}
LIMIT = 4000  # reduced unknowns that are eliminated, about 10 s


def counts(network: str) -> pd.DataFrame:
    """Return reported and needed constraints of every convolution of a network, with all outputs active.

    Columns: layer, geometry, unknowns; filters; filters that counting gradient equations asks for; filters needed (by
    the gradient equations alone, and by both kinds), and their shares of the filters in per cent; weight rows and
    gradient rows, the constraints that counting reports; rows needed, as many as there are unknowns, and their share.
    Where no number of filters up to the network's own does, the share says so by exceeding 100.
    """
    net = zoo.network(network)
    rows = []
    for layer, least in zip(net.bilinear, minimum_filters(net).layers, strict=True):
        if not isinstance(layer.layer, Conv):
            continue
        weight = math.prod(layer.output_shape)
        gradient = math.prod(layer.weight_shape)
        rows.append(
            {
                "network": network,
                "layer": len(rows) + 1,
                "geometry": geometry(layer),
                "unknowns": layer.unknowns,
                "filters": layer.filters,
                "counted by gradient": least.by_counting,
                "needed by gradient": least.by_gradient,
                "needed by both": least.by_both,
                "filter share %": _percent(least.by_gradient, layer.filters),
                "share by both %": _percent(least.by_both, layer.filters),
                "weight rows": weight,
                "gradient rows": gradient,
                "reported": weight + gradient,
                "rows needed": layer.unknowns,
                "row share %": _percent(layer.unknowns, weight + gradient),
            }
        )
    return pd.DataFrame(rows)


def geometry(layer: PlacedLayer) -> str:
    """Return a convolution in the short form of the literature: channels→filters kernel/stride/padding.

    >>> from constraint_algebra import Conv2d
    >>> geometry(Conv2d(12, 5, stride=2, padding=2).place((3, 32, 32)))
    '3→12 5/2/2'
    """
    conv = layer.layer
    assert isinstance(conv, Conv)
    return f"{layer.channels}→{layer.filters} {conv.taps[0]}/{conv.strides[0]}/{conv.paddings[0][0]}"


def _percent(part: int | None, whole: int) -> float:
    return math.nan if part is None else round(100 * part / whole, 1)


def informed(network: str) -> Iterator[dict[str, object]]:
    """Yield for every convolution what weight equations, gradient equations and both tell of its input.

    Which ReLUs are active is that of cifar10:0 at weights from U(-0.5, 0.5) with seed 0; the others hide nothing.
    Columns: `rank` and `determined` of each kind, as shares of the unknowns; missing where bounds do not meet.
    """
    step = step_of(Run(network, AS_PUBLISHED, "uniform", "cifar10", 0, "float64", "", 0))
    assert step.truth is not None
    weights = {name: array.astype(float) for name, array in step.parameters.items()}
    active = activity_of(step.network, weights, step.truth)
    convolutions = [layer for layer in step.network.bilinear if isinstance(layer.layer, Conv)]
    for number, layer in enumerate(convolutions, start=1):
        known = Knowledge.of(layer, active=_active(step.network, layer, active))
        row: dict[str, object] = {"network": network, "layer": number, "geometry": geometry(layer)}
        row |= {"unknowns": layer.unknowns, "active": float(known.output.mean())}
        for name, kinds in KINDS.items():
            found = bounded_rank(layer, knowledge=known, kinds=kinds, limit=LIMIT)
            row[f"{name} rank"] = None if found.rank is None else found.rank / layer.unknowns
            row[f"{name} determined"] = None if found.determined is None else float(found.determined.mean())
        yield row


def _active(network: Network, layer: PlacedLayer, active: dict[str, np.ndarray]) -> np.ndarray | None:
    following = network[layer.index + 1]
    return active.get(following.name)
