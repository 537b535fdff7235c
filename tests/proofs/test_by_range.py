"""What is fixed by the valid range, where equations leave it open: the set, the certificate, and how it is told."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import linprog

import constraint_algebra as ca
from tests.command import strict
from tests.twin_cases import Case, random_case

mpl.use("Agg")


def bright(values: list[float]) -> Case:
    """Three outputs that sum two values each, the last cut off: a sum of 2 leaves neither value any room.

    The equations leave one direction open in the first four values, which moves all of them.
    """
    net = ca.Network((1, 1, 6), [ca.Conv2d(1, (1, 2), stride=(1, 2)), ca.ReLU(), ca.Flatten(), ca.Linear(2)])
    model = ca.to_torch(net, seed=0, init="default").double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(-0.5)
    return Case(net, model, np.array([[values]]), 1)


def test_two_values_at_the_upper_bound_are_fixed_given_the_range(tmp_path) -> None:
    c = bright([1.0, 1.0, 0.25, 0.5, 0.125, 0.25])
    found = ca.indistinguishable(c.network, c.parameters, c.image, c.label)
    np.testing.assert_array_equal(found.fixed.ravel(), [False] * 6)
    np.testing.assert_array_equal(found.fixed_by_range.ravel(), [True] * 4 + [False] * 2)
    told = ca.certify(c.model, c.image, c.label)
    np.testing.assert_array_equal(told.by_range.ravel(), [True] * 4 + [False] * 2)
    assert (told.fixed | told.fixed_in_region)[told.by_range].all()
    assert told.ambiguous.ravel()[4:].all()
    assert "given the valid range" in told.verdict((0, 0, 0))
    assert "4 of these given the valid range" in repr(told)
    told.save(tmp_path)
    came = strict(tmp_path / "certificate.json")
    assert came["fixed_given_the_range"] == 4
    assert any("equations alone leave them open" in text for text in came["assumptions"])
    np.testing.assert_array_equal(ca.load(tmp_path / "certificate.npz")["by_range"], told.by_range)
    axes = told.plot(list(Figure(figsize=(15, 3)).subplots(1, 5)))
    assert "crossed: 4 given the range" in axes[1].get_title()
    crosses = axes[1].images[-1].get_array()[..., 3] > 0
    left, _, right = np.split(crosses, 3, axis=1)
    assert left.mean() > 0.1
    assert not right[:, 10:].any()


def test_a_value_inside_the_range_leaves_its_neighbour_open_and_nothing_rests_on_the_range() -> None:
    c = bright([1.0, 0.75, 0.25, 0.5, 0.125, 0.25])
    found = ca.indistinguishable(c.network, c.parameters, c.image, c.label)
    assert not found.fixed_by_range.any()
    told = ca.certify(c.model, c.image, c.label)
    assert not told.by_range.any()
    assert told.to_dict()["fixed_given_the_range"] == 0


def test_what_is_fixed_by_range_has_no_width_by_linear_programming() -> None:
    """Over random networks whose image lies at the bounds for the most part; HiGHS on the set's own rows."""
    fixed = 0
    for seed in range(12):
        c = random_case(seed)
        rng = np.random.default_rng(seed)
        image = np.where(rng.random(c.image.shape) < 0.8, np.round(c.image), c.image)
        found = ca.indistinguishable(c.network, c.parameters, image, c.label)
        P = found.polytope
        held = found.fixed_by_range.ravel()
        fixed += held.sum()
        for j in np.flatnonzero(held)[:3]:
            for sign in (1.0, -1.0):
                objective = np.zeros(image.size)
                objective[j] = sign
                best = linprog(
                    objective,
                    A_ub=P.cut,
                    b_ub=P.slack + 1e-9,
                    A_eq=P.null.matrix,
                    b_eq=np.zeros(P.null.matrix.shape[0]),
                    bounds=list(zip(P.lower, P.upper, strict=True)),
                    method="highs",
                )
                assert abs(best.fun) < 1e-6, (seed, j)
    assert fixed > 10
