"""What hunts have found, each in the smallest case that showed it: the fault is gone, and what is said is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import constraint_algebra as ca
from tests.hunt.drawing import drawn
from tests.hunt.judging import judged
from tests.hunt.recipes import Recipe, Stage

DENSE = Stage(filters=6, activation="")
WIDE = Stage(filters=1, kernel=5, padding=0, activation="")
SELU_8 = Stage(block="joined", filters=8, padding=0, activation="SELU")
ELU = Stage(filters=3, kernel=5, padding=1, bias=False, activation="ELU")
HARDTANH = (Stage(filters=8, activation="Hardtanh"), Stage(filters=8, kernel=1, padding=0, activation=""))

SOFTPLUS = Stage(filters=12, kernel=1, padding=0, bias=False, activation="Softplus")
SELU_6 = Stage(filters=6, kernel=1, stride=2, padding=0, activation="SELU")
TANH_5 = Stage(filters=2, kernel=5, stride=2, padding=2, activation="Tanh")
TANH_8 = (Stage(filters=8, activation="Tanh"), Stage(filters=12, kernel=1, padding=0))
CURVED = Stage("residual", filters=2, kernel=1, padding=0, activation="Mish")
SIGMOID_2 = Stage(filters=1, kernel=2, padding=0, activation="Sigmoid")
CANCELLED = Stage("normalised", filters=21, kernel=2, padding=1, activation="")
FROZEN = Stage("frozen", filters=24, padding=0, bias=False, activation="SELU", variant=1)
ONE = Stage(filters=1, kernel=1, padding=0)
JOINED = Stage("joined", filters=24, padding=0, variant=2)

FOUND = {
    "error bars behind a head without bias, its label nearly certain": Recipe(
        seed=17, shape=(1, 2, 5), stages=(DENSE,), classes=2, head="none", scale=10.0, search=0.0
    ),
    "the same in single precision, trained": Recipe(
        seed=61, shape=(2, 5, 4), stages=(WIDE,), classes=2, head="none", scale=100.0, steps=3, precision="float32",
        search=0.0,
    ),
    "the same through a cut-off, which blamed the client": Recipe(
        seed=44, shape=(3, 4, 4), stages=HARDTANH, classes=3, head="none", scale=10.0, search=0.0
    ),
    "a saturated exponential blamed the client": Recipe(
        seed=37, shape=(2, 6, 6), stages=(SELU_8,), classes=2, scale=100.0, search=0.0
    ),
    "a wrong root of a head without bias, in part": Recipe(
        seed=3079, shape=(3, 6, 5), stages=(Stage(filters=12, kernel=2, stride=2, padding=0),), classes=1,
        loss="logistic", head="none", scale=100.0, defect="no bias", search=0.0,
    ),
    "noise of a dead layer taken for active": Recipe(
        seed=3097, shape=(1, 6, 4), stages=(Stage(filters=2),), classes=1, loss="logistic", scale=10.0, steps=3,
        search=0.0,
    ),
    "a dead filter that blamed the client": Recipe(
        seed=5162, shape=(1, 2, 7), stages=(ONE,), classes=7, search=0.0
    ),
    "a dead path of two": Recipe(
        seed=6175, shape=(1, 5, 4), stages=(JOINED,), classes=1, loss="logistic", head="none", scale=100.0, steps=1,
        search=0.0,
    ),
    "an iteration that stood still": Recipe(
        seed=3280, shape=(1, 4, 4), stages=(SOFTPLUS,), classes=3, scale=30.0, steps=3, search=0.0
    ),
    "the same, which blamed the client": Recipe(
        seed=46, shape=(3, 5, 6), stages=(SELU_6, Stage(filters=12, kernel=1, bias=False, activation="Softplus")),
        classes=2, scale=30.0, search=0.0,
    ),
    "gradients of 1e-190, whose squares are zero": Recipe(
        seed=3149, shape=(2, 3, 3), stages=(Stage(filters=3, stride=2, activation="SELU"),), classes=2, scale=100.0,
        search=0.0,
    ),
    "saturated outputs of a large picture": Recipe(
        seed=96, shape=(1, 6, 7), stages=(TANH_5,), loss="square", scale=0.1, picture="large", search=0.0
    ),
    "a weak direction mixed with strong ones": Recipe(
        seed=42, shape=(3, 6, 4), stages=TANH_8, classes=3, steps=3, picture="large", search=0.0
    ),
    "the noise of k in the check of gradients": Recipe(
        seed=3032, shape=(2, 5, 3), stages=(Stage(filters=10, padding=0, activation=""),), classes=3, head="none",
        scale=10.0, search=0.0,
    ),
    "a client's p - 1 that is zero": Recipe(
        seed=30134, shape=(2, 6, 4), stages=(FROZEN,), classes=2, head="none", scale=100.0, picture="background",
        search=0.0, kind="huge and bending",
    ),
    "a bias that a normalisation takes away": Recipe(
        seed=153, shape=(1, 4, 4), stages=(CANCELLED,), classes=2, loss="square", scale=1e-3, steps=5,
        picture="black", search=0.0,
    ),
    "paths whose sum cancels": Recipe(
        seed=9355, shape=(1, 5, 6), stages=(CURVED,), classes=1, loss="logistic", scale=3.0, picture="large",
        search=0.0,
    ),
    "a search that ended in a valley": Recipe(
        seed=6126, shape=(1, 4, 4), stages=(Stage(filters=8, kernel=1, padding=0, bias=False, activation="Sigmoid"),
        SIGMOID_2), classes=1, loss="logistic", precision="float32", search=0.3,
    ),
    "gradients of 1e-294": Recipe(seed=3001, shape=(1, 4, 5), stages=(ELU,), classes=2, scale=100.0, search=0.0),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_it_is_gone(what: str) -> None:
    assert judged(FOUND[what]).faults == []


@pytest.mark.parametrize("seed", [2435, 2718, 4501, 8671, 10106])
def test_it_is_gone_of_what_was_drawn(seed: int) -> None:
    """Noise of k on open values, roots that noise joins, long sums in float32 and of logits, a bias of no gradient."""
    assert judged(drawn(seed)).faults == []


def test_a_sum_of_two_paths_from_one_input_determines_it() -> None:
    stage = Stage("residual", filters=4, kernel=1, padding=0, bias=False, variant=3)
    record = judged(Recipe(seed=5545, shape=(2, 7, 7), stages=(stage,), classes=3, search=0.0), ("foretold",))
    assert record.faults == []
    assert record.known == 98


def step(activation: nn.Module, dtype: torch.dtype, size: float, *, deep: int = 2, bias: bool = True):
    """A small network with large biases at a picture of a given size: its gradients, and what is made of them."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (1, 8, 8)[:deep]:
        layers += [nn.Conv2d(channels, 8, 3, padding=1), activation]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 36, 5, bias=bias)).to(dtype)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d):
                layer.bias.normal_()
    x = (size * torch.rand(1, 6, 6, dtype=torch.float64)).to(dtype)
    network, parameters = ca.from_torch(model, (1, 6, 6))
    return x, network, parameters, ca.torch_gradients(model, x, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.LeakyReLU()], ids=lambda m: type(m).__name__)
def test_an_image_of_1e_9_beside_biases_of_1_blames_nobody(activation, dtype) -> None:
    x, network, parameters, gradients = step(activation, dtype, 1e-9)
    result = ca.reconstruct(network, parameters, gradients, search=0)
    assert result.status is not ca.Status.INCONSISTENT
    error = np.abs(result.input - np.asarray(x.double()))
    assert result.determined.all() or isinstance(activation, nn.ReLU)  # of whose outputs float32 leaves the sides open
    assert (error <= 8 * result.error_bar)[result.determined].all()


def test_three_sigmoid_layers_raise_nothing() -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        x, network, parameters, gradients = step(nn.Sigmoid(), dtype, 1.0, deep=3)
        result = ca.reconstruct(network, parameters, gradients, search=0)
        known = result.determined
        assert known.all() or dtype is not torch.float64
        assert (np.abs(result.input - np.asarray(x.double())) <= 8 * result.error_bar)[known].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_whatever_tensors_come_in_results_are_numpy_float64_and_compare_with_them(dtype) -> None:
    x, network, parameters, gradients = step(nn.LeakyReLU(0.2), dtype, 1.0, deep=1)
    held, tensors = (
        {name: torch.tensor(np.asarray(values).astype(float)).to(dtype) for name, values in arrays.items()}
        for arrays in (parameters, gradients)
    )
    result = ca.reconstruct(network, held, tensors, search=0)
    assert type(result.input) is type(result.error_bar) is np.ndarray
    assert result.input.dtype == result.error_bar.dtype == np.float64
    assert result.determined.all()
    difference = torch.as_tensor(result.input) - x.double()
    assert bool((difference.abs() <= 8 * torch.as_tensor(result.error_bar)).all())
