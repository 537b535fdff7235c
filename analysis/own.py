"""The audit of one's own network: what its gradients determine, what comes back, and what each defence leaves.

    python -m analysis own --model my_model.py:factory --input-shape 3,32,32

Writes `report.html`, one file that needs nothing else, and `report.json` with the same figures, into the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from analysis.audit import SEED, Audit, take_steps
from analysis.screen import say
from constraint_algebra.errors import OutputExistsError
from constraint_algebra.experiments.capture import parse_shape
from constraint_algebra.experiments.recipe import Recipe
from constraint_algebra.networks.network import shape_text

FILES = ("report.html", "report.json")


def command(
    model: Annotated[str, typer.Option(help="FILE.py:FACTORY, executed, or a name of the zoo.")],
    input_shape: Annotated[str, typer.Option(help="Shape of one sample, such as 3,32,32.")],
    image: Annotated[list[str] | None, typer.Option(help="Samples or picture files; by default three samples.")] = None,
    dtype: Annotated[str, typer.Option(help="Type of parameters and gradients.")] = "float32",
    out: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")] = Path("out/own"),
    force: Annotated[bool, typer.Option("--force", help="Replace a report that is there.")] = False,
) -> None:
    """Audit your own network: feasibility, measured reconstruction, defences, as one HTML file."""
    from analysis.own_report import page  # loads matplotlib, which no other command needs at once

    there = [name for name in FILES if (out / name).exists()]
    if there and not force:
        raise OutputExistsError(
            f"{out} already holds {', '.join(there)}; pass --force, or name another folder with --out"
        )
    audit = Audit(
        model, take_steps(Recipe(model, SEED, dtype=dtype, input_shape=parse_shape(input_shape)), image or [])
    )
    audit.json["dtype"] = dtype
    say(f"{model}: input {shape_text(audit.network.input_shape)}, {audit.network.parameter_count:,} parameters")
    audit.look_at_shapes()
    audit.reconstruct()
    audit.defend()
    audit.json["conclusion"] = audit.conclusion
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(audit.json, indent=2, ensure_ascii=False, allow_nan=False)
    (out / "report.html").write_text(page(audit), encoding="utf-8")
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    say(audit.conclusion)
    say(f"{out / 'report.html'}, {out / 'report.json'}")
