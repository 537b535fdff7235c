"""A captured step: architecture, weights and gradient, from a model and an image, or from files.

This is the experimenter's side of the command line. A capture holds what an honest-but-curious observer sees; the true
image goes along in memory, to judge the result, and never into a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from constraint_algebra import storage
from constraint_algebra.arrays import Arrays
from constraint_algebra.errors import ConstraintAlgebraError, ParameterError, ShapeError, StorageError
from constraint_algebra.experiments import samples
from constraint_algebra.experiments.recipe import Recipe, is_model_file
from constraint_algebra.files.result_folder import with_result_kept
from constraint_algebra.files.writing import write
from constraint_algebra.layers.kinds import Shape
from constraint_algebra.networks.description import shape_text
from constraint_algebra.networks.network import Network, bind, named
from constraint_algebra.notes import collected, note

FORMAT = "constraint-algebra capture 1"
PRIVATE = {"image", "label"}


@dataclass(frozen=True)
class Capture:
    """One client's step as an observer sees it.

    Attributes:
        network: the architecture.
        parameters: weights and biases at which the gradient was taken, by PyTorch's names.
        gradients: the gradient, same names.
        loss: "cross_entropy", "logistic", or `None` for another one.
        about: where it comes from, as text: model, image, label, dtype, seed, init, where known.
        truth: the image that went in, `None` where unknown; never stored.
        batch: number of samples that the gradient comes from, `None` where nobody said.
        notes: what was assumed or done on the way: how a picture was converted and fitted, how a model was read.
        buffers: the running statistics after the step by name, where it moved them and the client shares them.
    """

    network: Network
    parameters: Arrays
    gradients: Arrays
    loss: str | None
    about: Mapping[str, str] = field(default_factory=dict)
    truth: NDArray[np.float64] | None = None
    batch: int | None = None
    notes: tuple[str, ...] = ()
    buffers: Arrays | None = None

    @property
    def seed(self) -> int:
        """The seed that the random numbers came from, 0 where none is known."""
        seed = self.about.get("seed", "")
        return int(seed) if re.fullmatch("[0-9]{1,20}", seed) else 0

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Write parameters and gradients into one file, `.npz` or `.safetensors`.

        The keys are `parameters/NAME`, `gradients/NAME` and, where the client shares them, `buffers/NAME`; the metadata
        tell the format, the input shape, the loss and how the model came about. Image and label stay out: the file
        holds what an observer sees.

        Raises:
            OutputExistsError: the file exists and `overwrite` is not set.
            StorageError: the suffix is unknown or the file cannot be written; what was there is as it was, and this
                capture is in the temporary folder `kept` of the exception.
        """
        arrays = {f"parameters/{name}": a for name, a in self.parameters.items()}
        arrays |= {f"gradients/{name}": a for name, a in self.gradients.items()}
        arrays |= {f"buffers/{name}": a for name, a in (self.buffers or {}).items()}
        about = {
            "format": FORMAT,
            "input_shape": shape_text(self.network.input_shape),
            "loss": self.loss or "other",
            **{key: text for key, text in self.about.items() if key not in PRIVATE},
        }
        storage.check_target(path, overwrite=overwrite)
        content = storage.to_bytes(path, arrays, metadata=about)
        try:
            write(path, content, overwrite=overwrite)
        except ConstraintAlgebraError as error:
            raise with_result_kept(error, path, {path.name: content}, self) from error


def from_image(
    recipe: Recipe, image: str, *, label: int | None = None, loss: str | None = None, shares_buffers: bool = False
) -> Capture:
    """Return the capture of one training step of a real PyTorch model on one image.

    Args:
        recipe: the model.
        image: a picture file, or `dataset:index` as in `samples`; it is cropped and resized to the model's input shape,
            which `notes` then says.
        label: the class; by default that of the sample, or 0 for a file; for the logistic loss 1.
        loss: "cross_entropy" or "logistic"; by default that of the zoo's entry, otherwise logistic for one output.
        shares_buffers: whether the client shares the running statistics that its step moved in training mode.

    Raises:
        ShapeError: the image or the label does not fit the model; and whatever `from_torch` raises.
        ParameterError: buffers are to be shared, and the step moves none.
    """
    with collected() as notes:
        captured = _from_image(recipe, image, label, loss, shares_buffers)
    return replace(captured, notes=tuple(notes))


def _from_image(recipe: Recipe, image: str, label: int | None, loss: str | None, shares_buffers: bool) -> Capture:
    from constraint_algebra.pytorch.gradients import torch_gradients
    from constraint_algebra.pytorch.tracing import from_torch

    built = recipe.build()
    pixels, own_label = _read(image)
    network, parameters = from_torch(built.model, built.input_shape or pixels.shape)
    if len(network.output_shape) != 1:
        raise ShapeError(
            f"the loss needs a vector of outputs, {recipe.model} returns {shape_text(network.output_shape)};"
            " take its gradient by torch_gradients with a loss of its own, save it, and give it with --gradients and"
            " --loss other"
        )
    truth = _fitted(image, pixels, network.input_shape)
    loss = loss or built.loss or _usual_loss(network)
    if loss == "other":
        raise ParameterError(
            "loss",
            f"{recipe.model} is trained with a loss of its own, which takes more than a label; choose --loss"
            " cross_entropy, or take its gradient by torch_gradients with that loss, save it, and give it with"
            " --gradients and --loss other",
        )
    target = _label(label, own_label, loss, network.output_shape[0])
    given, after = torch_gradients(built.model, truth, target, loss=loss, buffers=True)
    about = {**built.about, "image": image, "label": str(target)}
    moved = {name: after[name] for name in network.tracked_shapes} if shares_buffers else {}
    if shares_buffers and not moved:
        raise ParameterError(
            "buffers",
            f"no step of {recipe.model} moves running statistics in the mode that it is in, so that there is nothing to"
            " share; leave --share-buffers out, or let the factory return the model in training mode",
        )
    return Capture(network, parameters, given, loss, about, truth, batch=1, buffers=moved or None)


def from_file(
    path: Path,
    recipe: Recipe | None = None,
    *,
    parameters: Path | None = None,
    buffers: Path | None = None,
    loss: str | None = None,
    image: str | None = None,
) -> Capture:
    """Return the capture in a file of gradients, whoever wrote it.

    A file of `Capture.save` needs no more than itself, if its model is one of the zoo. Any other file of arrays under
    the parameters' names counts as gradients alone; the weights then come from `parameters` (such a file again), or are
    those that the model is built with.

    Args:
        path: `.npz`, `.safetensors` or PyTorch's own `.pt`.
        recipe: the model; without it the file must name one of the zoo.
        parameters: a file of weights.
        buffers: a file of the client's buffers after its step, such as its state dict; by default those in `path`.
        loss: "cross_entropy", "logistic" or "other"; by default what the file says, otherwise as in `from_image`.
        image: the true image, if known, to judge the result.

    Raises:
        StorageError: the file is not what it should be, or names a model that it may not choose.
        ParameterError: the arrays do not fit the model.
    """
    with collected() as notes:
        captured = _from_file(path, recipe, parameters, buffers, loss, image)
    return replace(captured, notes=tuple(notes))


def _from_file(
    path: Path,
    recipe: Recipe | None,
    parameters: Path | None,
    buffers: Path | None,
    loss: str | None,
    image: str | None,
) -> Capture:
    from constraint_algebra.pytorch.tracing import from_torch

    arrays, told = storage.load(path), storage.load_metadata(path)
    weights, given, after = _split(arrays)
    if not given:
        raise ParameterError("gradients", f"{path} holds parameters alone; a file with gradients is needed")
    if parameters is not None:
        weights = _split(storage.load(parameters), "parameters/")[0]
    if buffers is not None:
        after = _split(storage.load(buffers), "buffers/")[2]
    built = (recipe or _recipe_of(path, told)).build()
    pixels = None if image is None else _read(image)[0]
    shape = built.input_shape or _shape_of(told) or (None if pixels is None else pixels.shape)
    if shape is None:
        raise ShapeError(
            f"{built.about['model']} does not say which input it takes; pass --input-shape, such as 3x32x32"
        )
    network, own = from_torch(built.model, shape)
    weights = named(network, weights or own, "parameters")
    given = named(network, given, "gradients")
    bind(network, weights, "parameters")
    bind(network, given, "gradients")
    loss = loss or told.get("loss") or built.loss or _usual_loss(network)
    dtype = str(next(iter(given.values())).dtype)
    about = built.about | {key: told[key] for key in ("seed", "init") if key in told}
    about |= {"dtype": dtype, "gradients": str(path)}
    if image is not None:
        about["image"] = image
    truth = None if pixels is None or image is None else _fitted(image, pixels, network.input_shape)
    return Capture(network, weights, given, None if loss == "other" else loss, about, truth, buffers=after or None)


def _usual_loss(network: Network) -> str:
    return "logistic" if network.output_shape == (1,) else "cross_entropy"


def _read(image: str) -> tuple[NDArray[np.float64], int | None]:
    """Return a picture file or a sample by name, with its label if it has one."""
    if Path(image).is_file() or ("." in image and ":" not in image):
        values = samples.read_image(image)
        note(samples.conversions(image))
        return values, None
    sample = samples.load(image)
    return sample.image, sample.label


def _fitted(image: str, pixels: NDArray[np.float64], shape: Shape) -> NDArray[np.float64]:
    """Return a picture in the network's input shape, and say what that took."""
    steps = samples.fitting(pixels.shape, shape) if len(shape) == 3 else ""
    fitted = samples.fit(pixels, shape)
    if steps:
        note(f"{Path(image).name}: {shape_text(pixels.shape)} brought to {shape_text(shape)}: {steps}")
    return fitted


def _label(label: int | None, own: int | None, loss: str, outputs: int) -> int:
    classes = 2 if loss == "logistic" else outputs
    target = label if label is not None else 1 if loss == "logistic" else own or 0
    if not 0 <= target < classes:
        raise ShapeError(
            f"label {target} does not exist among {classes} classes; choose --label from 0 to {classes - 1}"
        )
    return target


def _split(arrays: Arrays, bare: str = "gradients/") -> tuple[Arrays, Arrays, Arrays]:
    """Return parameters, gradients and buffers of a file; arrays without a prefix count as those that `bare` names."""
    prefixes = ("parameters/", "gradients/", "buffers/")
    named = {name if name.startswith(prefixes) else bare + name: a for name, a in arrays.items()}
    weights, given, after = ({n.removeprefix(p): a for n, a in named.items() if n.startswith(p)} for p in prefixes)
    return weights, given, after


def _recipe_of(path: Path, about: Mapping[str, str]) -> Recipe:
    """Return the recipe that a file tells, as long as that executes nothing."""
    model = about.get("model")
    if model is None or is_model_file(model):
        told = "does not say which model it belongs to" if model is None else f"belongs to {model}"
        raise StorageError(f"{path} {told}; a file is never executed on its own word: name the model with --model")
    return Recipe(model)


def _shape_of(about: Mapping[str, str]) -> Shape | None:
    text = about.get("input_shape")
    return None if text is None else parse_shape(text)


def parse_shape(text: str) -> Shape:
    """Return the shape that a text such as `3x32x32` means.

    Raises:
        ShapeError: the text is no shape.

    >>> parse_shape("3x32x32"), parse_shape("1,28,28"), parse_shape("2×8×8")
    ((3, 32, 32), (1, 28, 28), (2, 8, 8))
    """
    sizes = text.replace("×", "x").replace(",", "x").split("x")
    if not all(re.fullmatch("0*[1-9][0-9]{0,17}", size.strip(), re.ASCII) for size in sizes):
        shown = text if len(text) < 60 else f"{text[:60]}..."
        raise ShapeError(f"an input shape is whole numbers such as 3x32x32, got {shown!r}")
    return tuple(int(size) for size in sizes)
