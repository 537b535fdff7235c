"""The check of a result: the gradients recomputed from it are those given, as far as noise allows.

`discrepancies` says how far they are off, `explained_discrepancies` how far noise may put them. Both are, for each
parameter, the largest difference of any entry of its gradient, relative to the largest entry. The gradient of a bias
whose shift a normalisation takes away again is zero whatever the input, and what comes instead is rounding of the far
larger numbers in its sum: it is no evidence. All gradients of a branch that ends in a normalisation with nothing but an
average behind it are as small, and are held against the largest of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from constraint_algebra.arrays import FloatArray, Parameters
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.recursion.estimates import Estimate
from constraint_algebra.recursion.observation import Observation

DRAWS = 2  # members of the ensemble that show how far the error bars of the input move the gradients
GENEROUS = 5.0  # times as far, a discrepancy is still explained; right results of 700 networks stayed below 0.6
# Explained in any case, for ill-conditioned layers lie between: so many spacings of the client's numbers, and so many
# standard deviations of the gradient's own noise. Right results of 32 small networks stayed below 160 and 1,200.
ROUNDINGS = 1e5
DEVIATIONS = 1e4
NOTHING = 100  # spacings of the client's numbers, of the largest gradient, that come where a normalisation makes zero
AT_MOST = 0.5  # of the largest entry: beyond, nothing is explained
DROWNED = 0.1  # standard deviations of noise to the largest entry of a gradient: noise alone makes such entries


def recomputed(observed: Observation, x: FloatArray, layer: PlacedLayer, k: FloatArray) -> Parameters:
    """Return the gradients at the input x of all parameters up to a layer whose output gradient k is known."""
    with np.errstate(invalid="ignore"):  # what is not known is NaN
        values = observed.network.forward(observed.parameters, x)
        return observed.network.backward(observed.parameters, values, k, layer.index)


def discrepancies(observed: Observation, again: Mapping[str, FloatArray]) -> dict[str, float]:
    """Return how far recomputed gradients are from those given."""
    units = _units(observed)
    return {name: _largest(g - observed.gradients[name], units[name]) for name, g in again.items()}


def explained_discrepancies(
    observed: Observation, x: Estimate, layer: PlacedLayer, k: Estimate, again: Mapping[str, FloatArray]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return how far noise alone may put recomputed gradients from those given, generously: as evidence, and at all.

    Where noise moves a gradient by more than `AT_MOST`, as saturated activations may, it agrees with nearly any input,
    which is no evidence for one. The second figure says so: it has no such limit.

    Args:
        observed: parameters and gradients.
        x: the input with its noise.
        layer: a layer whose output gradient is known.
        k: that gradient, with its noise where a loss had to tell its size.
        again: the gradients recomputed from x.
    """

    def member(m: int) -> Parameters:
        here, arriving = (e.value + e.perturbations[..., m] for e in (x, k))
        return recomputed(_rounded(observed, m), here, layer, arriving)

    moved = [member(m) for m in range(DRAWS)]
    units, explained, at_all = _units(observed), {}, {}
    for name, g in again.items():
        noise = _largest(observed.deviations[name], units[name])
        by_input = max(_largest(member[name] - g, units[name]) for member in moved)
        own = ROUNDINGS * observed.rounding.epsilon + DEVIATIONS * noise
        at_all[name] = own + GENEROUS * by_input if noise < DROWNED else np.inf
        explained[name] = min(at_all[name], AT_MOST) if noise < DROWNED else np.inf
    void = dict.fromkeys(_taken_away(observed), np.inf)
    return explained | void, at_all | void


def _rounded(observed: Observation, seed: int) -> Observation:
    """Return the same with parameters moved by the client's rounding, as one that rounds every sum sees them.

    What is computed of a saturated output moves far more than the parameters: `exp(-z)` by z roundings.
    """
    rng, size = np.random.default_rng(seed), observed.rounding.arithmetic
    moved = {name: W * (1 + size * rng.standard_normal(W.shape)) for name, W in observed.parameters.items()}
    return replace(observed, parameters=moved)


def _units(observed: Observation) -> dict[str, float]:
    """Return what differences of each parameter's gradient are held against: its largest entry, if that is not zero."""
    units = {name: float(np.abs(g).max()) for name, g in observed.gradients.items()}
    whole = max(units.values())
    units |= dict.fromkeys(_taken_away(observed), whole)
    if any(layer.is_normalisation for layer in observed.network):
        nothing = NOTHING * observed.rounding.epsilon * whole
        units = {name: whole if size < nothing else size for name, size in units.items()}
    return {name: size or 1.0 for name, size in units.items()}


def _largest(difference: FloatArray, unit: float) -> float:
    return float(np.abs(difference).max() / unit)


def _taken_away(observed: Observation) -> list[str]:
    """Return the names of the biases that shift what a normalisation reads, which takes the shift away again."""
    network = observed.network
    biased = [layer for layer in network.bilinear if layer.bias_name is not None]
    return [str(layer.bias_name) for layer in biased if any(u.is_normalisation for u in network.users(layer.number))]
