"""Whether a gradient can tell one sample from several.

The gradients of several samples add up. Seen at the head, `dL/dW = sum over samples of k h^T` has rank one for a single
sample, and more for several whose k are not multiples of each other. Where the loss leaves k only one direction (one
output; two classes, whose k add up to zero), the sum has rank one however many samples there are: what the head gives
then is their mean h, weighted by their k. As long as all samples work on the same linear piece of the network the whole
gradient is that of this mean, taken as a single input, so that no equation fails. Only an activation that is curved
tells them apart, if there are more equations than unknowns.
"""

from __future__ import annotations

import numpy as np

from constraint_algebra.arrays import Parameters
from constraint_algebra.layers.activations import is_piecewise_linear
from constraint_algebra.layers.kinds import PlacedLayer
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion.result import Status


def directions(network: Network, loss: str | None) -> int:
    """Return in how many directions the output gradients of different samples may point.

    Those of a cross-entropy add up to zero; a loss that is not known may be one.

    >>> from constraint_algebra.layers import Linear
    >>> [directions(Network((20,), [Linear(n)]), "cross_entropy") for n in (1, 2, 10)]
    [1, 1, 9]
    """
    outputs = network.output_shape[0] if len(network.output_shape) == 1 else network.bilinear[-1].filters
    return 1 if loss == "logistic" else max(1, outputs - 1)


def tells_one_from_several(network: Network, loss: str | None) -> bool:
    """Return whether the gradient of several samples would be seen not to be that of one, but for coincidence.

    Args:
        network: the architecture.
        loss: "cross_entropy", "logistic" or `None`, as for `reconstruct`.

    >>> from constraint_algebra.layers import Linear, ReLU, Tanh
    >>> tells_one_from_several(Network((20,), [Linear(10)]), "cross_entropy")
    True
    >>> tells_one_from_several(Network((20,), [Linear(30), ReLU(), Linear(1)]), "logistic")  # the mean fits as well
    False
    >>> tells_one_from_several(Network((20,), [Linear(30), Tanh(), Linear(1)]), "logistic")
    True
    """
    if directions(network, loss) > 1:
        return True
    between = network.layers[network.bilinear[0].index : network.bilinear[-1].index]
    curved = any(step.is_activation and not is_piecewise_linear(step.activation) for step in between)
    return curved and network.parameter_count > network.bilinear[0].unknowns


def is_of_one(network: Network, gradients: Parameters, status: Status, start: PlacedLayer, loss: str | None) -> bool:
    """Return whether the gradient of several samples would have been seen not to be that of one, for a result.

    At the layer to start from by its rank, which a single row or column does not show; or where a curved activation
    tells them apart, by the recomputed gradients, which are held against those given only if everything is determined.

    Args:
        network: the architecture.
        gradients: by name.
        status: of the result.
        start: the layer that the recursion started from.
        loss: as for `reconstruct`.
    """
    if directions(network, loss) > 1 and start.is_bilinear:
        seen = gradients[start.weight_name].reshape(start.filters, -1)
        if start.bias_name is not None:
            seen = np.column_stack([seen, gradients[start.bias_name]])
        return min(int(seen.any(axis=0).sum()), int(seen.any(axis=1).sum())) > 1
    return tells_one_from_several(network, loss) and status is not Status.PARTIAL


def for_any_batch(start: PlacedLayer) -> str:
    """Return in words what holds of the result however many samples the gradient comes from."""
    return (
        f"of several samples the input found for layer {start.name!r} is their mean there, weighted by their output"
        " gradients, the only direction of their features that its weight gradient spans; pass batch=1 if it is known"
        " that there was one"
    )
