"""How to obtain a model: a name of the zoo, or a function in a file of the user."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from constraint_algebra.errors import ShapeError, StorageError, UnknownNameError
from constraint_algebra.layers.kinds import Shape
from constraint_algebra.networks import zoo
from constraint_algebra.networks.network import Network, shape_text

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
        return Built(getattr(made, CASTS[self.dtype])(), self.input_shape, None, self._about("own weights"))

    def _about(self, init: str) -> dict[str, str]:
        return {"model": self.model, "seed": str(self.seed), "init": init, "dtype": self.dtype}


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
    if not (isinstance(made, Network) or hasattr(made, "named_parameters")):
        raise StorageError(f"{spec} must return an nn.Module or a Network, got {type(made).__name__}")
    return made


def _run(function: Callable[..., Any], *args: Any, what: str) -> Any:
    """Call the user's code, and turn whatever it raises into one sentence."""
    try:
        return function(*args)
    except Exception as error:
        raise StorageError(f"{what} failed with {type(error).__name__}: {error}") from error


def _parse(spec: str) -> tuple[Path, str]:
    file, colon, factory = spec.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise UnknownNameError(f"{spec!r} names no function; write FILE.py:FACTORY, for example {spec}:build")
    return Path(file), factory


def is_model_file(model: str) -> bool:
    """Return whether a model is given as a file, and not by a name of the zoo."""
    return ".py" in model
