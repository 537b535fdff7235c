"""Dropout in training mode is read as a layer, compared under the same random masks."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.networks.network import bind
from tests.pytorch.judge import Forward


def conv() -> nn.Conv2d:
    return nn.Conv2d(2, 4, 3)


MODELS = {
    "module": (nn.Sequential(conv(), nn.Dropout(0.25)), [ca.Dropout(0.25)]),
    "channels": (nn.Sequential(conv(), nn.Dropout2d(0.4)), [ca.Dropout(0.4, features=True)]),
    "function": (Forward(lambda m, x: functional.dropout(m.a(x), training=m.training), a=conv()), [ca.Dropout(0.5)]),
    "function in any mode": (Forward(lambda m, x: functional.dropout(m.a(x), 0.1), a=conv()).eval(), [ca.Dropout(0.1)]),
    "function over channels": (
        Forward(lambda m, x: functional.dropout2d(functional.dropout(m.a(x)), 0.2), a=conv()),
        [ca.Dropout(0.5), ca.Dropout(0.2, features=True)],
    ),
    "evaluation mode": (nn.Sequential(conv(), nn.Dropout(0.25)).eval(), []),
    "nothing dropped": (nn.Sequential(conv(), nn.Dropout(0.0)), []),
}


@pytest.mark.parametrize("case", MODELS)
def test_it_is_read_where_it_drops(case) -> None:
    model, expected = MODELS[case]
    before = torch.get_rng_state()
    network, parameters = ca.from_torch(model, (2, 5, 5))
    assert [layer.layer for layer in network if layer.kind == "Dropout"] == expected
    assert not any("mask" in name for name in parameters)
    assert torch.equal(torch.get_rng_state(), before)
    if expected:
        again, _ = ca.from_torch(ca.to_torch(network), (2, 5, 5))
        assert again == network


def test_with_pytorchs_mask_values_are_pytorchs() -> None:
    model = nn.Sequential(conv(), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(36, 3)).double()
    network, parameters = ca.from_torch(model, (2, 5, 5))
    x = np.random.default_rng(2).uniform(size=(2, 5, 5))
    torch.manual_seed(4)
    dropped = model[2](torch.ones(1, 4, 3, 3, dtype=torch.float64))[0].numpy()
    torch.manual_seed(4)
    expected = model(torch.from_numpy(x[None]))[0].detach().numpy()
    bound = bind(network, parameters | {"2.mask": dropped > 0}, "parameters")
    np.testing.assert_allclose(network.forward(bound, x)[-1], expected, atol=1e-14)


@pytest.mark.parametrize(
    "further", [lambda x: x * torch.rand(1), lambda x: x * (torch.rand(1).item() < 0.5)], ids=["a factor", "a branch"]
)
def test_what_else_a_model_draws_is_still_noticed(further) -> None:
    model = Forward(lambda m, x: further(functional.dropout(m.a(x))), a=conv())
    with pytest.raises(ca.UnsupportedLayerError, match="random"):
        ca.from_torch(model, (2, 5, 5))
