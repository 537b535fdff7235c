"""X.

Question: q

Hypothesis: q

Finding: q

Photographs and their twins: other valid images with the same gradients of every parameter.

    python -m analysis.twin_gallery

Writes analysis/results/twin_gallery.npz: originals, twins, and how far their real float64 gradients are apart. For each
photograph the twin nearest to another photograph of the same set. Takes about a minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

import constraint_algebra as ca
from constraint_algebra.gradients import to_numpy

RESULT = Path(__file__).parent / "results" / "twin_gallery.npz"
PAIRS = ((3, 7), (7, 12), (12, 5), (5, 3))  # numbers of the photograph and of the one to come near
FILTERS = 6


def network() -> ca.Network:
    """Return two convolutions with ReLU, the first with six filters, and a head for ten classes."""
    layers = [ca.Conv2d(FILTERS, 5, 2, 2), ca.ReLU(), ca.Conv2d(16, 5, 2, 2), ca.ReLU(), ca.Flatten(), ca.Linear(10)]
    return ca.Network((3, 32, 32), layers)


def study() -> dict[str, np.ndarray]:
    """Return originals, targets and twins `(pairs, 3, 32, 32)`, nullities, and gradient differences."""
    torch.set_num_threads(1)
    net = network()
    model = ca.to_torch(net, seed=0, init="default")
    parameters = {name: to_numpy(p) for name, p in model.named_parameters()}
    rows: dict[str, list[np.ndarray]] = {
        name: [] for name in ("original", "target", "twin", "nullity", "absolute", "relative")
    }
    for one, other in PAIRS:
        sample, target = ca.samples.load(f"cifar10:{one}"), ca.samples.load(f"cifar10:{other}").image
        found = ca.indistinguishable(net, parameters, sample.image, sample.label)
        twin = found.twin(target)
        if twin is None:
            raise RuntimeError(f"cifar10:{one} has no twin; choose fewer filters than {FILTERS}")
        check = ca.verify_twin(model, sample.image, twin.image, sample.label)
        if not check.equal:
            raise RuntimeError(f"cifar10:{one}: {check}")
        values = (sample.image, target, twin.image, found.nullity, max(check.absolute.values()), check.difference)
        for name, value in zip(rows, values, strict=True):
            rows[name].append(np.asarray(value))
        print(f"cifar10:{one}: nullity {found.nullity}, {check}")  # noqa: T201 -- a study says what it does
    return {name: np.stack(values) for name, values in rows.items()}


def main(force: Annotated[bool, typer.Option("--force", help="Replace the result that is there.")] = False) -> None:
    """Find the twins and keep them."""
    RESULT.parent.mkdir(exist_ok=True)
    if RESULT.exists() and not force:
        raise typer.BadParameter(f"{RESULT} is there; pass --force to compute it again")
    ca.save(RESULT, study(), overwrite=force)


if __name__ == "__main__":
    typer.run(main)
