"""What is known from layer to layer: known is what stays the same whatever the unknown values are."""

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.ranks.knowledge import gradient_rows
from constraint_algebra.theory.activity import active_masks
from constraint_algebra.theory.propagation import at_start, below, nothing, start_layer

TRIALS = 12


def small(activation, upper):
    return ca.Network((2, 7, 6), [ca.Conv2d(3, 3, padding=1), activation, upper, ca.Flatten(), ca.Linear(3)])


UPPER = {
    "stride that leaves pixels out": ca.Conv2d(2, 2, stride=3),
    "dense": ca.Conv2d(2, 3, padding=1),
    "dilated": ca.Conv2d(4, 2, dilation=2),
    "groups": ca.Conv2d(3, 3, stride=2, groups=3),
}


def arriving(layer, W, k):
    """The gradient at the layer's input, by automatic differentiation of PyTorch's convolution."""
    conv = layer.layer
    x = torch.zeros(1, *layer.input_shape, dtype=torch.float64, requires_grad=True)
    z = torch.nn.functional.conv2d(
        x, torch.tensor(W), None, conv.strides, [p[0] for p in conv.paddings], conv.dilations, conv.groups
    )
    z.backward(torch.tensor(k)[None])
    return x.grad.numpy()[0]


@pytest.mark.parametrize("upper", UPPER.values(), ids=UPPER)
@pytest.mark.parametrize("activation", [ca.ReLU(), ca.Sigmoid()], ids=["ReLU", "sigmoid"])
@pytest.mark.parametrize("seed", range(3))
def test_known_is_what_no_unknown_value_can_change(activation, upper, seed) -> None:
    rng = np.random.default_rng(seed)
    net = small(activation, upper)
    layer, lower = net[2], net[0]
    gradient = rng.random(layer.output_shape) < 0.7
    support = (rng.random(layer.output_shape) < 0.5) | ~gradient  # where k is unknown it may be anything
    determined = rng.random(layer.input_shape) < 0.6
    relu = isinstance(activation, ca.ReLU)
    active = rng.random(layer.input_shape) < 0.5
    found = below(
        net, layer, lower, ca.Knowledge(~gradient, gradient, support), determined, {"1": active} if relu else {}
    )
    W = rng.normal(size=layer.weight_shape)
    k_true, y_true = rng.normal(size=layer.output_shape) * support, rng.random(layer.input_shape)
    ks, zs = [], []
    for _ in range(TRIALS):
        k = np.where(gradient, k_true, rng.normal(size=layer.output_shape))
        y = np.where(determined, y_true, rng.random(layer.input_shape))
        on = np.where(determined, active, rng.random(layer.input_shape) < 0.5) if relu else True
        derivative = np.where(on, 1.0, 0.0) if relu else y * (1 - y)
        z = np.where(on, y, -rng.random(layer.input_shape)) if relu else np.log(y / (1 - y))
        ks.append(arriving(layer, W, k) * derivative)
        zs.append(z)
    same_k, same_z = (np.ptp(values, axis=0) < 1e-12 for values in (ks, zs))
    np.testing.assert_array_equal(found.gradient, same_k)
    np.testing.assert_array_equal(found.output, same_z)
    # Where k is known, it is zero exactly outside the support.
    np.testing.assert_array_equal(found.support[same_k], np.abs(ks[0][same_k]) > 1e-12)


def test_a_gradient_row_counts_where_all_its_k_are_known_and_one_is_not_zero() -> None:
    layer = ca.Conv1d(2, 2).place((1, 4))
    full = np.ones((2, 3), dtype=bool)
    hole, silent = full.copy(), full.copy()
    hole[0, 1] = False
    silent[1] = False
    assert gradient_rows(layer, ca.Knowledge(full, hole, silent)).tolist() == [[False, False], [False, False]]
    assert gradient_rows(layer, ca.Knowledge(full, full, silent)).tolist() == [[True, True], [False, False]]
    padded = ca.Conv1d(1, 3, padding=1).place((1, 3))
    last = np.array([[True, True, False]])  # the last output is unknown, and tap 2 sees only padding there
    assert gradient_rows(padded, ca.Knowledge(last, last, last)).tolist() == [[False, False, True]]


def test_the_start_is_the_lowest_layer_that_gives_its_gradient_away() -> None:
    with_bias = ca.Network((1, 4, 4), [ca.Conv2d(2, 4), ca.ReLU(), ca.Flatten(), ca.Linear(3), ca.Linear(2)])
    assert start_layer(with_bias).name == "0"  # one output position: a linear layer in other words
    only_last = ca.Network((8,), [ca.Linear(4, bias=False), ca.Linear(2, bias=False)])
    assert start_layer(only_last).name == "1"
    known = at_start(only_last, only_last[1], {})
    assert known.gradient.all()
    assert known.support.all()
    assert not known.output.any()
    assert not nothing(only_last[1]).gradient.any()
    for layers in ([ca.Conv2d(2, 3)], [ca.Linear(2, bias=False), ca.ReLU()]):
        with pytest.raises(ca.MissingBiasError, match="no layer gives its output gradient away"):
            start_layer(ca.Network((1, 4, 4) if isinstance(layers[0], ca.Conv2d) else (4,), layers))


class TestActivity:
    """Which outputs are active: one number, or masks."""

    net = ca.Network((1, 8, 8), [ca.Conv2d(4, 3), ca.ReLU(), ca.Conv2d(2, 3), ca.Tanh(), ca.Conv2d(2, 1), ca.ReLU6()])

    def test_a_fraction_is_drawn_once_with_its_seed(self) -> None:
        first, again, other = (active_masks(self.net, 0.3, seed=seed) for seed in (0, 0, 1))
        assert set(first) == {"1", "5"}  # a tanh cuts nothing off
        assert abs(first["1"].mean() - 0.3) < 0.1
        np.testing.assert_array_equal(first["1"], again["1"])
        assert (first["1"] != other["1"]).any()
        assert all(mask.all() for mask in active_masks(self.net).values())
        assert not any(mask.any() for mask in active_masks(self.net, 0.0).values())

    def test_masks_of_data_are_those_of_pytorch(self) -> None:
        torch.manual_seed(0)
        model = ca.to_torch(self.net, dtype="float64")
        net, parameters = ca.from_torch(model, (1, 8, 8))
        x = np.random.default_rng(0).normal(size=(1, 8, 8)) * 3
        masks = ca.activity_of(net, parameters, x)
        value = torch.tensor(x)[None]
        for index, module in enumerate(model):
            value = module(value)
            if str(index) in masks:
                y = value.detach().numpy()[0]
                np.testing.assert_array_equal(masks[str(index)], (y > 0) & ((y < 6) | (index == 1)))
        by_name, in_order = active_masks(net, masks), active_masks(net, list(masks.values()))
        np.testing.assert_array_equal(by_name["5"], in_order["5"])

    @pytest.mark.parametrize(
        ("activity", "message"),
        [
            (1.5, "fraction from 0 to 1"),
            (True, "fraction from 0 to 1"),
            ("half", "fraction from 0 to 1"),
            ({"1": np.ones((4, 6, 6), dtype=bool)}, "missing: 5"),
            ({"1": 1, "5": 1, "3": 1}, "unknown: 3"),
            ([np.ones((4, 6, 6), dtype=bool)], "2 activations cut off .*, 1 masks came"),
            ([np.ones((4, 6, 5), dtype=bool)] * 2, r"output shape \(4, 6, 6\), got bool of shape \(4, 6, 5\)"),
            ([np.ones((4, 6, 6))] * 2, "got float64"),
        ],
    )
    def test_other_activities_are_refused(self, activity, message) -> None:
        with pytest.raises(ca.ParameterError, match=message):
            active_masks(self.net, activity)
