"""One picture of every drawing of `constraint_algebra.plotting`, from small examples computed on the spot.

    python -m figures.gallery

Writes gallery/NAME.png, the same bytes each time on the same machine. Takes about ten seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import constraint_algebra as ca
from constraint_algebra import plotting
from constraint_algebra.files.space import make
from constraint_algebra.files.writing import write
from constraint_algebra.ranks.polyphase import polyphase_law
from figures.save import drawn

OUT = Path(__file__).parent / "gallery"


def single(width: float, height: float) -> tuple[Figure, object]:
    """Return a figure with one Axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def rank_ladder() -> Figure:
    """Weight equations of two filters: fewer in rank than any count says, fewer still above noise."""
    layer = ca.Conv2d(2, 3).place((1, 12, 12))
    weight = np.random.default_rng(5).standard_normal(layer.weight_shape)
    figure, ax = single(5.2, 3.4)
    ca.rank_ladder(ca.weight_equations(layer, weight=weight), noise=1e-1).plot(ax)
    return figure


def layer_ranks() -> Figure:
    """CNN6-d, whose second layer is rank-deficient on purpose; all equations together are not."""
    figure, ax = single(7, 4)
    ca.feasibility(ca.zoo.network("cnn6-d")).plot(ax)
    return figure


def rank_against_filters() -> Figure:
    """The staircase of lesson 3: a 3×3 convolution with stride 2 on 8×8 pixels, from the polyphase law."""
    rows = []
    for filters in range(1, 21):
        layer = ca.Conv2d(filters, 3, stride=2, padding=1).place((1, 8, 8))
        law = polyphase_law(layer)
        structural = ca.structural_rank(ca.gradient_equations(layer))
        row = {"filters": filters, "counted": min(9 * filters, 64), "structural_rank": structural}
        rows.append(row | {"rank": law.rank, "unknowns": 64, "determined": law.rank == 64})
    figure, ax = single(6, 4)
    plotting.rank_against_filters(pd.DataFrame(rows), ax)
    return figure


def determinacy_map() -> Figure:
    """Eight filters of which most are cut off in the upper left: there each kind of equation alone is too little."""
    layer = ca.Conv2d(8, 3, stride=2, padding=1).place((1, 16, 16))
    down, right = np.indices(layer.outputs)
    share = np.where(down + right < 5, 0.1, np.where(down < 4, 0.3, 0.9))
    active = np.random.default_rng(1).random(layer.output_shape) < share
    figure, ax = single(7.4, 3.4)
    plotting.determinacy_map(layer, active=active, ax=ax)
    return figure


def residue_classes() -> Figure:
    """What a stride of 2 does to a 3×3 kernel."""
    figure, ax = single(5.6, 3.2)
    plotting.residue_classes(ca.Conv2d(8, 3, stride=2, padding=1).place((1, 12, 12)), ax)
    return figure


def constraint_graph() -> Figure:
    """The gradient equations of a small layer: four residue classes."""
    layer = ca.Conv2d(1, 3, stride=2, padding=1).place((1, 4, 4), name="0")
    figure, ax = single(5, 5.4)
    plotting.constraint_graph(ca.gradient_equations(layer), ax)
    return figure


def decomposition() -> Figure:
    """Gradient equations of two filters with stride 2: residue classes with too few, enough and too many rows."""
    layer = ca.Conv2d(2, 3, stride=2, padding=1).place((1, 4, 4))
    figure, ax = single(7, 4)
    ca.gradient_equations(layer).plot(ax)
    return figure


def singular_values() -> Figure:
    """A layer whose weight equations are nearly dependent, with a noise floor that is assumed and a cut above it."""
    layer = ca.Conv2d(12, 5, stride=2, padding=2).place((3, 16, 16))
    weight = np.random.default_rng(0).uniform(-0.5, 0.5, layer.weight_shape)
    figure, ax = single(6, 3.6)
    plotting.singular_values(ca.weight_equations(layer, weight=weight), noise_floor=3e-3, cut=1e-2, ax=ax)
    return figure


def knowledge_flow() -> Figure:
    """CNN6-d, whose second layer is rank-deficient on purpose; all equations together are not."""
    figure, ax = single(8, 3.8)
    plotting.knowledge_flow(ca.feasibility(ca.zoo.network("cnn6-d")), ax)
    return figure


def architecture() -> Figure:
    """ResNet-18: shortcuts beside the main way, batch norm and activations in the boxes that they follow."""
    figure, ax = single(12, 9)
    ca.zoo.network("resnet18").plot(ax)
    return figure


def knowledge_flow_of_a_graph() -> Figure:
    """ResNet-20 with a head that reads the whole map, on 16×16 pixels: its first stage, 16 filters, stays open."""
    figure, ax = single(13, 9)
    report = ca.feasibility(ca.zoo.network("resnet20-cifar", head="flatten", input_shape=(3, 16, 16)))
    plotting.knowledge_flow(report, ax)
    return figure


def reconstruction() -> Figure:
    """A photograph through LeNet-O from gradients in float32."""
    model = ca.to_torch(ca.zoo.network("lenet-o"), seed=0, dtype="float32")
    sample = ca.samples.load("cifar10:7")
    network, parameters = ca.from_torch(model, sample.image.shape)
    gradients = ca.torch_gradients(model, sample.image, sample.label)
    result = ca.reconstruct(network, parameters, gradients)
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    result.plot(sample.image.astype(float), axes=list(figure.subplots(1, 4)))
    return figure


DRAWINGS: dict[str, Callable[[], Figure]] = {
    drawing.__name__: drawing
    for drawing in (
        *(rank_ladder, layer_ranks, rank_against_filters, determinacy_map, residue_classes),
        *(constraint_graph, decomposition, singular_values, knowledge_flow, reconstruction),
        *(architecture, knowledge_flow_of_a_graph),
    )
}


def main(out: Path = OUT) -> None:
    """Draw them all into a folder."""
    make(out)
    for name, drawing in DRAWINGS.items():
        with plotting.style():
            write(out / f"{name}.png", drawn(drawing(), "png", dpi=100, metadata={"Software": None}))


if __name__ == "__main__":
    main()
