"""Why a layer has no equations here, and what can be said of a model with it as the model is."""

from __future__ import annotations

import re

# What its own gradients say of the input of a part: a model with one bad layer is still two good parts.
PART = (
    "the layers behind it are a network of their own: from_torch(part, its input shape), and reconstruct with the "
    "gradients of its parameters tells the input of that part"
)
BY_HAND = (
    "if what runs consists of operations that Network has, write it as Network(input_shape, layers) with the model's "
    "names, and give the gradients of the model itself"
)
AS_IT_IS = (
    "Of the model as it is: torch_gradients and verify_twin take any model, torch_whole_map(model, x, target) says "
    "which input values all its gradients determine, certify(model, x, target) which inputs its first layer alone "
    "cannot tell apart, if that is a convolution or linear layer, and local_uniqueness(gradient_jacobian("
    "model, x, target), x.shape) says whether another input nearby has its gradients."
)
EVALUATION = "for a step in evaluation mode call model.eval() first"
OWNER = "it uses a parameter without the module that owns it"
_SOFTMAX = (
    "at the end of a model it counts as part of the loss; elsewhere the part before it is a network of its own: give "
    'its gradients, and where the loss is the negative logarithm (NLLLoss after LogSoftmax), loss="cross_entropy"'
)
_PRODUCT = (
    "it multiplies values of the network with each other, as attention and gates do, which no equations here have"
)
_REASONS: dict[str, tuple[str, str]] = {
    "norm": ("it divides values by what none of batch, group, layer, instance and RMS norm takes of them", PART),
    "attention": (_PRODUCT, PART),
    "transformer": (_PRODUCT, PART),
    "matmul": (_PRODUCT, PART),
    "bmm": (_PRODUCT, PART),
    "einsum": (_PRODUCT, PART),
    "lstm": ("it reads its own outputs again with the same weights, so their gradient is a sum over steps", PART),
    "gru": ("it reads its own outputs again with the same weights, so their gradient is a sum over steps", PART),
    "rnn": ("it reads its own outputs again with the same weights, so their gradient is a sum over steps", PART),
    "embedding": ("its input is an index and no value", PART),
    "pool": ("it is no mean and no largest entry of windows", PART),
    "softmax": ("its outputs depend on all inputs", _SOFTMAX),
    "softmin": ("its outputs depend on all inputs", _SOFTMAX),
    "rand": ("it draws random numbers that nobody else sees", PART),
    "bernoulli": ("it draws random numbers that nobody else sees", PART),
}


# Modules of many operations, refused as a whole.
_WHOLE = re.compile("attention|transformer|lstm|gru|rnn", re.IGNORECASE)


class Unsupported(Exception):  # noqa: N818 -- never leaves the package
    """A reason and an advice, on the way to becoming a `LayerProblem`."""


class Unfitting(Unsupported):
    """A shape that a layer does not take, where PyTorch does; nothing is wrong with the layer itself."""


def unsupported(name: str, what: str) -> Unsupported:
    """Return the reason and the advice for a module or function.

    Args:
        name: its name.
        what: "module" or "operation".
    """
    for word, (reason, advice) in _REASONS.items():
        if word in name.lower():
            return Unsupported(f"{name}: {reason}", advice)
    return Unsupported(
        f"{name} is no {what} with equations here (convolutions, linear layers, normalisation,"
        " activations, pooling, and what adds, joins, moves or scales values have)",
        PART,
    )


def is_refused_whole(name: str) -> bool:
    """Return whether a module of many operations has no equations, whatever each of them is.

    >>> is_refused_whole("MultiheadAttention"), is_refused_whole("Conv2d")
    (True, False)
    """
    return _WHOLE.search(name) is not None
