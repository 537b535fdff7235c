"""What the gradient of a batch still says: its size, and how many equations there are for how many unknowns.

Question: Does the rank of the head's gradient reveal the size of a batch, and how do equations and unknowns of the
first layer compare as the batch grows?

Hypothesis: The weight gradient of the head is a sum of one outer product a sample, so its rank is the size of the
batch until it meets the number of classes less one (the entries of softmax minus target add up to zero) or the number
of features; gradient equations stay as many as they were while unknowns grow with the batch, so that only very small
batches have enough of them.

Finding: In float64 and float32 the head's rank is the size of the batch, up to the number of classes less one, in all
480 cases. In bfloat16 rounding hides part of it: right in 143 of 240 cases, and never too high. With 10 classes the
9,104 numbers of the gradient exceed the unknowns up to 11 images of 768 values. A head with two classes tells nothing
of the batch.

One row a batch of CIFAR-10 samples through a network of three convolutions with so many classes, at random weights.
`head_rank` is the number of singular values of the head's weight gradient above what rounding alone would leave;
`gap_above` and `gap_below` are the smallest of those and the largest of the others, relative to the first. `most` is
what theory allows: the smallest of batch, classes less one and features. `unknowns` are the values of all inputs;
`gradient_rows` those of all layers, `weight_rows` those of the first layer if all above it were known.
"""

from __future__ import annotations

import itertools
import math
import time
from functools import lru_cache
from typing import NamedTuple

import numpy as np

import constraint_algebra as ca
from analysis.executors import Row
from constraint_algebra.arrays import FloatArray
from constraint_algebra.experiments.samples import fit
from constraint_algebra.recursion.noise import SPACING

SEED = 0
BATCHES = (1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 16, 20)
CLASSES = (2, 5, 10, 20, 100)
DTYPES = ("float64", "float32", "bfloat16")
SEEDS = range(4)
SHAPE = (3, 16, 16)


class Run(NamedTuple):
    """A batch through a network with so many classes, in a precision, at weights of a seed."""

    classes: int
    dtype: str
    batch: int
    seed: int


COLUMNS = (
    *Run._fields,
    *("features", "head_rank", "most", "gap_above", "gap_below"),
    *("unknowns", "gradient_rows", "weight_rows", "cpu_s"),
)


def runs(*, quick: bool = False) -> list[Run]:
    """Return the grid; a quick one has one seed, one precision and two numbers of classes."""
    few = ((5, 10), ("float32",), BATCHES[::2], range(1))
    return [Run(*key) for key in itertools.product(*(few if quick else (CLASSES, DTYPES, BATCHES, SEEDS)))]


def network(classes: int) -> ca.Network:
    """Return three convolutions with LeakyReLU and a head."""
    layers: list[ca.Conv2d | ca.LeakyReLU] = []
    for filters, stride in ((12, 2), (16, 2), (6, 1)):
        layers += [ca.Conv2d(filters, 5, stride=stride, padding=2), ca.LeakyReLU(0.2)]
    return ca.Network(SHAPE, [*layers, ca.Flatten(), ca.Linear(classes)])


@lru_cache(maxsize=1)
def images() -> FloatArray:
    """Return the 20 CIFAR-10 samples in the networks' input shape."""
    return np.stack([fit(ca.samples.load(f"cifar10:{i}").image, SHAPE) for i in range(20)])


def judge(run: Run) -> Row:
    """Return what the gradient of one batch says."""
    start = time.process_time()
    net = network(run.classes)
    model = ca.to_torch(net, seed=run.seed, init="default", dtype=run.dtype)
    rng = np.random.default_rng([SEED, run.seed])
    inputs, labels = images()[rng.permutation(20)[: run.batch]], rng.integers(0, run.classes, 20)[: run.batch]
    gradients = ca.torch_gradients(model, inputs, labels)
    head, first = net.layers[-1], net.bilinear[0]
    sigma, rank = ranked(gradients[head.weight_name], run.dtype)
    following = sigma[rank] / sigma[0] if rank < len(sigma) else np.nan
    return {
        "features": head.channels,
        "head_rank": rank,
        "most": min(run.batch, run.classes - 1, head.channels),
        "gap_above": float(sigma[rank - 1] / sigma[0]),
        "gap_below": float(following),
        "unknowns": run.batch * first.unknowns,
        "gradient_rows": sum(math.prod(shape) for shape in net.parameter_shapes.values()),
        "weight_rows": run.batch * math.prod(first.output_shape),
        "cpu_s": round(time.process_time() - start, 4),
    }


def ranked(gradient: FloatArray, dtype: str) -> tuple[FloatArray, int]:
    """Return singular values, and how many exceed what rounding of every entry leaves.

    Independent noise on the entries has a largest singular value of about its largest row and its largest column, in
    Euclidean size (Bandeira and van Handel 2016, doi 10.1214/15-AOP1025); twice that, because a sum over a batch is
    rounded more than once.
    """
    values = gradient.astype(float)
    sigma = np.linalg.svd(values, compute_uv=False)
    noise = SPACING[dtype][0] * (np.abs(values) + np.sqrt(np.mean(values**2)))
    floor = 2 * (np.linalg.norm(noise, axis=0).max() + np.linalg.norm(noise, axis=1).max())
    return sigma, int(np.count_nonzero(sigma > floor))
