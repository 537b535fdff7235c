"""The simplest case that still has a fault, found by drawing it anew with less of everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.hunt.recipes import Recipe, Stage

SECONDS = 60.0  # that making one case smaller may take

PLAINEST = {
    "scale": 1.0,
    "steps": 0,
    "defect": "",
    "picture": "ordinary",
    "handed": "numpy",
    "precision": "float64",
    "buffers": False,
    "search": 0.0,
    "head": "biased",
    "hidden": 0,
}


def shrunk(recipe: Recipe, still: Callable[[Recipe], bool], seconds: float = SECONDS) -> Recipe:
    """Return a simpler recipe with the same fault; none that is one step simpler has it, if time allowed to look.

    Args:
        recipe: of a case that has the fault.
        still: whether the case of a recipe has that fault.
        seconds: after which nothing new is tried.
    """
    deadline = time.monotonic() + seconds
    found = True
    while found:
        found = False
        for simpler in simplified(recipe):
            if time.monotonic() > deadline:
                return recipe
            if still(simpler):
                recipe, found = simpler, True
                break
    return recipe


def simplified(recipe: Recipe) -> Iterator[Recipe]:
    """All recipes that are one step simpler, the largest steps first."""
    for name, plain in PLAINEST.items():
        if getattr(recipe, name) != plain:
            yield replace(recipe, **{name: plain})
    if recipe.source != "stages":
        return  # what other tests draw is as it is
    stages = recipe.stages
    if len(stages) > 1:
        yield from (replace(recipe, stages=stages[:n] + stages[n + 1 :]) for n in range(len(stages)))
    for n, stage in enumerate(stages):
        yield from (replace(recipe, stages=(*stages[:n], s, *stages[n + 1 :])) for s in _simplified_stage(stage))
    for axis, size in enumerate(recipe.shape):
        for smaller in dict.fromkeys((size // 2, size - 1)):
            if smaller >= 1:
                shape = (*recipe.shape[:axis], smaller, *recipe.shape[axis + 1 :])
                yield replace(recipe, shape=shape)
    if recipe.hidden > 1:
        yield replace(recipe, hidden=recipe.hidden // 2)
    if recipe.classes > 2:
        yield replace(recipe, classes=2)
        yield replace(recipe, classes=recipe.classes - 1)


def _simplified_stage(stage: Stage) -> Iterator[Stage]:
    for name, plain in (("block", "plain"), ("activation", "ReLU"), ("activation", ""), ("stride", 1), ("padding", 0)):
        if getattr(stage, name) not in {plain, ""}:
            yield replace(stage, **{name: plain})
    for name in ("kernel", "filters"):
        size = getattr(stage, name)
        for smaller in dict.fromkeys((size // 2, size - 1)):
            if smaller >= 1:
                yield replace(
                    stage,
                    **{name: smaller, **({"padding": min(stage.padding, smaller // 2)} if name == "kernel" else {})},
                )
