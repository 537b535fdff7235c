"""Which runs the study consists of: networks × activations × data sets × images × seeds × methods.

A method runs where its paper says that it works, and where the comparison needs to know that it does not. Baselines
that take long run on fewer images, always with three seeds of weights and start.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

OURS, RCONV, RGAP, DLG, IDLG = "library", "rconv2024", "rgap2021", "dlg2019", "idlg2020"
METHODS = {
    OURS: "constraint-algebra",
    RCONV: "R-CONV as published",
    RGAP: "R-GAP",
    DLG: "DLG",
    IDLG: "iDLG",
}
AS_PUBLISHED = "as published"  # the activations that the authors of the network chose
CLASSES = {"cifar10": 10, "cifar100": 100, "mnist": 10}
BOTH = ("float64", "float32")
LIMIT = 300.0  # seconds of processor time for one run of a baseline
QUICK_LIMIT = 60.0


class Run(NamedTuple):
    """One reconstruction: which network with which weights, which image, by which method.

    Attributes:
        network: name in the zoo.
        activation: a name of `zoo.ACTIVATIONS` in place of the authors', or "as published".
        init: "uniform" for U(-0.5, 0.5), "default" for PyTorch's own.
        dataset, image: the sample; MNIST has one channel, padded to 32×32.
        dtype: of parameters and gradients.
        method: a key of `METHODS`.
        seed: of the weights, and of the start where the method has one.
    """

    network: str
    activation: str
    init: str
    dataset: str
    image: int
    dtype: str
    method: str
    seed: int


CELL = ("network", "activation", "init", "dataset", "dtype")


@dataclass(frozen=True)
class Block:
    """All combinations of some networks, data sets, methods, images and seeds."""

    networks: tuple[str, ...]
    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    activations: tuple[str, ...] = (AS_PUBLISHED,)
    init: str = "uniform"
    dtypes: tuple[str, ...] = BOTH
    images: int = 4
    seeds: int = 3
    slow: bool = False  # left out of a quick study

    def runs(self) -> Iterator[Run]:
        """Yield the runs."""
        for network, activation, dataset, dtype, method, seed, image in itertools.product(
            self.networks, self.activations, self.datasets, self.dtypes, self.methods, *self._numbers()
        ):
            yield Run(network, activation, self.init, dataset, image, dtype, method, seed)

    def _numbers(self) -> tuple[range, range]:
        return range(self.seeds), range(self.images)


LENET_DATA = ("cifar100", "mnist")
BLOCKS = (
    # R-CONV's networks: the published algorithm and the library.
    Block(("lenet-o",), ("cifar10", *LENET_DATA), (OURS, RCONV)),
    Block(("lenet", "lenet-4relu"), LENET_DATA, (OURS, RCONV)),
    Block(("cnn6-o",), ("cifar10",), (OURS, RCONV), activations=(AS_PUBLISHED, "leakyrelu")),
    Block(("rconv",), ("cifar10",), (OURS, RCONV), activations=("relu", "leakyrelu", "sigmoid", "tanh")),
    Block(("lenet-all-relu",), LENET_DATA, (OURS,)),
    Block(("lenet-all-relu",), ("cifar100",), (RCONV,), dtypes=("float64",), images=1, slow=True),
    # DLG's LeNet: sigmoid is its best setting, ReLU its known limit.
    Block(("lenet-dlg",), LENET_DATA, (OURS,), activations=("sigmoid",)),
    Block(("lenet-dlg",), LENET_DATA, (OURS,), activations=("relu",), images=1, slow=True),
    Block(("lenet-dlg",), LENET_DATA, (DLG,), activations=("sigmoid", "relu"), dtypes=("float32",)),
    Block(("lenet-dlg",), ("cifar100",), (DLG,), activations=("sigmoid",), dtypes=("float64",), images=2, slow=True),
    Block(("lenet-dlg",), LENET_DATA, (IDLG,), activations=("sigmoid",), dtypes=("float32",), images=2),
    Block(("lenet-dlg",), ("cifar100",), (IDLG,), activations=("relu",), dtypes=("float32",), images=1, slow=True),
    Block(("lenet-dlg",), ("cifar100",), (RCONV,), activations=("sigmoid",), dtypes=("float64",), images=1, slow=True),
    Block(("lenet-o",), ("cifar100",), (DLG,), dtypes=("float32",), images=2),
    # On CIFAR-10, where R-CONV and R-GAP are compared: DLG's own network, and CNN6 with a head that DLG can work with.
    Block(("lenet-dlg", "cnn6-classes"), ("cifar10",), (OURS, DLG), ("sigmoid",), dtypes=("float32",), images=2),
    # R-GAP's CNN6, from both starts, and the variant that is rank-deficient on purpose.
    Block(("cnn6",), ("cifar10",), (OURS, RGAP), activations=("leakyrelu",), init="default"),
    Block(("cnn6",), ("cifar10",), (OURS, RGAP), activations=("leakyrelu",), init="uniform"),
    Block(("cnn6-d",), ("cifar10",), (OURS, RGAP), activations=("leakyrelu",), init="default", images=1, slow=True),
    Block(("cnn6",), ("cifar10",), (OURS,), activations=("relu",), init="default", images=1),
    Block(("cnn6",), ("cifar10",), (RGAP,), activations=("relu",), init="default"),
    # What a method is not made for, said by the method itself.
    Block(("cnn6",), ("cifar10",), (RCONV, DLG), activations=("leakyrelu",), init="default", images=1),
    Block(("lenet-o", "cnn6-o"), ("cifar10",), (RGAP,), images=1),
)


def runs(*, quick: bool = False) -> list[Run]:
    """Return the runs of the study, each once; with `quick` one image and one seed of each cell that is not slow."""
    blocks = [block for block in BLOCKS if not (quick and block.slow)]
    found = list(dict.fromkeys(run for block in blocks for run in block.runs()))
    return [run for run in found if run.image == 0 and run.seed == 0] if quick else found


class Place(NamedTuple):
    """A row of a reconstruction figure: which runs it shows."""

    network: str
    activation: str
    init: str
    dtype: str
    method: str
    title: str


# Rows as the paper's captions order them, below the original; R-CONV's principle is shown by the library. DLG in the
# float32 that its code computes in, the others in float64.
FIGURE_2 = (
    Place("lenet-o", AS_PUBLISHED, "uniform", "float64", OURS, "constraint-algebra\nLeNet-O"),
    Place("lenet-dlg", "sigmoid", "uniform", "float32", DLG, "DLG\nLeNet, sigmoid"),
    Place("lenet-all-relu", AS_PUBLISHED, "uniform", "float64", OURS, "constraint-algebra\nLeNet, all ReLU"),
    Place("lenet-dlg", "relu", "uniform", "float32", DLG, "DLG\nLeNet, ReLU"),
)
FIGURE_3 = (
    Place("cnn6-o", "leakyrelu", "uniform", "float64", OURS, "constraint-algebra\nCNN6-O, LeakyReLU"),
    Place("cnn6", "leakyrelu", "default", "float64", RGAP, "R-GAP\nCNN6, LeakyReLU"),
    Place("cnn6-o", AS_PUBLISHED, "uniform", "float64", OURS, "constraint-algebra\nCNN6-O, ReLU"),
    Place("cnn6", "relu", "default", "float64", RGAP, "R-GAP\nCNN6, ReLU"),
)


def is_pictured(run: Run) -> bool:
    """Whether a figure may show what a run gave."""
    place = (run.network, run.activation, run.init, run.dtype, run.method)
    return any(place == row[:-1] for row in (*FIGURE_2, *FIGURE_3))
