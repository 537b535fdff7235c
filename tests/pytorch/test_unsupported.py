"""Models that are no chain of known layers: refused with path, reason, and what can be said of them as they are."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import constraint_algebra as ca
from constraint_algebra.pytorch.tracing import from_torch
from tests.pytorch.test_tracing import Forward, conv, outputs_agree


def hooked(model: nn.Module) -> nn.Module:
    model[0].register_forward_hook(lambda _module, _args, output: output * 2)
    return model


def hooked_parameter(model: nn.Module) -> nn.Module:
    model[0].weight.register_hook(lambda gradient: gradient * 2)
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    model[1].weight = model[0].weight
    return model


def branch_on_values(m, x):
    return m.a(x) if x.sum() > 0 else m.a(-x)


class Parameters(nn.Module):
    """A convolution by parameters whose names are not a weight and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.rand(2, 3, 3, 3))

    def forward(self, x):
        return functional.conv2d(x, self.kernels)


class Standardised(nn.Conv2d):
    """A convolution that keeps the forward pass of its class and changes what that calls."""

    def _conv_forward(self, input, weight, bias):  # noqa: A002 -- PyTorch's signature
        return super()._conv_forward(input, weight - weight.mean(), bias)


class Doubled(torch.autograd.Function):
    """A function whose derivative is not that of what it computes."""

    @staticmethod
    def forward(ctx, x):  # noqa: ARG004
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):  # noqa: ARG004
        return 2 * gradient


def changed_through_a_view(m, x):
    y = m.a(x)
    y.view(-1).relu_()
    return m.b(y)


def written_into(m, x):
    y = m.a(x) + 0.0
    y[:, 0] = 0
    return y


def without_gradient(m, x):
    with torch.no_grad():
        y = m.a(x)
    return m.b(y)


OUTSIDE = conv()

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch calls it deprecated
    SCRIPTED = torch.jit.script(nn.Sequential(conv()))

# (model, path of the problem, words of its reason, words of its advice); every input is 3×6×6
UNSUPPORTED = {
    "features before the logits": (
        Forward(lambda m, x: (h := m.a(x), m.b(h)), a=nn.Conv2d(3, 3, 1), b=conv()),
        "output",
        "further layers",
        "return self.model(x)[1]",
    ),
    "a dictionary without logits": (
        Forward(lambda m, x: {"out": m.a(x), "aux": x}, a=conv()),
        "output",
        "with the entries 'out', 'aux'",
        "returns the logits alone",
    ),
    "no output": (Forward(lambda m, x: None, a=conv()), "output", "got NoneType", "returns the logits alone"),  # noqa: ARG005
    "an output without the input": (
        Forward(lambda m, x: m.a(torch.ones_like(x)), a=conv()),
        "output",
        "does not depend on the input",
        "write it as Network",
    ),
    "control flow": (Forward(branch_on_values, a=conv()), "Forward", "takes a number out", "write it as Network"),
    "an exception of its own": (Forward(lambda m, x: m.missing(x), a=conv()), "Forward", "missing", "as Network"),
    "batch norm of one value a channel": (
        nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.BatchNorm1d(4)),
        "2",
        "BatchNorm1d: a sample of (4,) has one value for each channel, and statistics of the data itself need several",
        "model.eval()",
    ),
    "batch norm of one value a channel, without buffers": (
        nn.Sequential(nn.Conv2d(3, 4, 6), nn.BatchNorm2d(4, track_running_stats=False)).eval(),
        "1",
        "one value for each channel",
        "network of their own",
    ),
    "instance norm of one value a channel": (
        nn.Sequential(nn.Conv2d(3, 4, 6), nn.InstanceNorm2d(4)),
        "1",
        "InstanceNorm2d: a sample of (4, 1, 1) has one value for each channel",
        "network of their own",
    ),
    "group norm of one value a group": (
        nn.Sequential(nn.Conv2d(3, 4, 6), nn.GroupNorm(4, 4)),
        "1",
        "GroupNorm: a sample of (4, 1, 1) has one value for each group",
        "network of their own",
    ),
    "statistics of another module": (
        Forward(
            lambda m, x: functional.batch_norm(m.a(x), m.b.running_mean, m.b.running_var, m.c.weight, m.c.bias, True),
            a=conv(),
            b=nn.BatchNorm2d(4),
            c=nn.BatchNorm2d(4),
        ),
        "batch_norm",
        "its factor, shift and statistics are not those of one module",
        "write it as Network",
    ),
    "batch norm of a sample without batch axis": (
        Forward(lambda m, x: m.b(m.a(x).squeeze(0)), a=conv(), b=nn.BatchNorm1d(4)).eval(),
        "b",
        "a tensor without batch axis, for samples",
        "network of their own",
    ),
    "local response norm": (nn.Sequential(conv(), nn.LocalResponseNorm(2)), "1", "none of batch", "of their own"),
    "another pooling": (nn.Sequential(conv(), nn.LPPool2d(2, 2)), "1", "LPPool2d", "network of their own"),
    "indices of max-pool": (
        Forward(
            lambda m, x: functional.max_unpool2d(*functional.max_pool2d(m.a(x), 2, return_indices=True), 2), a=conv()
        ),
        "max_pool2d_with_indices",
        "its indices (return_indices) are read",
        "network of their own",
    ),
    "bilinear enlargement": (
        nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv()),
        "0",
        "bilinear",
        "network of their own",
    ),
    "enlargement by a fraction": (
        Forward(lambda m, x: m.a(functional.interpolate(x, size=(8, 9))), a=conv()),
        "interpolate",
        "whole factors",
        "network of their own",
    ),
    "negative slope": (nn.Sequential(conv(), nn.LeakyReLU(-0.1)), "1", "positive", "network of their own"),
    "alpha dropout in training": (nn.Sequential(conv(), nn.AlphaDropout()), "1", "draws what it puts", "model.eval()"),
    "dropout of everything": (nn.Sequential(conv(), nn.Dropout(1.0)), "1", "drops every value", "model.eval()"),
    "random numbers": (
        Forward(lambda m, x: m.a(x) + torch.randn(4, 1, 1), a=conv()),
        "add",
        "random numbers",
        "network of their own",
    ),
    "random numbers like a value": (
        Forward(lambda m, x: m.a(x + torch.randn_like(x)), a=conv()),
        "add",
        "random numbers",
        "network of their own",
    ),
    "hook": (hooked(nn.Sequential(conv())), "0", "hooks", "copy.deepcopy"),
    "hook on a parameter": (hooked_parameter(nn.Sequential(conv())), "0.weight", "its gradient", "copy.deepcopy"),
    "parametrised": (
        nn.Sequential(torch.nn.utils.parametrizations.weight_norm(conv())),
        "0",
        "parametrize",
        "remove_parametrizations",
    ),
    "a layer used twice": (
        Forward(lambda m, x: m.a(m.a(x)), a=nn.Conv2d(3, 3, 1)),
        "a",
        "more than once",
        "network of their own",
    ),
    "the same object at two places": (
        nn.Sequential(*[nn.Conv2d(3, 3, 1)] * 2),
        "0",
        "more than once",
        "network of their own",
    ),
    "tied weights": (tied(), "1", "more than once", "network of their own"),
    "a parameter by itself": (Parameters(), "conv2d", "without the module", "write it as Network"),
    "a parameter that is added": (
        Forward(lambda m, x: m.a(x) + m.a.bias[:, None, None], a=conv()),
        "add",
        "computed from parameters",
        "write it as Network",
    ),
    "a module outside of the model": (
        Forward(lambda m, x: OUTSIDE(x)),  # noqa: ARG005
        "conv2d",
        "no parameter of the model",
        "network of their own",
    ),
    "a layer made on the way": (
        Forward(lambda m, x: nn.Conv2d(3, 2, 3)(x)),  # noqa: ARG005
        "conv2d",
        "made in the forward pass",
        "network of their own",
    ),
    "a product of values": (
        Forward(lambda m, x: m.a(x) * torch.sigmoid(m.a(x)), a=conv()),
        "mul",
        "multiplies values",
        "network of their own",
    ),
    "a quotient of values": (
        Forward(lambda m, x: 1 / (1 + m.a(x).exp()), a=conv()),
        "exp",
        "exp is no operation",
        "network of their own",
    ),
    "a constant for each pixel": (
        Forward(lambda m, x: m.a(x - torch.arange(36.0).view(6, 6)), a=conv()),
        "sub",
        "differs within a channel",
        "network of their own",
    ),
    "values with and without a batch axis": (
        Forward(lambda m, x: m.a(x).squeeze(0) + m.b(x), a=conv(), b=conv()),
        "add",
        "it makes (1, 4, 4, 4), where the network has (4, 4, 4)",
        "network of their own",
    ),
    "repeated values": (
        Forward(lambda m, x: m.a(x)[:, :1].expand(-1, 3, -1, -1), a=conv()),
        "expand",
        "repeats values",
        "network of their own",
    ),
    "a constant beside values": (
        Forward(lambda m, x: torch.cat([m.a(x), torch.ones(1, 1, 4, 4)], 1), a=conv()),
        "cat",
        "does not depend on the input",
        "network of their own",
    ),
    "a convolution of its own kind": (
        nn.Sequential(Standardised(3, 2, 3)),
        "conv2d",
        "computed from parameters",
        "network of their own",
    ),
    "a derivative of its own": (
        Forward(lambda m, x: Doubled.apply(m.a(x)), a=conv()),
        "Doubled",
        "autograd.Function",
        "write it as Network",
    ),
    "a gradient that stops": (
        Forward(lambda m, x: m.b(m.a(x).detach()), a=nn.Conv2d(3, 3, 1), b=conv()),
        "detach",
        "its gradient stops here",
        "network of their own",
    ),
    "a part without a gradient": (
        Forward(without_gradient, a=nn.Conv2d(3, 3, 1), b=conv()),
        "a",
        "its gradient stops here",
        "network of their own",
    ),
    "a value changed through a view": (
        Forward(changed_through_a_view, a=nn.Conv2d(3, 3, 1), b=conv()),
        "b",
        "changed in place",
        "write it as Network",
    ),
    "a part that is written into": (
        Forward(written_into, a=conv()),
        "Forward",
        "writes into a part",
        "network of their own",
    ),
    "rounding on the way": (
        Forward(lambda m, x: m.a(x).half().float(), a=conv()),
        "half",
        "half is no operation",
        "network of their own",
    ),
    "joining the batch axis": (
        Forward(lambda m, x: m.a(x).view(-1), a=conv()),
        "view",
        "only joining all",
        "network of their own",
    ),
    "a batch made of one sample": (
        Forward(lambda m, x: m.a(x).view(-1, 16), a=conv()),
        "view",
        "(4, 16)",
        "network of their own",
    ),
    "softmax over channels": (nn.Sequential(conv(), nn.Softmax(1)), "1", "all inputs", "NLLLoss"),
    "softmax on the way": (
        nn.Sequential(conv(), nn.Flatten(), nn.Softmax(1), nn.Linear(64, 2)),
        "2",
        "all inputs",
        "part of the loss",
    ),
    "uninitialised": (nn.Sequential(nn.LazyConv2d(2, 3)), "0", "no shape yet", "once"),
    "a recurrent layer": (nn.Sequential(nn.Flatten(2), nn.LSTM(36, 2)), "1", "LSTM", "network of their own"),
    "attention": (
        Forward(lambda m, x: m.a(*[x.flatten(2)] * 3)[0], a=nn.MultiheadAttention(36, 2, batch_first=True)),
        "a",
        "MultiheadAttention",
        "network of their own",
    ),
    "a linear layer at each place": (
        nn.Sequential(nn.Linear(6, 2)),
        "0",
        "at each of 3×6 places",
        "network of their own",
    ),
    "torch.jit": (
        nn.Sequential(SCRIPTED, nn.Flatten()),
        "0",
        "torch.jit",
        "pass the module that",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_unsupported_models_are_refused_with_path_reason_and_advice(case) -> None:
    model, path, reason, advice = UNSUPPORTED[case]
    with pytest.raises(ca.UnsupportedLayerError) as caught:
        from_torch(model, (3, 6, 6))
    assert all(p.reason and p.advice for p in caught.value.problems)
    first = {problem.path: problem for problem in caught.value.problems}
    assert path in first, caught.value
    assert reason in first[path].reason
    assert advice in first[path].advice
    assert str(caught.value).endswith("says whether another input nearby has its gradients.")


def test_a_second_input_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(ca.UnsupportedLayerError, match="second input"):
        from_torch(Two(), (3,))


def test_an_unused_optional_input_is_not_in_the_way() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x, mask=None):  # noqa: ARG002
            return self.a(x)

    outputs_agree(Optional(), (3,))


def test_all_problems_come_at_once_in_the_order_of_the_forward_pass() -> None:
    model = nn.Sequential(
        conv(), nn.LocalResponseNorm(2), nn.Hardshrink(), nn.Sequential(nn.LPPool2d(2, 2)), nn.Flatten()
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ca.UnsupportedLayerError, match="3 layers") as caught:
        from_torch(model, (3, 6, 6))
    assert [problem.path for problem in caught.value.problems] == ["1", "2", "3.0"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
