r"""The corner of a blind start where the output gradient of each filter sums to zero over its outputs.

Below a normalisation of each channel by its own statistics, such as batch norm in training mode, `K 1 = 0`: K has rank
O - 1 at most, and the anchor alone does not show all of H. The taps together do, since at the border each shift drops
other outputs. With U a basis of the columns of all `D_t` and B one of their rows,

    E_t = U^T D_t B = M S_t P^-1,    K = U M,  H^T = P^-1 B^T,    E_t P = E_anchor P S_t for every tap t.

As where K has full rank, the corner of P is the one common null vector of the forward shifts: a vector that they all
take to multiples of 1 they take to zero, for each leaves the border dark. A backward shift gives the next column only
up to the null vector of `E_anchor`, which is P 1. But every column p also has `E_forward p = E_anchor p'`, with p' the
column before it, or zero at the border, and a forward shift does not annul P 1: the anchor and the forward shifts
together have full rank. So P is unique up to one factor once more, and `K = U E_anchor P`.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg as la

from constraint_algebra.arrays import FloatArray
from constraint_algebra.numerics.singular import svd
from constraint_algebra.solvers.bilinear_fit import Shifts, input_for
from constraint_algebra.solvers.blind_group import (
    DOUBTFUL,
    RANK_GAP,
    TOO_FEW,
    TOO_MANY,
    Refused,
    low_rank_below_a_normalisation,
)
from constraint_algebra.solvers.blind_shapes import Anchor


def from_corner(
    shifts: Shifts, start: Anchor, D: FloatArray
) -> tuple[FloatArray, FloatArray, tuple[float, float], int] | Refused:
    """Return K, H, the gap of the corner and the rank of h beyond doubt, for data with noise of about one."""
    O = shifts.outputs
    if O == 1:
        return Refused("its output gradient is one value for each filter, and sums to zero only where it is zero")
    (_, F, C), taps = D.shape, [start.tap, *start.forward.values(), *start.backward.values()]
    U, of_k, _ = svd(D[taps].swapaxes(0, 1).reshape(F, -1), full_matrices=False)
    _, of_h, B = svd(D[taps].reshape(-1, C), full_matrices=False)
    ranks = []
    for side, s, rank, (n, m) in (("k", of_k, O - 1, (F, len(taps) * C)), ("h", of_h, O, (C, len(taps) * F))):
        noise = np.sqrt(n - rank + 1) + np.sqrt(m - rank + 1)
        further = s[rank] if len(s) > rank else 0.0
        if further > TOO_MANY * noise and s[rank - 1] < RANK_GAP * further:
            return Refused(
                f"the rank of {side} is above {rank:,}, which is the most below a normalisation of each channel: the"
                " gradient of several samples, or of a layer that no such normalisation reads"
            )
        ranks.append(min(rank, int(np.count_nonzero(s > DOUBTFUL * noise))))
        if s[rank - 1] < TOO_FEW * noise:
            return low_rank_below_a_normalisation(O)
    seen = {tap: U[:, : O - 1].T @ D[tap] @ B[:O].T for tap in taps}
    left, values, right = svd(seen[start.tap])
    # Both sides are scaled so that the anchor is the identity beside a column of zeros, that of its null vector.
    root = np.sqrt(values)
    scale = np.append(root, np.exp(np.log(root).mean()))
    E = {tap: (left.T @ some @ right.T) / root[:, None] / scale for tap, some in seen.items()}
    _, gaps, vectors = svd(np.vstack([E[tap] for tap in start.forward.values()]))
    if not gaps[0] > 0:
        return low_rank_below_a_normalisation(O)
    gap = (float(gaps[O - 2] / gaps[0]), float(gaps[O - 1] / gaps[0]) if len(gaps) == O else 0.0)
    M = E[start.tap] @ _columns(vectors[-1], start, E)
    K = U[:, : O - 1] @ (left @ (root[:, None] * M))
    K[~D.any(axis=(0, 2))] = 0.0  # exactly, and so it stays
    return K, input_for(shifts, D, K), gap, min(ranks[0] + 1, ranks[1])


def _columns(corner: FloatArray, start: Anchor, E: dict[int, FloatArray]) -> FloatArray:
    """Return P from its column at the corner: each column by least squares from those before it."""
    number = np.arange(len(corner)).reshape(start.outputs)
    solve = la.pinv(np.vstack([E[start.tap], *(E[tap] for tap in start.forward.values())]))
    P = np.zeros((len(corner), number.size))
    P[:, 0] = corner
    for place in list(np.ndindex(number.shape))[1:]:
        onward, back = [], []
        for axis in start.forward:
            before = number[tuple(p - (a == axis) for a, p in enumerate(place))]
            inside = place[axis] > 0
            back.append(E[start.tap] @ P[:, before] * inside)
            if inside:
                onward.append(E[start.backward[axis]] @ P[:, before])
        P[:, number[place]] = solve @ np.concatenate([np.mean(onward, axis=0), *back])
    return P
