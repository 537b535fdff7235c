"""Bounds of the generic rank against exact arithmetic on small layers, and where they meet on large ones."""

import numpy as np
import pytest
import scipy.sparse as sp

import constraint_algebra as ca
from constraint_algebra.ranks.structural import layer_structural_rank
from tests.rank_oracles import exact_rank, exactly_determined, random_layers, random_rows
from tests.ranks.test_generic import TABLE, conv

SMALL = {1: 9, 2: 4, 3: 3}


def cases(count, seed, groups=(1, 1, 1, 2)):
    """Random layers, fully and partly known, with their rows at random integers."""
    rng = np.random.default_rng(seed)
    for number, layer in enumerate(random_layers(count, seed=seed, largest=SMALL, groups=groups)):
        share = [1.0, 1.0, 0.9, 0.6, 0.3][number % 5]
        active, output, gradient, support = rng.random((4, *layer.output_shape)) < share
        gradient |= number % 2 == 0
        known = ca.Knowledge.of(layer, active=active, output=output, gradient=gradient, support=support)
        rows = random_rows(layer, rng, weight_mask=known.output, gradient_mask=gradient, support=known.support)
        yield layer, known, rows


@pytest.mark.slow
def test_bounds_without_elimination_hold_and_mostly_meet() -> None:
    met = settled = partly = 0
    for layer, known, rows in cases(250, seed=11):
        A = np.concatenate(rows)
        exact = exact_rank(A)
        found = ca.bounded_rank(layer, knowledge=known, limit=-1)
        assert found.low <= exact <= found.high, layer
        met += found.low == found.high
        if found.determined is not None:
            determined = exactly_determined(A)
            np.testing.assert_array_equal(found.determined.ravel(), determined, err_msg=str(layer))
            settled += 1
            partly += 0 < determined.sum() < layer.unknowns
    assert met > 170
    assert settled > 120
    assert partly > 10


def test_with_elimination_every_small_layer_is_exact() -> None:
    rng = np.random.default_rng(0)
    for layer, known, rows in cases(120, seed=12):
        kinds = [["weight"], ["gradient"], ["weight", "gradient"]][rng.integers(3)]
        A = np.concatenate([part for part, kind in zip(rows, ("weight", "gradient"), strict=True) if kind in kinds])
        found = ca.bounded_rank(layer, knowledge=known, kinds=kinds)
        assert found.rank == exact_rank(A), (layer, kinds)
        np.testing.assert_array_equal(found.determined.ravel(), exactly_determined(A))
        assert found.weight_rows + found.gradient_rows == np.any(A != 0, axis=1).sum() + _rows_in_padding(rows, kinds)
        if "gradient" in kinds:
            assert found.gradient_rank == found.gradient_high == exact_rank(rows[1])
            assert sum(found.short) == layer.unknowns - found.gradient_rank


def _rows_in_padding(rows, kinds) -> int:
    """Weight rows of outputs that see nothing but padding: known, and empty."""
    return int((~np.any(rows[0] != 0, axis=1)).sum()) if "weight" in kinds else 0


@pytest.mark.parametrize(("layer", "rank"), [(row[0], row[4]) for row in TABLE.values()], ids=TABLE)
def test_published_layers_need_no_elimination(layer, rank) -> None:
    assert ca.bounded_rank(layer, limit=-1).rank == rank


@pytest.mark.parametrize(
    ("layer", "rank", "determined"),
    [
        (conv(64, 64, 112, 3, padding=1), 64 * 112**2, 64 * 112**2),
        # A stride of 2 reads a quarter of the pixels; each filter shares one dimension with each other.
        (conv(64, 64, 112, 2, stride=2), 64 * 56**2 + 64 * 64 * 4 - 64**2, 0),
        # The class of four taps has 4 * 256 equations for 28² pixels.
        (conv(256, 256, 56, 3, stride=2, padding=1), 256 * (28**2 + 28**2 + 2 * 512 + 256) - 256**2, 256 * 28**2),
        # Two channels share each filter, which then sees both through different taps.
        (conv(128, 64, 32, 3, padding=1), 128 * 32**2, 128 * 32**2),
    ],
    ids=["same", "pooling", "overlapping pooling", "fewer filters than channels"],
)
def test_layers_too_large_to_eliminate(layer, rank, determined) -> None:
    found = ca.bounded_rank(layer)
    assert found.rank == rank
    assert int(found.determined.sum()) == determined


def test_half_of_the_outputs_active_leaves_one_dependence_a_filter_in_a_large_layer() -> None:
    layer = conv(8, 8, 60, 3, padding=1)
    active = np.random.default_rng(0).random(layer.output_shape) < 0.5
    found = ca.bounded_rank(layer, knowledge=ca.Knowledge.of(layer, active=active))
    assert found.rank == active.sum() + 8 * 72 - 8
    assert not found.determined.any()


def test_where_the_bounds_do_not_meet_nothing_is_settled() -> None:
    layer = ca.Conv2d(2, 3).place((1, 60, 60))  # weight equations alone lack what polynomials in common take away
    found = ca.bounded_rank(layer, kinds=["weight"], limit=0)
    assert found.low < found.high
    assert found.rank is None
    assert found.determined is None


def test_groups_alike_are_solved_once_and_the_others_by_themselves() -> None:
    layer = conv(6, 6, 8, 3, padding=1)
    grouped = ca.Conv2d(6, 3, padding=1, groups=3).place((6, 8, 8))
    active = np.random.default_rng(3).random(grouped.output_shape) < 0.4
    found = ca.bounded_rank(grouped, knowledge=ca.Knowledge.of(grouped, active=active))
    exact = ca.generic_rank(grouped, active=active)
    assert (found.rank, found.unknowns) == (exact.rank, layer.unknowns)
    np.testing.assert_array_equal(found.determined, exact.determined)


def test_structural_rank_is_that_of_the_explicit_system() -> None:
    settled = unsettled = 0
    for layer, known, (weight, gradient) in cases(150, seed=13):
        A = np.concatenate([weight, gradient])
        explicit = ca.structural_rank(sp.csr_array(A != 0))
        assert layer_structural_rank(layer, known) == explicit, layer
        assert layer_structural_rank(layer, known, generic_low=exact_rank(A), edges=0) in {None, explicit}
        thinned = layer_structural_rank(layer, known, edges=np.count_nonzero(A) - 1)  # one too few for the graph
        assert thinned in {None, explicit}
        settled += thinned is not None
        unsettled += thinned is None
    assert min(settled, unsettled) > 20


def test_structural_rank_of_a_layer_too_large_for_its_graph() -> None:
    layer = conv(64, 64, 112, 2, stride=2)
    rows = 64 * 56**2 + 64 * 64 * 4
    assert layer_structural_rank(layer) == rows  # the pattern does not see the 64² dependences
