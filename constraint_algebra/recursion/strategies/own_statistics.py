"""A value below normalisations whose statistics are known, behind which an activation hides x̂: found by iteration."""

from __future__ import annotations

import math
import time

import numpy as np

from constraint_algebra.ground import Ground
from constraint_algebra.layers import trilinear
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks import operations
from constraint_algebra.recursion.curved_solution import Hidden, Outcome
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge
from constraint_algebra.recursion.graph_rules import is_scale
from constraint_algebra.recursion.graph_solving import readers
from constraint_algebra.recursion.normalised_output import NormalisedOutput, normalised_output
from constraint_algebra.recursion.open_values import Beyond

ROUNDS = 20  # that an iteration takes, about
FAR = 8.0  # times its noise, an output that is known is off
ROUNDED = 1e5  # roundings by which an output computed again may be off


class OwnStatistics:
    """Solves for what a layer with a weight reads, with the k at its output that depend on it through hidden x̂."""

    ground = Ground.NEIGHBOURHOOD

    def concerns(self, layer: PlacedLayer) -> bool:
        """Return whether it has a weight, and outputs of several values."""
        return layer.is_bilinear and not is_scale(layer)

    def applies(self, knows: GraphKnowledge, layer: PlacedLayer) -> bool:
        """Return whether k at its output is known through its output; of layers that read one value, at the first."""
        number = layer.inputs[0]
        if knows.values[number].known.all():
            return False
        own = [user for user in knows.network.users(number) if self.concerns(user)]
        bent = [user for user in own if normalised_output(knows, user) is not None]
        speaking = [user for user in own if user in bent or knows.gradients[user.number].known.any()]
        return layer in bent[:1] and _equations(knows, own, speaking) >= int((~knows.values[number].known).sum())

    def cost(self, knows: GraphKnowledge, layer: PlacedLayer) -> float:  # noqa: ARG002 -- others need it
        """Return about how many multiplications its rounds take: each solves for the value."""
        rows = layer.filters * math.prod(layer.taps)
        positions = math.prod(layer.positions)
        return float(ROUNDS * rows * positions * min(rows, positions))

    def learn(self, knows: GraphKnowledge, layer: PlacedLayer, beyond: Beyond | None) -> bool:
        """Learn the value that the layer reads."""
        if beyond is not None and time.monotonic() > beyond.end:
            return False
        number = layer.inputs[0]
        own = [user for user in knows.network.users(number) if self.concerns(user)]
        bent = [view for user in own if (view := normalised_output(knows, user)) is not None]
        those = {view.layer.index for view in bent}
        plain = [reader for reader in readers(knows, number) if reader.layer.index not in those]
        found = Hidden(knows.observed, knows.values[number], plain, bent).found()
        key, what = ("own statistics", layer.index), f"the input of layer {layer.name!r}, below a normalisation"
        if not isinstance(found, str) and not all(_fits_above(knows, view, found) for view in bent):
            found = "what the iteration comes to lies on other sides of the activations above"
        if isinstance(found, str):
            knows.vain[key] = f"{what}, was not found: {found}"
            return False
        knows.vain.pop(key, None)
        for part in found.equations.fixed.parts:
            knows.solutions[part.reader.layer.index] = found.equations.fixed.summary(part, found.value)
        learnt = knows.learn_value(number, found.value)
        if learnt:
            knows.remarks[key] = f"{what}, was found by iteration: {found.words}"
        return learnt


def _equations(knows: GraphKnowledge, layers: list[PlacedLayer], speaking: list[PlacedLayer]) -> int:
    """Return how many independent equations layers that read a value make at most: of gradients, outputs, statistics.

    The gradient rows of a channel have no higher rank than it has positions.

    Args:
        knows: what is known.
        layers: all that read the value.
        speaking: those of them with gradients that are known, as they are or through their outputs.
    """
    positions, channels = math.prod(layers[0].positions), layers[0].channels
    rows = sum(layer.filters // layer.groups * math.prod(layer.taps) for layer in speaking)
    outputs = sum(int(knows.values[layer.number].known.sum()) for layer in layers)
    return channels * min(rows, positions) + outputs + 2 * sum(layer.filters for layer in speaking)


def _fits_above(knows: GraphKnowledge, view: NormalisedOutput, found: Outcome) -> bool:
    """Return whether what a value makes of outputs above, up to an activation, is what is known of them."""
    if not found.value.known.all():
        return True
    parameters, layer = knows.observed.parameters, view.layer
    z = operations.value(layer, parameters, [found.value.value])
    moved = trilinear.forward(layer, parameters[layer.weight_name], found.moved)
    number, value = layer.number, z
    while True:
        users = knows.network.users(number)
        if len(users) != 1 or len(users[0].inputs) != 1 or users[0].is_selection:
            return True
        (user,) = users
        if user.is_bilinear and not is_scale(user):
            return True
        at = operations.pattern([user], parameters, [value] * (number + 2))
        if user.is_activation:
            break
        value, moved = operations.value(user, parameters, [value]), operations.tangent(user, parameters, at, [moved])
        number = user.number
    known = knows.values[user.number]
    again = operations.value(user, parameters, [value])
    scale = float(np.abs(value).max(initial=0.0))
    noise = np.hypot(np.sqrt((moved**2).mean(axis=-1)), known.deviation)
    allowed = FAR * noise + ROUNDED * knows.observed.rounding.epsilon * scale
    return bool((np.abs(again - known.value) <= allowed)[known.known].all())


BY_KNOWN = OwnStatistics()
