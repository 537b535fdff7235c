"""The commands that need shapes alone: what a network's gradients determine, and how many filters that takes."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from constraint_algebra.commands.exits import DONE, NOT_ALL, complain
from constraint_algebra.commands.terminal import say
from constraint_algebra.errors import ShapeError
from constraint_algebra.notes import collected

if TYPE_CHECKING:
    import pandas as pd

    from constraint_algebra.networks.network import Network
    from constraint_algebra.ranks.whole_map import WholeMap

app = typer.Typer()


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    csv = "csv"
    json = "json"
    latex = "latex"


Model = Annotated[
    str,
    typer.Argument(
        help="Network of the zoo (see the command zoo), or FILE.py:FACTORY, which returns a Network or an nn.Module."
        " The file is executed: only name files you trust."
    ),
]
InputShape = Annotated[str | None, typer.Option(help="Shape of one sample, such as 3x32x32; an nn.Module needs it.")]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print the result.")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**64 - 1, help="Seed of the fraction of active outputs and of random residues.")
]


@app.command()
def feasibility(
    model: Model,
    input_shape: InputShape = None,
    activity: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Fraction of the outputs of ReLU and the like that are active.")
    ] = 1.0,
    at_bound: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of the input's values at an end of their range; with it, --trials of the range.",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option(min=0, help="How often to simulate what zeros and the range decide where rank is short.")
    ] = 0,
    seed: Seed = 0,
    output_format: FormatOption = Format.table,
) -> None:
    """Say from layer shapes alone what the gradients of a network determine, and why.

    Exit code 0: the input is determined. 1: not, not all of it, or undecided. 2: bad input.
    """
    from constraint_algebra.theory import feasibility
    from constraint_algebra.theory.report import THREAT_MODEL

    network = _network(model, input_shape)
    if trials and output_format in {Format.csv, Format.latex}:
        complain(f"note: --trials adds nothing to {output_format.value}, nothing is simulated; use table or json")
        at_bound, trials = None, 0
    report = feasibility.feasibility(network, activity=activity, seed=seed, at_bound=at_bound, trials=trials)
    about = {
        "model": model,
        "verdict": report.verdict,
        "conclusion": report.conclusion,
        "limit": _limit(report.limit) if output_format is Format.json else None,
        "security_index": report.security_index if output_format is Format.json else None,
        "threat_model": THREAT_MODEL,
        "assumptions": list(report.assumptions),
        "beyond": [one.to_dict() for one in report.beyond] if output_format is Format.json else None,
        "activity": activity,
        "seed": seed,
    }
    _print(report, _with_inputs(report.to_frame(), report.network), about, output_format)
    raise typer.Exit(DONE if report.verdict == "determined" else NOT_ALL)


@app.command("minimum-filters")
def minimum_filters(
    model: Model, input_shape: InputShape = None, seed: Seed = 0, output_format: FormatOption = Format.table
) -> None:
    """Say with how few filters each layer would still determine its input, all outputs active.

    By counting, by gradient equations alone, and by weight and gradient equations together. Exit code 0: answered. 2:
    bad input.
    """
    from constraint_algebra.theory import minimum_filters

    found = minimum_filters.minimum_filters(_network(model, input_shape), seed=seed)
    about = {"model": model, "conclusion": found.conclusion, "seed": seed}
    _print(found, found.to_frame(), about, output_format)


def _network(model: str, input_shape: str | None) -> Network:
    """Return the architecture; PyTorch loads only for an `nn.Module`."""
    from constraint_algebra.experiments import capture
    from constraint_algebra.experiments.recipe import call_factory
    from constraint_algebra.networks import zoo
    from constraint_algebra.networks.description import shape_text
    from constraint_algebra.networks.network import Network

    shape = None if input_shape is None else capture.parse_shape(input_shape)
    if ":" not in model and not model.endswith(".py"):
        return zoo.network(model, input_shape=shape)
    made = call_factory(model)
    if isinstance(made, Network):
        if shape not in {None, made.input_shape}:
            raise ShapeError(
                f"{model} is a network for inputs of {shape_text(made.input_shape)}, and {input_shape} was asked for;"
                " leave the input shape out"
            )
        return made
    if shape is None:
        raise ShapeError(f"{model} does not say which input it takes; pass --input-shape, such as 3x32x32")
    from constraint_algebra.pytorch.tracing import from_torch

    with collected() as notes:
        network = from_torch(made, shape)[0]
    for text in notes:
        complain(f"note: {text}")
    return network


def _limit(found: WholeMap | None) -> dict[str, Any] | None:
    """Return what all equations together determine as plain values."""
    if found is None:
        return None
    count = int(found.determined.sum())
    return {"rank": found.rank, "unknowns": found.unknowns, "determined": count, "holds": found.scope}


def _with_inputs(frame: pd.DataFrame, network: Network) -> pd.DataFrame:
    """Return the rows of a graph's layers with what each reads, those of a chain as they are."""
    if network.is_chain:
        return frame
    reads = [", ".join(map(network.value_name, network.named(name).inputs)) for name in frame["layer"]]
    frame = frame.copy()
    frame.insert(1, "inputs", reads)
    return frame


def _print(result: object, frame: pd.DataFrame, about: dict[str, Any], output_format: Format) -> None:
    frame = frame.assign(input_shape=["x".join(map(str, shape)) for shape in frame["input_shape"]])
    if output_format is Format.table:
        say(repr(result))
    elif output_format is Format.csv:
        say(frame.to_csv(index=False).rstrip("\n"))
    elif output_format is Format.json:
        rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
        say(json.dumps({**about, "layers": rows}, indent=2, ensure_ascii=False))
    else:
        say(_latex(frame))


def _latex(frame: pd.DataFrame) -> str:
    r"""Return a tabular for booktabs, missing values as dashes and the reasons left out.

    >>> import pandas as pd
    >>> print(_latex(pd.DataFrame({"layer": ["a_1"], "rank": pd.array([None], dtype="Int64")})))
    \begin{tabular}{lr}
    \toprule
    layer & rank \\
    \midrule
    a\_1 & -- \\
    \bottomrule
    \end{tabular}
    """
    frame = frame.drop(columns="reason", errors="ignore")
    columns = "".join("r" if str(dtype) == "Int64" else "l" for dtype in frame.dtypes)
    rows = [frame.columns.tolist(), *frame.astype(object).where(frame.notna(), "--").to_numpy().tolist()]
    head, *body = (" & ".join(str(v).replace("_", r"\_") for v in row) + r" \\" for row in rows)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"])
