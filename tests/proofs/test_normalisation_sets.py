"""Twins below normalisation by the data's own statistics: real gradients, dense null spaces, refusals with words."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.networks.operations import pattern
from constraint_algebra.pytorch.tracing import from_torch
from constraint_algebra.regions.climb import Climb
from constraint_algebra.regions.sparse_rows import sparse_map

SHAPE = (1, 7, 7)
X = np.random.default_rng(0).random(SHAPE)
NORMS = {
    "batch norm": lambda: nn.BatchNorm2d(3),
    "group norm": lambda: nn.GroupNorm(1, 3),
    "layer norm": lambda: nn.LayerNorm((3, 3, 3)),
    "RMS norm": lambda: nn.RMSNorm(3),
}


def model_of(norm: nn.Module, *, act: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2), norm, act, nn.Conv2d(3, 4, 2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16, 3)
    ).double()


def dense_nullity(model: nn.Module, counting: np.ndarray) -> int:
    """Return the dimension of what keeps the outputs of the first layer that count, and its weight gradient."""
    x, weight = torch.from_numpy(X[None]), model[0].weight.detach()
    z = model[0](x).detach().requires_grad_()
    rest = copy.deepcopy(model)
    rest[0] = nn.Identity()
    k = torch.autograd.grad(functional.cross_entropy(rest(z), torch.tensor([1])), z)[0]
    outputs = torch.autograd.functional.jacobian(lambda x: functional.conv2d(x, weight, stride=2), x)
    gradient = torch.autograd.functional.jacobian(
        lambda x: torch.nn.grad.conv2d_weight(x, weight.shape, k, stride=2), x
    )
    rows = [part.reshape(-1, X.size).numpy() for part in (outputs, gradient)]
    s = np.linalg.svd(np.concatenate([rows[0][counting.ravel()], rows[1]]), compute_uv=False)
    return X.size - int((s > 1e-9 * s[0]).sum())


@pytest.mark.parametrize(("norm", "act"), [*((norm, "ReLU") for norm in NORMS), ("group norm", "LeakyReLU")])
def test_sets_keep_what_is_normalised_and_their_points_have_its_gradients(norm, act) -> None:
    torch.manual_seed(2)
    model = model_of(NORMS[norm](), act=getattr(nn, act)())
    network, parameters = from_torch(model, SHAPE)
    found = ca.indistinguishable(network, parameters, X, 1)
    assert found.kept == "0"
    assert not found.whole
    assert found.nullity == dense_nullity(model, np.ones((3, 3, 3), dtype=bool)) > 0
    for part in (found, ca.indistinguishable(network, parameters, X, 1, part="first layers")):
        assert part.nullity == found.nullity
        twin = part.twin(seed=4)
        assert twin is not None
        assert found.contains(twin.image)
        judged = ca.verify_twin(model, X, twin.image, 1)
        assert judged.equal
        assert judged.change > 0.1


class Cut(nn.Module):
    """What is left of the channels without the last one."""

    def forward(self, x):
        return x[:, :2]


@pytest.mark.parametrize(
    ("norm", "stays"), [(nn.InstanceNorm2d(3), [True, True, False]), (nn.GroupNorm(1, 3), [True] * 3)]
)
def test_a_group_that_nothing_reads_may_move(norm, stays) -> None:
    torch.manual_seed(2)
    model = model_of(norm, act=Cut())
    model[3] = nn.Conv2d(2, 4, 2).double()
    network, parameters = from_torch(model, SHAPE)
    found = ca.indistinguishable(network, parameters, X, 1)
    assert found.nullity == dense_nullity(model, np.broadcast_to(np.array(stays)[:, None, None], (3, 3, 3)))
    twin = found.twin()
    assert twin is not None
    assert ca.verify_twin(model, X, twin.image, 1).equal


@pytest.mark.slow
def test_certificates_say_what_they_rest_on_and_claim_no_more() -> None:
    torch.manual_seed(2)
    certificate = ca.certify(model_of(nn.BatchNorm2d(3), act=nn.LeakyReLU(0.2)), X, 1)
    assert certificate.ambiguous.all()
    assert "twins keep the output of layer '0'" in repr(certificate)
    full = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(392, 3))
    certificate = ca.certify(full.double(), X, 1)
    assert not certificate.ambiguous.any()
    assert not certificate.fixed_in_region.any()


REFUSED = {
    "whole map": (lambda n, p, _: ca.whole_map(n, p, X, 1), "divides values by their own statistics, so that k below"),
    "rational": (lambda n, p, _: ca.whole_map(n, p, X, exact=True), "normalisation divides by a root"),
    "exact": (lambda n, p, _: ca.exact_certificate(n, p, X), r"takes a plain chain .*1.normalised \(OwnStatistics\)"),
    "symbols": (lambda n, _, __: ca.symbolic.equations(n.named("1.normalised")), "has no weight and therefore no eq"),
    "rows": (lambda n, _, __: ca.gradient_equations(n.named("1.normalised")), "has no weight and therefore no eq"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_takes_no_own_statistics_says_so(case) -> None:
    model = model_of(nn.BatchNorm2d(3), act=nn.ReLU())
    call, words = REFUSED[case]
    with pytest.raises(ca.ConstraintAlgebraError, match=words):
        call(*from_torch(model, SHAPE), model)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(1, affine=True), nn.LayerNorm((1, 7, 7))])
def test_a_norm_before_the_first_layer_is_refused(norm) -> None:
    model = nn.Sequential(norm, nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)).double()
    network, parameters = from_torch(model, SHAPE)
    for part in ("whole", "first layers"):
        with pytest.raises(ca.UnsupportedLayerError, match="before the first layer with a weight bends the set"):
            ca.indistinguishable(network, parameters, X, 1, part=part)
    with pytest.raises(ca.UnsupportedLayerError, match="reads the input before a convolution or linear layer does"):
        ca.certify(model, X, 1)


def test_the_sparse_map_of_a_norm_is_its_derivative_unless_it_is_held_still() -> None:
    network = ca.Network((4, 3), {"norm": ca.OwnStatistics(2)})
    x = np.random.default_rng(5).standard_normal((4, 3))
    at = pattern(network.layers, {}, network.forward({}, x))
    found = sparse_map(network.layers[0], {}, at)[0].toarray()
    jacobian = torch.autograd.functional.jacobian(lambda x: functional.group_norm(x[None], 2)[0], torch.from_numpy(x))
    np.testing.assert_allclose(found, jacobian.reshape(12, 12).numpy(), rtol=0, atol=1e-12)
    still = Climb(network, {}, network.forward({}, x), still=["norm"])
    assert not sparse_map(network.layers[0], {}, still.at)[0].toarray().any()
    assert not still.rise(still.begin(np.eye(12)), 1)[1].any()
