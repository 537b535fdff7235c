"""The rows of the whole map at one input, layer by layer from below, and what they leave open.

Within a region, and at a given output gradient of the head, the gradients of layer l are `A_l(k_l) h_l`, and its input
is `h_l = M_l x + c_l`. The rows `A_l(k_l) M_l` of all layers up to `Network.start`, whose rows give its whole input,
are the map from the input to all gradients.

The rows of the first layer fall into small blocks. For each further layer only the directions that those below leave
open are carried up, V in columns: the singular values of `A_l(k_l) M_l V` say which of them the layer sees. What it
sees becomes a row `u^T A_l(k_l) M_l` for each of its left singular vectors, so that a vector is explained by rows from
the last layer down to the first. In a first pass only what a layer sees plainly counts: the direction of what it sees
weakly is known badly, and a layer above may see it better.

Where an activation that is not linear in pieces follows a layer, k below it moves with the input. Then that layer's
output is kept, as far as it passes: everything above is the same, and what is found is a part of the set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from constraint_algebra import memory
from constraint_algebra.arrays import FloatArray
from constraint_algebra.networks.network import Network
from constraint_algebra.numerics.rows import row_norms
from constraint_algebra.ranks.whole_map import RowsOfLayer
from constraint_algebra.regions.climb import Climb, Seer, Tangents, live_entries
from constraint_algebra.regions.seers import ChainSight, GraphSight
from constraint_algebra.solvers.null_space import RTOL, TOLERANCE, Kernel, Rank, rank_of

LEVELS = (1e-3, 1e-6, 1e-9)  # shares of the largest singular value above which one counts, in passes


class _Stage(NamedTuple):
    """What one layer sees of the directions that those below leave open.

    Attributes:
        rows: its rows, `(rank, unknowns)`, of unit norm.
        directions: what they see, orthonormal columns, `(unknowns, rank)`.
        seen: how the rows, before they had unit norm, see the directions.
        norms: what their norms were.
        blur: how many times the error of its coefficients is that of numbers as they came.
    """

    rows: FloatArray
    directions: FloatArray
    seen: Rank
    norms: FloatArray
    blur: FloatArray


class WholeEquations(Kernel):
    """The rows of the whole map at one input, and their kernel.

    Args:
        network: only reshapes may precede its first layer with a weight.
        parameters: parameter values by name.
        values: what `Network.forward` returned.
        output_gradients: k at the network's output, `(number, *output_shape)`; the rows of all of them count.
        centred: whether a constant added to all outputs changes nothing, as with cross-entropy.
        rtol: singular values below this share of the largest count as zero.
        tolerance: row norm of the basis up to which an unknown counts as fixed.

    Attributes:
        k: gradient that arrives at the output of every layer with a weight, by its name, `(*output_shape, number)`.
        layers: rows and rank, layer by layer, until the rank was full or no layer was left.
        sides: of a chain, the layers whose activations must keep their sides.
        region: of a graph, what its pattern needs.
        climb: how tangents come up, and cotangents down.
        kept: name of the layer whose output is kept; `None` where the kernel is all that these gradients leave open in
            the region.
        covered: whether the rows of `start` give its whole input, so that the layers above it add none.

    Raises:
        MemoryLimitError: the directions that the first layer leaves open are too many to be held.

    >>> from constraint_algebra.layers import Conv1d, Flatten, Linear
    >>> net = Network((1, 3), [Conv1d(8, 2), Conv1d(1, 1), Flatten(), Linear(2)])
    >>> P = {name: np.random.default_rng(1).standard_normal(shape) for name, shape in net.parameter_shapes.items()}
    >>> found = WholeEquations(net, P, net.forward(P, np.ones((1, 3))), np.array([[1.0, -1.0]]))
    >>> found.nullity, [layer.rank for layer in found.layers]
    (0, [2, 2, 3])
    """

    def __init__(
        self,
        network: Network,
        parameters: Mapping[str, FloatArray],
        values: Sequence[FloatArray],
        output_gradients: FloatArray,
        *,
        centred: bool = False,
        rtol: float = RTOL,
        tolerance: float = TOLERANCE,
    ) -> None:
        """Take the rows layer by layer."""
        self.network, self.shape, self.tolerance = network, network.input_shape, tolerance
        several = parameters, values, output_gradients, centred, max(LEVELS[0], rtol)
        sight = ChainSight(network, *several) if network.is_chain else GraphSight(network, *several)
        self.k, self.covered, self.region, self.first = sight.k, sight.covered, sight.region, sight.first
        self._stages: list[_Stage] = []
        opens, n = self.first.open_count, math.prod(network.input_shape)
        self._demand(opens, n)
        self.basis = self.first.from_open(np.eye(opens))
        name = sight.lowest.name
        self._least, self._ranks = self.first.kept.min(initial=1.0), {name: n - opens}
        self._counts = {name: int(self.first.row_counts.sum())}
        dropped = self._in_passes(sight.climb, sight.seers(), rtol)
        self.kept, self.sides, self.climb = sight.kept, sight.sides, sight.climb
        self.gap = (float(self._least), dropped)
        ranks = np.cumsum([*self._ranks.values()]).tolist()
        self.layers = [RowsOfLayer(*row) for row in zip(self._ranks, self._counts.values(), ranks, strict=True)]
        self.plain = self.first.matrix.shape[0]
        self.blur = np.concatenate([np.ones(self.plain), *(stage.blur for stage in self._stages)])

    @cached_property
    def rows(self) -> FloatArray:
        """The rows of all layers but the first, `(rows, unknowns)`."""
        return np.concatenate([np.zeros((0, len(self.basis))), *(stage.rows for stage in self._stages)])

    @cached_property
    def matrix(self) -> sp.csr_array:
        """All rows that count, each of unit norm; those of the first layer first."""
        return sp.csr_array(sp.vstack([self.first.matrix, sp.csr_array(self.rows)], format="csr"))

    @property
    def well_conditioned(self) -> sp.csr_array:
        """Rows with the same kernel: those of the first layer, and what the others see, which is orthonormal."""
        seen = [sp.csr_array(stage.directions.T) for stage in self._stages]
        return sp.csr_array(sp.vstack([self.first.matrix, *seen], format="csr"))

    def applied(self, vector: FloatArray) -> FloatArray:
        """Return `matrix @ vector` for a flat vector."""
        return np.concatenate([self.first.matrix @ vector, self.rows @ vector])

    def lengths(self) -> FloatArray:
        """Return the sum of absolute coefficients of each row."""
        first = np.asarray(abs(self.first.matrix).sum(axis=1), dtype=float)
        return np.concatenate([first, np.abs(self.rows).sum(axis=1)])

    def combined(self, multipliers: FloatArray) -> FloatArray:
        """Return `matrix^T λ`."""
        plain, rest = np.split(multipliers, [self.plain])
        return np.asarray(self.first.matrix.T @ plain + self.rows.T @ rest)

    def sizes(self, multipliers: FloatArray) -> FloatArray:
        """Return `|matrix|^T |λ|`."""
        plain, rest = np.split(np.abs(multipliers), [self.plain])
        return np.asarray(abs(self.first.matrix).T @ plain + np.abs(self.rows).T @ rest)

    def multipliers(self, vectors: FloatArray) -> FloatArray:
        """Return λ with `matrix^T λ = vectors` for flat vectors in columns, up to their part in the null space."""
        found, rest = [], vectors
        for stage in reversed(self._stages):
            found.append(stage.seen.explained(stage.directions.T @ rest) * stage.norms[:, None])
            rest = rest - stage.rows.T @ found[-1]
        return np.concatenate([self.first.multipliers(rest), *found[::-1]])

    def _in_passes(self, climb: Climb, seers: Iterator[Seer], rtol: float) -> float:
        """Let all see what is open, first what they see plainly; return the largest singular value that never counted.

        What one layer sees weakly leaves its direction known badly. Another may see it plainly, and takes it then.
        """
        met: list[Seer] = []
        level, dropped = max(LEVELS[0], rtol), self.first.dropped
        live: Tangents = {}
        for seer in seers:
            met.append(seer)
            if len(met) == 1:  # the first layer has had its turn
                live = climb.begin(self.basis)
            elif self.nullity:
                live = climb.rise(live, seer.above)
                live, missed = self._take(climb, seer, live, level)
                dropped = max(dropped, missed)
            if not self.nullity:
                return 0.0
        while dropped > rtol:
            level, dropped = next((x for x in LEVELS if rtol < x < dropped), rtol), 0.0
            live = climb.begin(self.basis)
            for seer in sorted(met, key=lambda seer: seer.above):
                live = climb.rise(live, seer.above)
                live, missed = self._take(climb, seer, live, level)
                dropped = max(dropped, missed)
                if not self.nullity:
                    return 0.0
        return dropped

    def _take(self, climb: Climb, seer: Seer, live: Tangents, level: float) -> tuple[Tangents, float]:
        """Let one take what it sees by more than a share of its largest singular value.

        Args:
            climb: how tangents come up, and cotangents down.
            seer: which one.
            live: tangents along what is open.
            level: the share.

        Returns:
            the tangents of what is left open, and the largest share that did not count.
        """
        size = climb.largest(seer)
        seen = rank_of(seer.rows(live[seer.at]) if size else np.zeros((0, self.nullity)), level * size)
        self._counts[seer.name] = seer.number
        self._ranks[seer.name] = self._ranks.get(seer.name, 0) + seen.rank
        missed = seen.dropped / (size or 1.0)
        if not seen.rank:
            return live, missed
        self._least = min(self._least, seen.least / size)
        own = climb.pulled(seer.adjoint(seen.left), seer.at).T
        norms = row_norms(own)
        own /= norms[:, None]
        # Rounding is not confined to where a row is: it has the norm of the map, over all unknowns.
        spread = math.sqrt(own.shape[1]) / np.abs(own).sum(axis=1)
        blur = np.maximum(size / norms * spread, 1.0)
        directions = self.basis @ seen.right.T
        self._stages.append(_Stage(own, directions, replace(seen, left=seen.left[:0]), norms, blur))
        self.basis = self.basis @ seen.null
        return {number: P @ seen.null for number, P in live.items()}, missed

    def _demand(self, opens: int, n: int) -> None:
        """Refuse what the memory does not hold: the directions left open, their tangents, and what sees them."""
        widest = 3 * max(math.prod(layer.output_shape) for layer in self.network.layers)
        if not self.network.is_chain:
            widest = 2 * live_entries(self.network)
        memory.demand(
            f"the map of a network with {n:,} input values, of which the first layer leaves {opens:,} directions open,",
            8.0 * opens * (3 * n + widest),
            "take a smaller input or network",
        )
