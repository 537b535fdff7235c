"""What DLG and iDLG share: look for an input whose gradient is that of the client, with L-BFGS.

    D(x, y) = sum over parameters of ‖dL(x, y)/dW - dL/dW‖²,     x from N(0, 1)

PyTorch differentiates twice. An activation without a second derivative, such as ReLU, takes from D what would lead the
search; that is the method's limit, and nothing here mends it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from constraint_algebra.arrays import Progress
from constraint_algebra.errors import ShapeError
from constraint_algebra.networks.network import Network, bind
from constraint_algebra.pytorch.gradients import load_parameters, to_tensor, to_torch
from paper_repro.baselines import BaselineResult, Outcome
from paper_repro.baselines.watch import RunEnds, Watch

ITERATIONS = 300  # calls of L-BFGS, each of up to 20 steps: PyTorch's defaults otherwise, as published
TELL = 10  # iterations between two entries of .steps


class Settings(NamedTuple):
    """How to search.

    Attributes:
        iterations: calls of L-BFGS.
        seed: of the N(0, 1) start.
        dtype: type in which to compute, by default that of the gradients.
        time_limit: seconds of processor time, looked at between two calls.
        progress: called with (iterations done, iterations in all, what was found) after each.
    """

    iterations: int = ITERATIONS
    seed: int = 0
    dtype: str | None = None
    time_limit: float | None = None
    progress: Progress | None = None


class Match:
    """The distance D of a dummy input, and of dummy logits of the label where it is not known."""

    def __init__(
        self, network: Network, parameters: Mapping[str, Any], gradients: Mapping[str, Any], dtype: str, seed: int
    ) -> None:
        """Build the model and draw the start."""
        self.model = to_torch(network, dtype=dtype)
        load_parameters(self.model, parameters)
        self.weights = list(self.model.parameters())
        kind = self.weights[0].dtype
        names = (name for name, _ in self.model.named_parameters())
        self.given = [to_tensor(np.asarray(gradients[name])).to(kind) for name in names]
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(1, *network.input_shape, generator=generator, dtype=kind).requires_grad_()
        self.logits = torch.randn(1, *network.output_shape, generator=generator, dtype=kind).requires_grad_()

    def distance(self, label: int | None) -> Tensor:
        """Return D, for a known label or for the one that the dummy logits stand for."""
        shares = self.logits.softmax(-1) if label is None else torch.tensor([label])
        loss = functional.cross_entropy(self.model(self.x), shares)
        found = torch.autograd.grad(loss, self.weights, create_graph=True)
        return torch.stack([((a - b) ** 2).sum() for a, b in zip(found, self.given, strict=True)]).sum()


def match_gradients(
    method: str,
    network: Network,
    parameters: Mapping[str, Any],
    gradients: Mapping[str, Any],
    settings: Settings,
    label: int | None,
) -> BaselineResult:
    """Return the input that L-BFGS ends at, with a label given or sought together with it.

    Raises:
        ShapeError: the network does not end in logits of several classes.
        ParameterError: parameters or gradients that do not fit the network.
    """
    if network.head is None or len(network.output_shape) != 1 or network.output_shape[0] < 2:
        raise ShapeError(
            f"gradient matching needs the logits of at least two classes at the end, and the network's output has shape"
            f" {network.output_shape}; use a network that ends in Linear with as many outputs as classes"
        )
    bind(network, parameters, "parameters")
    bind(network, gradients, "gradients")
    watch, steps = Watch(settings.time_limit), list[str]()
    dtype = settings.dtype or str(np.asarray(next(iter(gradients.values()))).dtype)
    match = Match(network, parameters, gradients, dtype, settings.seed)
    outcome, reason = Outcome.FINISHED, ""
    try:
        with torch.enable_grad(), plain_convolutions():
            _descend(match, label, settings, watch, steps)
    except RunEnds as stop:
        outcome, reason = stop.outcome, str(stop)
    x = match.x.detach().numpy().astype(float)[0] if outcome is Outcome.FINISHED else None
    found = label if label is not None else int(match.logits.argmax()) if x is not None else None
    wall, cpu = time.perf_counter() - watch.wall, time.process_time() - watch.cpu
    return BaselineResult(method, outcome, x, reason, wall, cpu, tuple(steps), found)


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Let PyTorch compute without oneDNN for a while: for pictures of this size that takes a third less time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on other hardware
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _descend(match: Match, label: int | None, settings: Settings, watch: Watch, steps: list[str]) -> None:
    unknowns = [match.x] if label is not None else [match.x, match.logits]
    optimiser = torch.optim.LBFGS(unknowns)
    closure = _closure(match, unknowns, label)
    for iteration in range(1, settings.iterations + 1):
        watch.check(f"iteration {iteration} of {settings.iterations}")
        before = [u.detach().clone() for u in unknowns]
        distance = float(optimiser.step(closure))
        if not all(bool(u.isfinite().all()) for u in unknowns):
            raise RunEnds(Outcome.FAILED, f"the search diverged: values that are not finite in iteration {iteration}")
        # Where a whole call changes nothing, no further one will.
        stuck = all(torch.equal(a, b) for a, b in zip(before, unknowns, strict=True))
        what = f"iteration {iteration}: D = {distance:.3g}{', at rest' if stuck else ''}"
        if stuck or iteration % TELL == 0 or iteration == settings.iterations:
            steps.append(what)
        if settings.progress is not None:
            settings.progress(iteration, settings.iterations, what)
        if stuck:
            return


def _closure(match: Match, unknowns: list[Tensor], label: int | None) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        value = match.distance(label)
        for unknown, slope in zip(unknowns, torch.autograd.grad(value, unknowns), strict=True):
            unknown.grad = slope
        return value.detach()

    return closure
