"""Parameters and gradients in every form that people have them in: accepted where one reading is left, or refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.networks.network import bind
from constraint_algebra.notes import AssumptionWarning
from constraint_algebra.recursion.noise import precision

torch.manual_seed(7)
MODEL = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 3)).double()
X = torch.rand(1, 1, 6, 6, dtype=torch.float64)
NETWORK, PARAMETERS = ca.from_torch(MODEL, (1, 6, 6))
GIVEN = torch.autograd.grad(functional.cross_entropy(MODEL(X), torch.tensor([1])), list(MODEL.parameters()))
NAMES = list(NETWORK.parameter_shapes)
TENSORS = dict(zip(NAMES, GIVEN, strict=True))
ARRAYS = {name: g.numpy() for name, g in TENSORS.items()}

FORMS = {
    "a dictionary of arrays": lambda: ARRAYS,
    "a dictionary of tensors": lambda: TENSORS,
    "in another order": lambda: dict(reversed(ARRAYS.items())),
    "the tuple of torch.autograd.grad": lambda: GIVEN,
    "a list": lambda: list(GIVEN),
    "a list of arrays": lambda: list(ARRAYS.values()),
    "a generator": lambda: (g for g in GIVEN),
    "pairs of name and tensor": lambda: list(TENSORS.items()),
    "lists of numbers": lambda: {name: a.tolist() for name, a in ARRAYS.items()},
    "with a graph": lambda: [g.clone().requires_grad_() for g in GIVEN],
    "sparse": lambda: {name: g.to_sparse() for name, g in TENSORS.items()},
    "not contiguous": lambda: {name: g.mT.contiguous().mT if g.ndim > 1 else g for name, g in TENSORS.items()},
    "a negative view": lambda: {name: torch.complex(g, g).conj().imag.neg() for name, g in TENSORS.items()},
}


@pytest.mark.parametrize("case", FORMS)
def test_one_reading_is_left(case) -> None:
    bound = bind(NETWORK, FORMS[case](), "gradients")
    assert list(bound) == NAMES
    for name, values in bound.items():
        assert type(values) is np.ndarray
        assert values.dtype == np.float64
        assert not np.shares_memory(values, ARRAYS[name])
        np.testing.assert_array_equal(values, ARRAYS[name])
    result = ca.reconstruct(NETWORK, PARAMETERS, FORMS[case]())
    assert result.input.dtype == np.float64
    np.testing.assert_allclose(result.input, X.numpy()[0], atol=1e-6)


@pytest.mark.parametrize("form", [lambda: MODEL, MODEL.parameters, MODEL.named_parameters])
def test_a_model_may_stand_for_its_parameters(form) -> None:
    np.testing.assert_allclose(ca.reconstruct(NETWORK, form(), GIVEN).input, X.numpy()[0], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_tensors_of_every_precision_set_the_noise_floor_that_arrays_of_it_set(dtype) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = getattr(torch, dtype)
    tensors = {name: g.to(kind).requires_grad_() for name, g in TENSORS.items()}
    arrays = {name: a.astype(getattr(ml_dtypes, dtype, dtype)) for name, a in ARRAYS.items()}
    assert precision(tensors) == precision(arrays)
    model = {name: p.detach().to(kind) for name, p in MODEL.named_parameters()}
    by_tensors = ca.reconstruct(NETWORK, model, list(tensors.values()))
    by_arrays = ca.reconstruct(NETWORK, {name: p.double().numpy() for name, p in model.items()}, arrays)
    np.testing.assert_array_equal(by_tensors.input, by_arrays.input)
    np.testing.assert_array_equal(by_tensors.error_bar, by_arrays.error_bar)


def test_the_equations_of_an_observer_take_the_same_forms() -> None:
    first = ca.first_layer_equations(NETWORK, MODEL, GIVEN)
    again = ca.first_layer_equations(NETWORK, PARAMETERS, ARRAYS)
    np.testing.assert_array_equal(first.weight_gradient, again.weight_gradient)
    assert ca.indistinguishable(NETWORK, MODEL, X.numpy()[0], 1).nullity == 0


# (name in place of one of the network's, network's name)
PREFIXES = {
    "DataParallel": "module.{}".format,
    "torch.compile": "_orig_mod.{}".format,
    "both": "module._orig_mod.{}".format,
    "fully sharded": "_fsdp_wrapped_module.{}".format,
    "a module around": "net.{}".format,
    "two around, one wrapped": "trainer.module.net.{}".format,
    "wrapped parts": lambda name: name.replace("0.", "0.module.").replace("3.", "3._orig_mod."),
}


@pytest.mark.parametrize("case", PREFIXES)
def test_prefixes_of_wrappers_are_dropped_and_that_is_said(case) -> None:
    given = {PREFIXES[case](name): a for name, a in ARRAYS.items()}
    with pytest.warns(
        AssumptionWarning, match=rf"'{re.escape(next(iter(given)))}' is read as the network's '0.weight'"
    ):
        result = ca.reconstruct(NETWORK, PARAMETERS, given)
    np.testing.assert_allclose(result.input, X.numpy()[0], atol=1e-6)


def test_a_prefix_of_the_network_may_be_missing_in_the_gradients() -> None:
    network, parameters = ca.from_torch(nn.Sequential(MODEL), (1, 6, 6))
    with pytest.warns(AssumptionWarning, match=r"'0.weight' is read as the network's '0.0.weight'"):
        result = ca.reconstruct(network, parameters, ARRAYS)
    np.testing.assert_allclose(result.input, X.numpy()[0], atol=1e-6)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("0.", "1."),  # another layer, not another prefix
        lambda name: name.replace("0.", "a.").replace("3.", "b."),
        lambda name: f"module.{name}" if name == "0.weight" else name.replace("0.", "1."),
    ],
)
def test_other_names_are_not_taken_for_prefixes(rename) -> None:
    with pytest.raises(ca.ParameterError, match=r"is no parameter of the network; it has 0\.weight"):
        bind(NETWORK, {rename(name): a for name, a in ARRAYS.items()}, "gradients")


def test_two_names_that_become_one_are_refused() -> None:
    given = {"module.0.weight": ARRAYS["0.weight"], **ARRAYS}
    with pytest.raises(ca.ParameterError, match=r"'module.0.weight' is no parameter"):
        bind(NETWORK, given, "gradients")


class Foreign:
    """Claims to be an array, and is none."""

    shape = (3,)

    def __array__(self, *_args, **_options):
        raise RuntimeError("no values here")


def but(**changed) -> dict:
    """The gradients with one of them replaced, `w0` for 0.weight and so on."""
    names = {"w0": "0.weight", "b0": "0.bias", "w3": "3.weight", "b3": "3.bias"}
    return {**ARRAYS, **{names[key]: value for key, value in changed.items()}}


REFUSED = {
    "frozen": (lambda: but(b3=None), "'3.bias' is None; every parameter's is needed.*requires_grad_"),
    "frozen, in a tuple": (lambda: (*GIVEN[:3], None), "'3.bias' is None.*requires_grad_"),
    "missing": (lambda: {n: a for n, a in ARRAYS.items() if n != "0.bias"}, "'0.bias' of shape .* missing.*frozen"),
    "meta": (lambda: but(w0=GIVEN[0].to("meta")), "'0.weight' is on the meta device.*load the values"),
    "too few": (
        lambda: GIVEN[:3],
        (
            r"3 arrays came for the 4 parameters 0.weight \(4, 1, 3, 3\), 0.bias \(4,\), 3.weight .*, 3.bias .*; the"
            r" shapes that came are \(4, 1, 3, 3\), \(4,\), \(3, 64\)"
        ),
    ),
    "too many": (lambda: [*GIVEN, None], r"5 arrays came for the 4 parameters.*\(3,\), None"),
    "none at all": (list, "0 arrays came for the 4 parameters.*that came are none"),
    "transposed": (lambda: but(w3=GIVEN[2].T), r"\(64, 3\), the network needs \(3, 64\); it looks transposed.*array.T"),
    "Keras": (lambda: but(w0=np.ones((3, 3, 1, 4))), "in the order of Keras, outputs last"),
    "another order of axes": (lambda: but(w0=np.ones((3, 4, 1, 3))), "the same sizes in another order"),
    "a batch of gradients": (lambda: but(w0=np.ones((8, 4, 1, 3, 3))), "batch axis of 8 samples in front.*one sample"),
    "a batch of one": (lambda: but(b0=np.ones((1, 4))), "batch axis of one sample in front"),
    "flat": (lambda: but(w0=np.ones(36)), r"as many values in another shape: reshape it to \(4, 1, 3, 3\)"),
    "another size": (lambda: but(w0=np.ones((2, 2))), r"\(2, 2\), the network needs \(4, 1, 3, 3\)$"),
    "in the order of another model": (lambda: [GIVEN[i] for i in (2, 3, 0, 1)], r"'0.weight' has shape \(3, 64\)"),
    "one array": (lambda: torch.cat([g.ravel() for g in GIVEN]), r"got one array of shape \(235,\); the network has"),
    "a name": (lambda: "lenet", "got str"),
    "nothing": (lambda: None, "got NoneType"),
    "a number": (lambda: 3.0, "got float"),
    "a set": (lambda: {1.0, 2.0}, "got set"),
    "one dictionary a sample": (lambda: [ARRAYS, ARRAYS], "a list of 2 dictionaries came"),
    "a model": (lambda: MODEL, "a Sequential came, whose .grad fields"),
    "complex": (lambda: but(b0=torch.ones(4, dtype=torch.complex64)), "'0.bias' has type complex64"),
    "text": (lambda: but(b0=["a"] * 4), "'0.bias' has type <U1"),
    "ragged": (lambda: but(b0=[[1.0], [1.0, 2.0]]), "'0.bias' is a list, which is no array of numbers"),
    "a foreign object": (lambda: but(b3=Foreign()), "'3.bias' is a Foreign, which is no array.*no values here"),
    "masked": (lambda: but(b3=np.ma.masked_greater(np.arange(3.0), 1)), "'3.bias' has masked values"),
    "numbers for names": (lambda: dict(enumerate(GIVEN)), "0 is no parameter of the network"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_refused_by_name(case) -> None:
    make, words = REFUSED[case]
    with pytest.raises(ca.ParameterError, match=f"^gradients: .*{words}"):
        bind(NETWORK, make(), "gradients")


def test_no_advice_on_frozen_parameters_is_given_for_parameters() -> None:
    with pytest.raises(ca.ParameterError, match=r"^parameters: '3.bias' is None; every parameter's is needed$"):
        bind(NETWORK, {**PARAMETERS, "3.bias": None}, "parameters")
