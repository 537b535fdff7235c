"""A recipe from a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.hunt.kinds import kind_of, made_for, picker
from tests.hunt.recipes import (
    BLOCKS,
    DEFECTS,
    FAMILIES,
    HEADS,
    LOSSES,
    PATHS,
    PICTURES,
    PRECISIONS,
    SCALES,
    Recipe,
    Stage,
)


def drawn(seed: int) -> Recipe:
    """Draw a case: a chain for an even seed, a graph for an odd one; seven of sixteen are made on purpose."""
    return made_for(kind_of(seed), _at_random(seed))


def _at_random(seed: int) -> Recipe:
    """Draw a case that is like any other: most have one thing that is odd, few have many."""
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
