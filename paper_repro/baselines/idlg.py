"""Improved Deep Leakage from Gradients (Zhao, Mopuri, Bilen 2020, arXiv 2001.02610): the label first, then the image.

With cross-entropy the head's bias gradient is softmax(z) - e_label, negative at the label alone. Row i of the head's
weight gradient is that entry times the head's input: where there is no bias, its sum has the same sign for an input of
mostly positive values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from constraint_algebra.arrays import Progress
from constraint_algebra.errors import ShapeError
from constraint_algebra.networks.network import Network
from paper_repro.baselines import BaselineResult
from paper_repro.baselines.gradient_matching import ITERATIONS, Settings, match_gradients

METHOD = "idlg2020"


def idlg(
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
    """Read the label off the head's gradient, then look for an image whose gradient is the one given.

    Arguments and errors are those of `dlg`.
    """
    settings = Settings(iterations, seed, dtype, time_limit, progress)
    label = label_of_head(network, gradients)
    return match_gradients(METHOD, network, parameters, gradients, settings, label)


def label_of_head(network: Network, gradients: Mapping[str, Any]) -> int:
    """Return the index of the most negative entry of the head's bias gradient, or of its weight gradient's row sums.

    Raises:
        ShapeError: the network does not end in a linear layer.
    """
    head = network.head
    if head is None:
        raise ShapeError(f"the label is read off a linear layer at the end, got\n{network!r}")
    if head.bias_name is not None:
        return int(np.argmin(gradients[head.bias_name]))
    return int(np.argmin(np.sum(gradients[head.weight_name], axis=1)))
