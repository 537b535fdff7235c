"""Affine operations entry by entry: each output is one entry of the input, times a factor, plus a constant."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from constraint_algebra.arrays import FloatArray, IntArray
from constraint_algebra.layers.base import PlacedLayer
from constraint_algebra.networks.operations import affine_maps
from constraint_algebra.recursion.graph_knowledge import GraphKnowledge


class Entrywise(NamedTuple):
    """An operation with the outputs `factor x[places] + shift`."""

    places: IntArray
    factor: FloatArray
    shift: FloatArray

    def takes_all(self, size: int) -> bool:
        """Return whether it makes one output of each of so many entries."""
        return len(self.places) == size and bool((np.bincount(self.places, minlength=size) == 1).all())


def entrywise(knows: GraphKnowledge, layer: PlacedLayer) -> Entrywise | None:
    """Return an affine operation of one input, without a weight, entry by entry; `None` for any other."""
    if not layer.is_affine or len(layer.inputs) > 1:
        return None
    maps, constant = affine_maps(layer, knows.observed.parameters)
    M = sp.csr_array(maps[0])
    if (np.diff(M.indptr) != 1).any():
        return None
    shift = np.zeros(M.shape[0]) if constant is None else np.asarray(constant)
    return Entrywise(M.indices.astype(np.intp), np.asarray(M.data), shift)


def rearranging(knows: GraphKnowledge, layer: PlacedLayer) -> Entrywise | None:
    """Return the same of an operation that makes one output of each entry; `None` for any other."""
    step = entrywise(knows, layer)
    return step if step is not None and step.takes_all(layer.unknowns) else None
