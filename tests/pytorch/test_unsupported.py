"""Models that are no chain of known layers: refused with path, reason, and what can be said of them as they are."""

from __future__ import annotations

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
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


@torch.fx.wrap
def relu(x):  # a foreign function of a familiar name
    return x * 2


def branch_on_values(m, x):
    return m.a(x) if x.sum() > 0 else m.a(-x)


def with_unused_result(m, x):
    m.act(x)
    return m.a(x)


two_convs = {"a": nn.Conv2d(3, 3, 1), "b": nn.Conv2d(3, 3, 1)}


def patched() -> nn.Module:
    model = nn.Sequential(conv())
    plain = model[0].forward
    model[0].forward = lambda x: plain(x) * 2
    return model


class Standardised(nn.Conv2d):
    """A convolution that keeps the forward pass of its class and changes what that calls."""

    def _conv_forward(self, input, weight, bias):  # noqa: A002 -- PyTorch's signature
        return super()._conv_forward(input, weight - weight.mean(), bias)


# (model, path of the problem, words of its reason, words of its advice); every input is 3×6×6
UNSUPPORTED = {
    "residual": (Forward(lambda m, x: m.a(x) + x, a=conv()), "add", "a and x", "network of their own"),
    "branches": (
        Forward(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), **two_convs),
        "b",
        "from x",
        "network of their own",
    ),
    "unused result": (Forward(with_unused_result, a=conv(), act=nn.ReLU()), "a", "from x", "network of their own"),
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
    "an earlier result": (
        Forward(lambda m, x: (m.a(x), m.b(x))[0], **two_convs),
        "b",
        "from x",
        "network of their own",
    ),
    "control flow": (Forward(branch_on_values, a=conv()), "Forward", "torch.fx cannot follow", "write it as Network"),
    "batch norm": (nn.Sequential(conv(), nn.BatchNorm2d(4)), "1", "BatchNorm2d", "fuse_conv_bn_eval"),
    "layer norm": (nn.Sequential(nn.LayerNorm(6), conv()), "0", "LayerNorm", "network of their own"),
    "pooling": (nn.Sequential(conv(), nn.MaxPool2d(2)), "1", "MaxPool2d", "network of their own"),
    "functional pooling": (
        Forward(lambda m, x: functional.avg_pool2d(m.a(x), 2), a=conv()),
        "avg_pool2d",
        "",
        "of their own",
    ),
    "GELU": (nn.Sequential(conv(), nn.GELU()), "1", "falls before it rises", "network of their own"),
    "SiLU": (nn.Sequential(conv(), nn.SiLU()), "1", "falls before it rises", "network of their own"),
    "Mish": (nn.Sequential(conv(), nn.Mish()), "1", "falls before it rises", "network of their own"),
    "functional GELU": (Forward(lambda m, x: functional.gelu(m.a(x)), a=conv()), "gelu", "falls", "of their own"),
    "PReLU": (nn.Sequential(conv(), nn.PReLU()), "1", "slope is a parameter", "network of their own"),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(3, 2, 3)), "0", "transposed", "network of their own"),
    "circular padding": (
        nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular")),
        "0",
        "circular",
        "network of their own",
    ),
    "reflection": (nn.Sequential(nn.ReflectionPad2d(1), conv()), "0", "only zero padding", "network of their own"),
    "padding with ones": (
        nn.Sequential(nn.ConstantPad2d(1, 1.0), conv()),
        "0",
        "only zero padding",
        "network of their own",
    ),
    "F.pad, reflecting": (
        Forward(lambda m, x: m.a(functional.pad(x, (1, 1, 1, 1), mode="reflect")), a=conv()),
        "pad",
        "only zero padding",
        "network of their own",
    ),
    "F.pad with ones": (
        Forward(lambda m, x: m.a(functional.pad(x, (1, 1, 1, 1), "constant", 1.0)), a=conv()),
        "pad",
        "only zero padding",
        "network of their own",
    ),
    "cropping": (nn.Sequential(nn.ZeroPad2d(-1), conv()), "0", "negative", "network of their own"),
    "padded channels": (
        Forward(lambda m, x: m.a(functional.pad(x, (0, 0, 0, 0, 0, 1))), a=nn.Conv2d(4, 2, 3)),
        "a",
        "reaches the channels",
        "network of their own",
    ),
    "padding before an activation": (
        nn.Sequential(nn.ZeroPad2d(1), nn.Sigmoid(), conv()),
        "1",
        "zero padding",
        "network of their own",
    ),
    "padding at the end": (nn.Sequential(conv(), nn.ZeroPad2d(1)), "output", "no convolution", "network of their own"),
    "negative slope": (nn.Sequential(conv(), nn.LeakyReLU(-0.1)), "1", "positive", "network of their own"),
    "dropout in training": (nn.Sequential(conv(), nn.Dropout()), "1", "mask", "model.eval()"),
    "functional dropout": (Forward(lambda m, x: functional.dropout(m.a(x)), a=conv()), "dropout", "mask", "eval()"),
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
    "a parameter by itself": (
        Forward(lambda m, x: functional.conv2d(x, m.a.weight, m.a.bias), a=conv()),
        "conv2d",
        "without the module",
        "write it as Network",
    ),
    "arithmetic": (Forward(lambda m, x: m.a(x) * 2, a=conv()), "mul", "convolutions", "network of their own"),
    "a foreign function": (
        Forward(lambda m, x: relu(m.a(x)), a=conv()),
        "relu",
        "convolutions",
        "network of their own",
    ),
    "a patched forward pass": (nn.Sequential(conv(), patched()), "mul", "convolutions", "network of their own"),
    "a convolution of its own kind": (
        nn.Sequential(Standardised(3, 2, 3)),
        "conv2d",
        "plain chain",
        "network of their own",
    ),
    "transpose": (
        Forward(lambda m, x: m.a(x).permute(0, 2, 3, 1), a=conv()),
        "permute",
        "convolutions",
        "network of their own",
    ),
    "joining some axes": (nn.Sequential(conv(), nn.Flatten(2)), "1", "to (1, 4, 16)", "network of their own"),
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
    "softmax": (nn.Sequential(conv(), nn.Softmax(1)), "1", "all inputs", "NLLLoss"),
    "uninitialised": (nn.Sequential(nn.LazyConv2d(2, 3)), "0", "no shape yet", "once"),
    "a recurrent layer": (nn.Sequential(nn.Flatten(2), nn.LSTM(36, 2)), "1", "LSTM", "network of their own"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_unsupported_models_are_refused_with_path_reason_and_advice(case) -> None:
    model, path, reason, advice = UNSUPPORTED[case]
    with pytest.raises(ca.UnsupportedLayerError) as caught:
        from_torch(model, (3, 6, 6))
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
    model = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.GELU(), nn.Sequential(nn.MaxPool2d(2)), nn.Flatten())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ca.UnsupportedLayerError, match="3 layers") as caught:
        from_torch(model, (3, 6, 6))
    assert [problem.path for problem in caught.value.problems] == ["1", "2", "3.0"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
