"""A PyTorch model to a `Network`, by tracing its forward pass (`torch.fx`).

The order in which modules were registered is never trusted. What has no equations here is collected over the whole
model and refused at once.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from constraint_algebra import layers as kinds
from constraint_algebra.errors import LayerProblem, ShapeError, UnsupportedLayerError
from constraint_algebra.layers.kinds import Layer, Shape, check_shape
from constraint_algebra.networks.network import Network
from constraint_algebra.pytorch.gradients import PadFirst, to_numpy

# After `gradients`, which says what to do where PyTorch is missing.
import torch  # isort: skip
from torch import fx, nn  # isort: skip
from torch.nn import functional  # isort: skip
from torch.nn.utils import parametrize  # isort: skip
from constraint_algebra.arrays import Arrays

# One row an activation: the module, what builds the layer, and PyTorch's names and defaults of the arguments that
# matter, which are attributes of the module and parameters of the function. ReLU6 is a subclass of Hardtanh.
_ACTIVATIONS: dict[str, tuple[type[nn.Module], Callable[..., Layer], dict[str, float]]] = {
    "identity": (nn.Identity, kinds.Identity, {}),
    "relu": (nn.ReLU, kinds.ReLU, {}),
    "leaky_relu": (nn.LeakyReLU, lambda a: kinds.LeakyReLU(a) if a else kinds.ReLU(), {"negative_slope": 0.01}),
    "sigmoid": (nn.Sigmoid, kinds.Sigmoid, {}),
    "tanh": (nn.Tanh, kinds.Tanh, {}),
    "elu": (nn.ELU, kinds.ELU, {"alpha": 1.0}),
    "selu": (nn.SELU, kinds.SELU, {}),
    "softplus": (nn.Softplus, kinds.Softplus, {"beta": 1.0, "threshold": 20.0}),
    "softsign": (nn.Softsign, kinds.Softsign, {}),
    "relu6": (nn.ReLU6, kinds.ReLU6, {}),
    "hardtanh": (nn.Hardtanh, kinds.Hardtanh, {"min_val": -1.0, "max_val": 1.0}),
}
_CONVS: dict[type[nn.Module], type[kinds.Conv]] = {
    nn.Conv1d: kinds.Conv1d,
    nn.Conv2d: kinds.Conv2d,
    nn.Conv3d: kinds.Conv3d,
}
_ZERO_PADS = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)  # ZeroPadNd are subclasses
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROPOUT_NAMES = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
_RESHAPES = {"flatten", "view", "reshape"}
_NOTHING = {"contiguous", "clone"}
_NOT_MONOTONE = "it falls before it rises, so its output does not determine its derivative"
_ONE_TO_ONE = "use ReLU or a one-to-one activation such as LeakyReLU"
_ADVICE: dict[str, tuple[str, str]] = {
    "gelu": (_NOT_MONOTONE, _ONE_TO_ONE),
    "silu": (_NOT_MONOTONE, _ONE_TO_ONE),
    "mish": (_NOT_MONOTONE, _ONE_TO_ONE),
    "hardswish": (_NOT_MONOTONE, _ONE_TO_ONE),
    "prelu": ("its slope is a parameter with a gradient of its own", "use LeakyReLU with the slope as a number"),
    "norm": ("normalisation is not bilinear in one layer's input and weight", "fold it into the convolution before it"),
    "pool": ("pooling has no weight and merges values", "use a convolution with a stride"),
    "convtranspose": ("transposed convolutions are not implemented", "use an ordinary convolution"),
    "conv_transpose": ("transposed convolutions are not implemented", "use an ordinary convolution"),
    "softmax": ("its outputs depend on all inputs", "return the logits and leave the softmax to the loss"),
    "pad": ("only zero padding of the spatial axes has equations", "pad with zeros, or move the padding to the data"),
    "linear": ("it uses a parameter without the module that owns it", "call an nn.Linear or nn.ConvNd module"),
    "conv": ("it uses a parameter without the module that owns it", "call an nn.Linear or nn.ConvNd module"),
}


class _Unsupported(Exception):  # noqa: N818 -- never leaves this module
    """A reason and an advice, on the way to becoming a `LayerProblem`."""


def from_torch(model: nn.Module, input_shape: Sequence[int]) -> tuple[Network, Arrays]:
    """Return the network that a model's forward pass is, and its parameters under PyTorch's names.

    The forward pass must be a plain chain; activations and reshapes may be modules, functions or methods. Layers keep
    the path of their module, and functions get the name of their node in the trace. Dropout in evaluation mode counts
    as nothing, and zero padding becomes part of the convolution after it. The parameters keep their dtype.

    Args:
        model: the model, which is neither changed nor trained.
        input_shape: shape of one sample, without a batch axis.

    Raises:
        UnsupportedLayerError: what has no equations, all of it at once.
        ShapeError: the input shape does not fit; the message names the layer.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> network, parameters = from_torch(model, (1, 4, 4))
    >>> [layer.kind for layer in network], list(parameters)
    (['Conv2d', 'ReLU', 'Flatten', 'Linear'], ['0.weight', '0.bias', '3.weight', '3.bias'])
    """
    shape = check_shape(input_shape)
    tracer = _Tracer()
    # A bare nn.Conv2d or nn.Linear cannot be the root of a trace; inside a Sequential it can.
    wrapped = tracer.is_leaf_module(model, "")
    root = nn.Sequential(model) if wrapped else model
    try:
        graph = tracer.trace(root)
    except Exception as error:
        reason = f"torch.fx cannot follow its forward pass ({type(error).__name__}: {error})"
        advice = "write it as a plain chain, without branches on values"
        raise UnsupportedLayerError([LayerProblem(type(model).__name__, reason, advice)]) from error
    chain = _Chain(root, graph)
    if chain.problems:
        raise UnsupportedLayerError(chain.problems)
    shapes = _propagate(root, graph, shape)
    names, network_layers = [], []
    for node, name, layer in chain.layers:
        before, after = shapes[chain.before[node]], shapes[node]
        if isinstance(layer, kinds.Flatten) and not _joins_all(before, after):
            if before == after:
                continue
            reason = f"it reshapes {before} to {after}, batch axis first"
            chain.problems.append(LayerProblem(name, reason, "only joining all axes but the first is supported"))
        names.append("" if wrapped else name)
        network_layers.append(layer)
    if chain.problems:
        raise UnsupportedLayerError(chain.problems)
    network = Network(shape, network_layers, names)
    return network, {name: to_numpy(model.get_parameter(name)) for name in network.parameter_shapes}


class _Tracer(fx.Tracer):
    """Treats the modules of torch.nn as leaves, and subclasses of them that keep their forward pass."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 -- PyTorch's signature
        if isinstance(m, PadFirst | torch.jit.ScriptModule):
            return True
        if isinstance(m, nn.Sequential) or "forward" in vars(m):
            return False
        passes = (type(m).forward, getattr(type(m), "_conv_forward", type(m).forward))
        return all(forward.__module__.startswith("torch.nn") for forward in passes)


class _Chain:
    """The graph of a forward pass read as a chain: its layers, or the problems that keep it from being one.

    Attributes:
        layers: `(node, name, layer)` in order; every reshape stands as `Flatten` until the shapes are known.
        before: the node that each layer takes its input from.
        problems: what is not supported, in order.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self.layers: list[tuple[fx.Node, str, Layer]] = []
        self.before: dict[fx.Node, fx.Node] = {}
        self.problems: list[LayerProblem] = []
        self._root = root
        self._names: set[str] = set()
        self._used: set[int] = set()
        self._padding: list[tuple[int, int]] = []  # zeros not yet part of a convolution, last axis first
        self._modules_in_order()
        self._nodes(graph)
        for name, parameter in root.named_parameters():
            if id(parameter) not in self._used:
                reason = "the forward pass never uses this parameter, so it has no gradient"
                self._problem(name, reason, "remove it from the model")

    def _modules_in_order(self) -> None:
        """Refuse what a trace does not show: hooks and parametrisations."""
        for path, module in self._root.named_modules():
            hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
            if any(getattr(module, name) for name in hooks):
                reason = "it has hooks, which can change values and gradients"
                self._problem(path or "model", reason, "remove the hooks")
            if parametrize.is_parametrized(module):
                reason = "its parameters are computed from others (parametrize)"
                advice = "call torch.nn.utils.parametrize.remove_parametrizations"
                self._problem(path or "model", reason, advice)
        for name, parameter in self._root.named_parameters():
            if parameter._backward_hooks:
                self._problem(name, "it has hooks, which can change its gradient", "remove the hooks")

    def _nodes(self, graph: fx.Graph) -> None:
        """Follow the graph node by node; a node that leaves the chain is a problem and still continues it."""
        sizes: set[fx.Node] = set()
        inputs = [node for node in graph.nodes if node.op == "placeholder" and (node.users or not node.args)]
        for extra in inputs[1:]:
            self._problem(extra.name, "it is a second input of the model", "pass one input; make the rest constants")
        last = inputs[0] if inputs else None
        for node in graph.nodes:
            if node.op == "get_attr":
                self._used |= {id(p) for name, p in self._root.named_parameters() if name == node.target}
            elif node.op == "output" and node.args[0] is not last:
                self._problem("output", "the model returns more or less than its last output", "return only that")
            elif _is_size(node, sizes):
                sizes.add(node)
            elif node.op.startswith("call"):
                self._follow(node, last, [n for n in node.all_input_nodes if n not in sizes and n.op != "get_attr"])
                last = node
        if self._padding:
            self._problem("output", "the zero padding before it reaches no convolution", "remove the padding")

    def _follow(self, node: fx.Node, last: fx.Node | None, sources: list[fx.Node]) -> None:
        name = _label(node)
        if last is not None and sources == [last]:
            self.before[node] = last
            self._attempt(node, name, self._module if node.op == "call_module" else self._function)
            return
        if node.op == "call_module":
            self._used |= {id(p) for p in self._root.get_submodule(name).parameters()}
        came = " and ".join(map(_label, sources)) or "no layer"
        chain = _label(last) if last else "an input"
        advice = "remove branches, residual connections and unused results"
        self._problem(name, f"it takes its input from {came}, where a plain chain has {chain}", advice)

    def _problem(self, path: str, reason: str, advice: str) -> None:
        self.problems.append(LayerProblem(path, reason, advice))

    def _attempt(self, node: fx.Node, name: str, convert: Callable[[fx.Node], Layer | None]) -> None:
        """Convert one node; a layer joins the chain, `None` counts as nothing, a refusal joins the problems."""
        try:
            layer = convert(node)
            if self._padding and layer is not None:
                layer = self._with_padding(layer)
        except _Unsupported as refusal:
            self._problem(name, *refusal.args)
        except ShapeError as error:
            self._problem(name, str(error), "choose a value that the layer can have")
        else:
            if layer is not None:
                # A module that is called again needs a name of its own; its node has one.
                self.layers.append((node, node.name if name in self._names else name, layer))
                self._names.add(name)
            return
        self._padding = []

    def _module(self, node: fx.Node) -> Layer | None:
        module = self._root.get_submodule(str(node.target))
        parameters = list(module.parameters())
        again = any(id(p) in self._used for p in parameters)
        self._used |= {id(p) for p in parameters}
        if again:
            raise _Unsupported(
                "its parameters are used more than once, so their gradient is a sum", "give each layer its own"
            )
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters):
            raise _Unsupported("its parameters have no shape yet", "run the model once before analysing it")
        if len(node.all_input_nodes) != 1 or node.kwargs:
            raise _Unsupported("it is called with more than its input", "call it with its input alone")
        for kind, conv in _CONVS.items():
            if isinstance(module, kind):
                return _convolution(module, conv)
        if isinstance(module, nn.Linear):
            return kinds.Linear(module.out_features, bias=module.bias is not None)
        for activation, build, arguments in _ACTIVATIONS.values():
            if isinstance(module, activation):
                return build(*(getattr(module, name) for name in arguments))
        if isinstance(module, _DROPOUTS):
            return _dropout(module.p, module.training)
        if isinstance(module, _ZERO_PADS) and module.value == 0:
            return self._pad(module.padding)
        if isinstance(module, nn.Flatten | nn.Unflatten):
            return kinds.Flatten()
        raise _unsupported(type(module).__name__, "module")

    def _function(self, node: fx.Node) -> Layer | None:
        name = _function_name(node)
        key = name.removesuffix("_") if name not in _ACTIVATIONS else name
        parameters = any(n.op == "get_attr" for n in node.all_input_nodes)
        if key in _ACTIVATIONS and not parameters:
            _, build, defaults = _ACTIVATIONS[key]
            given = dict(zip(defaults, node.args[1:], strict=False)) | node.kwargs
            return build(*(given.get(argument, default) for argument, default in defaults.items()))
        if key in _DROPOUT_NAMES:
            given = dict(zip(("p", "training"), node.args[1:], strict=False)) | node.kwargs
            return _dropout(given.get("p", 0.5), given.get("training", given.get("train", True)))
        if key == "pad":
            given = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | node.kwargs
            if given.get("mode", "constant") == "constant" and not given.get("value"):
                return self._pad(given["pad"])
        if key in _RESHAPES:
            return kinds.Flatten()
        if key in _NOTHING:
            return None
        raise _unsupported(key, "operation")

    def _pad(self, sides: Any) -> Layer | None:
        """Remember zero padding, `sides` in PyTorch's order: last axis first, before and after."""
        if not all(isinstance(side, int) and side >= 0 for side in sides):
            raise _Unsupported(
                f"its padding {tuple(sides)} is computed or negative", "pad by whole numbers of at least 0"
            )
        new = list(zip(sides[::2], sides[1::2], strict=True))
        old = self._padding + [(0, 0)] * (len(new) - len(self._padding))
        new += [(0, 0)] * (len(old) - len(new))
        self._padding = [(a + c, b + d) for (a, b), (c, d) in zip(old, new, strict=True)]
        return None

    def _with_padding(self, layer: Layer) -> Layer:
        if not isinstance(layer, kinds.Conv):
            raise _Unsupported("zero padding stands before it", "put the padding directly before a convolution")
        beyond = self._padding[layer.axes :]
        if any(side != (0, 0) for side in beyond):
            raise _Unsupported("the padding before it reaches the channels", "pad the spatial axes alone")
        extra = (self._padding + [(0, 0)] * layer.axes)[: layer.axes][::-1]
        self._padding = []
        total = tuple((a + c, b + d) for (a, b), (c, d) in zip(layer.paddings, extra, strict=True))
        return replace(layer, padding=total)


def _convolution(module: Any, kind: type[kinds.Conv]) -> Layer:
    if module.padding_mode != "zeros":
        raise _Unsupported(f"its padding_mode is {module.padding_mode!r}", 'use padding_mode="zeros"')
    padding: Any = module.zeros if isinstance(module, PadFirst) else module.padding
    return kind(
        module.out_channels,
        module.kernel_size,
        module.stride,
        padding,
        module.dilation,
        module.groups,
        bias=module.bias is not None,
    )


def _dropout(p: Any, training: Any) -> Layer | None:
    if training and p != 0:
        raise _Unsupported("dropout in training mode draws a mask that nobody else sees", "call model.eval() first")
    return None


def _unsupported(name: str, what: str) -> _Unsupported:
    """Return the reason and the advice for a module or function by its name."""
    for word, (reason, advice) in _ADVICE.items():
        if word in name.lower():
            return _Unsupported(f"{name}: {reason}", advice)
    known = ", ".join(_ACTIVATIONS)
    return _Unsupported(
        f"{name} is no {what} with equations here", f"use convolutions, linear layers, flatten and {known}"
    )


def _label(node: fx.Node) -> str:
    """Return the path of a module, and the name of any other node."""
    return str(node.target) if node.op == "call_module" else node.name


def _function_name(node: fx.Node) -> str:
    """Return the name of a PyTorch function or tensor method; that of a foreign function bears its module."""
    if node.op == "call_method":
        return str(node.target)
    name = getattr(node.target, "__name__", str(node.target)).removeprefix("special_")
    ours = any(getattr(space, name, None) is node.target for space in (torch, functional, torch.special, operator))
    return {"expit": "sigmoid"}.get(name, name) if ours else f"{getattr(node.target, '__module__', '?')}.{name}"


def _is_size(node: fx.Node, sizes: set[fx.Node]) -> bool:
    """Whether a node is about the shape of a tensor and not its values."""
    if node.op == "call_method" and node.target in {"size", "dim", "numel", "ndimension"}:
        return True
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in {"shape", "ndim", "dtype", "device"}
    return bool(node.all_input_nodes) and all(source in sizes for source in node.all_input_nodes)


def _propagate(root: nn.Module, graph: fx.Graph, shape: Shape) -> dict[fx.Node, Shape]:
    """Return the shape at every node, found by running the model on a batch of one zero sample.

    `ShapeError` names the layer at which the input shape does not fit.
    """
    shapes: dict[fx.Node, Shape] = {}
    problem: list[str] = []  # the interpreter adds its own remarks to an exception that passes through it

    class Interpreter(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            try:
                value = super().run_node(n)
            except Exception as error:
                problem.append(
                    f"layer {_label(n)!r} does not take what an input of shape {shape} becomes there: {error}"
                )
                raise
            if isinstance(value, torch.Tensor):
                shapes[n] = tuple(value.shape)
            return value

    example = next((p for p in root.parameters()), torch.zeros(()))
    zeros = torch.zeros((1, *shape), dtype=example.dtype, device=example.device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch remarks on padding="same" with an even kernel
        try:
            Interpreter(fx.GraphModule(root, graph), garbage_collect_values=True).run(zeros)
        except Exception as error:
            raise ShapeError(*problem[:1]) from error
    return shapes


def _joins_all(before: Shape, after: Shape) -> bool:
    """Whether a reshape keeps the batch axis of one and joins all others, which keeps the order of the values."""
    return len(after) == 2 and after[0] == before[0] == 1
