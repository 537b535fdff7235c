"""Cases made on purpose: what is rare where everything is drawn at random, and where faults were found before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.hunt.recipes import PATHS, Recipe, Stage

Pick = Callable[[Any], Any]

HUGE = (30.0, 100.0, 300.0, 1000.0)
SMOOTH = ("Sigmoid", "Tanh", "Softplus", "ELU", "SiLU")


def kind_of(seed: int) -> str:
    """For which kind of fault a seed is made: small ones that are solved otherwise as well, known kinds, or none."""
    if seed % 16 in TINY:
        return TINY[seed % 16]
    if seed % 8 in {6, 7}:
        return tuple(KINDS)[seed // 8 % len(KINDS)]
    return ""


def made_for(kind: str, recipe: Recipe) -> Recipe:
    """Return the recipe with what a kind of fault needs, and all else as it was drawn; no kind leaves it alone."""
    if not kind:
        return recipe
    rng = np.random.default_rng([14, recipe.seed])
    pick = picker(rng)
    if kind in KINDS:
        return replace(KINDS[kind](_of_stages(recipe), pick), kind=kind)
    return replace({"rational": _rational, "twins": _twins}[kind](recipe, rng), kind=kind)


def picker(rng: np.random.Generator) -> Pick:
    """Return a function that picks one of several things."""
    return lambda things: things[int(rng.integers(len(things)))]


def _of_stages(recipe: Recipe) -> Recipe:
    return replace(recipe, source="stages", classes=1 if recipe.loss == "logistic" else max(recipe.classes, 2))


def _activated(recipe: Recipe, names: tuple[str, ...], pick: Pick) -> Recipe:
    """The recipe with activations of these names alone."""
    return replace(recipe, stages=tuple(replace(stage, activation=pick(names)) for stage in recipe.stages))


def _several_roots(recipe: Recipe, pick: Pick) -> Recipe:
    loss = pick(("logistic", "cross_entropy"))
    return replace(
        recipe,
        loss=loss,
        classes=1 if loss == "logistic" else max(recipe.classes, 2),
        head=pick(("none", "zero")),
        scale=pick(HUGE),
        defect=pick(("", "no bias")),
    )


def _tiny_beside_biases(recipe: Recipe, pick: Pick) -> Recipe:
    return replace(recipe, picture="tiny", defect="large biases", scale=pick((1.0, 1.0, 0.1, 10.0)))


def _large_and_bounded(recipe: Recipe, pick: Pick) -> Recipe:
    scaled = replace(recipe, picture="large", scale=pick((1e-3, 0.01, 0.1, 1.0)))
    return _activated(scaled, ("Tanh", "Sigmoid", "Hardtanh"), pick)


def _deep_sigmoids(recipe: Recipe, pick: Pick) -> Recipe:
    stages = (recipe.stages * 3)[:3]
    return _activated(replace(recipe, stages=stages, scale=pick((1.0, 3.0, 10.0, 30.0))), ("Sigmoid",), pick)


def _cut_off_throughout(recipe: Recipe, pick: Pick) -> Recipe:
    return _activated(replace(recipe, scale=pick((1.0, 3.0, 10.0, 30.0))), ("Hardtanh",), pick)


def _saturated_half(recipe: Recipe, pick: Pick) -> Recipe:
    saturated = replace(recipe, precision=pick(("float16", "bfloat16")), scale=pick((3.0, 10.0, 30.0, 100.0)))
    return _activated(saturated, ("Tanh", "Sigmoid"), pick)


def _huge_and_bending(recipe: Recipe, pick: Pick) -> Recipe:
    return _activated(replace(recipe, scale=pick((30.0, 100.0))), ("ELU", "SELU", "Softplus"), pick)


def _dead_by_training(recipe: Recipe, pick: Pick) -> Recipe:
    trained = replace(recipe, steps=pick((3, 5, 10)), scale=pick((3.0, 10.0)), hidden=0)
    return _activated(trained, ("ReLU",), pick)


KINDS: dict[str, Callable[[Recipe, Pick], Recipe]] = {
    "several roots": _several_roots,
    "tiny beside biases": _tiny_beside_biases,
    "large and bounded": _large_and_bounded,
    "deep sigmoids": _deep_sigmoids,
    "cut off throughout": _cut_off_throughout,
    "saturated half": _saturated_half,
    "huge and bending": _huge_and_bending,
    "dead by training": _dead_by_training,
}
# By seed modulo 16. An even number is a chain, an odd one a graph.
TINY = {4: "rational", 12: "twins", 13: "twins"}


def _small(recipe: Recipe, rng: np.random.Generator, shape: tuple[int, int, int], stages: tuple[Stage, ...]) -> Recipe:
    pick = picker(rng)
    return replace(
        recipe,
        source="stages",
        shape=shape,
        stages=stages,
        hidden=0,
        loss="cross_entropy",
        classes=int(rng.integers(2, 6)),
        head=pick(("biased", "biased", "zero")),
        scale=1.0,
        steps=0,
        defect="",
        precision="float64",
        picture="ordinary",
        search=0.1,
    )


def _rational(recipe: Recipe, rng: np.random.Generator) -> Recipe:
    """A chain of few values without smooth activations; every other one has coarse weights."""
    pick = picker(rng)

    def stage() -> Stage:
        kernel = pick((1, 2, 2, 3))
        return Stage(
            filters=int(rng.integers(1, 7)),
            kernel=kernel,
            stride=pick((1, 1, 2)),
            padding=pick((0, kernel // 2)),
            bias=bool(rng.random() < 0.8),
            activation=pick(("ReLU", "LeakyReLU", "LeakyReLU", "ReLU6", "Hardtanh", "")),
        )

    stages = tuple(stage() for _ in range(pick((1, 2, 2, 3))))
    shape = (int(rng.integers(1, 4)), int(rng.integers(2, 5)), int(rng.integers(2, 5)))
    small = _small(recipe, rng, shape, stages)
    return replace(small, hidden=pick((0, 0, 4, 8)), defect=pick(("", "coarse")), picture=pick(("ordinary", "signed")))


def _twins(recipe: Recipe, rng: np.random.Generator) -> Recipe:
    """Two to six values below few filters: other inputs may well have the same gradients, and all can be tried."""
    pick = picker(rng)
    shape = pick(((1, 1, 2), (1, 1, 3), (2, 1, 2), (1, 2, 2), (1, 2, 3), (2, 1, 3), (3, 1, 2), (3, 1, 1)))
    names = pick((("ReLU",), ("ReLU", "LeakyReLU"), ("ReLU6", "Hardtanh"), SMOOTH, ("",)))

    def stage(block: str) -> Stage:
        kernel = pick((1, 2)) if min(shape[1:]) > 1 else 1
        return Stage(block, int(rng.integers(1, 4)), kernel, 1, kernel // 2, bool(rng.random() < 0.7), pick(names))

    blocks = [pick(PATHS[:3]), "plain"][: pick((1, 2))] if recipe.seed % 2 else ["plain"] * pick((1, 1, 2))
    small = _small(recipe, rng, shape, tuple(stage(block) for block in blocks))
    return replace(small, head=pick(("biased", "biased", "zero", "none")), scale=pick((1.0, 1.0, 3.0)))
