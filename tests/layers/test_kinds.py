"""Shapes and hyper-parameters: PyTorch's output sizes, normal forms, and every refusal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

import constraint_algebra as ca
from tests import oracles
from tests.cases import geometries


@settings(max_examples=200)
@given(geometries())
def test_output_and_weight_shapes_are_those_of_pytorch(geometry) -> None:
    layer = geometry.layer
    weight, bias, x = geometry.values()
    truth = oracles.torch_layer(geometry, weight, bias, x, np.ones)
    assert layer.output_shape == truth["output"].shape
    assert layer.weight_shape == truth["weight gradient"].shape
    assert (layer.unknowns, layer.channels, layer.filters) == (x.size, x.shape[0], truth["output"].shape[0])
    assert (layer.positions, layer.outputs) == (x.shape[1:], truth["output"].shape[1:])


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (
            ca.Conv2d(4, 3),
            ca.Conv2d(4, (3, 3), stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1, bias=True),
        ),
        (ca.Conv1d(4, [3], padding="valid"), ca.Conv1d(4, 3)),
        (ca.Conv3d(4, 3, padding=1), ca.Conv3d(4, 3, padding=(1, 1, 1))),
        (ca.Conv2d(4, 3, padding=(1, 2)), ca.Conv2d(4, 3, padding=((1, 1), (2, 2)))),
        (
            ca.Conv2d(4, (2, 5), padding="same", dilation=(3, 1)),
            ca.Conv2d(4, (2, 5), padding=((1, 2), (2, 2)), dilation=(3, 1)),
        ),
        (ca.Conv2d(np.int64(4), np.int64(3), padding=np.int64(1)), ca.Conv2d(4, 3, padding=1)),
        (ca.Conv1d(4, 3, padding=[np.int64(1)], groups=np.int8(2)), ca.Conv1d(4, 3, padding=1, groups=2)),
        (ca.Linear(np.int64(4)), ca.Linear(4)),
    ],
)
def test_short_forms_mean_the_same_as_long_ones(short, long) -> None:
    assert short == long
    assert hash(short) == hash(long)
    assert repr(short) == repr(long)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ca.Conv2d(0, 3), "Conv2d: filters must be a whole number of at least 1, got 0"),
        (lambda: ca.Conv2d(2.0, 3), "filters must be a whole number of at least 1, got 2.0"),
        (lambda: ca.Conv2d(True, 3), "filters must be a whole number of at least 1, got True"),
        (lambda: ca.Conv2d(2, 0), "kernel must be a whole number of at least 1, got 0"),
        (lambda: ca.Conv2d(2, (3, 3, 3)), r"kernel needs one number, or one for each of 2 axes, got \(3, 3, 3\)"),
        (lambda: ca.Conv1d(2, "5"), "kernel must be a whole number"),
        (lambda: ca.Conv2d(2, 3, stride=-1), "stride must be a whole number of at least 1, got -1"),
        (lambda: ca.Conv2d(2, 3, dilation=0), "dilation must be a whole number of at least 1, got 0"),
        (lambda: ca.Conv2d(2, 3, padding=-1), "padding must be a whole number of at least 0, got -1"),
        (lambda: ca.Conv2d(2, 3, padding=(1, 2, 3)), "padding needs one entry for each of 2 axes"),
        (lambda: ca.Conv2d(2, 3, padding=((1, 2, 3), (0, 0))), r"one number or \(before, after\), got \(1, 2, 3\)"),
        (lambda: ca.Conv2d(2, 3, padding=((1, -2), (0, 0))), "padding must be a whole number of at least 0, got -2"),
        (lambda: ca.Conv2d(2, 3, padding=1.5), "padding must be a whole number of at least 0, got 1.5"),
        (lambda: ca.Conv2d(2, 3, padding=None), "padding must be a whole number of at least 0, got None"),
        (lambda: ca.Conv2d(2, 3, padding="full"), 'padding must be numbers, "valid" or "same", got "full"'),
        (lambda: ca.Conv2d(2, 3, stride=2, padding="same"), r'padding="same" needs stride 1, got \(2, 2\)'),
        (lambda: ca.Conv2d(3, 3, groups=2), "filters must be a multiple of groups, got 3 filters and 2 groups"),
        (lambda: ca.Conv2d(2, 3, groups=0), "groups must be a whole number of at least 1, got 0"),
        (lambda: ca.Conv2d(2, 3, bias=10), "Conv2d: bias must be True or False, got 10"),
        (lambda: ca.Linear(2, bias=None), "Linear: bias must be True or False, got None"),
        (lambda: ca.LeakyReLU("0.2"), "LeakyReLU: slope must be a number, got '0.2'"),
        (lambda: ca.Softplus(1.0, None), "Softplus: threshold must be a number, got None"),
        (lambda: ca.Hardtanh("a", "b"), "Hardtanh: low must be a number, got 'a'"),
        (lambda: ca.Linear(0), "Linear: filters must be a whole number of at least 1, got 0"),
        (lambda: ca.LeakyReLU(0), r"LeakyReLU: slope must be positive, got 0; use ReLU\(\)"),
        (lambda: ca.LeakyReLU(-0.2), "slope must be positive, got -0.2"),
        (lambda: ca.LeakyReLU(float("nan")), "slope must be positive, got nan"),
        (lambda: ca.ELU(0.0), r"ELU: alpha must be positive, got 0.0; use ReLU\(\)"),
        (lambda: ca.Softplus(-1.0), "Softplus: beta must be positive, got -1.0"),
        (lambda: ca.Hardtanh(1.0, 1.0), "Hardtanh: low must be below high, got 1.0 and 1.0"),
    ],
)
def test_impossible_hyper_parameters_are_refused(build, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        build()


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (ca.Conv2d(2, 3), (3, 8), r"Conv2d needs an input of shape \(channels, height, width\), got \(3, 8\)"),
        (ca.Conv1d(2, 3), (3, 8, 8), r"Conv1d needs an input of shape \(channels, width\), got \(3, 8, 8\)"),
        (ca.Conv3d(2, 3), (8,), r"needs an input of shape \(channels, depth, height, width\), got \(8,\)"),
        (ca.Conv2d(2, 3, groups=2), (3, 8, 8), "3 input channels cannot be split into 2 groups"),
        (ca.Conv2d(2, 5), (1, 8, 4), r"kernel \(5, 5\) .* is larger than the padded input \(8, 4\)"),
        (ca.Conv1d(2, 3, dilation=4), (1, 8), "larger than the padded input"),
        (
            ca.Linear(3),
            (3, 8, 8),
            r"Linear needs an input of shape \(features,\), got \(3, 8, 8\); put Flatten\(\) before",
        ),
        (ca.Flatten(), (3, 0), "size must be a whole number of at least 1, got 0"),
        (ca.ReLU(), (3, 2.5), "size must be a whole number of at least 1, got 2.5"),
    ],
)
def test_inputs_that_a_layer_cannot_take_are_refused(layer, shape, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        layer.place(shape)


def test_a_stride_longer_than_what_is_left_still_gives_one_output() -> None:
    assert ca.Conv1d(1, 3, stride=9).place((1, 3)).output_shape == (1, 1)


def test_names_of_parameters_follow_the_name_of_the_layer() -> None:
    conv = ca.Conv2d(2, 3)
    assert conv.place((1, 4, 4), "features.0").weight_name == "features.0.weight"
    assert conv.place((1, 4, 4), "features.0").bias_name == "features.0.bias"
    assert (conv.place((1, 4, 4), "").weight_name, conv.place((1, 4, 4), "").bias_name) == ("weight", "bias")
    assert ca.Conv2d(2, 3, bias=False).place((1, 4, 4)).bias_name is None


def test_layers_without_a_weight_keep_or_flatten_the_shape() -> None:
    assert ca.ReLU().place((2, 3, 4)).output_shape == (2, 3, 4)
    assert ca.Flatten().place((2, 3, 4)).output_shape == (24,)
    assert not ca.ReLU().place((2,)).is_bilinear


def test_with_filters_changes_nothing_else() -> None:
    placed = ca.Conv2d(4, 3, stride=2, padding=1, bias=False).place((3, 9, 7), "conv", 5)
    other = placed.with_filters(11)
    assert other.output_shape == (11, 5, 4)
    assert (other.name, other.index, other.input_shape) == ("conv", 5, (3, 9, 7))
    assert other.with_filters(4) == placed
