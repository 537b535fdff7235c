"""What a network with normalisation by its data's own statistics gives away, with and without the client's buffers.

Question: How much of the input comes back through batch norm in training mode, group, layer and instance norm, and
what do the client's running statistics add?

Hypothesis: With the buffers batch norm hides nothing; group and layer norm, whose statistics nobody shares, hide
nothing either where the layers below have a bias; batch norm without buffers and bias leaves one factor open.

Finding: Of 120 runs none says anything wrong, and no determined pixel is off by more than 4 error bars. With the
buffers batch norm hides nothing: 24 of 24 runs come back, in float64 to 1e-13. With LeakyReLU nothing else hides
anything either, 60 of 60; without a bias that differs within a group the scale is then known by eps alone, to 2e-8 in
float64 and 1e-3 in float32, as the error bars say. With ReLU group and layer norm come back where the layers have a
bias, 12 of 12; without one layer norm does in 2 of 3 float64 runs, group norm never, and batch and instance norm
without buffers never do.

One row a photograph and a network: two convolutions (12 filters of 3×3; 32 of 3×3, stride 2), each followed by the
normalisation and an activation, and a head, on 3×10×10 pixels; PyTorch's own initialisation, factors from U(0.6, 1.4)
and shifts from N(0, 0.3²), training mode, float64 or float32; `bias` whether the convolutions have one. `groups` is the
number of groups of statistics in each layer, 0 for one a channel. `hidden` is the share of the second convolution's
input that is known; `equations` and `nearby` how many pixels rest on each of these grounds; other columns as in
`pooling`.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import constraint_algebra as ca
from analysis.executors import Row
from analysis.pooling import CLAIM, WRONG
from constraint_algebra.experiments.samples import fit
from constraint_algebra.ground import Ground

if TYPE_CHECKING:
    from torch import nn

SEED = 0
SHAPE, WIDTHS = (3, 10, 10), (12, 32)
NORMS = (("batch", 0, True), ("batch", 0, False), ("group", 4, False), ("layer", 1, False), ("instance", 0, False))
ACTIVATIONS = ("LeakyReLU", "ReLU")
PHOTOGRAPHS = ("cifar10:3", "cifar10:7", "cifar10:12")


class Run(NamedTuple):
    """A normalisation with its groups, whether buffers are shared, an activation, biases, a type and a picture."""

    norm: str
    groups: int
    buffers: bool
    activation: str
    bias: bool
    dtype: str
    picture: str


COLUMNS = (
    *Run._fields,
    *(
        "status",
        "determined_share",
        "hidden",
        "equations",
        "nearby",
        "wrong",
        "largest_error",
        "within_4_bars",
        "cpu_s",
    ),
)


def runs(*, quick: bool = False) -> list[Run]:
    """Return the grid; a quick one has one photograph and one activation."""
    few = (NORMS, ACTIVATIONS[:1], (True,), ("float64",), PHOTOGRAPHS[:1])
    grid = few if quick else (NORMS, ACTIVATIONS, (True, False), ("float64", "float32"), PHOTOGRAPHS)
    return [Run(*norm, *key) for norm, *key in itertools.product(*grid)]


def judge(run: Run) -> Row:
    """Return how much of a photograph comes back."""
    model = _model(run)
    found = ca.samples.load(run.picture)
    image = np.asarray(fit(found.image, SHAPE).astype(run.dtype), dtype=float)
    network, parameters = ca.from_torch(model, SHAPE)
    gradients, after = ca.torch_gradients(model, image, found.label, buffers=True)
    start = time.process_time()
    result = ca.reconstruct(network, parameters, gradients, buffers=after if run.buffers else None, batch=1, seed=SEED)
    seconds = time.process_time() - start
    second = next(line for line in result.layers if line.name == network.bilinear[2].name)
    error, bar = np.abs(result.input - image)[result.determined], result.error_bar[result.determined]
    excused = np.maximum(WRONG if run.dtype == "float64" else 0.0, CLAIM * bar)
    return {
        "status": result.status.name,
        "determined_share": float(result.determined.mean()),
        "hidden": second.determined / second.unknowns,
        "equations": result.grounds.get(Ground.EQUATIONS, 0),
        "nearby": result.grounds.get(Ground.NEIGHBOURHOOD, 0),
        "wrong": int(np.count_nonzero(error > excused)),
        "largest_error": float(error.max(initial=0.0)),
        "within_4_bars": float(np.mean(error <= 4 * bar)) if error.size else None,
        "cpu_s": round(seconds, 3),
    }


def _model(run: Run) -> nn.Module:
    """Return the client's model in training mode."""
    import torch
    from torch import nn

    torch.manual_seed(SEED + runs().index(run) if run in runs() else SEED)
    stages: list[nn.Module] = []
    for channels, filters, stride in zip((SHAPE[0], *WIDTHS), WIDTHS, (1, 2), strict=False):
        norm: nn.Module = {
            "batch": nn.BatchNorm2d,
            "group": lambda n: nn.GroupNorm(run.groups, n),
            "layer": lambda n: nn.GroupNorm(1, n),
            "instance": lambda n: nn.InstanceNorm2d(n, affine=True),
        }[run.norm](filters)
        nn.init.uniform_(norm.weight, 0.6, 1.4)  # type: ignore[arg-type]
        nn.init.normal_(norm.bias, 0, 0.3)  # type: ignore[arg-type]
        act = nn.LeakyReLU(0.2) if run.activation == "LeakyReLU" else nn.ReLU()
        stages += [nn.Conv2d(channels, filters, 3, stride, 1, bias=run.bias), norm, act]
    side = (SHAPE[1] + 1) // 2
    model = nn.Sequential(*stages, nn.Flatten(), nn.Linear(WIDTHS[1] * side * side, 10))
    return model.to(getattr(torch, run.dtype)).train()
