"""Everything that makes one case, as plain data that is drawn from a seed and can be made smaller: see `drawing`."""

from __future__ import annotations

from dataclasses import dataclass

FAMILIES = {
    "piecewise": ("ReLU", "ReLU", "ReLU", "LeakyReLU", "ReLU6", "Hardtanh"),
    "bounded": ("Sigmoid", "Tanh", "Tanh"),
    "bending": ("ELU", "Softplus", "SELU", "Softsign"),
    "two branches": ("SiLU", "GELU", "Mish", "Hardswish"),
}
PRECISIONS = ("float64", "float64", "float64", "float32", "float32", "float16", "bfloat16")
PICTURES = (
    "ordinary",
    "ordinary",
    "ordinary",
    "ordinary",
    "background",
    "black",
    "constant",
    "large",
    "tiny",
    "signed",
)
SCALES = (1.0, 1.0, 1.0, 1.0, 1e-3, 0.1, 3.0, 10.0, 100.0)
LOSSES = ("cross_entropy", "cross_entropy", "cross_entropy", "logistic", "square")
HEADS = ("biased", "biased", "biased", "zero", "none")
DEFECTS = ("", "", "", "", "dead", "duplicated", "no bias", "large biases")
PATHS = ("residual", "dense", "joined", "pooled", "normalised")  # blocks that no plain chain has
BLOCKS = ("plain", "plain", "frozen", *PATHS)


@dataclass(frozen=True)
class Stage:
    """One block of a network: a convolution with what belongs to it.

    Attributes:
        block: "plain" for a convolution and its activation; "residual", "dense" and "joined" have a second path;
            "pooled" has a pool, "normalised" a normalisation by the data's own statistics, "frozen" one by fixed ones.
        activation: a class of `torch.nn`, or "" for none.
        variant: which pool or which normalisation.
    """

    block: str = "plain"
    filters: int = 4
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    bias: bool = True
    activation: str = "ReLU"
    variant: int = 0


@dataclass(frozen=True)
class Recipe:
    """One case.

    Attributes:
        seed: of weights, training and picture.
        source: "stages" as stated here; "trained" and "graph" for the networks that other tests draw by this seed.
        shape: of the input.
        stages: blocks from the input on.
        hidden: units of a linear layer below the head, 0 for none.
        classes: outputs; the logistic loss has one.
        loss: "cross_entropy", "logistic", or "square" for the mean square error, of which only its gradient is seen.
        head: whether the head's bias is "biased", "zero" or "none".
        scale: what all weights are multiplied by.
        steps: of training before the gradient is taken.
        defect: "dead" or "duplicated" filters, "no bias" that differs from zero, "large biases" of size 1, "coarse"
            weights that are multiples of 1/4, which makes ranks fall short by accident; "" for none.
        precision: of parameters and gradients.
        picture: see `pictures`.
        handed: "numpy" or "torch": what parameters and gradients come as.
        buffers: whether the client shares the running statistics that its step moved.
        search: seconds for each search beyond the equations.
        kind: for which kind of fault it was made, a name of `kinds`; "" for none in particular.
    """

    seed: int
    source: str = "stages"
    shape: tuple[int, int, int] = (1, 6, 6)
    stages: tuple[Stage, ...] = (Stage(),)
    hidden: int = 0
    classes: int = 5
    loss: str = "cross_entropy"
    head: str = "biased"
    scale: float = 1.0
    steps: int = 0
    defect: str = ""
    precision: str = "float64"
    picture: str = "ordinary"
    handed: str = "numpy"
    buffers: bool = False
    search: float = 0.3
    kind: str = ""

    @property
    def is_graph(self) -> bool:
        """Whether anything but a plain chain is in it."""
        return self.source != "stages" or any(stage.block in PATHS for stage in self.stages)
