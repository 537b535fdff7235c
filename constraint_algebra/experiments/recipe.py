"""How to obtain a model: a name of the zoo, or a function in a file of the user."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from constraint_algebra.errors import ParameterError, ShapeError, StorageError, UnknownNameError
from constraint_algebra.layers.kinds import Shape
from constraint_algebra.networks import zoo
from constraint_algebra.networks.description import shape_text
from constraint_algebra.networks.network import Network

INITS = ("uniform", "default")
CASTS = {"float64": "double", "float32": "float", "float16": "half", "bfloat16": "bfloat16"}


@dataclass(frozen=True)
class Recipe:
    """How to obtain a model: its name, and what settles the random numbers in it.

    Attributes:
        model: a name of the zoo, or `FILE.py:FACTORY`, a function without arguments that returns an `nn.Module` (which
            keeps its own weights) or a `Network` (which gets random ones). The file is executed.
        seed: seed of the random weights; PyTorch's generator has it while FACTORY runs.
        init: "uniform" for U(-0.5, 0.5) as in R-CONV, "default" for PyTorch's own; `None` for that of the network's
            authors, and uniform where there are none.
        dtype: type of parameters and gradients.
        input_shape: shape of one sample, for a model that does not know it.
    """

    model: str
    seed: int = 0
    init: str | None = None
    dtype: str = "float32"
    input_shape: Shape | None = None

    def __post_init__(self) -> None:
        """Refuse what no model can be built with, before anything is."""
        if self.dtype not in CASTS:
            raise UnknownNameError(f"dtype must be one of {', '.join(CASTS)}, got {self.dtype!r}; choose one of them")
        if self.init not in {None, *INITS}:
            raise UnknownNameError(f"init must be one of {', '.join(INITS)}, got {self.init!r}; choose one of them")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**64:
            raise ParameterError(
                "seed", "a seed must be a whole number from 0 to 2**64 - 1, which is what PyTorch takes; choose one"
            )

    def build(self) -> Built:
        """Return the model in its dtype with what is known about it."""
        from constraint_algebra.pytorch import gradients

        loss, init = None, self.init or "uniform"
        if is_model_file(self.model):
            with gradients.seeded(self.seed):
                made = call_factory(self.model)
        else:
            entry = zoo.entry(self.model)
            made, loss, init = zoo.network(self.model), entry.loss, self.init or entry.init
        if isinstance(made, Network):
            if self.input_shape not in {None, made.input_shape}:
                raise ShapeError(
                    f"{self.model} is a network for inputs of {shape_text(made.input_shape)}, and"
                    f" {shape_text(self.input_shape or ())} was asked for; leave the input shape out"
                )
            model = gradients.to_torch(made, seed=self.seed, init=init, dtype=self.dtype)
            return Built(model, made.input_shape, loss, self._about(init))
        cast = _run(getattr(made, CASTS[self.dtype]), what=f"{self.model}: .{CASTS[self.dtype]}()")
        return Built(cast, self.input_shape, None, self._about("own weights"))

    def _about(self, init: str) -> dict[str, str]:
        # A file's name may hold bytes that are no text; what goes into other files is text.
        model = self.model.encode("utf-8", "backslashreplace").decode()
        return {"model": model, "seed": str(self.seed), "init": init, "dtype": self.dtype}


class Built(NamedTuple):
    """A model that a recipe made.

    Attributes:
        model: the `nn.Module` in its dtype.
        input_shape: its input shape, `None` where nobody said.
        loss: the loss it is meant for, `None` where nobody said.
        about: the recipe as text.
    """

    model: Any
    input_shape: Shape | None
    loss: str | None
    about: dict[str, str]


def call_factory(spec: str) -> Any:
    """Return what the function of `FILE.py:FACTORY` returns: an `nn.Module` or a `Network`. The file is executed.

    Raises:
        StorageError: the file is missing, fails to run, or the function fails or returns something else.
        UnknownNameError: the file has no function of that name.
    """
    path, factory = _parse(spec)
    module_name = f"_model_{path.stem}"
    found = importlib.util.spec_from_file_location(module_name, path)
    if not path.is_file() or found is None or found.loader is None:
        raise StorageError(f"model file {path} does not exist; --model takes a name of the zoo or FILE.py:FACTORY")
    module = importlib.util.module_from_spec(found)
    sys.modules[module_name] = module
    sys.path.insert(0, str(path.parent.resolve()))  # as if it were run as a script: its neighbours can be imported
    try:
        _run(found.loader.exec_module, module, what=str(path))
        function = getattr(module, factory, None)
        if not callable(function):
            there = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module_name and callable(v)]
            raise UnknownNameError(f"{path} has no function {factory!r}; it has {', '.join(there) or 'none'}")
        made = _run(function, what=spec)
    finally:
        sys.path.remove(str(path.parent.resolve()))
    if not isinstance(made, Network) and not _is_module(made):
        raise StorageError(f"{spec} must return an nn.Module or a Network, got {type(made).__name__}")
    if not isinstance(made, Network):
        _check_parameters(made, spec)
    return made


def _is_module(made: object) -> bool:
    """Return whether an object is a module of PyTorch, which the user's file has then loaded."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(made, torch.nn.Module)


def _check_parameters(made: Any, spec: str) -> None:
    """Refuse a module whose own `named_parameters` does not give names and tensors."""
    named = _run(lambda: list(made.named_parameters()), what=f"{spec}: .named_parameters()")
    torch = sys.modules["torch"]
    for pair in named:
        is_pair = isinstance(pair, tuple) and len(pair) == 2
        if not is_pair or not isinstance(pair[0], str) or not isinstance(pair[1], torch.Tensor):
            raise StorageError(
                f"{spec}: .named_parameters() must give names and tensors, got {type(pair).__name__};"
                " leave the method as nn.Module has it"
            )


def _run(function: Callable[..., Any], *args: Any, what: str) -> Any:
    """Call the user's code, and turn whatever it raises into one sentence; also where it would end the program."""
    try:
        return function(*args)
    except (Exception, SystemExit) as error:
        raise StorageError(f"{what} failed with {type(error).__name__}: {error}") from error


def _parse(spec: str) -> tuple[Path, str]:
    file, colon, factory = spec.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise UnknownNameError(f"{spec!r} names no function; write FILE.py:FACTORY, for example {spec}:build")
    return Path(file), factory


def is_model_file(model: str) -> bool:
    """Return whether a model is given as a file, and not by a name of the zoo."""
    return ".py" in model
