"""Figure 1: the four architectures, drawn from their `Network` objects."""

from __future__ import annotations

import math
from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from constraint_algebra import zoo
from constraint_algebra.layers import Activation, Conv, PlacedLayer
from constraint_algebra.networks.network import Network
from paper_repro.constraints import geometry

FOUR = (
    ("lenet", "LeNet (R-CONV)"),
    ("lenet-o", "LeNet-O (R-CONV)"),
    ("cnn6-o", "CNN6-O (R-CONV)"),
    ("cnn6", "CNN6 (R-GAP)"),
)
STEP = 1.0  # distance of two tensors
ACTIVATIONS = {"LeakyReLU": "L", "ReLU": "R", "Sigmoid": "S", "Tanh": "T"}


def architecture(network: Network, *, title: str, ax: Axes) -> Axes:
    """Draw a network as its tensors, one block each, with the layer that leads to it.

    The height of a block grows with the picture's side, its width with the number of channels; features of a linear
    layer are thin columns.
    """
    x = 0.0
    for place, (shape, words) in enumerate(tensors(network)):
        channels, side = shape[0], shape[-1] if len(shape) > 1 else 0
        height = 0.25 + side / 32 if side else 0.2 + 0.09 * math.log2(1 + channels)
        width = 0.1 + 0.06 * math.log2(channels) if side else 0.09
        grey = "0.85" if side else "0.6"
        ax.add_patch(Rectangle((x - width / 2, -height / 2), width, height, facecolor=grey, edgecolor="black", lw=0.8))
        size = f"{channels}\n{side}×{side}" if side else str(channels)
        ax.text(x, -0.72, size, ha="center", va="top", fontsize=8)
        if place:
            start = x - STEP + 0.26
            ax.annotate("", (x - 0.26, 0), (start, 0), arrowprops={"arrowstyle": "->", "lw": 0.8})
            ax.text(x - STEP / 2, 0.06, words, ha="center", va="bottom", fontsize=7.5)
        x += STEP
    ax.set(xlim=(-0.5, x - STEP + 0.5), ylim=(-1.1, 0.75))
    ax.set_axis_off()
    ax.set_title(f"{title}: {network.parameter_count:,} parameters", loc="left", fontsize=10)
    return ax


def tensors(network: Network) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield the input and what each layer with a weight gives, with the words for the layer and its activation."""
    yield network.input_shape, ""
    for layer in network.bilinear:
        follow = network.layers[layer.index + 1 : layer.index + 2]
        activation = next((_letter(step) for step in follow if isinstance(step.layer, Activation)), "")
        if isinstance(layer.layer, Conv):
            yield layer.output_shape, f"{geometry(layer).split()[1]}\n{activation}"
        else:
            yield layer.output_shape, f"linear\n{layer.channels:,}→{layer.filters}"


def _letter(step: PlacedLayer) -> str:
    return ACTIVATIONS.get(step.kind, step.kind)


def draw() -> Figure:
    """Return Figure 1."""
    figure = Figure(figsize=(9, 7.6), layout="constrained")
    for ax, (name, title) in zip(figure.subplots(len(FOUR), 1), FOUR, strict=True):
        architecture(zoo.network(name), title=title, ax=ax)
        ax.set_xlim(-0.5, 7.5)
    figure.suptitle("Figure 1. The four architectures, input 3×32×32", fontsize=12)
    figure.supxlabel(
        "Above an arrow: kernel/stride/padding of the convolution and its activation (L: LeakyReLU 0.2, R: ReLU).\n"
        "Below a block: channels and size, or features. CNN6 has no biases.",
        fontsize=9,
    )
    return figure
