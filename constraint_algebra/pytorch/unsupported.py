"""Why a layer has no equations here, and what can be said of a model with it as the model is."""

from __future__ import annotations

_NOT_MONOTONE = "it falls before it rises, so its output does not determine its derivative"
# What its own gradients say of the input of a part: a model with one bad layer is still two good parts.
PART = (
    "the layers behind it are a network of their own: from_torch(part, its input shape), and reconstruct with the "
    "gradients of its parameters tells the input of that part"
)
BY_HAND = (
    "if what runs is a chain of convolutions, linear layers and activations, write it as Network(input_shape, layers, "
    "names) with the model's names, and give the gradients of the model itself"
)
AS_IT_IS = (
    "Of the model as it is: torch_gradients and verify_twin take any model, and local_uniqueness(gradient_jacobian("
    "model, x, target), x.shape) says whether another input nearby has its gradients."
)
_FOLD = (
    "in evaluation mode it folds into a copy of the layer before it, with the same outputs: "
    "torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm) or fuse_linear_bn_eval; the gradient of the folded weight is "
    "that of the weight divided by norm.weight / sqrt(norm.running_var + norm.eps), and that of the folded bias is the "
    "gradient of norm.bias"
)
_SOFTMAX = (
    "where the loss is the negative logarithm of its output (NLLLoss after LogSoftmax), the gradients are those of the "
    'model without it, such as model[:-1], under loss="cross_entropy"'
)
_REASONS: dict[str, tuple[str, str]] = {
    "gelu": (_NOT_MONOTONE, PART),
    "silu": (_NOT_MONOTONE, PART),
    "mish": (_NOT_MONOTONE, PART),
    "hardswish": (_NOT_MONOTONE, PART),
    "prelu": ("its slope is a parameter with a gradient of its own", PART),
    "batchnorm": ("batch normalisation is not bilinear in one layer's input and weight", _FOLD),
    "batch_norm": ("batch normalisation is not bilinear in one layer's input and weight", _FOLD),
    "norm": ("normalisation is not bilinear in one layer's input and weight", PART),
    "pool": ("pooling has no weight and merges values", PART),
    "convtranspose": ("transposed convolutions are not implemented", PART),
    "conv_transpose": ("transposed convolutions are not implemented", PART),
    "softmax": ("its outputs depend on all inputs", _SOFTMAX),
    "pad": ("only zero padding of the spatial axes has equations", PART),
    "linear": ("it uses a parameter without the module that owns it", BY_HAND),
    "conv": ("it uses a parameter without the module that owns it", BY_HAND),
}


class Unsupported(Exception):  # noqa: N818 -- never leaves the package
    """A reason and an advice, on the way to becoming a `LayerProblem`."""


def unsupported(name: str, what: str, activations: str) -> Unsupported:
    """Return the reason and the advice for a module or function.

    Args:
        name: its name.
        what: "module" or "operation".
        activations: the activations that have equations, for one that is not known.
    """
    for word, (reason, advice) in _REASONS.items():
        if word in name.lower():
            return Unsupported(f"{name}: {reason}", advice)
    return Unsupported(
        f"{name} is no {what} with equations here (convolutions, linear layers, flatten and {activations} have)", PART
    )
