"""PyTorch's names of layers and of their arguments, and what stands for each here."""

from __future__ import annotations

import re

# PyTorch's name of an argument and ours, where ours is among the names that a function takes.
ARGUMENTS = {
    "out_channels": "filters",
    "out_features": "filters",
    "kernel_size": "kernel",
    "negative_slope": "slope",
    "num_parameters": "parameters",
    "scale_factor": "factor",
    "upscale_factor": "factor",
    "downscale_factor": "factor",
    "dim": "axis",
    "min_val": "low",
    "max_val": "high",
    "normalized_shape": "axes",
    "num_groups": "groups",
    "elementwise_affine": "affine",
    "track_running_stats": "tracked",
}

# Arguments that say nothing here, and why.
NEEDLESS = {
    "in_channels": "the input channels follow from the input shape",
    "in_features": "the input features follow from the input shape",
    "num_features": "the channels follow from the input shape",
    "num_channels": "the channels follow from the input shape",
    "momentum": "the running statistics are known, and stay as they are",
    "track_running_stats": "the running statistics are known, and stay as they are",
    "return_indices": "a pool makes one value",
    "padding_mode": "padding is always with zeros; ca.Pad(sides, mode=...) before the layer has others",
    "inplace": "no values are kept",
    "device": "a layer holds no values",
    "dtype": "a layer holds no values",
    "start_dim": "all axes are joined; ca.Reshape joins some",
    "end_dim": "all axes are joined; ca.Reshape joins some",
}

_ANY_MODEL = "what takes any model still works with it: ca.torch_gradients, ca.torch_whole_map, ca.verify_twin"
_NO_PART = f"there are no equations for it here; {_ANY_MODEL}"

# Kinds of PyTorch's layers by their names, first match first, and what to do; {1} is the first group of the match.
_KINDS: tuple[tuple[str, str], ...] = (
    (
        r"Lazy(Conv[123]d|ConvTranspose[123]d|Linear)",
        "write ca.{1}: the input channels always follow from the input shape",
    ),
    (
        r"Dropout\w*|\w+Dropout",
        "in evaluation mode it does nothing: leave it out, as ca.from_torch does; in training mode it is ca.Dropout",
    ),
    (
        r"(Zero|Constant)Pad\dd",
        "write ca.Pad(sides), or for a convolution after it ca.Conv2d(filters, kernel, padding=...)",
    ),
    (r"Reflection(Pad)\dd", 'write ca.{1}(sides, mode="reflect")'),
    (r"Replication(Pad)\dd", 'write ca.{1}(sides, mode="replicate")'),
    (r"Circular(Pad)\dd", 'write ca.{1}(sides, mode="circular")'),
    (
        r"MaxUnpool\w*|\w*LPPool\w*|FractionalMaxPool\w*",
        f"only means and largest entries of windows are pools; {_NO_PART}",
    ),
    (
        r"(Lazy|Sync)?(BatchNorm|InstanceNorm)([123]d)?",
        "write ca.{2}(): it is of any number of axes, in evaluation mode, and ca.{2}(training=True) in training mode",
    ),
    (r"\w*Norm\w*|CrossMapLRN2d", f"it is none of batch, group, layer, instance and RMS norm; {_NO_PART}"),
    (r"CELU", "with alpha=1 it is ca.ELU(); there is none for another alpha"),
    (r"RReLU", "in evaluation mode it is ca.LeakyReLU(slope) with the mean of its two bounds"),
    (r"Threshold", "with both numbers 0 it is ca.ReLU(); there is none for others"),
    (
        r"LogSigmoid|Hardsigmoid|Hardshrink|Softshrink|Tanhshrink|GLU|Softm\w+|LogSoftmax",
        f"there is no such activation here, and a softmax belongs to the loss; {_ANY_MODEL}",
    ),
    (r"Fold|Unfold", _NO_PART),
    (r"Sequential|ModuleList|ModuleDict|Module|Container", "write ca.Network(input_shape, [layer, layer, ...])"),
    (r"Parameter\w*|UninitializedBuffer|UninitializedParameter|Buffer", "parameters are arrays by PyTorch's names"),
    (
        r"\w+Loss(2d)?|LinearCrossEntropyOptions",
        'losses are names: loss="cross_entropy" or "logistic", or a function in ca.torch_gradients',
    ),
    (r"Unflatten", "write ca.Reshape(shape)"),
    (r"ChannelShuffle", "write ca.Reshape((groups, -1, height, width)), ca.Permute((1, 0, 2, 3)), ca.Reshape(shape)"),
    (r"UpsamplingNearest2d", "write ca.Upsample(factor)"),
    (r"UpsamplingBilinear2d", f"only nearest-neighbour enlargement has equations here; {_NO_PART}"),
    (r"LSTM\w*|GRU\w*|RNN\w*|Transformer\w*|MultiheadAttention|Embedding\w*|Bilinear|(Cosine|Pairwise)\w+", _NO_PART),
    (r"DataParallel|DistributedDataParallel", "ca.from_torch takes the model inside"),
)


def layer_advice(name: str) -> str | None:
    """Return what to do where PyTorch has a layer of this name, `None` where it has none.

    >>> layer_advice("Dropout2d")
    'in evaluation mode it does nothing: leave it out, as ca.from_torch does; in training mode it is ca.Dropout'
    >>> layer_advice("LazyConv2d")
    'write ca.Conv2d: the input channels always follow from the input shape'
    >>> layer_advice("reconstrct")
    """
    for pattern, advice in _KINDS:
        found = re.fullmatch(pattern, name)
        if found:
            return advice.format(found[0], *found.groups())
    return None


def argument_advice(name: str, known: frozenset[str]) -> str | None:
    """Return what to write in place of one of PyTorch's arguments, for a function that takes the arguments `known`.

    >>> argument_advice("kernel_size", frozenset({"filters", "kernel"}))
    'its name here is kernel'
    """
    if ARGUMENTS.get(name) in known:
        return f"its name here is {ARGUMENTS[name]}"
    return f"leave it out: {NEEDLESS[name]}" if name in NEEDLESS else None
