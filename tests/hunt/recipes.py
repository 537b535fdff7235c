"""Everything that makes one case, as plain data that is drawn from a seed and can be made smaller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

FAMILIES = {
    "piecewise": ("ReLU", "ReLU", "ReLU", "LeakyReLU", "ReLU6", "Hardtanh"),
    "bounded": ("Sigmoid", "Tanh", "Tanh"),
    "bending": ("ELU", "Softplus", "SELU", "Softsign"),
    "two branches": ("SiLU", "GELU", "Mish", "Hardswish"),
}
PRECISIONS = ("float64", "float64", "float64", "float32", "float32", "float16", "bfloat16")
PICTURES = (
    "ordinary",
    "ordinary",
    "ordinary",
    "ordinary",
    "background",
    "black",
    "constant",
    "large",
    "tiny",
    "signed",
)
SCALES = (1.0, 1.0, 1.0, 1.0, 1e-3, 0.1, 3.0, 10.0, 100.0)
LOSSES = ("cross_entropy", "cross_entropy", "cross_entropy", "logistic", "square")
HEADS = ("biased", "biased", "biased", "zero", "none")
DEFECTS = ("", "", "", "", "dead", "duplicated", "no bias", "large biases")
PATHS = ("residual", "dense", "joined", "pooled", "normalised")  # blocks that no plain chain has
BLOCKS = ("plain", "plain", "frozen", *PATHS)


@dataclass(frozen=True)
class Stage:
    """One block of a network: a convolution with what belongs to it.

    Attributes:
        block: "plain" for a convolution and its activation; "residual", "dense" and "joined" have a second path;
            "pooled" has a pool, "normalised" a normalisation by the data's own statistics, "frozen" one by fixed ones.
        activation: a class of `torch.nn`, or "" for none.
        variant: which pool or which normalisation.
    """

    block: str = "plain"
    filters: int = 4
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    bias: bool = True
    activation: str = "ReLU"
    variant: int = 0


@dataclass(frozen=True)
class Recipe:
    """One case.

    Attributes:
        seed: of weights, training and picture.
        source: "stages" as stated here; "trained" and "graph" for the networks that other tests draw by this seed.
        shape: of the input.
        stages: blocks from the input on.
        hidden: units of a linear layer below the head, 0 for none.
        classes: outputs; the logistic loss has one.
        loss: "cross_entropy", "logistic", or "square" for the mean square error, of which only its gradient is seen.
        head: whether the head's bias is "biased", "zero" or "none".
        scale: what all weights are multiplied by.
        steps: of training before the gradient is taken.
        defect: "dead" or "duplicated" filters, "no bias" that differs from zero, "large biases" of size 1; "" for none.
        precision: of parameters and gradients.
        picture: see `pictures`.
        handed: "numpy" or "torch": what parameters and gradients come as.
        buffers: whether the client shares the running statistics that its step moved.
        search: seconds for each search beyond the equations.
    """

    seed: int
    source: str = "stages"
    shape: tuple[int, int, int] = (1, 6, 6)
    stages: tuple[Stage, ...] = (Stage(),)
    hidden: int = 0
    classes: int = 5
    loss: str = "cross_entropy"
    head: str = "biased"
    scale: float = 1.0
    steps: int = 0
    defect: str = ""
    precision: str = "float64"
    picture: str = "ordinary"
    handed: str = "numpy"
    buffers: bool = False
    search: float = 0.3

    @property
    def is_graph(self) -> bool:
        """Whether anything but a plain chain is in it."""
        return self.source != "stages" or any(stage.block in PATHS for stage in self.stages)


def drawn(seed: int) -> Recipe:
    """Draw a case: a chain for an even seed, a graph for an odd one; most have one thing that is odd, few have many."""
    rng = np.random.default_rng([11, seed])
    pick = picker(rng)
    loss = pick(LOSSES)
    source = "stages" if seed % 2 == 0 else pick(("stages", "stages", "trained", "graph"))
    ordinary = rng.random() < 0.3  # nothing about it is odd
    return Recipe(
        seed=seed,
        source=source,
        shape=(int(rng.integers(1, 4)), *(int(n) for n in rng.integers(4, 8, 2))),
        stages=_stages(rng, graph=seed % 2 == 1),
        hidden=int(rng.integers(4, 20)) if rng.random() < 0.25 else 0,
        classes=1 if loss == "logistic" else int(rng.integers(2, 9)),
        loss=loss if source == "stages" else "cross_entropy",
        head="biased" if loss == "square" else pick(HEADS),
        scale=1.0 if ordinary else pick(SCALES),
        steps=int(rng.integers(1, 6)) if rng.random() < 0.4 else 0,
        defect="" if ordinary else pick(DEFECTS),
        precision=pick(PRECISIONS),
        picture="ordinary" if ordinary else pick(PICTURES),
        handed=pick(("numpy", "numpy", "numpy", "torch")),
        buffers=bool(rng.random() < 0.5),
    )


def picker(rng: np.random.Generator) -> Callable[[Any], Any]:
    """Return a function that picks one of several things."""
    return lambda things: things[int(rng.integers(len(things)))]


def _stages(rng: np.random.Generator, *, graph: bool) -> tuple[Stage, ...]:
    """Draw one to three blocks, with activations of one family in three cases of four."""
    pick = picker(rng)
    names = list(FAMILIES if graph else tuple(FAMILIES)[:3])
    families = [pick(names)] if rng.random() < 0.75 else names
    blocks = BLOCKS if graph else ("plain", "plain", "plain", "plain", "frozen")

    def stage() -> Stage:
        kernel = pick((1, 2, 3, 3, 3, 5))
        return Stage(
            block=pick(blocks),
            filters=pick((1, 2, 4, 8, 12, 16, 24)),
            kernel=kernel,
            stride=pick((1, 1, 1, 2)),
            padding=pick((0, kernel // 2)),
            bias=bool(rng.random() < 0.8),
            activation=pick(FAMILIES[pick(families)]) if rng.random() < 0.93 else "",
            variant=int(rng.integers(4)),
        )

    found = [stage() for _ in range(pick((1, 1, 2, 2, 3)))]
    if graph and not any(one.block in PATHS for one in found):
        found[0] = replace(found[0], block=pick(PATHS))
    return tuple(found)
