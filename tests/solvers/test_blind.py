"""The blind start against automatic differentiation: what it finds is the truth, and else it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import constraint_algebra as ca
from constraint_algebra.solvers import blind, blind_search
from constraint_algebra.solvers.bilinear_fit import Normal, Shifts
from constraint_algebra.solvers.blind_shapes import free_directions

CONVOLUTION = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}


def torch_output(layer, weight, x):
    """PyTorch's own output of a convolution or linear layer, without a bias."""
    if isinstance(layer.layer, ca.Linear):
        return torch.nn.functional.linear(x[None], weight)[0]
    conv = layer.layer
    padded = torch.nn.functional.pad(x[None], [p for side in reversed(conv.paddings) for p in side])
    return CONVOLUTION[conv.axes](padded, weight, None, conv.strides, 0, conv.dilations, conv.groups)[0]


def torch_weight_gradient(layer, k, h):
    """dL/dW where k arrives at the output and h at the input."""
    h, k = (torch.as_tensor(values) for values in (h, k))
    weight = torch.zeros(layer.weight_shape, dtype=h.dtype, requires_grad=True)
    torch_output(layer, weight, h).backward(k)
    return weight.grad.numpy()


def sides(layer, seed, *, masked=False):
    """Random k and h; masked as behind a global average pool and ReLUs: a constant for each filter, or zero."""
    random = np.random.default_rng(seed)
    k, h = random.normal(size=layer.output_shape), random.normal(size=layer.input_shape)
    if masked:
        per_filter = random.normal(size=(layer.filters, *(1,) * len(layer.outputs)))
        k, h = per_filter * (random.random(layer.output_shape) < 0.5), np.maximum(h, 0)
    return k, h


def in_gauge(layer, k, h):
    """The same k and h scaled as the blind start scales them: equal norms in each group, h with a positive sum."""
    G = layer.groups
    k, h = k.reshape(G, -1), h.reshape(G, -1)
    c = np.sqrt(np.linalg.norm(h, axis=1) / np.linalg.norm(k, axis=1)) * np.sign(h.sum(axis=1))
    return (k * c[:, None]).reshape(layer.output_shape), (h / c[:, None]).reshape(layer.input_shape)


def furthest(layer, found, k, h):
    """The largest error of k and h up to their factors, relative to the largest of each."""
    pairs = zip((found.output_gradient, found.input), in_gauge(layer, k, h), strict=True)
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs)


def placed(kind, filters, kernel, shape, **options):
    return kind(filters, kernel, **options).place(shape)


LAYERS = {
    "4x4": placed(ca.Conv2d, 24, 3, (20, 4, 4), padding=1),
    "as many filters and channels as outputs": placed(ca.Conv2d, 16, 3, (16, 4, 4), padding=1),
    "8x8": placed(ca.Conv2d, 72, 3, (66, 8, 8), padding=1),
    "even kernel": placed(ca.Conv2d, 20, 4, (18, 4, 3), padding="same"),
    "unequal padding": placed(ca.Conv2d, 20, 4, (18, 4, 4), padding=((2, 1), (1, 2))),
    "wide kernel": placed(ca.Conv2d, 20, 7, (18, 3, 3), padding=3),
    "groups": placed(ca.Conv2d, 30, 3, (24, 3, 3), padding=1, groups=2),
    "one axis": placed(ca.Conv1d, 20, 3, (24, 16), padding=1),
    "three axes": placed(ca.Conv3d, 30, 3, (28, 3, 2, 3), padding=1),
    "one row": placed(ca.Conv2d, 9, (3, 1), (8, 6, 1), padding=(1, 0)),
    "one position": placed(ca.Conv2d, 5, 3, (6, 1, 1), padding=1),
    "stride 2, five taps": placed(ca.Conv2d, 20, 5, (18, 8, 8), padding=2, stride=2),
    "linear": ca.Linear(4).place((7,)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("masked", [False, True])
def test_input_and_output_gradient_come_back_up_to_one_factor(name, masked) -> None:
    layer = LAYERS[name]
    k, h = sides(layer, 3, masked=masked)
    dW = torch_weight_gradient(layer, k, h)
    assert blind.applies(layer)
    found = blind.attempt(layer, dW)
    if isinstance(found, blind.Refused):  # masks of a seed may cost a square matrix its rank
        G = layer.groups
        ranks = [np.linalg.matrix_rank(part) for part in k.reshape(G, layer.filters // G, -1)]
        assert masked
        assert min(ranks) < np.prod(layer.outputs)
    else:
        assert furthest(layer, found, k, h) < 1e-12
        assert found.misfit < 4


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "off"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_sixteen_by_sixteen_positions(dtype, off) -> None:
    layer = placed(ca.Conv2d, 256, 3, (256, 16, 16), padding=1)
    k, h = (side.astype(dtype) for side in sides(layer, 0, masked=True))
    dW = torch_weight_gradient(layer, k, h).astype(float)
    eps = np.finfo(dtype).eps
    found = blind.factor(layer, dW, 0.3 * eps * np.abs(dW), arithmetic=2.4 * eps)
    assert furthest(layer, found, k.astype(float), h.astype(float)) < off


# Free directions: counted on shapes, against the null space of autograd's Jacobian in k and h.
OPEN = {
    "one factor": (placed(ca.Conv2d, 9, 3, (9, 3, 3), padding=1), 1),
    "stride 2 on 2x2 outputs": (placed(ca.Conv2d, 6, 3, (17, 4, 4), padding=1, stride=2), 4),
    "stride 2 on 3x3 outputs": (placed(ca.Conv1d, 6, 3, (9, 6), padding=1, stride=2), 3),
    "a single tap": (placed(ca.Conv2d, 6, 1, (6, 2, 2)), 16),
    "two taps": (placed(ca.Conv1d, 6, 2, (6, 5), padding=((0, 1),)), 5),
    "padding on one side": (placed(ca.Conv1d, 6, 3, (6, 4), padding=((2, 0),)), 4),
    "dilation, classes of 3 and 2": (placed(ca.Conv1d, 6, 3, (6, 5), padding=2, dilation=2), 2),
    "dilation, classes of 2 and 2": (placed(ca.Conv1d, 6, 3, (6, 4), padding=2, dilation=2), 4),
    "stride 2, five taps": (placed(ca.Conv1d, 6, 5, (9, 8), padding=2, stride=2), 1),
    "no padding": (placed(ca.Conv1d, 6, 3, (6, 6)), 1),
}


def torch_jacobian(layer, k, h):
    k, h = torch.tensor(k), torch.tensor(h)
    one = torch.zeros(layer.weight_shape, dtype=torch.float64, requires_grad=True)

    def gradient(k, h):
        return torch.autograd.grad((torch_output(layer, one, h) * k).sum(), one, create_graph=True)[0]

    parts = torch.autograd.functional.jacobian(gradient, (k, h))
    size = int(np.prod(layer.weight_shape))
    return np.hstack([part.numpy().reshape(size, -1) for part in parts])


@pytest.mark.parametrize("name", OPEN)
def test_free_directions_are_those_of_the_jacobian(name) -> None:
    layer, free = OPEN[name]
    J = torch_jacobian(layer, *sides(layer, 1))
    assert free_directions(layer) == free == J.shape[1] - np.linalg.matrix_rank(J, rtol=1e-10)


def test_positions_that_no_tap_meets_are_no_movement_of_the_others() -> None:
    layer = placed(ca.Conv1d, 6, 3, (6, 8), padding=2, stride=2, dilation=2)
    J = torch_jacobian(layer, *sides(layer, 1))
    met = J.any(axis=0)
    assert met.sum() == 6 * 4 + 6 * 4
    assert free_directions(layer) == 1 == met.sum() - np.linalg.matrix_rank(J, rtol=1e-10)


def test_what_no_shape_allows_is_said() -> None:
    said = {name: blind.obstacle(layer) for name, (layer, _) in OPEN.items()}
    assert "leave 4 directions" in said["stride 2 on 2x2 outputs"]
    assert "leave 16 directions" in said["a single tap"]
    assert "no tap shows every output" in said["no padding"]
    few = blind.obstacle(placed(ca.Conv2d, 8, 3, (32, 4, 4), padding=1))
    assert few == "its 8 filters are fewer than its 16 outputs: k has no full rank in space"
    grouped = placed(ca.Conv2d, 64, 3, (32, 4, 4), padding=1, groups=4)
    assert "8 channels of a group" in blind.obstacle(grouped)
    assert "no tap meets 4" in blind.obstacle(placed(ca.Conv1d, 9, 3, (9, 8), padding=2, stride=2, dilation=2))
    for layer in (grouped, *(layer for layer, free in OPEN.values() if free > 1)):
        assert not blind.applies(layer)
        assert blind.factor(layer, np.ones(layer.weight_shape)) is None
    large = placed(ca.Conv2d, 64, 3, (64, 224, 224), padding=1)
    assert "fewer than its 50,176 outputs" in blind.obstacle(large)


@pytest.mark.parametrize("seed", [0, 1])
def test_lower_ranks_and_several_samples_are_refused(seed) -> None:
    layer = LAYERS["4x4"]
    k, h = sides(layer, seed)
    other = sides(layer, seed + 100)
    random = np.random.default_rng(seed)
    flat = k.reshape(24, 16)
    flat[:, 5] = flat[:, :5] @ random.normal(size=5)
    assert "rank of 15" in blind.attempt(layer, torch_weight_gradient(layer, flat.reshape(k.shape), h)).reason
    dead = h.copy()
    dead[:, 0, 0] = 0  # a corner that no channel lights
    assert "rank of 15" in blind.attempt(layer, torch_weight_gradient(layer, other[0], dead)).reason
    both = torch_weight_gradient(layer, *other) + torch_weight_gradient(layer, other[0] + 1, h)
    assert "rank is above 16" in blind.attempt(layer, both).reason
    square = LAYERS["as many filters and channels as outputs"]  # no rank is left that could show several samples
    both = sum(torch_weight_gradient(square, *sides(square, seed + i)) for i in (0, 50))
    assert "explain all taps" in blind.attempt(square, both).reason
    assert "zero" in blind.attempt(layer, np.zeros(layer.weight_shape)).reason
    noise = random.normal(size=layer.weight_shape)
    assert blind.factor(layer, noise, np.full(layer.weight_shape, 1e-3)) is None
    assert blind.factor(layer, noise, np.ones(layer.weight_shape)) is None


@pytest.mark.parametrize("level", [1e-8, 1e-4, 1e-2, 0.3])
def test_under_any_noise_what_is_found_is_right_to_its_error_bars(level) -> None:
    layer = LAYERS["as many filters and channels as outputs"]
    found = 0
    for seed in range(6):
        k, h = sides(layer, seed)
        dW = torch_weight_gradient(layer, k, h)
        deviations = np.full(dW.shape, level * np.sqrt((dW**2).mean()))
        random = np.random.default_rng(seed)
        factored = blind.factor(layer, dW + deviations * random.normal(size=dW.shape), deviations)
        if factored is None:
            continue
        found += 1
        draws = factored.deviations[..., None] * random.choice([-1.0, 1.0], (*dW.shape, 12))
        for side, truth, moves in zip(
            (factored.output_gradient, factored.input),
            in_gauge(layer, k, h),
            blind.moved(factored, draws),
            strict=True,
        ):
            bars = np.sqrt((moves**2).mean(axis=-1))
            assert (np.abs(side - truth) < 6 * bars).mean() > 0.99
    assert found >= (5 if level <= 1e-4 else 0)
    assert found == 0 or level < 0.3


def test_movements_are_the_derivative_of_the_factors() -> None:
    layer = LAYERS["groups"]
    k, h = sides(layer, 0)
    dW, random = torch_weight_gradient(layer, k, h), np.random.default_rng(0)
    step = 1e-6 * random.normal(size=dW.shape)
    # Both factorisations weigh the taps alike: the same noise is stated for each.
    noise = np.full(dW.shape, 1e-6)
    before, after = (blind.factor(layer, values, noise) for values in (dW, dW + step))
    moves = blind.moved(before, step[..., None])
    changes = after.output_gradient - before.output_gradient, after.input - before.input
    for move, change in zip(moves, changes, strict=True):
        assert np.abs(move[..., 0] - change).max() < 0.02 * np.abs(change).max()


def test_float32_error_bars() -> None:
    scores = []
    for seed in range(5):
        layer = LAYERS["4x4"]
        k, h = (side.astype(np.float32) for side in sides(layer, seed, masked=True))
        dW = torch_weight_gradient(layer, k, h)
        assert dW.dtype == np.float32
        dW, eps = dW.astype(float), 2.0**-23
        found = blind.factor(layer, dW, 0.3 * eps * np.abs(dW), arithmetic=1.2 * eps)
        random = np.random.default_rng(seed)
        draws = found.deviations[..., None] * random.choice([-1.0, 1.0], (*dW.shape, 12))
        truths = in_gauge(layer, k.astype(float), h.astype(float))
        for side, truth, moves in zip(
            (found.output_gradient, found.input), truths, blind.moved(found, draws), strict=True
        ):
            assert np.abs(side - truth).max() < 1e-6 * np.abs(truth).max()
            scores.append((np.abs(side - truth) / (1.045 * np.sqrt((moves**2).mean(axis=-1)))).ravel())
    scores = np.concatenate(scores)
    assert 0.6 < (scores < 1).mean() < 0.9
    assert (scores < 4).mean() > 0.995


def test_a_bias_gives_the_factor_and_a_batch_norm_above_as_well() -> None:
    layer = LAYERS["groups"]
    k, h = sides(layer, 2)
    found = blind.factor(layer, torch_weight_gradient(layer, k, h))
    random = np.random.default_rng(0)
    draws = found.deviations[..., None] * random.choice([-1.0, 1.0], (*layer.weight_shape, 12))
    moves = blind.moved(found, draws)
    draw = lambda deviation, shape: deviation[..., None] * random.choice([-1.0, 1.0], (*shape, 12))  # noqa: E731
    times = random.normal(size=layer.filters)
    for multiple, above in ((None, 1.0), (times, times)):
        db = k.sum(axis=(1, 2)) / above
        scale = blind.scale_from_bias(found, db, moved_k=moves[0], draw=draw, multiple=multiple)
        values = blind.scaled(found, scale, moves)
        for side, truth, by in zip(values[:2], (k, h), values[2:], strict=True):
            assert np.abs(side - truth).max() < 1e-12 * np.abs(truth).max()
            assert (np.abs(side - truth) < 30 * np.sqrt((by**2).mean(axis=-1))).all()
            assert np.sqrt((by**2).mean()) < 1e-12


def test_the_factor_moves_k_and_h_as_its_derivative() -> None:
    layer = LAYERS["groups"]
    found = blind.factor(layer, torch_weight_gradient(layer, *sides(layer, 2)))
    still = np.zeros((*layer.output_shape, 1)), np.zeros((*layer.input_shape, 1))
    c, change = np.array([2.0, -0.5]), np.array([1e-6, 3e-6])
    k, h, moved_k, moved_h = blind.scaled(found, blind.Scale(c, change[:, None]), still)
    after = blind.scaled(found, blind.Scale(c + change, change[:, None]), still)
    assert np.abs(moved_k[..., 0] - (after[0] - k)).max() < 1e-5 * np.abs(after[0] - k).max()
    assert np.abs(moved_h[..., 0] - (after[1] - h)).max() < 1e-4 * np.abs(after[1] - h).max()


def test_what_no_equation_sees_does_not_move() -> None:
    # One output is solved after two steps: what is left then is the common factor, and rounding.
    shifts = Shifts.of(LAYERS["one position"])
    for seed in range(200):
        random = np.random.default_rng(seed)
        K, H = random.normal(size=(5, 1)), random.normal(size=(6, 1))
        g = shifts.adjoint(1e-7 * random.normal(size=(9, 5, 6)), K, H)
        moved, _ = Normal(shifts, K, H).solve((g[0][None], g[1][None]))
        assert max(np.abs(side).max() for side in moved) < 1e-6


def test_noise_of_the_bias_gradient_moves_the_factor() -> None:
    layer = LAYERS["4x4"]
    k, h = sides(layer, 2)
    found = blind.factor(layer, torch_weight_gradient(layer, k, h))
    exact = blind.scale_from_bias(found, k.sum(axis=(1, 2))).values[0]
    scores = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        draw = lambda deviation, shape, r=random: deviation[..., None] * r.choice([-1.0, 1.0], (*shape, 12))  # noqa: E731
        deviations = np.full(layer.filters, 1e-3)
        db = k.sum(axis=(1, 2)) + 1e-3 * random.normal(size=layer.filters)
        scale = blind.scale_from_bias(found, db, deviations, draw=draw)
        scores.append(abs(scale.values[0] - exact) / np.sqrt((scale.moved[0] ** 2).mean()))
    assert 0.45 < np.mean(np.array(scores) < 1) < 0.9
    assert max(scores) < 5


def test_a_bias_that_says_nothing_or_another_thing_gives_no_factor() -> None:
    layer = LAYERS["4x4"]
    k, h = sides(layer, 2)
    db = k.sum(axis=(1, 2))
    found = blind.factor(layer, torch_weight_gradient(layer, k, h))
    assert blind.scale_from_bias(found, db) is not None
    assert blind.scale_from_bias(found, np.random.default_rng(0).normal(size=layer.filters)) is None
    assert blind.scale_from_bias(found, np.zeros(layer.filters)) is None
    assert blind.scale_from_bias(found, db, np.full(layer.filters, 1e3)) is None
    centred = k - k.mean(axis=(1, 2), keepdims=True)  # as below a normalisation by the data's own statistics
    assert "rank of 15" in blind.attempt(layer, torch_weight_gradient(layer, centred, h)).reason
    small = SMALL[0]  # where a search finds k all the same
    k, h = sides(small, 0)
    k -= k.mean(axis=(1, 2), keepdims=True)
    factored = blind_search.search(small, torch_weight_gradient(small, k, h))
    assert blind.scale_from_bias(factored, k.sum(axis=(1, 2))) is None
    one = LAYERS["one position"]
    k, h = sides(one, 0)
    factored = blind.factor(one, torch_weight_gradient(one, k, h))
    assert blind.scale_from_bias(factored, np.zeros(5)) is None


@pytest.mark.parametrize(
    ("layer", "unique"),
    [
        (placed(ca.Conv2d, 4, 3, (4, 3, 3), padding=1), True),
        (placed(ca.Conv2d, 4, 3, (3, 3, 3)), True),
        (placed(ca.Conv2d, 2, 3, (2, 3, 3), padding=1), True),
        (placed(ca.Conv2d, 2, 3, (1, 3, 3), padding=1), False),
        (placed(ca.Conv2d, 9, 3, (5, 4, 4), padding=1, stride=2), False),
        (placed(ca.Conv1d, 8, 3, (6, 5), padding=1, groups=2), True),
    ],
)
def test_local_rank_is_that_of_the_jacobian(layer, unique) -> None:
    k, h = sides(layer, 1)
    J = torch_jacobian(layer, k, h)
    found = blind_search.local_rank(layer, k, h)
    assert (found.unknowns, found.rank) == (J.shape[1], np.linalg.matrix_rank(J, rtol=1e-10))
    assert found.unique == unique


SMALL = [
    placed(ca.Conv2d, 4, 3, (4, 3, 3), padding=1),
    placed(ca.Conv2d, 4, 3, (8, 3, 3), padding=1),
    placed(ca.Conv2d, 3, 3, (4, 2, 2), padding=1),
    placed(ca.Conv2d, 4, 3, (4, 4, 4)),
]


@pytest.mark.parametrize("layer", SMALL)
def test_a_search_finds_what_is_unique_nearby(layer) -> None:
    for seed in range(2):
        k, h = sides(layer, seed)
        found = blind_search.search(layer, torch_weight_gradient(layer, k, h), seed=seed)
        assert isinstance(found, blind.Factored)
        assert furthest(layer, found, k, h) < 1e-10
    assert blind.factor(layer, torch_weight_gradient(layer, k, h)) is None


def test_a_search_refuses_what_is_not_unique_or_too_large() -> None:
    two = SMALL[0]
    sample = [torch_weight_gradient(two, *sides(two, seed)) for seed in (0, 1)]
    assert isinstance(blind_search.search(two, sum(sample), starts=4), blind.Refused)
    few = placed(ca.Conv2d, 2, 3, (1, 3, 3), padding=1)
    assert "too few" in blind_search.search(few, torch_weight_gradient(few, *sides(few, 0))).reason
    strided = OPEN["stride 2 on 2x2 outputs"][0]
    assert "leave 4" in blind_search.search(strided, torch_weight_gradient(strided, *sides(strided, 0))).reason
    assert "too many" in blind_search.search(LAYERS["8x8"], np.ones((72, 66, 3, 3))).reason
