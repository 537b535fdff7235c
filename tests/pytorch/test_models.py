"""Models as people have them: wrapped, with several outputs, further arguments and unused parameters."""

from __future__ import annotations

import os
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.notes import AssumptionWarning, collected
from constraint_algebra.pytorch.gradients import torch_gradients
from constraint_algebra.pytorch.tracing import from_torch
from tests.pytorch.test_tracing import Forward

SHAPE = (1, 6, 6)
X = np.random.default_rng(5).uniform(size=SHAPE)


def plain(seed: int = 1) -> nn.Sequential:
    """A small model with random weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 3)).double()


def gradients_of(model: nn.Module) -> dict[str, np.ndarray]:
    """What PyTorch itself says, for the logits of the plain model."""
    functional.cross_entropy(model(torch.from_numpy(X[None])), torch.tensor([1])).backward()
    found = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    """One process that calls itself distributed."""
    file = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(module: nn.Module) -> nn.Module:
    """Compiled without a compiler, which not every machine has."""
    return torch.compile(module, backend="eager")


WRAPPED = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "torch.compile": compiled,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "two at once": lambda model: nn.DataParallel(compiled(model)),
}


@pytest.mark.skipif(os.name == "nt", reason="gloo with a file")
@pytest.mark.parametrize("case", WRAPPED)
def test_wrapped_models_are_read_like_what_is_inside_and_that_is_said(case, process_group) -> None:  # noqa: ARG001
    model = plain()
    wrapped = WRAPPED[case](model)
    inner = plain()
    network, parameters = from_torch(inner, SHAPE)
    with pytest.warns(AssumptionWarning, match="the model inside .* is read"):
        found, own = from_torch(wrapped, SHAPE)
    assert found == network
    assert all(np.array_equal(own[name], parameters[name]) for name in parameters)
    with pytest.warns(AssumptionWarning, match="the model inside"):
        gradients = torch_gradients(wrapped, X, 1)
    expected = gradients_of(inner)
    assert list(gradients) == list(expected)
    assert all(np.allclose(gradients[name], expected[name], atol=1e-15) for name in expected)
    with collected():
        assert ca.verify_twin(wrapped, X, X, 1).equal
        assert list(ca.gradient_jacobian(wrapped, X, 1)) == list(expected)
        assert ca.certify(wrapped, X, 1).counts == ca.certify(inner, X, 1).counts


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # by PyTorch's compiler
def test_wrapped_parts_of_a_model_are_followed() -> None:
    model = nn.Sequential(nn.DataParallel(nn.Conv2d(1, 4, 3)), nn.Flatten(), compiled(nn.Linear(64, 3))).double()
    network, parameters = from_torch(model, SHAPE)
    assert list(parameters) == [name for name, _ in model.named_parameters()]
    assert np.allclose(
        network.forward(parameters, X)[-1],
        model[2](model[1](model[0].module(torch.from_numpy(X[None])))).detach().numpy(),
    )
    result = ca.reconstruct(network, parameters, torch_gradients(model, X, 1))
    assert np.abs(result.input - X)[result.determined].max(initial=0) < 1e-8


Named = namedtuple("Named", ["logits", "aux"])  # as torchvision has them


@dataclass
class Output:
    """As Hugging Face has them."""

    logits: torch.Tensor
    hidden: torch.Tensor | None = None
    loss: torch.Tensor | None = None


def several(shape_output) -> nn.Module:
    """The plain model, which returns what a function makes of features and logits."""
    body = plain()

    def forward(m, x):
        h = m.flat(m.act(m.conv(x)))
        return shape_output(h, m.head(h))

    return Forward(forward, conv=body[0], act=body[1], flat=body[2], head=body[3])


OUTPUTS = {
    "logits and features": (lambda h, z: (z, h), "2 outputs, and its first entry"),
    "a list": (lambda h, z: [z, h], "2 outputs, and its first entry"),
    "logits and probabilities": (lambda h, z: (z, functional.softmax(z, 1)), "its first entry"),  # noqa: ARG005
    "logits and normalised features": (lambda h, z: (z, functional.normalize(h)), "its first entry"),
    "one in a tuple": (lambda h, z: (z,), "within another object, and its only entry"),  # noqa: ARG005
    "nothing before": (lambda h, z: (None, z), "its only entry"),  # noqa: ARG005
    "a dictionary": (lambda h, z: {"features": h, "logits": z}, "its entry 'logits'"),
    "a named tuple": (lambda h, z: Named(z, h), "its entry 'logits'"),
    "a dataclass": (lambda h, z: Output(z, h), "its entry 'logits'"),
    "a dataclass with None before": (lambda h, z: {"loss": None, "logits": z}, "its entry 'logits'"),  # noqa: ARG005
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_the_logits_among_several_outputs_are_taken_and_that_is_said(case) -> None:
    shape_output, words = OUTPUTS[case]
    model = several(shape_output)
    with pytest.warns(AssumptionWarning, match=words):
        network, parameters = from_torch(model, SHAPE)
    assert [layer.kind for layer in network] == ["Conv2d", "LeakyReLU", "Flatten", "Linear"]
    with pytest.warns(AssumptionWarning, match=words):
        gradients = torch_gradients(model, X, 1)
    expected = list(gradients_of(plain()).values())
    assert all(np.allclose(a, b, atol=1e-15) for a, b in zip(gradients.values(), expected, strict=True))
    with collected():
        assert ca.verify_twin(model, X, X, 1).equal
        assert ca.gradient_jacobian(model, X, 1)["head.weight"].shape == (3, 64, *SHAPE)
    assert np.abs(ca.reconstruct(network, parameters, gradients).input - X).max() < 1e-6


UNCLEAR = {
    "features and logits": (lambda h, z: (h, z), "goes through further layers"),
    "no name that tells": (lambda h, z: {"a": h, "b": z}, "entries 'a', 'b'"),
    "text": (lambda h, z: "logits", "got str"),  # noqa: ARG005
    "nothing": (lambda h, z: (), "got tuple"),  # noqa: ARG005
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_outputs_whose_logits_are_unclear_are_refused_with_a_way_out(case) -> None:
    shape_output, words = UNCLEAR[case]
    calls = (
        from_torch,
        lambda model, _: torch_gradients(model, X, 1),
        lambda model, _: ca.verify_twin(model, X, X, 1),
        lambda model, _: ca.gradient_jacobian(model, X, 1),
    )
    for call in calls:
        with pytest.raises(ca.ConstraintAlgebraError, match=words) as caught:
            call(several(shape_output), SHAPE)
        assert "return self.model(x)[1]" in str(caught.value)


def test_the_way_out_of_unclear_outputs_works() -> None:
    model = Forward(lambda m, x: m.model(x)[1], model=several(UNCLEAR["features and logits"][0]))
    network, parameters = from_torch(model, SHAPE)
    bare = {name.removeprefix("model."): g for name, g in torch_gradients(model, X, 1).items()}
    with pytest.warns(AssumptionWarning, match=r"'conv.weight' is read as the network's 'model.conv.weight'"):
        result = ca.reconstruct(network, parameters, bare)
    assert np.abs(result.input - X).max() < 1e-6


class Arguments(nn.Module):
    """A forward pass with every kind of argument."""

    def __init__(self) -> None:
        super().__init__()
        self.body = plain()

    def forward(self, x, mask=None, *more, features=False, scale: float = 1.0, **options):
        if mask is not None or features or scale != 1.0 or options.get("noise") or more:
            raise NotImplementedError
        return self.body(x)


def test_arguments_with_defaults_keep_them_and_that_is_said() -> None:
    with pytest.warns(AssumptionWarning, match="at its defaults, mask=None, features=False, scale=1.0"):
        network, _ = from_torch(Arguments(), SHAPE)
    assert len(network) == 4


def test_arguments_that_are_not_used_are_no_matter() -> None:
    class Unused(Arguments):
        def forward(self, x, mask=None, *more, features=False, **options):  # noqa: ARG002
            return self.body(x)

    assert len(from_torch(Unused(), SHAPE)[0]) == 4


def test_arguments_without_a_default_are_refused_by_name_and_a_module_around_helps() -> None:
    class Two(Arguments):
        def forward(self, x, condition, *, scale):
            return self.body(x * scale) if condition else None

    with pytest.raises(
        ca.UnsupportedLayerError, match=r"condition: it is a second input.*\n.*scale: it is a second input"
    ):
        from_torch(Two(), SHAPE)
    around = Forward(lambda m, x: m.model.body(x), model=Two())
    assert len(from_torch(around, SHAPE)[0]) == 4


def test_the_forward_pass_of_the_object_counts_where_it_has_one_of_its_own() -> None:
    model = plain()
    own = model.forward
    model.forward = lambda x: own(x) * 2
    network, _ = from_torch(model, SHAPE)
    assert network[-1].layer == ca.Scale(2.0)
    model.forward = lambda x: own(x).exp()
    with pytest.raises(ca.UnsupportedLayerError, match="exp"):
        from_torch(model, SHAPE)


def test_parameters_that_nothing_depends_on_are_left_out_and_that_is_said() -> None:
    def build() -> nn.Module:
        return Forward(lambda m, x: m.body(x), body=plain(), spare=nn.Linear(2, 2)).double()

    model = build()
    with pytest.warns(AssumptionWarning, match=r"does not depend on spare.weight, spare.bias"):
        network, parameters = from_torch(model, SHAPE)
    with pytest.warns(AssumptionWarning, match=r"the loss does not depend on spare.weight, spare.bias"):
        gradients = torch_gradients(model, X, 1)
    assert list(gradients) == list(parameters) == ["body.0.weight", "body.0.bias", "body.3.weight", "body.3.bias"]
    assert np.abs(ca.reconstruct(network, parameters, gradients).input - X).max() < 1e-6


def test_a_tuple_of_gradients_comes_in_the_order_of_the_model_and_not_of_the_layers() -> None:
    """Two square layers, the upper registered first, and one that is not used: shapes alone could not tell."""

    def build() -> nn.Module:
        torch.manual_seed(2)
        modules = {"spare": nn.Linear(5, 2), "head": nn.Linear(4, 4), "body": nn.Linear(4, 4)}
        return Forward(lambda m, x: m.head(torch.tanh(m.body(x))), **modules).double()

    model, x = build(), torch.tensor([[0.2, 0.9, 0.4, 0.6]], dtype=torch.float64)
    loss = functional.cross_entropy(model(x), torch.tensor([1]))
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    with collected():
        network, _ = from_torch(model, (4,))
    result = ca.reconstruct(network, tuple(model.parameters()), gradients, batch=1)
    np.testing.assert_allclose(result.input, x[0].numpy(), atol=1e-9)
    assert result.status is ca.Status.DETERMINED


BATCHES = {
    "one picture": (plain, (1, 1, 6, 6), (1, 6, 6)),
    "eight pictures": (plain, (8, 1, 6, 6), (1, 6, 6)),
    "one row of features": (lambda: nn.Linear(20, 2), (1, 20), (20,)),
    "eight rows": (lambda: nn.Sequential(nn.Linear(20, 2), nn.ReLU(), nn.Linear(2, 2)), (8, 20), (20,)),
    "a batch before flattening": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), (8, 1, 6, 6), (1, 6, 6)),
}


@pytest.mark.parametrize("case", BATCHES)
def test_a_batch_axis_in_the_input_shape_is_named_with_the_shape_to_pass(case) -> None:
    build, came, right = BATCHES[case]
    with pytest.raises(ca.ShapeError) as caught:
        from_torch(build(), came)
    assert f"pass {right}, the shape of one sample without the batch axis" in str(caught.value)
    assert from_torch(build(), right)[0].input_shape == right


@pytest.mark.parametrize("shape", [torch.Size(SHAPE), [np.int64(n) for n in SHAPE], np.array(SHAPE), list(SHAPE)])
def test_shapes_of_every_kind(shape) -> None:
    assert from_torch(plain(), shape)[0].input_shape == SHAPE


def test_parameters_on_the_meta_device_are_named() -> None:
    model = plain().to("meta")
    for call in (lambda: from_torch(model, SHAPE), lambda: torch_gradients(model, X, 1)):
        with pytest.raises(ca.ParameterError, match=r"'0.weight' is on the meta device.*to_empty"):
            call()


@pytest.mark.parametrize("kind", [lambda a: a, torch.from_numpy])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch_gradients(plain(), x, 1),
        lambda x: ca.verify_twin(plain(), x, X, 1),
        lambda x: ca.verify_twin(plain(), X, x, 1),
        lambda x: ca.gradient_jacobian(plain(), x, 1),
    ],
)
def test_pictures_of_eight_bits_are_refused_because_their_scale_is_open(kind, call) -> None:
    picture = np.round(X * 255).astype(np.uint8)
    with pytest.raises(ca.ShapeError, match=rf"8-bit integers up to {picture.max()} came.*pass x / 255.0.*astype"):
        call(kind(picture))
    call(kind(picture / 255.0))
