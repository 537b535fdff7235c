"""What the refusals promise of a model as it is: each promise is kept here, in numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import fusion, parametrizations, parametrize

import constraint_algebra as ca
from constraint_algebra.pytorch.gradients import torch_gradients
from constraint_algebra.pytorch.tracing import from_torch
from constraint_algebra.pytorch.unsupported import AS_IT_IS, BY_HAND, PART
from tests.pytorch.test_tracing import Forward

SHAPE = (3, 6, 6)
X = np.random.default_rng(8).uniform(size=SHAPE)


def tail(features: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(features, 3)]


def conv() -> nn.Module:
    return nn.Conv2d(3, 4, 3)


# Models that from_torch refuses, in evaluation mode.
REFUSED = {
    "pooling": lambda: nn.Sequential(conv(), nn.MaxPool2d(2), *tail(16)),
    "GELU": lambda: nn.Sequential(conv(), nn.GELU(), *tail(64)),
    "batch norm": lambda: nn.Sequential(conv(), nn.BatchNorm2d(4), *tail(64)).eval(),
    "layer norm": lambda: nn.Sequential(nn.LayerNorm(6), conv(), *tail(64)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 2, 3), *tail(128)),
    "reflection": lambda: nn.Sequential(nn.ReflectionPad2d(1), conv(), *tail(144)),
    "softmax": lambda: nn.Sequential(conv(), *tail(64), nn.Softmax(1)),
    "residual": lambda: Forward(
        lambda m, x: m.head(torch.flatten(m.a(x) + x, 1)), a=nn.Conv2d(3, 3, 1), head=nn.Linear(108, 3)
    ),
    "shared": lambda: Forward(
        lambda m, x: m.head(torch.flatten(m.a(m.a(x)), 1)), a=nn.Conv2d(3, 3, 1), head=nn.Linear(108, 3)
    ),
    "recurrent": lambda: Forward(
        lambda m, x: m.head(m.r(x.flatten(2))[0][:, -1]), r=nn.LSTM(36, 4, batch_first=True), head=nn.Linear(4, 3)
    ),
    "attention": lambda: Forward(
        lambda m, x: m.head(m.r(*[x.flatten(2)] * 3, need_weights=False)[0].mean(1)),
        r=nn.MultiheadAttention(36, 4, batch_first=True),
        head=nn.Linear(36, 3),
    ),
    "a branch on values": lambda: Forward(
        lambda m, x: m.head(torch.flatten(m.a(x) if x.sum() > 0 else -m.a(x), 1)), a=conv(), head=nn.Linear(64, 3)
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_gradients_twins_and_the_jacobian_take_models_that_are_no_chain(case) -> None:
    torch.manual_seed(4)
    model = REFUSED[case]().double()
    with pytest.raises(ca.UnsupportedLayerError) as caught:
        from_torch(model, SHAPE)
    assert str(caught.value).endswith(AS_IT_IS)
    for name in re.findall(r"\b(\w+)\(|\b(torch_gradients|verify_twin)\b", AS_IT_IS):
        assert callable(getattr(ca, name[0] or name[1]))
    assert torch_gradients(model, X, 1).keys() == dict(model.named_parameters()).keys()
    assert ca.verify_twin(model, X, X, 1).equal
    assert not ca.verify_twin(model, X, 1 - X, 1).equal
    found = ca.local_uniqueness(ca.gradient_jacobian(model, X, 1), X.shape)
    assert 0 < found.rank <= X.size


TRAINING = {"dropout": nn.Dropout(), "batch norm": nn.BatchNorm2d(4)}


@pytest.mark.parametrize("case", TRAINING)
def test_a_jacobian_that_pytorch_cannot_take_is_refused_in_a_sentence(case) -> None:
    model = nn.Sequential(conv(), TRAINING[case], *tail(64)).train()
    with pytest.raises(ca.ShapeError, match=r"cannot differentiate this model forwards.*model.eval\(\).*verify_twin"):
        ca.gradient_jacobian(model, X, 1)


def test_an_input_that_the_model_does_not_take_is_no_fault_of_its_derivative() -> None:
    with pytest.raises(ca.ShapeError, match=r"does not take the input as a batch of shape \(1, 2, 6, 6\)"):
        ca.gradient_jacobian(nn.Sequential(conv(), *tail(64)), X[:2], 1)


@pytest.mark.parametrize("case", ["pooling", "GELU"])
def test_the_part_behind_a_layer_is_a_network_whose_input_its_gradients_tell(case) -> None:
    torch.manual_seed(4)
    model = REFUSED[case]().double()
    given = torch_gradients(model, X, 1)
    part = model[2:]
    inside = model[:2](torch.from_numpy(X[None])).detach().numpy()[0]
    network, parameters = from_torch(part, inside.shape)
    result = ca.reconstruct(network, parameters, {name: given[name] for name in parameters}, batch=1)
    assert result.status is ca.Status.DETERMINED
    np.testing.assert_allclose(result.input, inside, atol=1e-9)
    assert "from_torch(part, its input shape)" in PART


@pytest.mark.parametrize("linear", [False, True])
def test_batch_normalisation_folds_as_the_refusal_says(linear) -> None:
    torch.manual_seed(5)
    first, norm = (nn.Linear(5, 4), nn.BatchNorm1d(4)) if linear else (conv(), nn.BatchNorm2d(4))
    rest = [nn.LeakyReLU(0.2), nn.Linear(4, 3)] if linear else [nn.LeakyReLU(0.2), *tail(64)]
    model = nn.Sequential(first, norm, *rest).double()
    x = np.random.default_rng(1).uniform(size=5) if linear else X
    for _ in range(3):  # statistics of its own
        model(torch.rand(8, *x.shape, dtype=torch.float64) * 3)
    model.eval()
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    with pytest.raises(ca.UnsupportedLayerError) as caught:
        from_torch(model, x.shape)
    function = "fuse_linear_bn_eval" if linear else "fuse_conv_bn_eval"
    assert function in str(caught.value)
    folded = nn.Sequential(getattr(fusion, function)(first, norm), *rest)
    given = torch_gradients(model, x, 1)
    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
    network, parameters = from_torch(folded, x.shape)
    gradients = {
        "0.weight": given["0.weight"] / scale.reshape(-1, *(1,) * (given["0.weight"].ndim - 1)),
        "0.bias": given["1.bias"],
        **{name: given[f"{int(name[0]) + 1}{name[1:]}"] for name in list(parameters)[2:]},
    }
    expected = torch_gradients(folded, x, 1)
    for name, values in expected.items():
        np.testing.assert_allclose(gradients[name], values, atol=1e-12)
    np.testing.assert_allclose(ca.reconstruct(network, parameters, gradients).input, x, atol=1e-6)


def test_a_softmax_before_the_negative_logarithm_can_be_left_out() -> None:
    model = nn.Sequential(conv(), nn.LeakyReLU(), *tail(64), nn.LogSoftmax(1)).double()
    given = torch_gradients(model, X, 1, loss=lambda output, target: functional.nll_loss(output, target.reshape(1)))
    expected = torch_gradients(model[:-1], X, 1)
    assert all(np.allclose(given[name], expected[name], atol=1e-14) for name in expected)
    network, parameters = from_torch(model[:-1], SHAPE)
    np.testing.assert_allclose(ca.reconstruct(network, parameters, given).input, X, atol=1e-6)


def test_parametrisations_are_removed_from_a_copy_with_the_same_outputs() -> None:
    model = nn.Sequential(parametrizations.weight_norm(conv()), nn.LeakyReLU(), *tail(64)).double()
    with pytest.raises(ca.UnsupportedLayerError, match="remove_parametrizations"):
        from_torch(model, SHAPE)
    x = torch.from_numpy(X[None])
    expected = model(x)
    parametrize.remove_parametrizations(model[0], "weight")
    assert torch.allclose(model(x), expected, atol=1e-15)
    network, parameters = from_torch(model, SHAPE)
    np.testing.assert_allclose(ca.reconstruct(network, parameters, torch_gradients(model, X, 1)).input, X, atol=1e-6)


def test_a_chain_that_cannot_be_traced_is_written_by_hand() -> None:
    torch.manual_seed(4)
    model = Forward(
        lambda m, x: m.head(torch.flatten(functional.conv2d(x, m.a.weight, m.a.bias), 1)),
        a=conv(),
        head=nn.Linear(64, 3),
    ).double()
    with pytest.raises(ca.UnsupportedLayerError, match=r"write it as Network\(input_shape, layers, names\)"):
        from_torch(model, SHAPE)
    network = ca.Network(SHAPE, [ca.Conv2d(4, 3), ca.Flatten(), ca.Linear(3)], ["a", "flat", "head"])
    result = ca.reconstruct(network, dict(model.named_parameters()), torch_gradients(model, X, 1))
    np.testing.assert_allclose(result.input, X, atol=1e-6)
    assert "names" in BY_HAND


# Advice that would change the model that somebody audits.
CHANGES = re.compile(
    r"(use (a convolution|ReLU or|LeakyReLU|an ordinary|another loss|a smaller network)|remove it from the model"
    r"|give each layer its own|write the layer with|call an nn|return only|choose a value that the layer"
    r"|put Flatten and Linear at|use padding_mode|fold it into|pad with zeros, or"
    r"|remove (branches|the padding|the hooks))"
)


def test_no_message_advises_to_change_the_audited_model() -> None:
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted(Path(ca.__file__).parent.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if CHANGES.search(line)
    ]
    assert found == []
