"""Certificates without tolerance: they agree with float64, and their twins' gradients are equal as fractions."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import flint
import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.numerics.rational import columns_of, matrix_of, null_space
from constraint_algebra.proofs.exact import exact_gradients
from constraint_algebra.regions import rational
from tests.rational_cases import Small, small
from tests.regions.test_rational import jacobian
from tests.regions.test_rational import null_space as float_null_space
from tests.some import some
from tests.twin_cases import case

PIECEWISE = {
    "relu": ca.ReLU(),
    "leaky": ca.LeakyReLU(0.25),
    "hardtanh": ca.Hardtanh(-0.25, 0.5),
    "identity": ca.Identity(),
}


def dyadic(activation, seed: int):
    """A small network whose weights and inputs are multiples of 1/64, exact in float64 and over the rationals."""
    net = ca.Network((2, 5, 4), [ca.Conv2d(2, 3, stride=2, padding=1), activation, ca.Flatten(), ca.Linear(3)])
    rng = np.random.default_rng(seed)
    c = case(net, np.round(64 * rng.random(net.input_shape)) / 64)
    values = {name: np.round(64 * rng.uniform(-0.5, 0.5, p.shape)) / 64 for name, p in c.parameters.items()}
    from constraint_algebra.pytorch.gradients import load_parameters

    load_parameters(c.model, values)
    return c


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", PIECEWISE.values(), ids=PIECEWISE)
def test_rank_and_fixed_values_are_those_of_float64(activation, seed: int) -> None:
    c = dyadic(activation, seed)
    exact = ca.exact_certificate(c.network, c.parameters, c.image)
    numeric = ca.indistinguishable(c.network, c.parameters, c.image, loss=None)
    assert exact.nullity == numeric.nullity
    np.testing.assert_array_equal(exact.fixed, numeric.fixed)


@pytest.mark.parametrize("activation", PIECEWISE.values(), ids=PIECEWISE)
def test_a_twin_is_a_proof_without_tolerance(activation) -> None:
    c = dyadic(activation, 0)
    exact = ca.exact_certificate(c.network, c.parameters, c.image)
    twin = exact.twin()
    if exact.nullity == 0:
        assert twin is None
        return
    assert twin.gradients_equal
    assert twin.change > 0
    assert all(0 <= value <= 1 for value in twin.image.ravel())
    assert ca.verify_twin(c.model, c.image, twin.image.astype(float), 1).difference < 1e-13


def test_a_twin_of_float64_leads_to_an_exact_one_as_strong() -> None:
    c = dyadic(ca.ReLU(), 8)
    exact = ca.exact_certificate(c.network, c.parameters, c.image)
    numeric = ca.indistinguishable(c.network, c.parameters, c.image, loss=None).twin()
    twin = exact.twin(numeric.difference)
    assert twin.gradients_equal
    assert float(twin.change) == pytest.approx(numeric.change, rel=1e-3)


def test_gradients_are_those_of_pytorch_and_a_wrong_twin_is_found_out() -> None:
    c = dyadic(ca.ReLU(), 2)
    W = {name: [Fraction(v) for v in values.ravel()] for name, values in c.parameters.items()}
    x = [Fraction(v) for v in c.image.ravel()]
    for unit, gradients in enumerate(exact_gradients(c.network, W, x)):
        theirs = ca.torch_gradients(c.model, c.image, 0, lambda output, _, unit=unit: output[0, unit])
        for name, values in gradients.items():
            np.testing.assert_allclose(np.array(values, dtype=float), theirs[name].ravel(), atol=1e-13)
    moved = [x[0] + Fraction(1, 10**9), *x[1:]]
    assert exact_gradients(c.network, W, moved) != exact_gradients(c.network, W, x)


def test_what_is_refused() -> None:
    c = dyadic(ca.ReLU(), 0)
    with pytest.raises(ca.UnsupportedLayerError, match="no rational values"):
        ca.exact_certificate(
            ca.Network((2,), [ca.Linear(2), ca.Tanh(), ca.Linear(2)]),
            {"0.weight": np.eye(2), "0.bias": [0, 0], "2.weight": np.eye(2), "2.bias": [0, 0]},
            [0, 0],
        )
    with pytest.raises(ca.ShapeError, match="must have shape"):
        ca.exact_certificate(c.network, c.parameters, c.image[0])
    with pytest.raises(ca.ParameterError, match="between 0 and 1"):
        ca.exact_certificate(c.network, c.parameters, c.image + 2)
    with pytest.raises(ca.ParameterError, match="finite rational"):
        ca.exact_certificate(c.network, c.parameters | {"0.bias": [np.nan, 0]}, c.image)
    with pytest.raises(ca.ShapeError, match="differences must have"):
        ca.exact_certificate(c.network, c.parameters, c.image).twin([1.0])
    big = ca.Network((1, 30, 30), [ca.Conv2d(1, 3), ca.Flatten(), ca.Linear(2)])
    parameters = {name: np.zeros(shape) for name, shape in big.parameter_shapes.items()}
    with pytest.raises(ca.ShapeError, match="up to 600 unknowns"):
        ca.exact_certificate(big, parameters, np.zeros((1, 30, 30)))


SMALL = range(70)


@cache
def certified(seed: int) -> tuple[Small, ca.ExactCertificate]:
    c = small(seed)
    return c, ca.exact_certificate(c.network, c.parameters, c.image)


def fractions(c: Small) -> tuple[dict[str, list[Fraction]], list[Fraction]]:
    W = {name: [Fraction(v) for v in values.ravel()] for name, values in c.parameters.items()}
    return W, [Fraction(v) for v in c.image.ravel()]


def slopes(c: Small, x: list[Fraction]) -> list[list[Fraction]]:
    """The pattern: every activation's slope at every value."""
    values = rational.forward(c.network, fractions(c)[0], x)
    placed = [layer for layer in c.network.layers if layer.is_activation]
    return [[rational.piece(layer.activation, z)[1] for z in values[layer.index]] for layer in placed]


@pytest.mark.parametrize("seed", some(25, SMALL))
def test_twins_keep_every_gradient_the_output_the_pattern_and_what_is_fixed(seed: int) -> None:
    c, exact = certified(seed)
    W, x = fractions(c)
    rng = np.random.default_rng(seed)
    twins = [exact.twin(), *(exact.twin(rng.standard_normal(c.image.shape)) for _ in range(5))]
    for twin in filter(None, twins):
        moved = list(twin.image.ravel())
        assert twin.gradients_equal
        assert exact_gradients(c.network, W, moved) == exact_gradients(c.network, W, x)
        assert rational.forward(c.network, W, moved)[-1] == rational.forward(c.network, W, x)[-1]
        assert slopes(c, moved) == slopes(c, x)
        assert all(0 <= value <= 1 for value in moved)
        assert (twin.image == exact.input)[exact.fixed].all()
        assert twin.change > 0
    if exact.nullity == 0:
        assert exact.fixed.all()
        assert not any(twins)


@pytest.mark.parametrize("seed", SMALL)
def test_the_null_space_is_that_of_automatic_differentiation_for_every_loss(seed: int) -> None:
    c, exact = certified(seed)
    space = float_null_space(jacobian(c, list(np.eye(int(np.prod(c.network.output_shape))))))
    assert exact.nullity == len(space)
    np.testing.assert_array_equal(exact.fixed.ravel(), np.abs(space).max(axis=0, initial=0.0) < 1e-9)


def test_these_networks_lie_on_kinks_and_twins_change_what_the_first_layer_puts_out() -> None:
    kinks = changed = wider = 0
    for seed in SMALL:
        c, exact = certified(seed)
        W, x = fractions(c)
        values, first = rational.forward(c.network, W, x), c.network.bilinear[0].index + 1
        placed = [layer for layer in c.network.layers if layer.is_activation and layer.activation != ca.Identity()]
        kinks += any(
            slack == 0 for a in placed for z in values[a.index] for _, slack, _ in rational.sides(a.activation, z)
        )
        twin = exact.twin()
        changed += twin is not None and rational.forward(c.network, W, list(twin.image.ravel()))[first] != values[first]
        wider += exact.nullity > len(first_layer_set(c))
    assert kinks > 20
    assert changed > 10
    assert wider > 10


def first_layer_set(c: Small) -> list[list[Fraction]]:
    """The null vectors that keep the first layer's outputs, but those that an activation right behind it cuts off."""
    W, x = fractions(c)
    layer, values = c.network.bilinear[0], rational.forward(c.network, W, x)
    behind = next((a.activation for a in c.network.after(layer) if a.is_activation), ca.Identity())
    cut = isinstance(behind, ca.ReLU | ca.Hardtanh)
    B = rational.rows(ca.weight_equations(layer).pattern, W[layer.weight_name])
    rows = [B[r] for r, z in enumerate(values[layer.index + 1]) if not cut or rational.piece(behind, z)[1]]
    for unit in rational.unit_vectors(len(values[-1])):
        k = rational.output_gradients(c.network, W, values, unit)[layer.index]
        rows += rational.rows(ca.gradient_equations(layer).pattern, k)
    numbers = [{j: flint.fmpq(v.numerator, v.denominator) for j, v in row.items()} for row in rows]
    return columns_of(null_space(matrix_of(numbers, len(x)))[0])


@pytest.mark.parametrize("seed", SMALL)
def test_what_keeps_the_first_layers_outputs_is_a_part_of_the_set(seed: int) -> None:
    c, exact = certified(seed)
    for vector in first_layer_set(c):
        in_basis = [vector[j] for j in exact._free]
        again = [
            sum((w * v[i] for w, v in zip(in_basis, exact._basis, strict=True)), Fraction(0))
            for i in range(len(vector))
        ]
        assert again == vector


def test_a_side_that_ends_at_a_kink_is_not_reached() -> None:
    """Both outputs may grow and shrink against each other; at 0 the slope of a ReLU would be another."""
    net = ca.Network((2,), [ca.Linear(2, bias=False), ca.ReLU(), ca.Linear(1, bias=False), ca.Linear(2)])
    values = {"0.weight": [[1, 0], [0, 1]], "2.weight": [[0, 0]], "3.weight": [[1], [2]], "3.bias": [0, 0]}
    exact = ca.exact_certificate(net, values, [Fraction(1, 2), Fraction(1, 2)])
    assert exact.nullity == 0  # the second layer's gradient has its inputs
    values["3.weight"] = [[0], [0]]
    exact = ca.exact_certificate(net, values, [Fraction(1, 2), Fraction(1, 2)])
    assert exact.nullity == 2
    twin = exact.twin([-1, 0])
    assert twin.gradients_equal
    assert twin.image[0] == Fraction(1, 2) * (1 - Fraction(1023, 1024))


def test_several_activations_in_a_row_all_keep_their_side() -> None:
    """Also where no other weight follows: the cut-offs of each count."""
    twice = ca.Network((1, 4), [ca.Conv1d(1, 2), ca.LeakyReLU(0.5), ca.ReLU(), ca.Flatten()])
    values = {"0.weight": [[[1, -1]]], "0.bias": [0]}
    exact = ca.exact_certificate(twice, values, [[0, 1, 1, 1]])  # outputs -1, 0, 0: all cut off
    assert exact.nullity == 4
    for toward in np.eye(4):
        for sign in (1, -1):
            twin = exact.twin(sign * toward[None])
            moved = None if twin is None else list(twin.image.ravel())
            assert twin is None or (twin.gradients_equal and moved[0] <= moved[1] <= moved[2] <= moved[3])
    assert exact.twin([[1, 0, 0, 0]]).change == 1
    assert exact.twin([[0, 0, -1, 0]]) is None  # above 0 the second output would pass
