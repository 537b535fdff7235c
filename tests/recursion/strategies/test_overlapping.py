"""Overlapping windows: an output may be the largest of one of the windows that see it, and not of the others."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import constraint_algebra as ca
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.strategies.pool_values import NoRoomBelow
from tests.recursion.strategies.pooled_models import Step


def test_an_output_that_is_proven_to_be_the_largest_of_one_window_is_not_said_to_win_another() -> None:
    said = 0
    for seed in range(6):
        torch.manual_seed(seed)
        x = np.random.default_rng(seed).random((1, 6, 6))
        x[:, :4] = 0.0
        modules = [nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(108, 5)]
        step = Step(lambda found=modules: nn.Sequential(*found), x, dtype=torch.float64, label=1)
        result, knows = step.reconstruct(only=(NoRoomBelow(),), search=20.0)
        assert isinstance(knows, GraphKnowledge)
        z, v, won = step.values[2].ravel(), step.values[3], knows.winners[2]
        told = won >= 0
        np.testing.assert_allclose(z[won[told]], v[told], atol=1e-9)
        said += int(told.sum())
        error = np.abs(result.input - x)[result.determined]
        assert (error <= 20 * result.error_bar[result.determined] + 1e-9).all()
    assert said
    assert result.status in ca.Status
