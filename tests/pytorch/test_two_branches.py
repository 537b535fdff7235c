"""Activations with two branches in models: as modules, as functions, written by hand, and back to modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.layers import Activation

CASES = {
    "nn.SiLU": (nn.SiLU(), ca.SiLU()),
    "nn.SiLU in place": (nn.SiLU(inplace=True), ca.SiLU()),
    "F.silu": (functional.silu, ca.SiLU()),
    "x sigmoid(x)": (lambda x: x * torch.sigmoid(x), ca.SiLU()),
    "sigmoid(x) x": (lambda x: x.sigmoid().mul(x), ca.SiLU()),
    "nn.GELU": (nn.GELU(), ca.GELU()),
    "nn.GELU by tanh": (nn.GELU(approximate="tanh"), ca.GELU("tanh")),
    "F.gelu": (functional.gelu, ca.GELU()),
    "F.gelu by tanh": (lambda x: functional.gelu(x, approximate="tanh"), ca.GELU("tanh")),
    "nn.Mish": (nn.Mish(), ca.Mish()),
    "F.mish": (functional.mish, ca.Mish()),
    "x tanh(softplus(x))": (lambda x: x * torch.tanh(functional.softplus(x)), ca.Mish()),
    "nn.Hardswish": (nn.Hardswish(), ca.Hardswish()),
    "F.hardswish": (functional.hardswish, ca.Hardswish()),
}


class Model(nn.Module):
    """A convolution, an activation and a head."""

    def __init__(self, act: object) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, 3)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.conv(x)).flatten(1))


@pytest.mark.parametrize(("act", "layer"), CASES.values(), ids=CASES)
def test_a_model_is_read_with_its_gradients(act, layer) -> None:
    torch.manual_seed(0)
    model, x = Model(act).double(), torch.randn(1, 1, 4, 4, dtype=torch.float64) * 3
    network, parameters = ca.from_torch(model, (1, 4, 4))
    found = [placed.layer for placed in network if isinstance(placed.layer, Activation)]
    assert found == [layer]
    again = ca.to_torch(network)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(x), model(x), rtol=1e-12, atol=1e-14)
    gradients = ca.torch_gradients(model, x[0], 1)
    values = network.forward(parameters, x[0].numpy())
    k = torch.softmax(model(x)[0], 0) - torch.eye(3, dtype=torch.float64)[1]
    for name, gradient in network.backward(parameters, values, k.detach().numpy()).items():
        np.testing.assert_allclose(gradient, np.asarray(gradients[name]), rtol=1e-9, atol=1e-12)


def test_a_gate_of_another_value_is_refused() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) * torch.sigmoid(self.b(x))

    with pytest.raises(ca.UnsupportedLayerError, match="multiplies values of the network with each other"):
        ca.from_torch(Gate(), (4,))


@pytest.mark.parametrize("act", [nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.Mish(), nn.Hardswish()], ids=str)
def test_the_rank_from_shapes_is_that_of_the_jacobian_of_real_gradients(act) -> None:
    """Where layers are short of rank, curvature counts: over residues as for real numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 1, 3, 2, 1), act, nn.Conv2d(1, 2, 2), act, nn.Flatten(), nn.Linear(8, 3))
    ).double()
    network, _ = ca.from_torch(model, (2, 6, 6))
    report = ca.feasibility(network)
    assert f"the branches of {type(act).__name__} known" in report.pattern
    assert "below zero an output has two pre-images" in str(report).replace("\n", " ")
    x = torch.rand(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    loss = functional.cross_entropy(model(x), torch.tensor([1]))
    gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    entries = torch.cat([gradient.ravel() for gradient in gradients])
    rows = [torch.autograd.grad(entry, x, retain_graph=True)[0].ravel().numpy() for entry in entries]
    s = np.linalg.svd(np.array(rows), compute_uv=False)
    assert report.limit.rank == int((s > 1e-12 * s[0]).sum()) < 72


def test_certificates_keep_what_enters_the_activation_and_claim_no_more() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, 3), nn.SiLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.rand(1, 6, 6, dtype=torch.float64)
    found = ca.certify(model, x, 1, time_limit=20)
    assert found.counts["ambiguous"] == 36  # eight outputs of 36 values
    twin = torch.tensor(found.strongest.twin.image)
    assert (twin - x).abs().max() > found.delta
    theirs, own = (ca.torch_gradients(model, image, 1) for image in (twin, x))
    for name, gradient in own.items():
        np.testing.assert_allclose(np.asarray(theirs[name]), np.asarray(gradient), rtol=0, atol=1e-9)
    wide = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.SiLU(), nn.Flatten(), nn.Linear(288, 3)).double()
    assert ca.certify(wide, x, 1, time_limit=20).counts["fixed_in_region"] == 0
