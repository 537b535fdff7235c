"""What shapes decide where normalisations take the data's own statistics, against Jacobians by autograd."""

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra.networks.network import bind
from constraint_algebra.numerics.modular import PRIME, residues
from constraint_algebra.ranks.modular_statistics import ROOTLESS, ModularStatistics, root
from constraint_algebra.theory.activity import settled
from constraint_algebra.theory.graph_feasibility import drawn_network, graph_whole_map
from constraint_algebra.theory.graph_moving import shared_statistics
from constraint_algebra.theory.graph_recursion import recursion
from tests.theory.normalised_graphs import BRANCHED, jacobian, judged

# Seed, eps, and whether buffers are shared: what is known inside moves nowhere, a factor is open up to eps, and the
# recursion comes to its end by equations that are linear, and in a neighbourhood.
CASES = [(0, 0.0, False), (3, 0.3, True), (9, 0.3, False), (12, 0.0, True), (13, 0.0, False), (29, 0.0, True)]
SLOW = [
    pytest.param(seed, eps, buffers, marks=pytest.mark.slow)
    for seed in range(15, 65)
    for eps, buffers in ((0.0, bool(seed % 2)), (0.3, not seed % 2))
]


@pytest.mark.parametrize(("seed", "eps", "buffers"), [*CASES, *SLOW])
def test_the_limit_is_the_rank_of_the_jacobian_and_what_is_known_does_not_move_along_its_kernel(
    seed, eps, buffers
) -> None:
    case, x, rank, determined = judged(seed, eps, buffers=buffers)
    activity = settled(case.network, ca.activity_of(case.network, case.arrays(), x, sides=True))
    shared = [layer.name for layer in shared_statistics(case.network)] if buffers else []
    limit = graph_whole_map(case.network, activity, seed, shared)
    assert limit.rank + (limit.by_eps if eps else 0) == rank
    if not (eps and limit.by_eps):
        np.testing.assert_array_equal(limit.determined.ravel(), determined)
    assert not limit.linear
    state = recursion(drawn_network(case.network, activity, seed), shared)
    assert not (state.values[0] & ~limit.determined).any()
    null = np.linalg.svd(jacobian(case, x, buffers=buffers))[2][rank:]
    parameters = bind(case.network, case.arrays(), "parameters")
    step = 1e-6 * null[: min(len(null), 3)].sum(axis=0).reshape(x.shape)
    ahead, behind = (case.network.forward(parameters, x + sign * step) for sign in (1, -1))
    for known, one, other in zip(state.values, ahead, behind, strict=True):
        assert np.abs(one - other)[known].max(initial=0) < 2e-12


@pytest.mark.parametrize(
    ("seed", "activation"),
    [
        *((n, name) for n, name in enumerate(BRANCHED, start=100)),
        *(pytest.param(n, name, marks=pytest.mark.slow) for n in range(110, 114) for name in BRANCHED),
    ],
)
def test_with_the_branches_of_activations_known_the_limit_is_the_rank_of_the_jacobian(seed, activation) -> None:
    case, x, rank, determined = judged(seed, 0.0, buffers=False, activation=activation)
    given = ca.activity_of(case.network, case.arrays(), x, sides=True)
    limit = ca.whole_map(case.network, activity=given)
    assert limit.rank == rank
    np.testing.assert_array_equal(limit.determined.ravel(), determined)
    assert f"with the branches of {activation.partition(' ')[0]} known" in limit.pattern


def test_a_residue_has_a_root_or_the_residue_times_the_one_without_does() -> None:
    values = residues(1000, np.random.default_rng(0))
    squares = root(values) ** 2 % PRIME
    has_one = np.array([pow(int(v), (PRIME - 1) // 2, PRIME) == 1 for v in values])
    np.testing.assert_array_equal(squares, np.where(has_one, values, ROOTLESS * values % PRIME))


@pytest.mark.parametrize("centred", [True, False])
def test_over_residues_what_scales_or_moves_a_group_leaves_no_trace_and_gradients_follow_as_differences_say(
    centred,
) -> None:
    rng = np.random.default_rng(1)
    x, k = residues((2, 3, 2), rng), residues((2, 3, 2), rng)
    operation = ca.OwnStatistics(2, centred=centred)
    own = ModularStatistics.of(operation, x.astype(np.float32), 0.0)
    trivial = np.stack([x, np.ones_like(x)], axis=-1)
    np.testing.assert_array_equal(own.through(trivial).any(axis=(0, 1, 2)), [False, not centred])
    # Scaled by t, x gives gradients that are scaled by 1 / t: their movement along x is their own negative.
    np.testing.assert_array_equal(own.bend(k, x[..., None]), -own.through(k[..., None]) % PRIME)
    # The second derivative is symmetric: <d, bend(k, e)> = <e, bend(k, d)>.
    d, e = residues((2, 3, 2, 1), rng), residues((2, 3, 2, 1), rng)
    products = [(a * own.bend(k, b) % PRIME).sum() % PRIME for a, b in ((d, e), (e, d))]
    assert products[0] == products[1]


def norm_net(norm, *, width=32, activation=None, size=6, bias=False, filters=8):
    act = activation or ca.ReLU()
    convs = [ca.Conv2d(filters, 3, padding=1, bias=bias), ca.Conv2d(width, 3, stride=2, padding=1, bias=bias)]
    return ca.Network((3, size, size), [convs[0], norm, act, convs[1], norm, act, ca.Flatten(), ca.Linear(10)])


def test_buffers_decide_where_weight_rows_alone_do_not_suffice() -> None:
    net = norm_net(ca.BatchNorm(training=True))
    report = ca.feasibility(net, activity=0.5, buffers=True)
    assert report.verdict == "determined nearby"
    assert report.conclusion.startswith("Determined in a neighbourhood, to first order: the gradient determines every")
    assert "2 normalisations take the data's own statistics" in report.assumptions[2]
    assert "the client's buffers after the step give those of 2 away" in report.assumptions[2]
    poor = ca.feasibility(net, activity=0.5)
    assert poor.verdict == "undetermined nearby"
    assert (poor.limit.nullity, poor.limit.by_eps) == (1, 1)
    assert "one dimension of what is open the eps of normalisations would fix" in poor.conclusion
    assert (
        "would give (buffers=True) the inputs of 4 layers that are open without: '0', '1', '3', '4'" in poor.conclusion
    )
    assert report.on_buffers.startswith("The client's buffers after the step give the inputs of 4 layers")


@pytest.mark.parametrize("norm", [ca.GroupNorm(2), ca.LayerNorm(3)], ids=repr)
def test_statistics_that_nobody_shares_are_solved_for_as_well_up_to_the_factor_that_a_bias_fixes(norm) -> None:
    # Where every x̂ is known the equations are linear in values, means and scales together: they hold everywhere.
    size = {"activation": ca.LeakyReLU(0.2), "filters": 4, "width": 24, "size": 4}
    with_bias = ca.feasibility(norm_net(norm, bias=True, **size))
    assert with_bias.verdict == "determined"
    assert with_bias.on_buffers == ""  # there are none to share
    without = ca.feasibility(norm_net(norm, bias=False, **size))
    assert without.verdict == "undetermined nearby"
    assert (without.limit.nullity, without.limit.by_eps) == (1, 1)
    assert any("one factor of all its values is open" in row.reason for row in without.layers)


def test_in_evaluation_mode_nothing_moves_and_both_modes_are_told_apart() -> None:
    layers = [ca.Conv2d(16, 3, padding=1), ca.BatchNorm(), ca.ReLU(), ca.GroupNorm(4), ca.Flatten(), ca.Linear(4)]
    report = ca.feasibility(ca.Network((1, 6, 6), layers))
    assert (
        "1 normalisations take the data's own statistics, their eps taken as zero, 1 take known ones"
        in (report.assumptions[2])
    )
    assert "own statistics" not in " ".join(
        ca.feasibility(ca.Network((1, 6, 6), [*layers[:3], *layers[4:]])).assumptions
    )


def averaged(*, below, bias):
    """Two convolutions with batch norm in training mode, the second as wide as it has positions, below an average."""
    norms = [ca.BatchNorm(training=True, bias=bias), ca.BatchNorm(training=True)]
    layers = [ca.Conv2d(14, 3, padding=1, bias=False), norms[0], below, ca.Conv2d(14, 3, padding=1, bias=False)]
    return ca.Network((1, 3, 3), [*layers, norms[1], ca.ReLU(), ca.AdaptiveAvgPool2d(1), ca.Flatten(), ca.Linear(4)])


@pytest.mark.parametrize(
    ("net", "shared", "by"),
    [
        (averaged(below=ca.ReLU(), bias=True), False, "the bias gradient of layer '1'"),
        (averaged(below=ca.ReLU(), bias=False), True, "the statistics of layer '4.normalised'"),
        (averaged(below=ca.Tanh(), bias=True), True, "the statistics of layer '4.normalised'"),
        (averaged(below=ca.ReLU(), bias=False), False, None),
    ],
)
def test_below_a_normalisation_of_each_channel_a_blind_start_is_made_whose_factor_comes_from_below_or_from_buffers(
    net, shared, by
) -> None:
    names = [layer.name for layer in shared_statistics(net)] if shared else []
    drawn = drawn_network(net, settled(net, 0.6), 1)
    k = drawn.gradient(net.named("3"))
    assert not (k.sum(axis=1) % PRIME).any()  # each filter's k sums to zero: there is one column less
    state = recursion(drawn, names)
    reasons = [reason for reason in state.gradient_reasons.get(net.named("3").number, {}) if "blind start" in reason]
    if by is None:
        assert not reasons
        assert "up to one factor that stays open" in state.stops[net.named("3").inputs[0]]
    else:
        assert reasons == [f"by the weight gradient of layer '3' alone (blind start), its factor by {by}"]


def test_a_normalisation_of_the_input_itself_is_named() -> None:
    network = ca.Network((2, 5, 5), [ca.GroupNorm(1), ca.Conv2d(24, 3, padding=1), ca.Flatten(), ca.Linear(10)])
    found = ca.feasibility(network)
    assert not found.determined.any()
    assert found.conclusion.startswith(
        "Not determined: the statistics that a normalisation before the first layer takes away are a part of every"
    )
