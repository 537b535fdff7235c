"""The command line: capture a gradient, reconstruct the image, look at what comes with the library.

Exit codes: see `exits`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from constraint_algebra import __version__
from constraint_algebra.commands import theory
from constraint_algebra.commands.exits import DONE, MEANING, NOT_ALL
from constraint_algebra.commands.terminal import Group, PlainConsole, bars, say
from constraint_algebra.errors import ShapeError
from constraint_algebra.notes import collected

if TYPE_CHECKING:
    from constraint_algebra.experiments.capture import Capture
    from constraint_algebra.experiments.recipe import Recipe
    from constraint_algebra.recursion.result import Reconstruction

app = typer.Typer(
    name="constraint-algebra",
    cls=Group,
    help="What the gradient of one training step determines of its input: capture it, reconstruct, judge.",
    epilog=MEANING,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(theory.app)


class Dtype(StrEnum):
    """Number types of parameters and gradients."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Init(StrEnum):
    """How random weights are drawn."""

    uniform = "uniform"
    default = "default"


class Loss(StrEnum):
    """Losses that a gradient may come from."""

    cross_entropy = "cross_entropy"
    logistic = "logistic"
    other = "other"


MODEL = "Network of the zoo (see the command zoo), or FILE.py:FACTORY. The file is executed: only name files you trust."
Model = Annotated[str, typer.Option("--model", "-m", help=MODEL)]
OptionalModel = Annotated[str | None, typer.Option("--model", "-m", help=MODEL)]
IMAGE = "Picture file, or dataset:index such as cifar10:7 (see the command samples)."
Image = Annotated[str, typer.Option("--image", "-i", help=IMAGE)]
OptionalImage = Annotated[
    str | None,
    typer.Option("--image", "-i", help=f"{IMAGE} With --gradients: the true image, only to judge the result."),
]
DtypeOption = Annotated[Dtype, typer.Option(help="Type of parameters and gradients; it sets the noise floor.")]
Seed = Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Seed of the random weights.")]
InitOption = Annotated[
    Init | None,
    typer.Option(
        help="Random weights: U(-0.5, 0.5) as in R-CONV, or PyTorch's default; without it as the authors of the network"
        " do it. An nn.Module of your own keeps its weights."
    ),
]
Label = Annotated[int | None, typer.Option(help="Class of the image; by default the sample's own, 0 for a file.")]
LossOption = Annotated[
    Loss | None,
    typer.Option(
        help="Loss; by default what model or file says. other: only with --gradients, needs a bias in the head."
    ),
]
InputShape = Annotated[
    str | None, typer.Option(help="Input of a model of your own, such as 3x32x32; by default the image's own shape.")
]
ShareBuffers = Annotated[
    bool,
    typer.Option(
        "--share-buffers",
        help="The client shares the running statistics of its batch norms after the step, too. They move in training"
        " mode, which a model of your own is in unless FACTORY calls eval().",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing output.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"constraint-algebra {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What the gradient of one training step determines of its input: capture it, reconstruct, judge."""


@app.command()
def reconstruct(
    model: OptionalModel = None,
    image: OptionalImage = None,
    gradients: Annotated[
        Path | None,
        typer.Option(help="Start from a file of gradients (.npz, .safetensors, .pt) and not from an image."),
    ] = None,
    parameters: Annotated[
        Path | None,
        typer.Option(help="With --gradients: a file of weights, if neither that file nor the model has them."),
    ] = None,
    buffers: Annotated[
        Path | None,
        typer.Option(
            help="With --gradients: a file of the client's buffers after its step in training mode, such as its state"
            " dict; those from before the step belong to the weights."
        ),
    ] = None,
    share_buffers: ShareBuffers = False,
    dtype: DtypeOption = Dtype.float32,
    seed: Seed = 0,
    init: InitOption = None,
    label: Label = None,
    loss: LossOption = None,
    input_shape: InputShape = None,
    batch: Annotated[
        int | None, typer.Option(help="With --gradients: 1 if it is known that the gradient is that of one sample.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("out"),
    force: Force = False,
) -> None:
    """Reconstruct an image from the gradient of one training step.

    Takes the gradient of a real PyTorch model on --image, or one from --gradients, and solves for the input. Writes
    reconstruction.png (the picture), comparison.png (original, reconstruction, error), reconstruction.npz (values,
    which of them are determined and on what that rests, error bars) and result.json into --out.

    Exit code 0: the input is determined for all inputs, or for all whose values lie in their range. 1: not, not all of
    it, or by what does not prove it: zeros, sides of activations, a search. 2: bad input.
    """
    from constraint_algebra.experiments import results
    from constraint_algebra.recursion.result import Status

    if gradients is None and (model is None or image is None):
        raise typer.BadParameter("give --model and --image to capture a gradient, or --gradients FILE")
    if gradients is None and (loss is Loss.other or any(given is not None for given in (parameters, buffers, batch))):
        raise typer.BadParameter("--loss other, --parameters, --buffers and --batch go with --gradients")
    if gradients is not None and share_buffers:
        raise typer.BadParameter("--share-buffers goes with --image; with --gradients give them with --buffers FILE")
    with results.folder(out, overwrite=force) as place:
        recipe = None if model is None else _recipe(model, seed, init, dtype, input_shape)
        captured = _capture(recipe, image, gradients, parameters, buffers, label, loss, batch, share_buffers)
        result, seconds = _solve(captured)
        values = results.figures(captured, result, cpu_seconds=seconds)
        paths = results.write(place, captured, result, values)
    _say_notes(captured)
    _report(result, values, paths)
    raise typer.Exit(DONE if result.status in {Status.DETERMINED, Status.GIVEN_RANGE} else NOT_ALL)


@app.command()
def capture(
    model: Model,
    image: Image,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, .npz or .safetensors.")],
    dtype: DtypeOption = Dtype.float32,
    seed: Seed = 0,
    init: InitOption = None,
    label: Label = None,
    loss: LossOption = None,
    input_shape: InputShape = None,
    share_buffers: ShareBuffers = False,
    force: Force = False,
) -> None:
    """Write the gradient of one training step into a file.

    The file holds the arrays parameters/NAME and gradients/NAME, with --share-buffers buffers/NAME as well, and neither
    image nor label: what an observer of the step sees. Give it to reconstruct --gradients.
    """
    from constraint_algebra.experiments.capture import from_image
    from constraint_algebra.storage import check_target

    if loss is Loss.other:
        raise typer.BadParameter("a gradient is captured with --loss cross_entropy or --loss logistic")
    check_target(out, overwrite=force)
    recipe = _recipe(model, seed, init, dtype, input_shape)
    captured = from_image(recipe, image, label=label, loss=_value(loss), shares_buffers=share_buffers)
    out.parent.mkdir(parents=True, exist_ok=True)
    captured.save(out, overwrite=force)
    _say_notes(captured)
    count = sum(a.size for a in captured.gradients.values())
    say(f"{count:,} gradient values in {dtype.value} and as many parameters in {out}")


@app.command()
def certify(
    model: Model,
    image: Image,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the certificate.")] = Path("out"),
    delta: Annotated[float, typer.Option(help="Smallest change of a value that counts.")] = 1e-3,
    time_limit: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds after which nothing new is begun; the certificate says what was not looked at."
        ),
    ] = 600.0,
    seed: Seed = 0,
    init: InitOption = None,
    label: Label = None,
    loss: LossOption = None,
    input_shape: InputShape = None,
    force: Force = False,
) -> None:
    """Say of every value of an image whether the gradients fix it, with the proof.

    Fixed means for all images with these gradients; fixed in region for those on which every activation works on the
    same side.

    Writes certificate.json (verdicts, tolerances, digests), certificate.npz (bounds, and the twins: other images with
    the same gradients) and certificate.png (the picture) into --out. All of it holds in float64.

    Exit code 0: every value is fixed, for all images. 1: not every one. 2: bad input.
    """
    from constraint_algebra.experiments.capture import from_image
    from constraint_algebra.files.result_folder import ResultFolder
    from constraint_algebra.proofs.certificate import FILES
    from constraint_algebra.proofs.certify import certify as prove

    if loss is Loss.other:
        raise typer.BadParameter("a certificate needs --loss cross_entropy or --loss logistic")
    with ResultFolder(out, FILES, overwrite=force) as place:
        recipe = _recipe(model, seed, init, Dtype.float64, input_shape)
        captured = from_image(recipe, image, label=label, loss=_value(loss))
        assert captured.truth is not None
        assert captured.loss is not None
        _say_notes(captured)
        with bars() as shown, collected():  # the notes of reading the model again
            bar = shown.add_task("certify", total=captured.truth.size)
            found = prove(
                recipe.build().model,
                captured.truth,
                int(captured.about["label"]),
                loss=captured.loss,
                delta=delta,
                time_limit=time_limit,
                seed=seed,
                progress=lambda done, total, doing: shown.update(bar, completed=done, total=total, description=doing),
            )
        paths = place.write(found.contents(), result=found)
    say(repr(found))
    for path in paths:
        say(str(path))
    raise typer.Exit(DONE if found.fixed.all() else NOT_ALL)


@app.command()
def zoo() -> None:
    """List the networks that come with the library, in groups."""
    from constraint_algebra.networks import zoo as networks
    from constraint_algebra.networks.description import shape_text

    for family, words in networks.FAMILIES.items():
        say(f"{family}: {words}")
        table = Table("name", "input", "parameters", "loss", "paper", box=box.SIMPLE)
        for name in networks.names(family):
            found, made = networks.entry(name), networks.network(name)
            table.add_row(name, shape_text(made.input_shape), f"{made.parameter_count:,}", found.loss, found.paper)
        PlainConsole().print(table)


@app.command()
def samples() -> None:
    """List the images that come with the library."""
    from constraint_algebra.experiments import samples as pictures

    for name in pictures.names():
        say(name)


def _recipe(model: str, seed: int, init: Init | None, dtype: Dtype, input_shape: str | None) -> Recipe:
    from constraint_algebra.experiments.capture import parse_shape
    from constraint_algebra.experiments.recipe import Recipe

    shape = None if input_shape is None else parse_shape(input_shape)
    return Recipe(model, seed, None if init is None else init.value, dtype.value, shape)


def _value(loss: Loss | None) -> str | None:
    """Return the name of a loss: an enumeration would show as one in messages."""
    return None if loss is None else loss.value


def _capture(
    recipe: Recipe | None,
    image: str | None,
    gradients: Path | None,
    parameters: Path | None,
    buffers: Path | None,
    label: int | None,
    loss: Loss | None,
    batch: int | None,
    share_buffers: bool,
) -> Capture:
    from constraint_algebra.experiments.capture import from_file, from_image

    if gradients is not None:
        files = {"parameters": parameters, "buffers": buffers}
        return replace(from_file(gradients, recipe, **files, loss=_value(loss), image=image), batch=batch)
    if recipe is None or image is None:
        raise ShapeError("a model and an image are needed")
    return from_image(recipe, image, label=label, loss=_value(loss), shares_buffers=share_buffers)


def _solve(captured: Capture) -> tuple[Reconstruction, float]:
    """Reconstruct with a progress bar on stderr; return the result and the CPU time of the solution alone."""
    from constraint_algebra.recursion.backsubstitution import reconstruct as solve

    with bars() as shown:
        bar = shown.add_task("head", total=len(captured.network.bilinear))

        def progress(done: int, total: int, name: str) -> None:
            shown.update(bar, completed=done, total=total, description=f"layer {name}")

        start = time.process_time()
        result = solve(
            captured.network,
            captured.parameters,
            captured.gradients,
            loss=captured.loss,
            buffers=captured.buffers,
            batch=captured.batch,
            seed=captured.seed,
            progress=progress,
        )
        return result, time.process_time() - start


def _say_notes(captured: Capture) -> None:
    """Say what was done to the picture, and how the model was read."""
    for text in captured.notes:
        typer.echo(f"note: {text}", err=True)


def _report(result: Reconstruction, values: dict[str, Any], paths: list[Path]) -> None:
    """Print the layers as a table, then the verdict, the figures and the files."""
    titles = (
        "layer",
        "kind",
        "unknowns",
        "weight\nrows",
        "gradient\nrows",
        "rank",
        "deter-\nmined",
        "condition",
        "residual",
    )
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for title in titles:
        table.add_column(title, justify="left" if title in {"layer", "kind"} else "right")
    beyond = any(layer.grounds for layer in result.layers)
    if beyond:
        table.add_column("rests on")
    for layer in result.layers:
        rank = "?" if layer.rank is None else f"{layer.rank:,}"
        counts = (f"{n:,}" for n in (layer.unknowns, layer.weight_rows, layer.gradient_rows))
        tail = (f"{layer.determined:,}", f"{layer.condition:.1e}", f"{layer.residual:.1e}")
        grounds = [layer.rests_on] if beyond else []
        table.add_row(layer.name, layer.kind, *counts, rank, *tail, *grounds)
    PlainConsole().print(table)
    say(result.conclusion)
    if values["mse"] is not None:
        decibels = "exact" if values["psnr"] is None else f"{values['psnr']:.1f} dB"
        similarity = "" if values["ssim"] is None else f", SSIM {values['ssim']:.4f}"
        say(f"MSE {values['mse']:.3g}, PSNR {decibels}{similarity}")
    if values["label"] is not None:
        say(f"label {values['label']}")
    say(f"{values['cpu_seconds']:.2f} s of CPU time")
    for path in paths:
        say(str(path))
