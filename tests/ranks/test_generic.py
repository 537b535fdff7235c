"""Two-stage elimination against the whole system at once, exactly and by an SVD, and against published figures."""

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.layers.trilinear import input_gradient
from tests.rank_oracles import exact_rank, exactly_determined, looped_rows, random_layers, random_rows, svd_rank

SMALL = {1: 9, 2: 4, 3: 3}


def conv(channels, filters, size, kernel, stride=1, padding=0):
    return ca.Conv2d(filters, kernel, stride=stride, padding=padding).place((channels, size, size))


# Layer, weight rows, gradient rows, rank of the gradient equations per channel, rank of both.
TABLE = {
    "LeNet 1": (conv(3, 12, 32, 5, 2, 2), 3072, 900, 300, 3072),
    "LeNet 2": (conv(12, 16, 16, 5, 2, 2), 1024, 4800, 256, 3072),
    "LeNet 3": (conv(16, 12, 8, 5, 1, 2), 768, 4800, 64, 1024),
    "LeNet 4": (conv(12, 12, 8, 5, 1, 2), 768, 3600, 64, 768),
    "LeNet-O 3": (conv(16, 3, 8, 5, 1, 2), 192, 1200, 64, 1024),
    "LeNet-O 4": (conv(3, 3, 8, 5, 1, 2), 192, 225, 64, 192),
    "DLG LeNet 2": (conv(12, 12, 16, 5, 2, 2), 768, 3600, 240, 3072),
    "CNN6 1": (conv(3, 12, 32, 4, 2, 2), 3468, 576, 192, 3072),
    "CNN6 2": (conv(12, 36, 17, 3, 2, 1), 2916, 3888, 244, 3468),
    "CNN6-d 2": (conv(12, 20, 17, 3, 2, 1), 1620, 2160, 164, 3188),
    "CNN6 3": (conv(36, 36, 9, 3, 1, 1), 2916, 11664, 81, 2916),
    "CNN6 5": (conv(36, 64, 9, 3, 2, 1), 1600, 20736, 81, 2916),
    "CNN6 6": (conv(64, 128, 5, 3, 1, 1), 3200, 73728, 25, 1600),
}


@pytest.mark.parametrize(("layer", "weight", "gradient", "per_channel", "rank"), TABLE.values(), ids=TABLE)
def test_published_table(layer, weight, gradient, per_channel, rank):
    found = ca.generic_rank(layer)
    assert (found.weight_rows, found.gradient_rows) == (weight, gradient)
    assert found.gradient_rank == layer.channels * per_channel
    assert found.rank == rank
    assert bool(found.determined.all()) == (rank == layer.unknowns)
    assert found.error < 1e-3


def test_cnn6_d_lacks_280_equations_at_its_second_convolution():
    found = ca.generic_rank(TABLE["CNN6-d 2"][0])
    assert found.unknowns - found.rank == 280
    assert found.counted == found.unknowns  # counting sees nothing
    assert 0 < found.determined.sum() < found.unknowns
    # All equations that are independent on their own, less the F² dependences between the two kinds.
    assert found.rank == found.weight_rows + found.gradient_rank - 20**2


def test_dlg_lenet_is_determined_only_thanks_to_its_weight_equations():
    layer = TABLE["DLG LeNet 2"][0]
    gradient = ca.generic_rank(layer, kinds=["gradient"])
    assert (gradient.rank, gradient.unknowns) == (12 * 240, 3072)
    assert gradient.determined.sum() == 12 * 3 * 64  # the class that is short determines none of its pixels
    assert ca.generic_rank(layer).determined.all()


@pytest.mark.parametrize(("channels", "filters", "rank"), [(1, 2, 56), (2, 3, 104)])
def test_weight_equations_alone_fall_below_their_structural_rank(channels, filters, rank):
    layer = conv(channels, filters, 8, 3)
    found = ca.generic_rank(layer, kinds=["weight"])
    assert found.rank == rank
    assert ca.structural_rank(ca.weight_equations(layer)) == found.counted > rank


@pytest.mark.parametrize("seed", range(3))
def test_half_of_lenets_outputs_active_leaves_one_dependence_a_filter(seed):
    layer = TABLE["LeNet 1"][0]
    active = np.random.default_rng(seed).random(layer.output_shape) < 0.5
    found = ca.generic_rank(layer, active=active)
    assert found.weight_rows == active.sum()
    assert found.gradient_rank == 900
    assert found.rank == found.weight_rows + 900 - 12


def test_the_dependences_between_both_kinds_are_those_of_the_docstring():
    rng = np.random.default_rng(0)
    checked = 0
    for layer in random_layers(30, seed=1, largest=SMALL):
        W, k = rng.normal(size=layer.weight_shape), rng.normal(size=layer.output_shape)
        full = np.ones(layer.output_shape, dtype=bool)
        weight, gradient = looped_rows(layer, W, k, full, full)
        F, C = layer.filters // layer.groups, layer.channels // layer.groups
        weight = weight.reshape(layer.filters, -1, layer.unknowns)
        gradient = gradient.reshape(layer.filters, C, -1, layer.unknowns)
        for f in range(layer.filters):
            for other in range(f // F * F, f // F * F + F):
                by_weights = np.einsum("ct,ctx->x", W[other].reshape(C, -1), gradient[f])
                by_gradients = np.einsum("o,ox->x", k[f].ravel(), weight[other])
                np.testing.assert_allclose(by_weights, by_gradients, atol=1e-12)
                checked += 1
    assert checked > 100


@pytest.mark.slow
def test_rank_is_that_of_a_dense_svd_on_300_random_layers():
    rng = np.random.default_rng(2)
    certain = 0
    for layer in random_layers(300, seed=3):
        weight, gradient = random_rows(layer, rng, real=True)
        for kinds, A in ((("weight",), weight), (("gradient",), gradient), (("weight", "gradient"), None)):
            rank, gap = svd_rank(np.concatenate([weight, gradient]) if A is None else A)
            if gap > 1e3:
                assert ca.generic_rank(layer, kinds=kinds).rank == rank, (layer, kinds)
                certain += 1
    assert certain > 0.97 * 900


def test_rank_and_determined_unknowns_with_partial_knowledge_agree_with_exact_arithmetic():
    rng = np.random.default_rng(4)
    partly = 0
    for number, layer in enumerate(random_layers(150, seed=5, largest=SMALL)):
        masks = rng.random((4, *layer.output_shape)) < rng.choice([0.3, 0.7, 0.95])
        active, output, gradient, support = masks
        gradient = gradient if number % 2 else np.ones_like(gradient)
        known = ca.Knowledge.of(layer, active=active, output=output, gradient=gradient, support=support)
        rows = random_rows(layer, rng, weight_mask=output & active, gradient_mask=gradient, support=support & active)
        A = np.concatenate(rows)
        found = ca.generic_rank(layer, knowledge=known)
        assert (found.weight_rows, found.gradient_rows) == tuple(map(len, rows))
        assert found.rank == exact_rank(A), layer
        assert found.gradient_rank == exact_rank(rows[1])
        if layer.unknowns <= 40:
            assert (found.determined.ravel() == exactly_determined(A)).all(), layer
            partly += 0 < found.determined.sum() < layer.unknowns
    assert partly > 10


def test_an_inactive_output_of_a_relu_is_lost_twice():
    layer = ca.Conv1d(2, 2).place((1, 4))
    active = np.array([[True, True, False], [False, False, False]])
    by_active = ca.generic_rank(layer, active=active)
    by_masks = ca.generic_rank(layer, knowledge=ca.Knowledge(active, np.ones_like(active), active))
    assert by_active.weight_rows == 2
    assert by_active.rank == by_masks.rank
    np.testing.assert_array_equal(by_active.determined, by_masks.determined)
    assert by_active.determined.tolist() == [[True, True, True, False]]


def test_groups_are_independent_of_each_other():
    one = ca.Conv2d(3, 3, stride=2).place((2, 7, 5))
    three = ca.Conv2d(9, 3, stride=2, groups=3).place((6, 7, 5))
    few, many = ca.generic_rank(one), ca.generic_rank(three)
    assert many.rank == 3 * few.rank
    np.testing.assert_array_equal(many.determined, np.concatenate([few.determined] * 3))


def test_results_repeat_with_the_seed_and_do_not_depend_on_it():
    layer = TABLE["CNN6-d 2"][0]
    first, again, other = (ca.generic_rank(layer, seed=seed) for seed in (0, 0, 7))
    assert first.rank == again.rank == other.rank
    np.testing.assert_array_equal(first.determined, other.determined)


def test_beyond_the_limit_only_bounds_are_given():
    layer = TABLE["CNN6-d 2"][0]
    exact = ca.generic_rank(layer)
    active = np.ones(layer.output_shape, dtype=bool)
    active[0, 0, 0] = False  # one route for complete knowledge, one for partial
    for found in (ca.generic_rank(layer, limit=10), ca.generic_rank(layer, limit=10, active=active)):
        assert found.rank is None
        assert found.determined is None
        assert found.reduced == exact.reduced
        assert found.low < exact.rank <= found.high


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kinds": ["bias"]}, 'kinds must be "weight"'),
        ({"kinds": []}, 'kinds must be "weight"'),
        ({"active": np.ones((2, 3), dtype=bool)}, "boolean mask in the output shape"),
        ({"active": np.ones((2, 6, 6))}, "got float64"),
    ],
    ids=["unknown kind", "no kind", "shape", "not boolean"],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ca.ShapeError, match=message):
        ca.generic_rank(conv(1, 2, 8, 3), **wrong)


def test_a_layer_without_equations_is_refused():
    with pytest.raises(ca.ShapeError, match="no weight"):
        ca.generic_rank(ca.ReLU().place((1, 3, 3)))


@pytest.mark.parametrize("active", [None, [True, False, True, False, False]], ids=["all active", "two active"])
def test_a_linear_layer_needs_one_active_output(active):
    layer = ca.Linear(5).place((7,))
    found = ca.generic_rank(layer, active=active)
    assert (found.weight_rows, found.gradient_rows) == (5 if active is None else 2, 35)
    assert (found.rank, found.gradient_rank) == (7, 7)
    assert found.determined.all()
    assert ca.generic_rank(layer, active=np.zeros(5, dtype=bool)).rank == 0
    assert ca.generic_rank(layer, kinds=["weight"]).rank == 5


def test_masks_give_the_numerical_rank_of_gradients_through_relus():
    """The output gradients and weights of a network are no random numbers, and yet as good as generic."""
    conv = ca.Conv2d(4, 3, padding=1)
    layers = [ca.Conv2d(6, 5, stride=2, padding=2), ca.ReLU(), ca.Conv2d(5, 3, stride=2, padding=1), ca.ReLU()]
    net = ca.Network((3, 16, 16), [*layers, conv, ca.ReLU(), ca.Flatten(), ca.Linear(10)])
    deficient = usual = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        parameters = {name: rng.uniform(-0.5, 0.5, size=shape) for name, shape in net.parameter_shapes.items()}
        values = net.forward(parameters, rng.normal(size=net.input_shape))
        k = rng.normal(size=10)
        for layer in reversed(net.layers):
            if layer.is_bilinear and layer.taps:
                active = values[layer.index + 2] > 0
                usual += 0.3 < active.mean() < 0.7
                W = parameters[layer.weight_name]
                weight = ca.weight_equations(layer, W).select(active.ravel())
                system = ca.stack(weight, ca.gradient_equations(layer, k))
                rank, gap = svd_rank(system.matrix.toarray())
                assert gap > 1e3
                assert ca.generic_rank(layer, active=active).rank == rank
                deficient += rank < min(system.shape)
            k = _input_gradient(layer, parameters, values, k)
    assert usual > 12
    assert deficient > 4


def _input_gradient(layer, parameters, values, k):
    if layer.is_bilinear:
        return input_gradient(layer, parameters[layer.weight_name], k)
    if layer.kind == "ReLU":
        return k * (values[layer.index + 1] > 0)
    return k.reshape(layer.input_shape)
