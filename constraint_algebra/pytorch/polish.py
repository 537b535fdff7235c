"""An input that some attack found, brought to rounding, with the certificate that the last step of `reconstruct` gives.

A model that `from_torch` reads goes the way of the room `recursion`. Any other is differentiated by PyTorch: the
gradients as a function of the input, and their Jacobian by forward-over-reverse. How far the client's rounding may put
its gradients off follows from what they do when input and parameters move by a rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse.linalg import LinearOperator, lsmr
from torch import Tensor, nn

from constraint_algebra.arguments import checked
from constraint_algebra.arrays import FloatArray, Parameters, ParametersLike
from constraint_algebra.errors import (
    NonFiniteError,
    ParameterError,
    ShapeError,
    UnsupportedLayerError,
)
from constraint_algebra.networks import binding
from constraint_algebra.networks.losses import label_of
from constraint_algebra.numerics.blas_threads import one_blas_thread
from constraint_algebra.numerics.levenberg_marquardt import minimise
from constraint_algebra.pytorch.gradients import Loss, check_loss, loss_value, torch_gradients
from constraint_algebra.pytorch.models import logits, unwrapped
from constraint_algebra.pytorch.tensors import input_tensor, to_numpy, to_tensor
from constraint_algebra.pytorch.tracing import from_torch
from constraint_algebra.pytorch.verification import doubled, gradient_jacobian, refuse_unclear
from constraint_algebra.recursion import backsubstitution, last_step
from constraint_algebra.recursion.ensemble import MEMBERS, Ensemble
from constraint_algebra.recursion.noise import deviations_of, precision
from constraint_algebra.recursion.result import Reconstruction, Status

DENSE = 30_000_000  # entries of a Jacobian up to which it is written down, 240 MB
ROUNDED = 2.0  # roundings by which input and parameters move: those of the layers between add to them
SMOOTH = 0.02  # relative change of the Jacobian over the error bars, beyond which it speaks of no neighbourhood
ROUNDING = 1e-15  # of the input: a step that short is none
STEPS, SOLVING = 40, 400  # of Gauss and Newton without a matrix, and of the iteration that solves for each


@checked
@one_blas_thread()
def polish(
    model: nn.Module,
    start: ArrayLike | Tensor,
    gradients: ParametersLike,
    *,
    target: ArrayLike | Tensor | None = None,
    loss: Loss = "cross_entropy",
    noise: float | Mapping[str, ArrayLike] = 0.0,
    valid_range: tuple[float, float] = (0.0, 1.0),
    time_limit: float | None = None,
    seed: int = 0,
) -> Reconstruction:
    """Return the input near a start that has the gradients of one sample, if there is one and no other is near it.

    Levenberg and Marquardt's method on all gradients, from a start that any method found. The model is copied, and
    stays as it is.

    Args:
        model: any model of `torch_gradients`, with the parameters at which the gradient was taken.
        start: an input, one sample without a batch axis.
        gradients: the gradient of the loss for every parameter that it depends on, by name or in the order of the
            parameters; their type's precision sets the noise floor.
        target: the class; left out, it is the one that the gradient of a last layer betrays. A model that `from_torch`
            reads needs none.
        loss: as for `torch_gradients`.
        noise: standard deviation of noise added to the gradients, as for `reconstruct`.
        valid_range: range of valid input values; an input counts as found with error bars far below its width.
        time_limit: seconds, `None` for no limit.
        seed: of the noise ensemble.

    Returns:
        A `Reconstruction`: `Status.LOCAL` where gradients agree to their noise and the Jacobian has full rank, and
        otherwise `Status.UNDECIDED`, nothing determined, with the best input in `.guess`.

    Raises:
        ParameterError: gradients that do not fit the model, or a target that does not follow from them.
        ShapeError: a start that the model does not take.
        NonFiniteError: NaN or infinity in the start or the gradients.
        ArgumentRangeError: a negative time.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 2)).double()
    >>> image = np.array([0.25, 0.75])
    >>> found = polish(model, image + 0.01, torch_gradients(model, image, 1))
    >>> found.status.name, bool(np.abs(found.input - image).max() < 1e-12)
    ('LOCAL', True)
    """
    check_loss(loss)
    x = to_numpy(input_tensor(start, "start").double())
    if not np.isfinite(x).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise NonFiniteError("start", index, f"start: the value at {index} is {x[index]}; give finite values")
    search = last_step.Search(np.inf if time_limit is None else time_limit, seed, valid_range)
    model = unwrapped(model)
    read = _read(model, x) if isinstance(loss, str) else None
    if read is not None and isinstance(loss, str):
        found = backsubstitution.polished(*read, gradients, x, loss=loss, noise=noise, search=search)
        return _of_class(found, target)
    return _by_torch(model, x, gradients, target, loss, noise, search)


def _of_class(found: Reconstruction, target: ArrayLike | Tensor | None) -> Reconstruction:
    """Return a result whose gradients betray another class than the one given to nobody."""
    given = None if target is None else np.asarray(to_numpy(to_tensor(target))).ravel()
    if given is not None and found.label is not None and (len(given) != 1 or int(given[0]) != found.label):
        raise ParameterError(
            "target", f"target: the gradients are those of class {found.label}, got {given.tolist()}; leave it out"
        )
    return found


def _read(model: nn.Module, x: FloatArray) -> tuple[Any, Any] | None:
    """Return the network of a model and its parameters, `None` where it is no chain or too large to be written down."""
    try:
        network, parameters = from_torch(model, x.shape)
    except (UnsupportedLayerError, ShapeError):
        return None
    small = network.is_chain and network.start is not None and network.parameter_count * x.size <= DENSE
    return (network, parameters) if small else None


@dataclass(frozen=True)
class _Step:
    """One step of training as equations for the input.

    Attributes:
        model: in float64.
        target: the class, or what the loss takes.
        loss: the loss.
        given: gradients by name.
        deviations: the standard deviation of each entry.
        epsilon: spacing of the client's numbers.
        draw: random numbers.
    """

    model: nn.Module
    target: Tensor
    loss: Loss
    given: Parameters
    deviations: Parameters
    epsilon: float
    draw: Callable[..., FloatArray]

    def gradients(self, x: FloatArray) -> Parameters:
        found = torch_gradients(self.model, x, self.target, self.loss)
        return {name: found[name] for name in self.given}

    def residual(self, x: FloatArray) -> Parameters:
        return {name: g - self.given[name] for name, g in self.gradients(x).items()}

    def jacobian(self, x: FloatArray) -> FloatArray:
        found = gradient_jacobian(self.model, x, self.target, self.loss)
        return np.concatenate([found[name].reshape(-1, x.size) for name in self.given])

    def rounded(self, x: FloatArray) -> list[Parameters]:
        """Return by how much the gradients move when input and parameters move by a rounding: `MEMBERS` draws."""
        here, moved = self.gradients(x), []
        parameters = dict(self.model.named_parameters())
        exact = {name: p.detach().clone() for name, p in parameters.items()}
        shift = ROUNDED * self.epsilon
        signs = {name: self.draw(np.ones(p.shape), tuple(p.shape)) for name, p in parameters.items()}
        of_x = self.draw(np.ones(x.shape), x.shape)
        try:
            for m in range(MEMBERS):
                with torch.no_grad():
                    for name, p in parameters.items():
                        p.copy_(exact[name] * (1 + shift * torch.from_numpy(np.ascontiguousarray(signs[name][..., m]))))
                there = self.gradients(x * (1 + shift * of_x[..., m]))
                moved.append({name: g - here[name] for name, g in there.items()})
        finally:
            with torch.no_grad():
                for name, p in parameters.items():
                    p.copy_(exact[name])
        return moved

    def noise(self, rounded: list[Parameters]) -> Parameters:
        """Return the standard deviation of each row, nowhere far below that of its parameter."""
        found = {}
        for name in self.given:
            by_rounding = np.mean([draws[name] ** 2 for draws in rounded], axis=0)
            values = np.sqrt(self.deviations[name] ** 2 + by_rounding)
            found[name] = np.maximum(values, 0.1 * float(np.sqrt((values**2).mean())))
        most = max(float(values.max()) for values in found.values())
        return {name: np.maximum(values, 1e-3 * most * (not values.any())) for name, values in found.items()}


def _by_torch(
    model: nn.Module,
    x: FloatArray,
    gradients: ParametersLike,
    target: ArrayLike | Tensor | None,
    loss: Loss,
    noise: float | Mapping[str, ArrayLike],
    search: last_step.Search,
) -> Reconstruction:
    exact = doubled(model)
    refuse_unclear(exact, torch.from_numpy(x)[None])
    shapes = {name: tuple(p.shape) for name, p in exact.named_parameters()}
    came = binding.by_name(shapes, tuple(shapes), gradients, "gradients")
    given = {name: binding.as_float(name, g, shapes[name], "gradients") for name, g in came.items()}
    y = to_tensor(target) if target is not None else torch.tensor(_betrayed(exact, x, given, loss))
    rounding = precision(came)
    step = _Step(
        exact, y, loss, given, deviations_of(given, rounding, noise), rounding.epsilon, Ensemble(search.seed).draw
    )
    end = time.monotonic() + search.seconds

    def out_of_time() -> bool:
        return time.monotonic() > end

    weight = _flat({name: 1 / values for name, values in step.noise(step.rounded(x)).items()})
    entries = len(weight) * x.size
    if entries > DENSE:
        near = _without_matrix(step, x, weight, out_of_time)
        return last_step.unaccepted(
            near,
            f"the Jacobian would have {entries:,} entries, more than {DENSE:,}, so that its rank was not looked at",
        )
    flat = minimise(
        lambda v: _flat(step.residual(v.reshape(x.shape))) * weight,
        lambda v: step.jacobian(v.reshape(x.shape)) * weight[:, None],
        x.ravel(),
        enough=last_step.AGREES**2 * len(weight),
        out_of_time=out_of_time,
    ).x
    return _judged(step, flat.reshape(x.shape), search)


def _judged(step: _Step, x: FloatArray, search: last_step.Search) -> Reconstruction:
    """Return the input as the result if it passes, otherwise as a guess."""
    rounded = step.rounded(x)
    noise, residual = step.noise(rounded), step.residual(x)
    worst = last_step.misfit({name: values / noise[name] for name, values in residual.items()})
    if not worst <= last_step.AGREES or sum(g.size for g in step.given.values()) < x.size:
        return last_step.unaccepted(x)
    scale = _flat(noise)[:, None]
    own = step.draw(_flat(step.deviations), (len(scale),))
    draws = own + np.stack([_flat({name: draw[name] for name in step.given}) for draw in rounded], axis=1)
    J = step.jacobian(x) / scale
    solution = last_step.certified(x, J, draws / scale, worst)
    if solution is None or not solution.is_known(search.box):
        return last_step.unaccepted(x)
    bars = solution.estimate.perturbations
    for m in range(2):
        there = step.jacobian(x + bars[..., m]) / scale
        if np.linalg.norm(there - J) > SMOOTH * np.linalg.norm(J):
            return last_step.unaccepted(x)
    sizes = {name: float(np.abs(g).max()) or 1.0 for name, g in step.given.items()}
    return Reconstruction(
        input=x,
        determined=np.ones(x.shape, dtype=bool),
        error_bar=backsubstitution.FEW_MEMBERS * solution.estimate.deviation,
        status=Status.LOCAL,
        layers=(),
        label=int(step.target) if isinstance(step.loss, str) else None,
        discrepancy={name: float(np.abs(values).max()) / sizes[name] for name, values in residual.items()},
        notes=(last_step.words(solution, "the start"),),
    )


def _flat(arrays: Mapping[str, FloatArray]) -> FloatArray:
    return np.concatenate([values.ravel() for values in arrays.values()])


def _betrayed(model: nn.Module, x: FloatArray, given: Parameters, loss: Loss) -> int:
    """Return the label that the gradient of a last layer betrays.

    Raises:
        ParameterError: none does, or several disagree.
    """
    classes = int(logits(model(torch.from_numpy(x)[None]))[0].shape[-1])
    name = loss if isinstance(loss, str) else None
    biases = [g for g in given.values() if g.shape == (classes,)]
    weights = [g.sum(axis=1) for g in given.values() if g.ndim == 2 and len(g) == classes]
    found = {label_of(g, name) for g in biases} or {label_of(g, name, signed=False) for g in weights}
    found.discard(None)
    if len(found) != 1:
        raise ParameterError("target", "target: the gradients do not betray the class; pass target=")
    label = found.pop()
    assert label is not None
    return label


def _without_matrix(step: _Step, x: FloatArray, weight: FloatArray, out_of_time: Callable[[], bool]) -> FloatArray:
    """Return where Gauss and Newton's method ends that solves for its steps by products with the Jacobian alone."""
    scaled = _scaled_gradients(step, torch.from_numpy(weight))
    given = torch.from_numpy(weight * _flat(step.given))
    at, damping = torch.from_numpy(x.copy()), 0.0
    for _ in range(STEPS):
        if out_of_time():
            break
        residual = to_numpy(given - scaled(at))
        move = lsmr(_operator(scaled, at, len(weight)), residual, damp=damping, atol=1e-12, btol=1e-12, maxiter=SOLVING)
        tried = at + torch.from_numpy(move[0].reshape(x.shape))
        before, after = float(np.linalg.norm(residual)), float(torch.linalg.norm(scaled(tried) - given))
        at, damping = (tried, damping / 10) if after < before else (at, 10 * damping or 1e-3 * before)
        if np.abs(move[0]).max() <= ROUNDING * max(1.0, float(at.abs().max())):
            break
    return to_numpy(at)


def _scaled_gradients(step: _Step, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the gradients as a function of the input, each entry times its weight."""
    parameters = {name: p.detach() for name, p in step.model.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in step.model.named_buffers()}

    def scaled(image: Tensor) -> Tensor:
        def value(weights: dict[str, Tensor]) -> Tensor:
            everything: Any = torch.func.functional_call(step.model, {**weights, **buffers}, (image[None],))
            return loss_value(step.loss, logits(everything)[0], step.target)

        found = torch.func.grad(value)(parameters)
        return weight * torch.cat([found[name].ravel() for name in step.given])

    return scaled


def _operator(scaled: Callable[[Tensor], Tensor], at: Tensor, rows: int) -> Any:
    """Return the Jacobian of a function at an input as products with it and with its transpose."""
    back: Any = torch.func.vjp(scaled, at)[1]

    def forth(v: FloatArray) -> FloatArray:
        direction = torch.from_numpy(np.ascontiguousarray(v)).reshape(at.shape)
        moved: Any = torch.func.jvp(scaled, (at,), (direction,))[1]
        return to_numpy(moved)

    def transposed(u: FloatArray) -> FloatArray:
        return to_numpy(back(torch.from_numpy(np.ascontiguousarray(u).ravel()))[0]).ravel()

    return LinearOperator((rows, at.numel()), matvec=forth, rmatvec=transposed, dtype=np.float64)
