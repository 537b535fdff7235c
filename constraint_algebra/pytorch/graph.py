"""The graph of a model's forward pass, as `torch.fx` traces it, and the shapes at its nodes."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from constraint_algebra import memory
from constraint_algebra.errors import LayerProblem, ShapeError, UnsupportedLayerError
from constraint_algebra.layers.kinds import Shape
from constraint_algebra.pytorch.gradients import PadFirst
from constraint_algebra.pytorch.models import inside, logits
from constraint_algebra.pytorch.unsupported import AS_IT_IS, BY_HAND


class Root(nn.Module):
    """Calls a model with one input, as PyTorch does, and returns its logits alone.

    Attributes:
        output: everything that the model returned while it was traced.
        words: which of several outputs the logits are.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take a model in."""
        super().__init__()
        self.model = model
        self.output: Any = None
        self.words = ""

    def forward(self, x: Any) -> Any:
        """Return the logits."""
        self.output = self.model(x)
        chosen, self.words = logits(self.output)
        return chosen


def traced(root: Root) -> fx.Graph:
    """Return the graph of the forward pass."""
    try:
        return Tracer().trace(root)
    except ShapeError as error:
        raise refusal([LayerProblem("output", *str(error).split("; ", 1))]) from None
    except Exception as error:
        reason = f"torch.fx cannot follow its forward pass ({type(error).__name__}: {error})"
        raise refusal([LayerProblem(type(root.model).__name__, reason, BY_HAND)]) from error


def refusal(problems: Sequence[LayerProblem]) -> UnsupportedLayerError:
    """Return the error that names all problems and says what can be said of the model as it is."""
    return UnsupportedLayerError(problems, AS_IT_IS)


class Tracer(fx.Tracer):
    """Treats the modules of torch.nn as leaves, and subclasses of them that keep their forward pass."""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call what is inside a wrapper, whatever the wrapper does on other devices."""
        while (inner := inside(m)) is not None:
            m, forward = inner, inner.forward
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 -- PyTorch's signature
        """Return whether a module is called as it stands, and not followed inside."""
        if isinstance(m, PadFirst | torch.jit.ScriptModule):
            return True
        if isinstance(m, nn.Sequential) or "forward" in vars(m):
            return False
        passes = (type(m).forward, getattr(type(m), "_conv_forward", type(m).forward))
        return all(forward.__module__.startswith("torch.nn") for forward in passes)


def label(node: fx.Node) -> str:
    """Return the path of a module or a parameter in the model, and the name of any other node."""
    path = node.op in {"call_module", "get_attr"}
    return str(node.target).removeprefix("model").removeprefix(".") if path else node.name


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Return the nodes and all that they are computed from."""
    found: set[fx.Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += node.all_input_nodes
    return found


def function_name(node: fx.Node) -> str:
    """Return the name of a PyTorch function or tensor method; that of a foreign function bears its module."""
    if node.op == "call_method":
        return str(node.target)
    name = getattr(node.target, "__name__", str(node.target)).removeprefix("special_")
    ours = any(getattr(space, name, None) is node.target for space in (torch, functional, torch.special, operator))
    return {"expit": "sigmoid"}.get(name, name) if ours else f"{getattr(node.target, '__module__', '?')}.{name}"


def is_size(node: fx.Node, sizes: set[fx.Node]) -> bool:
    """Whether a node is about the shape of a tensor and not its values."""
    if node.op == "call_method" and node.target in {"size", "dim", "numel", "ndimension"}:
        return True
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in {"shape", "ndim", "dtype", "device"}
    return bool(node.all_input_nodes) and all(source in sizes for source in node.all_input_nodes)


def propagate(root: nn.Module, graph: fx.Graph, shape: Shape) -> dict[fx.Node, Shape]:
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
                    f"layer {label(n)!r} does not take what an input of input_shape {shape} becomes there: {error}"
                )
                raise
            if isinstance(value, torch.Tensor):
                shapes[n] = tuple(value.shape)
            return value

    example = next((p for p in root.parameters()), torch.zeros(()))
    size = 2.0 * math.prod(shape) * example.element_size()
    memory.demand(f"an input of {math.prod(shape):,} values", size, "give a smaller input shape")
    zeros = torch.zeros((1, *shape), dtype=example.dtype, device=example.device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch remarks on padding="same" with an even kernel
        try:
            Interpreter(fx.GraphModule(root, graph), garbage_collect_values=True).run(zeros)
        except Exception as error:
            raise ShapeError(*problem[:1]) from error
    return shapes
