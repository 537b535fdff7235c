"""Normalisation by the data's own statistics: values and all gradients as PyTorch has them, over random shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.networks.network import bind, stored


def layer_of(kind: str, shape: tuple[int, ...], last: int, groups: int, eps: float, affine: bool) -> ca.BatchNorm:
    own = shape[-last:]
    return {
        "batch": lambda: ca.BatchNorm(eps=eps, affine=affine, training=True),
        "batch without buffers": lambda: ca.BatchNorm(eps=eps, affine=affine, tracked=False),
        "group": lambda: ca.GroupNorm(groups, eps=eps, affine=affine),
        "instance": lambda: ca.InstanceNorm(eps=eps, affine=affine),
        "layer": lambda: ca.LayerNorm(own, eps=eps, affine=affine),
        "layer by number": lambda: ca.LayerNorm(last, eps=eps, affine=affine),
        "layer without shift": lambda: ca.LayerNorm(own, eps=eps, affine=affine, bias=False),
        "rms": lambda: ca.RMSNorm(own, eps=eps, affine=affine),
    }[kind]()  # type: ignore[return-value]


def pytorchs(kind: str, x: torch.Tensor, weight, bias, last: int, groups: int, eps: float) -> torch.Tensor:
    own = tuple(x.shape[-last:])
    match kind.split(maxsplit=1)[0]:
        case "batch":
            return functional.batch_norm(x[None], None, None, weight, bias, training=True, eps=eps)[0]
        case "group":
            return functional.group_norm(x[None], groups, weight, bias, eps)[0]
        case "instance":
            return functional.instance_norm(x[None], None, None, weight, bias, eps=eps)[0]
        case "layer":
            return functional.layer_norm(x[None], own, weight, bias, eps)[0]
    return functional.rms_norm(x[None], own, weight, eps)[0]


KINDS = [
    "batch",
    "batch without buffers",
    "group",
    "instance",
    "layer",
    "layer by number",
    "layer without shift",
    "rms",
]


@st.composite
def cases(draw):
    kind = draw(st.sampled_from(KINDS))
    axes = draw(st.integers(1 if kind.split(maxsplit=1)[0] in {"layer", "rms"} else 2, 4))
    groups = draw(st.integers(1, 3))
    shape = (groups * draw(st.integers(1, 2)), *(draw(st.integers(1, 4)) for _ in range(axes - 1)))
    last = draw(st.integers(1, axes))
    values = {"group": math.prod(shape) // groups, "layer": math.prod(shape[-last:]), "rms": 2}
    if values.get(kind.split(maxsplit=1)[0], math.prod(shape[1:])) < 2:
        shape = (*shape[:-1], 5)
    return kind, shape, last, groups, draw(st.sampled_from([1e-5, 1e-2, 1.0])), draw(st.booleans())


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 2**31))
def test_values_and_all_gradients_are_those_of_pytorch(case, seed) -> None:
    kind, shape, last, groups, eps, affine = case
    network = ca.Network(shape, {"norm": layer_of(kind, shape, last, groups, eps, affine), "out": ca.Sigmoid()})
    own = shape[-last:] if kind.split(maxsplit=1)[0] in {"layer", "rms"} else shape[:1]
    names = ["norm.weight", "norm.bias"][: 1 if kind in {"rms", "layer without shift"} else 2] if affine else []
    assert network.parameter_shapes == dict.fromkeys(names, own)
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(own) for name in names}
    p = {name: torch.tensor(a, requires_grad=True) for name, a in arrays.items()}
    x = torch.tensor(rng.standard_normal(shape) + rng.standard_normal(), requires_grad=True)
    k = torch.tensor(rng.standard_normal(shape))
    y = torch.sigmoid(pytorchs(kind, x, p.get("norm.weight"), p.get("norm.bias"), last, groups, eps))
    (y * k).sum().backward()
    bound = bind(network, arrays, "parameters")
    values = network.forward(bound, x.detach().numpy())
    np.testing.assert_allclose(values[-1], y.detach().numpy(), rtol=0, atol=1e-12)
    sent = network.output_gradients(bound, values, k.numpy())[0]
    np.testing.assert_allclose(sent, x.grad.numpy(), rtol=1e-9, atol=1e-9 * max(1, np.abs(sent).max()))
    found = stored(network, network.backward(bound, values, k.numpy()))
    assert list(found) == names
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, p[name].grad.numpy(), rtol=0, atol=1e-11)


def test_what_is_written_stands_as_its_parts_and_is_read_by_its_own_name() -> None:
    layers = {
        "body.norm": ca.LayerNorm((3,)),
        "sum": (ca.Add(), "body.norm", "input"),
        "out": (ca.ReLU(), "sum"),
    }
    network = ca.Network((4, 5, 3), layers)
    assert [(layer.name, layer.kind) for layer in network][:4] == [
        ("body.norm.normalised", "OwnStatistics"),
        ("body.norm.turned", "Permute"),
        ("body.norm", "ChannelScale"),
        ("body.norm.back", "Permute"),
    ]
    assert [network.value_name(number) for number in network.named("sum").inputs] == ["body.norm.back", "input"]
    assert ca.Network((4, 5, 3), list(network), [layer.name for layer in network]) == network
    assert "ChannelScale 3" in repr(network)


def test_groups_and_modes_are_those_of_the_shapes() -> None:
    def first(layer, shape):
        return ca.Network(shape, {"norm": layer}).layers[0].layer

    assert first(ca.BatchNorm(training=True, momentum=None), (3, 4)) == ca.OwnStatistics(
        3, tracked=True, momentum=None, across=True
    )
    assert first(ca.BatchNorm(tracked=False), (3, 4)) == ca.OwnStatistics(3, across=True)
    assert first(ca.InstanceNorm(tracked=True), (3, 4)) == ca.Standardise()
    assert first(ca.InstanceNorm(tracked=True, training=True), (3, 4)) == ca.OwnStatistics(3, tracked=True)
    assert first(ca.GroupNorm(2, eps=0.1), (4, 4)) == ca.OwnStatistics(2, eps=0.1)
    assert first(ca.LayerNorm(2), (4, 5, 6)) == ca.OwnStatistics(4)
    assert first(ca.LayerNorm(3), (4, 5, 6)) == first(ca.LayerNorm((4, 5, 6)), (4, 5, 6)) == ca.OwnStatistics(1)
    assert first(ca.RMSNorm(), (4, 5)) == ca.OwnStatistics(4, eps=float(np.finfo(np.float32).eps), centred=False)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ca.GroupNorm(3).parts((4, 2)), "4 channels cannot be split into 3 groups"),
        (lambda: ca.GroupNorm(0), "groups must be a whole number of at least 1, got 0"),
        (lambda: ca.Network((4,), [ca.BatchNorm(training=True)]), r"each of 4 groups of \(4,\) holds one value"),
        (lambda: ca.Network((4,), [ca.InstanceNorm()]), r"needs an input of shape \(channels, \*spatial\), got \(4,\)"),
        (
            lambda: ca.LayerNorm(64).parts((64,)),
            r"LayerNorm: .*\(64,\).* the last 64 axes;.*LayerNorm\(64\) is LayerNorm",
        ),
        (lambda: ca.LayerNorm((4, 5)).parts((5, 4)), r"\(5, 4\) does not have the last axes \(4, 5\)"),
        (lambda: ca.LayerNorm(()), "axes must not be empty"),
        (lambda: ca.RMSNorm(0), "axes must be a whole number of at least 1"),
        (lambda: ca.LayerNorm(eps=-1.0), "eps must not be negative"),
        (lambda: ca.BatchNorm(momentum="some"), "momentum must be a number"),
        (lambda: ca.BatchNorm(training=1), "training must be True or False, got 1"),
        (lambda: ca.ChannelScale(shape=(2, 3)).place((4, 2)), r"factors of shape \(2, 3\) do not fit the 4 channels"),
    ],
)
def test_what_no_normalisation_can_have_is_refused(make, words) -> None:
    with pytest.raises(ca.ShapeError, match=words):
        make()


def test_pytorchs_words_are_answered() -> None:
    for wrong, words in (
        (lambda: ca.LayerNorm(normalized_shape=(4,)), "its name here is axes"),
        (lambda: ca.GroupNorm(num_groups=2), "its name here is groups"),
        (lambda: ca.BatchNorm(track_running_stats=False), "its name here is tracked"),
        (lambda: ca.GroupNorm(2, num_channels=4), "leave it out: the channels follow from the input shape"),
        (lambda: ca.SyncBatchNorm, r"write ca.BatchNorm\(\).*ca.BatchNorm\(training=True\) in training mode"),
        (lambda: ca.LocalResponseNorm, "none of batch, group, layer, instance and RMS norm"),
    ):
        with pytest.raises(ca.ConstraintAlgebraError, match=words):
            wrong()


def test_running_statistics_may_come_and_are_not_asked_for() -> None:
    layers = {"norm": ca.BatchNorm(training=True), "mean": ca.BatchNorm(training=True, momentum=None)}
    network = ca.Network((3, 4), {**layers, "eval": ca.BatchNorm(), "free": ca.BatchNorm(tracked=False)})
    assert network.buffer_shapes == {"eval.running_mean": (3,), "eval.running_var": (3,)}
    assert network.tracked_shapes == {
        **{f"{name}.running_{kind}": (3,) for name in ("norm", "mean") for kind in ("mean", "var")},
        "mean.num_batches_tracked": (),
    }
    shapes = network.parameter_shapes | network.buffer_shapes
    arrays = {name: np.ones(shape) for name, shape in shapes.items()}
    assert set(bind(network, arrays, "parameters")) == set(arrays)
    state = arrays | {name: np.full(shape, 2) for name, shape in network.tracked_shapes.items()}
    counters = {f"{name}.num_batches_tracked": 5 for name in ("norm", "eval")}
    bound = bind(network, state | counters, "parameters")
    with pytest.warns(ca.AssumptionWarning, match=r"'model\.norm\.weight' is read as the network's"):
        prefixed = bind(network, {f"model.{name}": a for name, a in (state | counters).items()}, "parameters")
    assert set(bound) == set(prefixed) == set(state)
    assert bound["mean.num_batches_tracked"] == prefixed["mean.num_batches_tracked"] == 2
    values = network.forward(bound, np.arange(12.0).reshape(3, 4))
    assert np.array_equal(values[-1], network.forward(bind(network, arrays, "parameters"), values[0])[-1])
    with pytest.raises(ca.ParameterError, match=r"'norm.running_var' has shape \(2,\), the network needs \(3,\)"):
        bind(network, state | {"norm.running_var": np.ones(2)}, "parameters")
    with pytest.raises(ca.ParameterError, match=r"'free.running_mean' is no parameter"):
        bind(network, state | {"free.running_mean": np.ones(3)}, "parameters")
    with pytest.raises(ca.ParameterError, match=r"'eval.running_var' of shape \(3,\) is missing"):
        bind(network, {name: a for name, a in state.items() if name != "eval.running_var"}, "parameters")
