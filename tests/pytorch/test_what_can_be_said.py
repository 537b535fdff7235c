"""What the refusals promise of a model as it is: each promise is kept here, in numbers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

import constraint_algebra as ca
from constraint_algebra.networks.network import bind
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
    "another pooling": lambda: nn.Sequential(conv(), nn.LPPool2d(2, 2), *tail(16)),
    "tanhshrink": lambda: nn.Sequential(conv(), nn.Tanhshrink(), *tail(64)),
    "local response norm": lambda: nn.Sequential(conv(), nn.LocalResponseNorm(2), *tail(64)),
    "bilinear": lambda: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv(), *tail(400)),
    "softmax on the way": lambda: nn.Sequential(conv(), nn.Softmax(1), *tail(64)),
    "gates": lambda: Forward(
        lambda m, x: m.head(torch.flatten(m.a(x) * torch.sigmoid(m.b(x)), 1)), a=conv(), b=conv(), head=nn.Linear(64, 3)
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


def test_a_jacobian_that_pytorch_cannot_take_is_refused_in_a_sentence() -> None:
    model = nn.Sequential(conv(), nn.Dropout(), *tail(64)).train()
    with pytest.raises(ca.ShapeError, match=r"cannot differentiate this model forwards.*model.eval\(\).*verify_twin"):
        ca.gradient_jacobian(model, X, 1)


def test_an_input_that_the_model_does_not_take_is_no_fault_of_its_derivative() -> None:
    with pytest.raises(ca.ShapeError, match=r"does not take the input as a batch of shape \(1, 2, 6, 6\)"):
        ca.gradient_jacobian(nn.Sequential(conv(), *tail(64)), X[:2], 1)


@pytest.mark.parametrize("case", ["local response norm", "tanhshrink"])
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


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalisation_is_read_in_its_mode(training) -> None:
    torch.manual_seed(5)
    model = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), *tail(64)).double().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network, parameters = from_torch(model, SHAPE)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == [training] * 6
    assert set(parameters) == {name for name in model.state_dict() if "num_batches" not in name}
    given = torch_gradients(model, X, 1)
    values = network.forward(bind(network, model.state_dict(), "parameters"), X)
    np.testing.assert_allclose(values[-1], model(torch.from_numpy(X[None])).detach().numpy()[0], atol=1e-12)
    assert set(given) == set(network.parameter_shapes)


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


def test_a_chain_that_cannot_be_followed_is_written_by_hand() -> None:
    torch.manual_seed(4)
    model = REFUSED["a branch on values"]().double()
    with pytest.raises(ca.UnsupportedLayerError, match=r"write it as Network\(input_shape, layers\) with the model's"):
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
