"""What keeps the pattern of a graph, as inequalities in the network's input: the needs of a region, carried down."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from constraint_algebra import memory
from constraint_algebra.arrays import FloatArray
from constraint_algebra.numerics.rows import row_norms
from constraint_algebra.regions.climb import Climb
from constraint_algebra.regions.inequalities import BYTES, CHUNK, PROBES, STILL, Inequalities, near
from constraint_algebra.regions.needs import Held, Region


def limits(region: Region, climb: Climb, basis: FloatArray, bounds: tuple[FloatArray, FloatArray]) -> Inequalities:
    """Return what keeps everything that is seen as the map says, for differences in the span of a basis.

    What does not move there needs no inequality, nor what no difference within the bounds carries to its limit.

    Args:
        region: what the pattern needs.
        climb: how tangents come up, and cotangents down.
        basis: orthonormal columns, `(unknowns, nullity)`.
        bounds: smallest and largest difference of each input value, flat.

    Raises:
        MemoryLimitError: the rows are too many to be held.
    """
    n, nullity = basis.shape
    parts = [Inequalities(sp.csr_array((0, n)), np.zeros(0), np.zeros((0, nullity)))]
    probes = np.random.default_rng(0).standard_normal((n, PROBES))
    live = climb.begin(np.hstack([basis, probes]))
    for held in sorted(region.held, key=lambda held: held.number) if nullity else ():
        live = climb.rise(live, held.number)
        moved = np.asarray(held.rows @ live[held.number].reshape(-1, nullity + PROBES))
        size = row_norms(moved[:, nullity:]) / np.sqrt(PROBES)
        chosen = np.flatnonzero(row_norms(moved[:, :nullity]) > STILL * size)
        for some in np.split(chosen, range(CHUNK, len(chosen), CHUNK)) if len(chosen) else ():
            rows = climb.pulled(_cotangents(held, some, live[held.number].shape[:-1]), held.number).T
            parts.append(near(rows, held.slack[some], moved[some, :nullity], bounds))
            memory.demand(
                f"to keep {len(chosen):,} sides and winners of {climb.network.value_name(held.number)!r}",
                BYTES * parts[-1].rows.nnz * len(chosen) / max(len(some), 1),
                "take a smaller input or network",
            )
    return Inequalities(
        sp.csr_array(sp.vstack([part.rows for part in parts], format="csr")),
        np.concatenate([part.slack for part in parts]),
        np.concatenate([part.reduced for part in parts]),
    )


def _cotangents(held: Held, some: np.ndarray, shape: tuple[int, ...]) -> FloatArray:
    return np.asarray(held.rows[some].T.toarray()).reshape(*shape, len(some))
