"""The same facts from PyTorch and from plain loops: nothing here imports constraint_algebra."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import numpy as np
import torch

from constraint_algebra.arrays import FloatArray

CONVOLUTION = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}


def torch_convolution(geometry, weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """PyTorch's convolution of a batch; PyTorch itself interprets "same"."""
    padding = geometry.padding
    if not isinstance(padding, str):
        # PyTorch's pad counts axes from the last one.
        x = torch.nn.functional.pad(x, [p for before, after in reversed(padding) for p in (before, after)])
        padding = 0
    convolution = CONVOLUTION[geometry.axes]
    with warnings.catch_warnings():
        # An odd total of zeros costs PyTorch a copy, which it mentions once a process.
        warnings.filterwarnings("ignore", message="Using padding='same'")
        return convolution(x, weight, bias, geometry.stride, padding, geometry.dilation, geometry.groups)


def torch_layer(
    geometry, weight: FloatArray, bias: FloatArray | None, x: FloatArray, output_gradient: Callable
) -> dict[str, FloatArray]:
    """Output, output gradient and the three gradients that automatic differentiation gives for one sample.

    `output_gradient` makes k from the shape of the output.
    """
    tensors = {"weight": weight, "bias": bias, "input": x[None]}
    tensors = {name: torch.tensor(a, requires_grad=True) for name, a in tensors.items() if a is not None}
    z = torch_convolution(geometry, tensors["weight"], tensors.get("bias"), tensors["input"])
    k = output_gradient(tuple(z.shape[1:]))
    z.backward(torch.tensor(k)[None])
    gradients = {f"{name} gradient": t.grad.numpy() for name, t in tensors.items()}
    gradients["input gradient"] = gradients["input gradient"][0]
    return {"output": z.detach().numpy()[0], "output gradient": k, **gradients}


def probed_triples(geometry) -> set[tuple[int, int, int]]:
    """The incidence, seen from outside: which output answers when one input and one tap are one, all else zero."""
    positions, taps = int(np.prod(geometry.sizes)), int(np.prod(geometry.kernel))
    x = torch.eye(positions).reshape(positions, 1, *geometry.sizes)
    weight = torch.eye(taps).reshape(taps, 1, *geometry.kernel)
    single = type(geometry)(**{**vars(geometry), "channels": 1, "filters": taps, "groups": 1})
    answer = torch_convolution(single, weight, None, x).reshape(positions, taps, -1)
    return {(int(t), int(o), int(q)) for q, t, o in answer.nonzero()}


def looped_triples(geometry) -> set[tuple[int, int, int]]:
    """The incidence by laying the kernel onto a padded picture of position numbers, -1 in the padding."""
    padding = geometry.padding
    if isinstance(padding, str):
        totals = [d * (k - 1) for k, d in zip(geometry.kernel, geometry.dilation, strict=True)]
        padding = [(total // 2, (total + 1) // 2) for total in totals]
    picture = np.pad(np.arange(np.prod(geometry.sizes)).reshape(geometry.sizes), padding, constant_values=-1)
    starts = [
        range(0, n - d * (k - 1), s)
        for n, k, d, s in zip(picture.shape, geometry.kernel, geometry.dilation, geometry.stride, strict=True)
    ]
    triples = set()
    for o, corner in enumerate(itertools.product(*starts)):
        for t, tap in enumerate(itertools.product(*map(range, geometry.kernel))):
            q = picture[tuple(c + i * d for c, i, d in zip(corner, tap, geometry.dilation, strict=True))]
            if q >= 0:
                triples.add((t, o, int(q)))
    return triples
