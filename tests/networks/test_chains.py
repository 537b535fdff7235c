"""What only chains have: refused for a graph with what is possible instead, and never a foreign exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.networks.chains import demand_chain

NETWORK = ca.Network(
    (1, 4, 4),
    {
        "stem": ca.Conv2d(4, 3, padding=1),
        "norm": ca.BatchNorm(),
        "relu": ca.ReLU(),
        "conv": ca.Conv2d(4, 3, padding=1),
        "sum": (ca.Add(), "conv", "relu"),
        "out": ca.ReLU(),
        "pool": ca.MaxPool2d(2),
        "flat": ca.Flatten(),
        "head": ca.Linear(3),
    },
)
X = np.random.default_rng(0).uniform(size=NETWORK.input_shape)


@pytest.fixture(scope="module")
def step() -> dict[str, Any]:
    model = ca.to_torch(NETWORK)
    parameters = ca.from_torch(model, NETWORK.input_shape)[1]
    return {"model": model, "parameters": parameters, "gradients": ca.torch_gradients(model, X, 1)}


# What a user may ask of a graph: answered, or refused by words (`None` for answered).
ASKED: dict[str, tuple[Callable[[Any], Any], str | None]] = {
    "minimum_filters": (lambda _: ca.minimum_filters(NETWORK), "chain.*feasibility"),
    "exact_certificate": (lambda s: ca.exact_certificate(NETWORK, s["parameters"], X), "chain.*certify"),
    "rank_against_filters": (lambda _: ca.rank_against_filters(NETWORK, range(1, 3)), "one of its layers"),
    "bounded_rank": (lambda _: ca.bounded_rank(NETWORK), "one of its layers"),
    "formulas": (lambda _: ca.symbolic.equations(NETWORK), "one of its layers"),
    "polyphase_law": (lambda _: ca.polyphase_law(NETWORK.named("pool")), "no weight"),
    "incidence": (lambda _: ca.incidence(NETWORK.named("sum")), "no weight"),
    "equations": (lambda _: ca.weight_equations(NETWORK.named("norm.normalised")), "no weight"),
    "fewest_filters": (lambda _: ca.fewest_filters(NETWORK.named("out")), "no weight"),
    "layer of a graph": (lambda _: ca.rank_against_filters(NETWORK.named("conv"), range(1, 3)), None),
    "generic_rank": (lambda _: ca.generic_rank(NETWORK.named("norm")), None),
    "feasibility": (lambda _: ca.feasibility(NETWORK), None),
    "activity_of": (lambda s: ca.activity_of(NETWORK, s["parameters"], X), None),
    "whole_map": (lambda s: ca.whole_map(NETWORK, s["parameters"], X), None),
    "indistinguishable": (lambda s: ca.indistinguishable(NETWORK, s["parameters"], X), None),
    "reconstruct": (lambda s: ca.reconstruct(NETWORK, s["parameters"], s["gradients"]), None),
    "polish": (lambda s: ca.polish(s["model"], X, s["gradients"], target=1), None),
}


LONG = {"polish"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in ASKED])
def test_every_question_is_answered_or_refused_in_words(name, step) -> None:
    call, words = ASKED[name]
    if words is None:
        assert call(step) is not None
        return
    with pytest.raises(ca.ConstraintAlgebraError, match=words):
        call(step)


def test_a_chain_passes_and_a_graph_is_told_which_layers_make_it_one() -> None:
    demand_chain(zoo.network("lenet-o"), "this", "that")
    with pytest.raises(
        ca.ShapeError, match=r"norm\.normalised \(Standardise\), norm \(ChannelScale\), sum \(Add, of conv and"
    ):
        demand_chain(NETWORK, "this", "that")
    with pytest.raises(ca.ShapeError, match=r"and 1 more; ask feasibility$"):
        demand_chain(NETWORK, "this", "ask feasibility")
