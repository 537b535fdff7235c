"""Judges that solve small cases otherwise: exact elimination over the rationals, and a search for other inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.ground import Ground
from tests.hunt import oracle, other_inputs, rational, statements
from tests.hunt.judging import judged
from tests.hunt.recipes import Recipe, Stage
from tests.hunt.subjects import subject

OF_ALL = (
    Stage(filters=3, kernel=2, activation="ReLU6"),
    Stage(filters=2, stride=2, activation="LeakyReLU"),
    Stage(filters=4, kernel=1, padding=0, activation="Hardtanh"),
)
MIXED = Recipe(seed=5, shape=(2, 3, 4), stages=OF_ALL, hidden=5, picture="signed", search=0.0)
HALF = Recipe(seed=1, shape=(1, 3, 4), stages=(Stage(filters=1, stride=2, activation="LeakyReLU"),), search=0.0)
WHOLE = replace(HALF, stages=(Stage(filters=4, activation="LeakyReLU"),))
# One filter without a bias on two channels: only sums of two values are seen.
SUMS = Recipe(seed=2, shape=(2, 1, 2), stages=(Stage(filters=1, kernel=1, padding=0, activation="ReLU"),), search=0.0)


def claims(case, ground=Ground.EQUATIONS):
    """Alter a result so that it calls every value determined, and right."""
    every, grounds = np.ones(case.x.shape, dtype=bool), np.full(case.x.shape, ground, np.uint8)
    given = {"determined": every, "everywhere": every, "ground": grounds, "input": case.x, "guess": case.x}
    return lambda result: replace(result, **given, error_bar=np.zeros(case.x.shape))


def nothing(result):
    never = np.zeros(result.determined.shape, dtype=bool)
    return replace(result, determined=never, everywhere=never, status=ca.Status.UNDETERMINED)


def test_the_exact_chain_is_that_of_the_model() -> None:
    case = subject(MIXED)
    assert rational.applies(case)
    chain = rational.chain(case)
    value, gradients = rational.exact(case.x.reshape(-1)), oracle.gradients(case, case.x)
    weights = [g.reshape(-1) for name, g in gradients.items() if name.endswith("weight")]
    assert len(weights) == len(chain.layers) == 5
    for layer, by_output, given in zip(chain.layers, chain.gradients, weights, strict=True):
        rows = rational.weight_rows(layer, by_output.of) @ value.of
        found = np.array([float(v) for v in rows / 2 ** (by_output.bits + value.bits)])
        np.testing.assert_allclose(found, given, rtol=1e-9, atol=1e-12 * np.abs(given).max())
        value = rational._activated(layer.activation, layer.matrix @ value + layer.bias)[0]


@pytest.mark.parametrize("module", [nn.ReLU(), nn.LeakyReLU(0.25), nn.ReLU6(), nn.Hardtanh()])
def test_exact_activations_are_pytorchs(module) -> None:
    given = torch.tensor([-9.5, -1.0, -0.75, 0.0, 0.5, 1.0, 1.25, 6.0, 8.0], dtype=torch.float64, requires_grad=True)
    output = module(given)
    output.sum().backward()
    value, slope, at_kink = rational._activated(module, rational.exact(given.detach().numpy()))
    assert [v / 2**value.bits for v in value.of] == output.tolist()
    off = [n for n, kink in enumerate(at_kink) if not kink]
    assert [slope.of[n] / 2**slope.bits for n in off] == [given.grad[n].item() for n in off]
    assert 1 <= at_kink.sum() <= 2


def test_a_rank_that_falls_short_by_one_bit_is_seen() -> None:
    third = rational.exact(np.array([[1 / 3, 1.0], [1 / 3 + 2.0**-54, 1.0], [2 / 3, 2.0]])).of
    assert rational.determined(third[::2])[0] == 1
    assert rational.determined(third)[0] == 2


def test_honest_results_pass_exact_elimination() -> None:
    for recipe in (WHOLE, HALF, replace(WHOLE, defect="coarse")):
        record = judged(recipe, ("over_rationals",))
        assert (record.faults, record.checks) == ([], ["over_rationals"])
    chain = rational.chain(subject(WHOLE))
    assert rational.limit(chain).all()
    assert rational.reached(chain, 1e-5).all()
    assert not rational.reached(chain, 100.0).any()


def test_values_that_move_over_the_rationals_are_seen() -> None:
    case = subject(HALF)
    left = (~rational.limit(rational.chain(case))).sum()
    assert 0 < left < 12
    words = f"{left} values called determined move over the rationals"
    result = case.reconstruct()
    for ground in (Ground.EQUATIONS, Ground.RANGE, Ground.BITS, Ground.NEIGHBOURHOOD):
        assert [f.words for f in statements.over_rationals(case, claims(case, ground)(result))] == [words]
    assert not list(statements.over_rationals(case, claims(case, Ground.ZEROS)(result)))


def test_values_that_exact_elimination_determines_are_missed() -> None:
    found = judged(WHOLE, ("over_rationals",), nothing).faults
    assert found == [["missed", "12 of 12 values that exact elimination determines"]]


def test_a_limit_that_is_none_over_the_rationals_is_seen(monkeypatch) -> None:
    monkeypatch.setattr(rational, "limit", lambda _: np.ones(12, dtype=bool))
    case = subject(HALF)
    assert [f.kind for f in statements.over_rationals(case, None)] == ["foretold"]


def test_values_that_another_input_has_otherwise_are_seen(monkeypatch) -> None:
    case = subject(SUMS)
    assert judged(SUMS, ("elsewhere",)).faults == []
    found = other_inputs.other_inputs(case)
    given = oracle.gradients(case, case.x)
    assert found
    assert all(x.min() >= 0 and x.max() <= 1 and oracle.apart(given, oracle.gradients(case, x)) < 1e-9 for x in found)
    monkeypatch.setattr(other_inputs, "other_inputs", lambda _: found)
    result = case.reconstruct()
    for ground in (Ground.EQUATIONS, Ground.RANGE, Ground.BITS):
        assert {f.kind for f in statements.elsewhere(case, claims(case, ground)(result))} == {"elsewhere"}
    for ground in (Ground.ZEROS, Ground.NEIGHBOURHOOD):  # claim nothing of inputs elsewhere
        assert not list(statements.elsewhere(case, claims(case, ground)(result)))
    certificate = ca.certify(case.model, case.x, case.target)
    fixed = replace(certificate, fixed=np.ones(case.x.shape, dtype=bool), bound=np.zeros(case.x.shape))
    monkeypatch.setattr(ca, "certify", lambda *_, **__: fixed)
    assert {f.kind for f in statements.elsewhere(case, result)} == {"fixed"}


def test_gradients_are_the_same_entry_by_entry() -> None:
    given = {"w": np.array([1.0, 1e-6, 0.0])}
    assert other_inputs.same(given, {"w": np.array([1.0, 1e-6, 0.0]) * (1 + 1e-11)})
    assert not other_inputs.same(given, {"w": np.array([1.0, 1e-6 + 1e-13, 0.0])})
    assert not other_inputs.same(given, {"w": np.array([1.0, 1e-6, 1e-300])})


def test_sides_differ_between_inputs_on_different_pieces() -> None:
    case = subject(replace(SUMS, stages=(Stage(filters=1, kernel=1, padding=0, activation="Hardtanh"),)))
    far = case.x + 100
    assert (other_inputs.sides(case, case.x) == other_inputs.sides(case, case.x + 1e-9)).all()
    assert not (other_inputs.sides(case, case.x) == other_inputs.sides(case, far)).all()
