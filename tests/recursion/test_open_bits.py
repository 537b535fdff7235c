"""The bits of a ReLU found from gradients of PyTorch; never a pattern that does not fit all equations."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra import zoo
from constraint_algebra.arrays import BoolArray
from constraint_algebra.beyond_rank.family import Family
from constraint_algebra.layers import Conv2d, Flatten, Linear, ReLU
from constraint_algebra.networks.network import Network
from constraint_algebra.recursion.ensemble import Ensemble
from constraint_algebra.recursion.estimates import Above, Estimate
from constraint_algebra.recursion.noise import deviations_of, precision
from constraint_algebra.recursion.observation import Observation
from constraint_algebra.recursion.open_bits import passes

# Shapes of the layer's input, weight and bias and of the gradient above its ReLU, and the sizes of their entries.
SIZES = (((3, 6, 6), 1.0), ((8, 3, 3, 3), 0.3), ((8,), 0.3), ((8, 6, 6), 1.0))


@dataclass
class Case:
    """A layer below a ReLU whose output is known for its first filters only."""

    observed: Observation
    above: Above
    y: Estimate
    family: Family | None
    pattern: BoolArray

    def found(self, seconds: float = 15.0) -> BoolArray | None:
        layer = self.observed.network.bilinear[0]
        return passes(self.observed, layer, self.above, self.y, self.family, seconds=seconds, seed=0)

    def right(self) -> bool:
        found = self.found()
        return found is not None and bool((found == self.pattern).all())


def case(
    seed: int, *, bias: bool = True, single: bool = False, known: int = 5, directions: int = 12, filters: int = 8
) -> Case:
    """Return a layer 3 to 8 filters, 3×3, on 6×6, with `known` filters known; gradients by PyTorch."""
    rng = np.random.default_rng(seed)
    kind, epsilon = (np.float32, 2.0**-23) if single else (np.float64, 2.0**-52)
    h, W, b, dy = ((share * rng.normal(size=s)).astype(kind) for s, share in SIZES)
    W, b, dy = W[:filters], b[:filters] if bias else np.zeros_like(b[:filters]), dy[:filters]
    w = torch.tensor(W, requires_grad=True)
    offset = torch.tensor(b, requires_grad=True)
    y = torch.relu(functional.conv2d(torch.tensor(h)[None], w, offset, padding=1))[0]
    (y * torch.tensor(dy)).sum().backward()  # type: ignore[no-untyped-call]
    assert w.grad is not None
    assert offset.grad is not None
    network = Network((3, 6, 6), [Conv2d(filters, 3, padding=1, bias=bias), ReLU(), Flatten(), Linear(2)])
    layer = network.bilinear[0]
    given = {layer.weight_name: w.grad.numpy(), **({layer.bias_name: offset.grad.numpy()} if layer.bias_name else {})}
    rounding = precision(given)
    gradients = {name: values.astype(float) for name, values in given.items()}
    parameters = {layer.weight_name: W.astype(float), **({layer.bias_name: b.astype(float)} if layer.bias_name else {})}
    draw = Ensemble(0).draw
    observed = Observation(network, parameters, gradients, deviations_of(gradients, rounding, 0.0), rounding, draw)
    truth = y.detach().numpy().astype(float)
    told = np.zeros(truth.shape, dtype=bool)
    told[:known] = True
    V = np.zeros((truth.size, directions))
    V[~told.ravel()] = np.linalg.qr(rng.normal(size=(int((~told).sum()), directions)))[0]
    p = truth.ravel() + V @ rng.normal(size=directions)
    noise = np.full(truth.shape, 4 * epsilon)
    estimate = Estimate(truth, told, np.where(told[..., None], draw(noise, truth.shape), 0.0))
    arriving = Estimate(dy.astype(float), np.ones(dy.shape, dtype=bool), draw(epsilon * np.abs(dy), dy.shape))
    family = Family(p, V, noise.ravel() * 4)
    return Case(observed, Above(ReLU(), arriving), estimate, family, truth > 0)


@pytest.mark.parametrize("seed", range(3))
def test_bits_by_sums(seed: int) -> None:
    assert case(seed).right()


@pytest.mark.parametrize("seed", range(3))
def test_bits_without_a_bias(seed: int) -> None:
    assert case(seed, bias=False).right()


@pytest.mark.parametrize("bias", [True, False])
def test_bits_of_float32_gradients(bias: bool) -> None:
    assert case(0, single=True, bias=bias).right()


@pytest.mark.parametrize("wrong", [0.0, 1e-6])
def test_where_nothing_is_known_of_the_other_outputs(wrong: float) -> None:
    alone = case(1, known=7)
    alone.family = None
    gradients = {name: values.copy() for name, values in alone.observed.gradients.items()}
    gradients["0.weight"][7, 0] += wrong
    alone.observed = replace(alone.observed, gradients=gradients)
    found = alone.found(seconds=15.0 if wrong == 0 else 0.7)
    assert found is None if wrong else found is not None
    assert found is None or (found == alone.pattern).all()


@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_a_wrong_gradient_gives_no_pattern(parameter: str) -> None:
    wrong = case(0)
    name = f"0.{parameter}"
    gradients = {k: v.copy() for k, v in wrong.observed.gradients.items()}
    gradients[name].reshape(8, -1)[6, 0] += 1e-6
    wrong.observed = replace(wrong.observed, gradients=gradients)
    assert wrong.found(seconds=0.7) is None


def test_a_wrong_family_gives_no_pattern() -> None:
    wrong = case(2)
    assert wrong.family is not None
    p = wrong.family.p.copy()
    p[-1] += 1e-6
    wrong.family = Family(p, wrong.family.V, wrong.family.noise)
    assert wrong.found(seconds=0.7) is None


def test_filters_that_nothing_checks_give_no_pattern() -> None:
    few = case(0, filters=3, known=2)  # 27 gradient rows for 36 positions, and one sum that names all 36 bits
    assert few.found(seconds=0.7) is None
    assert case(0, filters=6, known=5).right()


def test_a_gradient_that_is_not_known_everywhere() -> None:
    open_above = case(0)
    dy = open_above.above.gradient
    known: BoolArray = dy.known.copy()
    known[0, 0, 0] = False
    open_above.above = replace(open_above.above, gradient=replace(dy, known=known))
    assert open_above.found() is None


def test_time() -> None:
    assert case(0, bias=False).found(seconds=0.0) is None


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "single"), [(16, False), (39, False), (39, True)])
def test_lenet_whose_third_layer_is_short_of_rank(seed: int, single: bool) -> None:
    network = zoo.network("lenet-4relu")
    model = ca.to_torch(network, seed=seed)
    image = ca.samples.load(f"cifar10:{seed % 20}").image
    if single:
        model, image = model.float(), image.astype(np.float32)
    parameters = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    result = ca.reconstruct(network, parameters, ca.torch_gradients(model, image, 3), batch=1, search=60.0)
    assert result.status is ca.Status.BY_BITS
    assert np.abs(result.input - image).max() < (1e-4 if single else 1e-9)
