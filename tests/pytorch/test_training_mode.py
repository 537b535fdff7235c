"""Networks that federated learning trains, in training mode: all are read, and each gets a verdict from shapes."""

import pytest
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.notes import collected
from tests.pytorch.training_models import LARGE, MODELS, Tabular

VERDICTS = {"determined", "partial", "undetermined", "undecided", "determined, but not by the recursion"}
KNOWN = {"tutorial CNN": "undetermined", "CelebA CNN": "undecided"}  # others without normalisation are determined
CASES = [pytest.param(name, marks=[pytest.mark.slow] if MODELS[name][2] else []) for name in MODELS]


def read(name):
    """The network of a model in training mode."""
    build, shape, _ = MODELS[name]
    with torch.random.fork_rng(devices=[]), collected():
        torch.manual_seed(3)
        model = build().train()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        network, _ = ca.from_torch(model, shape)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    return model, network


@pytest.mark.parametrize("name", CASES)
def test_it_is_read_in_its_mode_and_gets_a_verdict(name) -> None:
    model, network = read(name)
    kinds = [layer.kind for layer in network]
    norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm) for m in model.modules())
    assert kinds.count("OwnStatistics") == norms
    assert "Standardise" not in kinds
    dropouts = sum(isinstance(module, nn.modules.dropout._DropoutNd) for module in model.modules())
    assert kinds.count("Dropout") >= dropouts
    report = ca.feasibility(network, activity=0.5)
    assert report.verdict.replace(" nearby", "") in VERDICTS
    if name in KNOWN or not (norms or MODELS[name][1] == LARGE):
        assert report.verdict == KNOWN.get(name, "determined")
    assert ("own statistics" in " ".join(report.assumptions)) == bool(norms)
    assert ("masks of Dropout" in report.pattern) == ("Dropout" in kinds)


def test_batch_norm_over_columns_takes_no_single_sample_and_that_is_said() -> None:
    with pytest.raises(ca.ConstraintAlgebraError, match=r"has one value for each channel.*PyTorch refuses it as well"):
        ca.from_torch(Tabular(nn.BatchNorm1d).train(), (14,))
    network, _ = ca.from_torch(Tabular(nn.BatchNorm1d).eval(), (14,))
    assert ca.feasibility(network).verdict == "determined"
