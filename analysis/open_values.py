"""X.

Question: q

Hypothesis: q

Finding: q

How much of an image stays open, by the number of filters in the first layer, for ReLU and LeakyReLU.

    python -m analysis.open_values

Writes analysis/results/open_values.csv, one row for each activation, number of filters and photograph: the share of
fixed values, and the mean width of the interval of the values over all inputs with the same gradients, for a random
sample of them (the same in each row; a fixed value has width 0). Rows that are there are kept: an interrupted run goes
on where it stopped. Takes a few minutes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer

import constraint_algebra as ca
from constraint_algebra.gradients import to_numpy
from constraint_algebra.samples import fit

RESULT = Path(__file__).parent / "results" / "open_values.csv"
SHAPE = (3, 16, 16)
FILTERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24)
ACTIVATIONS = {"ReLU": ca.ReLU(), "LeakyReLU(0.2)": ca.LeakyReLU(0.2)}
IMAGES = (3, 7, 12)
SAMPLED = 64  # values whose intervals are computed


def row(activation: str, filters: int, image: int) -> dict[str, object]:
    """Return one row: nullity, share of fixed values, mean width of the intervals from inside and from outside."""
    act = ACTIVATIONS[activation]
    layers = [ca.Conv2d(filters, 5, 2, 2), act, ca.Conv2d(16, 3, 1, 1), act, ca.Flatten(), ca.Linear(10)]
    net = ca.Network(SHAPE, layers)
    model = ca.to_torch(net, seed=0, init="default")
    parameters = {name: to_numpy(p) for name, p in model.named_parameters()}
    sample = ca.samples.load(f"cifar10:{image}")
    found = ca.indistinguishable(net, parameters, fit(sample.image, SHAPE), sample.label)
    pixels = np.zeros(found.input.size, dtype=bool)
    pixels[np.random.default_rng(0).choice(found.input.size, SAMPLED, replace=False)] = True
    widths = ca.interval_map(found, pixels.reshape(SHAPE), workers=1)
    return {
        "activation": activation,
        "filters": filters,
        "image": f"cifar10:{image}",
        "unknowns": found.input.size,
        "nullity": found.nullity,
        "fixed": float(found.fixed.mean()),
        "sampled": SAMPLED,
        "width": float(np.nanmean(widths.width)),
        "outer_width": float(np.nanmean(widths.outer_width)),
    }


def main() -> None:
    """Compute the rows that are missing."""
    torch.set_num_threads(1)
    RESULT.parent.mkdir(exist_ok=True)
    rows = pd.read_csv(RESULT).to_dict("records") if RESULT.exists() else []
    done = {(r["activation"], r["filters"], r["image"]) for r in rows}
    for filters in sorted(FILTERS, reverse=True):  # quick ones first
        for activation in ACTIVATIONS:
            for image in IMAGES:
                if (activation, filters, f"cifar10:{image}") not in done:
                    rows.append(row(activation, filters, image))
                    frame = pd.DataFrame(rows).sort_values(["activation", "filters", "image"])
                    frame.to_csv(RESULT.with_suffix(".part"), index=False)
                    RESULT.with_suffix(".part").replace(RESULT)
                    print(rows[-1])  # noqa: T201 -- a study says what it does


if __name__ == "__main__":
    typer.run(main)
