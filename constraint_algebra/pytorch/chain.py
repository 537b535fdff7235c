"""The graph of a forward pass read as a plain chain of layers, or the problems that keep it from being one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx, nn
from torch.nn.utils import parametrize

from constraint_algebra import layers as kinds
from constraint_algebra.errors import LayerProblem, ShapeError
from constraint_algebra.layers.kinds import Layer
from constraint_algebra.pytorch.gradients import PadFirst
from constraint_algebra.pytorch.graph import Root, ancestors, function_name, is_size, label
from constraint_algebra.pytorch.models import features_first, outputs
from constraint_algebra.pytorch.unsupported import BY_HAND, PART, Unsupported, unsupported

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


class Chain:
    """The graph of a forward pass read as a chain: its layers, or the problems that keep it from being one.

    Attributes:
        graph: the graph.
        layers: `(node, name, layer)` in order; every reshape stands as `Flatten` until the shapes are known.
        before: the node that each layer takes its input from.
        problems: what is not supported, in order.
        unused: names of parameters that the output does not depend on.
    """

    def __init__(self, root: Root, graph: fx.Graph) -> None:
        """Read the graph."""
        self.graph = graph
        self.layers: list[tuple[fx.Node, str, Layer]] = []
        self.before: dict[fx.Node, fx.Node] = {}
        self.problems: list[LayerProblem] = []
        self._model = root.model
        self._names: set[str] = set()
        self._used: set[int] = set()
        self._padding: list[tuple[int, int]] = []  # zeros not yet part of a convolution, last axis first
        self._refuse_hooks()
        self._nodes(self._other_outputs(root))
        self.unused = [name for name, p in self._model.named_parameters() if id(p) not in self._used]

    def _refuse_hooks(self) -> None:
        """Refuse what a trace does not show: hooks and parametrisations."""
        on_a_copy = "where they leave values and gradients as they are, read a copy.deepcopy of the model without them"
        for path, module in self._model.named_modules():
            hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
            if any(getattr(module, name) for name in hooks):
                self._problem(path, "it has hooks, which can change values and gradients", on_a_copy)
            if parametrize.is_parametrized(module):
                reason = "its parameters are computed from others (parametrize), and have gradients of their own"
                advice = (
                    "on a copy, torch.nn.utils.parametrize.remove_parametrizations leaves the outputs as they are, and "
                    "torch_gradients of the copy gives the gradients of what was computed"
                )
                self._problem(path, reason, advice)
        for name, parameter in self._model.named_parameters():
            if parameter._backward_hooks:
                self._problem(name, "it has hooks, which can change its gradient", on_a_copy)

    def _other_outputs(self, root: Root) -> set[fx.Node]:
        """Return the nodes that only other outputs than the logits need; a problem where the logits are none."""
        (end,) = (node for node in self.graph.nodes if node.op == "output")
        others = [value.node for value in outputs(root.output) if isinstance(value, fx.Proxy)]
        needed, found = ancestors(end.all_input_nodes), set()
        for other in others:
            theirs = ancestors([other]) - needed
            found |= theirs
            own = any(self._parameters(node) for node in theirs)
            if own and set(end.all_input_nodes) & ancestors([other]):
                self._problem("output", *features_first().split("; ", 1))
        return found

    def _parameters(self, node: fx.Node) -> list[nn.Parameter]:
        """Return the parameters that a node uses by itself."""
        if node.op == "call_module":
            return list(self._model.get_submodule(label(node)).parameters())
        return [p for name, p in self._model.named_parameters() if node.op == "get_attr" and name == label(node)]

    def _nodes(self, others: set[fx.Node]) -> None:
        """Follow the graph node by node; a node that leaves the chain is a problem and still continues it."""
        sizes: set[fx.Node] = set()
        last = next(node for node in self.graph.nodes if node.op == "placeholder")
        for node in self.graph.nodes:
            if node in others:
                continue
            if node.op == "get_attr":
                self._used |= {id(p) for p in self._parameters(node)}
            elif node.op == "output" and node.args[0] is not last:
                self._problem("output", "the model returns something else than its last result", BY_HAND)
            elif is_size(node, sizes):
                sizes.add(node)
            elif node.op.startswith("call"):
                self._follow(node, last, [n for n in node.all_input_nodes if n not in sizes and n.op != "get_attr"])
                last = node
        if self._padding:
            self._problem("output", "the zero padding before it reaches no convolution", PART)

    def _follow(self, node: fx.Node, last: fx.Node, sources: list[fx.Node]) -> None:
        name = label(node)
        if sources == [last]:
            self.before[node] = last
            self._attempt(node, name, self._module if node.op == "call_module" else self._function)
            return
        self._used |= {id(p) for p in self._parameters(node)}
        came = " and ".join(label(source) or "the model" for source in sources) or "no layer"
        reason = f"it takes its input from {came}, where a plain chain has {label(last)}: a branch or an unused result"
        self._problem(name, reason, PART)

    def _problem(self, path: str, reason: str, advice: str) -> None:
        self.problems.append(LayerProblem(path or "model", reason, advice))

    def _attempt(self, node: fx.Node, name: str, convert: Callable[[fx.Node], Layer | None]) -> None:
        """Convert one node; a layer joins the chain, `None` counts as nothing, a refusal joins the problems."""
        try:
            layer = convert(node)
            if self._padding and layer is not None:
                layer = self._with_padding(layer)
        except Unsupported as refusal:
            self._problem(name, *refusal.args)
        except ShapeError as error:
            self._problem(name, str(error), PART)
        else:
            if layer is not None:
                # A module that is called again needs a name of its own; its node has one.
                again = node.name.removeprefix("model_") if node.op == "call_module" else node.name
                self.layers.append((node, again if name in self._names else name, layer))
                self._names.add(name)
            return
        self._padding = []

    def _module(self, node: fx.Node) -> Layer | None:
        module = self._model.get_submodule(label(node))
        parameters = list(module.parameters())
        again = any(id(p) in self._used for p in parameters)
        self._used |= {id(p) for p in parameters}
        if again:
            raise Unsupported("its parameters are used more than once, so their gradient is a sum", PART)
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters):
            raise Unsupported("its parameters have no shape yet", "run the model once before analysing it")
        if len(node.all_input_nodes) != 1 or node.kwargs:
            raise Unsupported("it is called with more than its input", BY_HAND)
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
        raise unsupported(type(module).__name__, "module", ", ".join(_ACTIVATIONS))

    def _function(self, node: fx.Node) -> Layer | None:
        name = function_name(node)
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
        raise unsupported(key, "operation", ", ".join(_ACTIVATIONS))

    def _pad(self, sides: Any) -> Layer | None:
        """Remember zero padding, `sides` in PyTorch's order: last axis first, before and after."""
        if not all(isinstance(side, int) and side >= 0 for side in sides):
            raise Unsupported(f"its padding {tuple(sides)} is computed or negative", PART)
        new = list(zip(sides[::2], sides[1::2], strict=True))
        old = self._padding + [(0, 0)] * (len(new) - len(self._padding))
        new += [(0, 0)] * (len(old) - len(new))
        self._padding = [(a + c, b + d) for (a, b), (c, d) in zip(old, new, strict=True)]
        return None

    def _with_padding(self, layer: Layer) -> Layer:
        if not isinstance(layer, kinds.Conv):
            raise Unsupported("zero padding stands before it, and not before a convolution", PART)
        beyond = self._padding[layer.axes :]
        if any(side != (0, 0) for side in beyond):
            raise Unsupported("the padding before it reaches the channels", PART)
        extra = (self._padding + [(0, 0)] * layer.axes)[: layer.axes][::-1]
        self._padding = []
        total = tuple((a + c, b + d) for (a, b), (c, d) in zip(layer.paddings, extra, strict=True))
        return replace(layer, padding=total)


def _convolution(module: Any, kind: type[kinds.Conv]) -> Layer:
    if module.padding_mode != "zeros":
        raise Unsupported(f"its padding_mode is {module.padding_mode!r}, and only zeros have equations", PART)
    padding: Any = module.zeros if isinstance(module, PadFirst) else module.padding
    return kind(
        module.out_channels,
        module.kernel_size,
        stride=module.stride,
        padding=padding,
        dilation=module.dilation,
        groups=module.groups,
        bias=module.bias is not None,
    )


def _dropout(p: Any, training: Any) -> Layer | None:
    if training and p != 0:
        reason = "dropout in training mode draws a mask that nobody else sees"
        raise Unsupported(reason, "for a step in evaluation mode, without a mask, call model.eval() first")
    return None
