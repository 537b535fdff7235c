"""Deep Leakage from Gradients (Zhu, Liu, Han, NeurIPS 2019): image and label sought together.

The dummy label is the softmax of dummy logits, which start from N(0, 1) as the image does. Best published setting:
sigmoid activations, strides of 2 in place of pooling, weights from U(-0.5, 0.5), 300 calls of L-BFGS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from constraint_algebra.arrays import Progress
from constraint_algebra.networks.network import Network
from paper_repro.baselines import BaselineResult
from paper_repro.baselines.gradient_matching import ITERATIONS, Settings, match_gradients

METHOD = "dlg2019"


def dlg(
    network: Network,
    parameters: Mapping[str, Any],
    gradients: Mapping[str, Any],
    *,
    seed: int = 0,
    iterations: int = ITERATIONS,
    dtype: str | None = None,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> BaselineResult:
    """Look for an image and a label whose gradient is the one given.

    Args:
        network: any network that ends in the logits of several classes; the loss is cross-entropy.
        parameters: weights and biases, by name.
        gradients: the gradient of one sample, by name.
        seed: of the start.
        iterations: calls of L-BFGS.
        dtype: "float32" or "float64" to compute in, by default the type of the gradients.
        time_limit: seconds of processor time, looked at between two calls.
        progress: called with (iterations done, iterations in all, what was found) after each.

    Raises:
        ShapeError: the network does not end in logits of several classes.
        ParameterError: parameters or gradients that do not fit the network.
    """
    settings = Settings(iterations, seed, dtype, time_limit, progress)
    return match_gradients(METHOD, network, parameters, gradients, settings, label=None)
