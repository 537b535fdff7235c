"""The audit of one's own network: what its gradients determine, what comes back, and what each defence leaves.

    python -m analysis own --model my_model.py:factory --input-shape 3,32,32

Writes `report.html`, one file that needs nothing else, and `report.json` with the same figures, into the folder, both
or neither; nobody else can write there meanwhile.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from analysis.audit import SEED, Audit, take_steps
from analysis.screen import say
from constraint_algebra.experiments.capture import parse_shape
from constraint_algebra.experiments.recipe import Recipe
from constraint_algebra.files.result_folder import ResultFolder
from constraint_algebra.networks.description import shape_text

FILES = ("report.html", "report.json")  # the page comes last: where it is, its twin is of the same model
ROOM = 2**22  # bytes to ask for before the work: a page of three photographs has about one million


def command(
    model: Annotated[str, typer.Option(help="FILE.py:FACTORY, executed, or a name of the zoo.")],
    input_shape: Annotated[str, typer.Option(help="Shape of one sample, such as 3,32,32.")],
    image: Annotated[list[str] | None, typer.Option(help="Samples or picture files; by default three samples.")] = None,
    dtype: Annotated[str, typer.Option(help="Type of parameters and gradients.")] = "float32",
    out: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")] = Path("out/own"),
    time_limit: Annotated[
        float,
        typer.Option(min=0, help="Seconds after which no reconstruction begins; the report says what is missing."),
    ] = math.inf,
    force: Annotated[bool, typer.Option("--force", help="Replace a report that is there.")] = False,
) -> None:
    """Audit your own network: feasibility, measured reconstruction, defences, as one HTML file."""
    from analysis.own_report import page  # loads matplotlib, which no other command needs at once

    with ResultFolder(out, FILES, overwrite=force, needed=ROOM) as folder:
        recipe = Recipe(model, SEED, dtype=dtype, input_shape=parse_shape(input_shape))
        audit = Audit(model, take_steps(recipe, image or []), time_limit=time_limit)
        audit.json["dtype"] = dtype
        say(f"{model}: input {shape_text(audit.network.input_shape)}, {audit.network.parameter_count:,} parameters")
        audit.look_at_shapes()
        audit.reconstruct()
        audit.defend()
        audit.json["conclusion"] = audit.conclusion
        twin = json.dumps(audit.json, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        texts = {"report.html": page(audit), "report.json": twin}
        contents = {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}
        folder.write(contents, result=audit)
    say(audit.conclusion)
    say(f"{out / 'report.html'}, {out / 'report.json'}")
