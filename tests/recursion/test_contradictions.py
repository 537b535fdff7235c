"""What a solved input says of its layer's outputs, against the truth that made the numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.experiments.capture import from_image
from constraint_algebra.experiments.recipe import Recipe
from constraint_algebra.layers import trilinear
from constraint_algebra.recursion import contradictions
from constraint_algebra.recursion.estimates import Above, Estimate
from constraint_algebra.solvers.noisy_equations import LayerEquations

LAYER = ca.Conv2d(8, 3, padding=1).place((2, 6, 6))


def truth(activation=None):
    """Input, weight, bias, what arrives, and the output gradient of one step through an activation."""
    activation = activation or ca.ReLU()
    rng = np.random.default_rng(0)
    x, W = rng.random(LAYER.input_shape), rng.standard_normal(LAYER.weight_shape)
    b, dy = 0.3 * rng.standard_normal(8), rng.standard_normal(LAYER.output_shape)
    z = trilinear.forward(LAYER, W, x) + b[:, None, None]
    slope = 0.0 if isinstance(activation, ca.ReLU) else 0.2
    return x, W, b, dy, z, dy * np.where(z > 0, 1.0, slope)


def exactly(values, known=None, size=1e-9) -> Estimate:
    noise = size * np.random.default_rng(1).standard_normal((*values.shape, 12))
    return Estimate(values, np.ones(values.shape, dtype=bool) if known is None else known, noise)


def equations(x, W, z, k, noise=1e-9) -> LayerEquations:
    return LayerEquations(
        layer=LAYER,
        weight=W,
        output_gradient=k,
        gradient_rows=np.ones((8, 9), dtype=bool),
        gradient_noise=np.full((8, 9), noise),
        weight_gradient=trilinear.weight_gradient(LAYER, truth()[-1], x),
        output=np.where(z > 0, z, np.nan),
        output_noise=np.full(z.shape, noise),
        scale=1.0,
    )


def test_one_wrong_output_breaks_the_equations_of_its_filter_and_no_other() -> None:
    x, W, _, dy, z, k = truth()
    right = equations(x, W, z, k)
    assert contradictions.misfits(right, x).max() < 1e-3
    assert not contradictions.suspects(right, x).any()
    wrong = k.copy()
    place = tuple(np.argwhere(z[3] < 0)[0])
    wrong[(3, *place)] = dy[(3, *place)]
    broken = equations(x, W, z, wrong)
    assert np.flatnonzero(contradictions.suspects(broken, x)).tolist() == [3]
    healed = contradictions.without(broken, contradictions.suspects(broken, x))
    assert contradictions.misfits(healed, x).max() < 1e-3
    assert not healed.gradient_rows[3].any()


@pytest.mark.parametrize("activation", [ca.ReLU(), ca.LeakyReLU(0.2)])
def test_outputs_that_were_open_are_settled(activation) -> None:
    x, W, b, dy, _, k = truth(activation)
    known = np.random.default_rng(2).random(k.shape) < 0.5
    given = exactly(np.where(known, k, 77.0), known)
    found = contradictions.settled_by_input(
        LAYER, W, b, Above(activation, exactly(dy)), exactly(x), given, np.zeros(8, dtype=bool)
    )
    assert found.known.all()
    np.testing.assert_allclose(found.value, k, atol=1e-12)


def test_doubted_filters_are_decided_anew_and_stay_open_where_the_input_is() -> None:
    x, W, b, dy, _, k = truth()
    wrong = k.copy()
    wrong[5] = dy[5]  # as if every output had passed
    determined = np.ones(x.shape, dtype=bool)
    determined[1, 0, 0] = False
    doubted, above = np.arange(8) == 5, Above(ca.ReLU(), exactly(dy))
    partly = exactly(np.where(determined, x, 9.0), determined)
    found = contradictions.settled_by_input(LAYER, W, b, above, partly, exactly(wrong), doubted)
    open_ones = np.zeros(k.shape, dtype=bool)
    open_ones[5, :2, :2] = True  # those that see the pixel
    np.testing.assert_array_equal(found.known, ~open_ones)
    np.testing.assert_allclose(found.value[found.known], k[found.known])


def test_an_output_within_its_error_bars_stays_open() -> None:
    x, W, b, dy, z, k = truth()
    nowhere = np.zeros(k.shape, dtype=bool)
    noisy = exactly(x, size=0.1)
    found = contradictions.settled_by_input(
        LAYER, W, b, Above(ca.ReLU(), exactly(dy)), noisy, exactly(k, nowhere), np.zeros(8, dtype=bool)
    )
    moved = trilinear.forward(LAYER, W, noisy.perturbations)
    clear = np.abs(z) > 6 * np.sqrt((moved**2).mean(axis=-1))
    assert 0 < clear.mean() < 1
    np.testing.assert_array_equal(found.known, clear)


def test_error_bars_reach_the_weakest_directions() -> None:
    # Float32, LeNet with four ReLU: one layer of condition 1e4. Error bars without its few weakest directions were too
    # short by six, and ten outputs of the layer below were put on the wrong side of their edge.
    step = from_image(Recipe("lenet-4relu", 3, dtype="float32"), "cifar10:10")
    result = ca.reconstruct(step.network, step.parameters, step.gradients)
    error = np.abs(result.input - step.truth.astype(np.float32))
    assert result.status is ca.Status.DETERMINED
    assert np.mean(error <= 4 * result.error_bar) > 0.99


def test_a_layer_that_contradicts_itself_makes_the_result_inconsistent() -> None:
    step = from_image(Recipe("lenet-o", 0, dtype="float64"), "cifar10:7")
    result = ca.reconstruct(step.network, step.parameters, step.gradients)
    assert max(layer.misfit for layer in result.layers) < 5
    partly = result.determined.copy()
    partly[0, 0, 0] = False
    layers = (replace(result.layers[0], misfit=1e4, residual=1e-3), *result.layers[1:])
    assert replace(result, determined=partly).judged({}).status is ca.Status.PARTIAL
    assert replace(result, determined=partly, layers=layers).judged({}).status is ca.Status.INCONSISTENT


def test_a_contradiction_by_very_little_blames_nobody_and_widens_error_bars() -> None:
    step = from_image(Recipe("lenet-o", 0, dtype="float64"), "cifar10:7")
    result = ca.reconstruct(step.network, step.parameters, step.gradients)
    partly = result.determined.copy()
    partly[0, 0, 0] = False
    layers = (replace(result.layers[0], misfit=1e4, residual=1e-12), *result.layers[1:])
    found = replace(result, determined=partly, layers=layers).judged({})
    assert found.status is ca.Status.IMPRECISE
    np.testing.assert_array_equal(found.determined, partly)
    np.testing.assert_allclose(found.error_bar[partly], 1e4 * result.error_bar[partly])
    # Beyond noise a hundredfold, but by less than any wrong parameter would make of it; and by more, though blurred.
    found = replace(result, discrepancy={"0.weight": 1e-7}).judged({"0.weight": 1e-9})
    assert found.status is ca.Status.IMPRECISE
    np.testing.assert_allclose(found.error_bar, 100 * result.error_bar)
    found = replace(result, discrepancy={"0.weight": 0.1}).judged({"0.weight": 1e-2}, at_all={"0.weight": 0.06})
    assert found.status is ca.Status.IMPRECISE
    assert not found.determined.any()
    found = replace(result, discrepancy={"0.weight": 0.1}).judged({"0.weight": 1e-2})
    assert found.status is ca.Status.INCONSISTENT
    # What error bars as wide as these explain stands with them.
    found = replace(result, discrepancy={"0.weight": 0.7}).judged({"0.weight": 0.5}, at_all={"0.weight": 0.8})
    assert found.status is ca.Status.IMPRECISE
    np.testing.assert_array_equal(found.error_bar, result.error_bar)


@pytest.mark.parametrize(
    ("name", "seed", "image"), [("lenet-4relu", 3, 7), ("lenet-o", 0, 1), ("cnn6-o", 4, 16), ("rconv-sigmoid", 1, 1)]
)
def test_error_bars_in_double_precision_cover_what_the_solver_rounds_off(name, seed, image) -> None:
    # Float64 leaves it no room: an iteration that stopped a step too early, or factors with ten times the rounding,
    # left a third to nine tenths of the errors within four bars.
    step = from_image(Recipe(name, seed, dtype="float64"), f"cifar10:{image}")
    result = ca.reconstruct(step.network, step.parameters, step.gradients)
    assert np.mean(np.abs(result.input - step.truth) <= 4 * result.error_bar) > 0.99


def test_gradients_next_to_nothing_are_those_of_one_sample() -> None:
    # A saturated loss: gradients of 1e-175, whose squares underflow.
    step = from_image(Recipe("cnn6-o", 4, dtype="float64"), "cifar10:2")
    assert max(np.abs(g).max() for g in step.gradients.values()) < 1e-150
    result = ca.reconstruct(step.network, step.parameters, step.gradients)
    assert result.status is ca.Status.DETERMINED
    np.testing.assert_allclose(result.input, step.truth, atol=1e-11)
