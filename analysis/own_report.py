"""The audit as one HTML file: pictures inlined, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.audit import NOT_COMPUTED, Audit
from analysis.measured import guess
from constraint_algebra import plotting
from constraint_algebra.arrays import FloatArray
from constraint_algebra.networks.description import shape_text
from constraint_algebra.recursion.result import Reconstruction

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 64rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
.verdict { border-left: 5px solid #0b5fa5; background: #eef4fa; padding: .8rem 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
details { margin: .5rem 0; } summary { cursor: pointer; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #ccc; text-align: right; vertical-align: middle; }
th { font-weight: 600; border-bottom: 2px solid #555; vertical-align: bottom; }
th.text, td.text { text-align: left; }
img { image-rendering: pixelated; display: block; } img.smooth { image-rendering: auto; max-width: 100%; }
figure { display: inline-block; margin: .4rem 1.2rem .8rem 0; vertical-align: top; }
figcaption { font-size: .85rem; }
.note { color: #444; font-size: .9rem; }
"""
WHAT_IT_MEANS = {
    "DETERMINED": "every value determined",
    "IF_SINGLE": "every value, if it is one sample",
    "GIVEN_RANGE": "every value, given its range",
    "BY_ZEROS": "every value, by zeros: not proven",
    "BY_BITS": "every value, by sides that fit: not proven",
    "BY_WINNERS": "every value, by winners that fit: not proven",
    "BY_BRANCHES": "every value, by branches that fit: not proven",
    "LOCAL": "every value, by a search: unique nearby",
    "PARTIAL": "some values determined",
    "UNDETERMINED": "back-substitution finds none",
    "IMPRECISE": "too little precision",
    "UNDECIDED": "not settled",
    "AMBIGUOUS": "several inputs fit",
    "INCONSISTENT": "result does not fit the gradient",
    NOT_COMPUTED: "not computed",
}


def page(audit: Audit) -> str:
    """Return the report."""
    title = f"What the gradients of {audit.model} give away"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _about(audit),
        f'<p class="verdict">{escape(audit.json["conclusion"])}</p>',
        *_shapes(audit),
        *_samples(audit),
        *_defences(audit),
        *_limits(audit),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>{body}</body></html>\n'


def _about(audit: Audit) -> str:
    network, dtype = audit.network, escape(str(audit.json["dtype"]))
    size = f"Input {shape_text(network.input_shape)}, {network.parameter_count:,} parameters"
    threat = f"Threat model: {escape(audit.json['threat_model'])}."
    known = "Defences are known to the observer, with the standard deviation of what they change."
    return f'<p>{size}, gradients in {dtype}, one sample a step.</p>\n<p class="note">{threat} {known}</p>'


def _shapes(audit: Audit) -> Iterable[str]:
    yield "<h2>What the shapes alone decide</h2>"
    yield (
        '<p class="note">Exact ranks for almost all weights and output gradients. “Filters needed” are those whose'
        " gradient equations alone determine the layer's input; “by counting” is what the number of equations"
        " suggests.</p>"
    )
    columns = {
        "layer": "layer",
        "kind": "kind",
        "unknowns": "unknowns",
        "weight_rows": "weight equations",
        "gradient_rows": "gradient equations",
        "generic": "exact rank",
        "determined": "determined",
        "filters_needed": "filters needed",
        "filters_by_counting": "by counting",
        "verdict": "verdict",
    }
    for name, found in audit.json["feasibility"].items():
        rows = [[_number(layer[key]) for key in columns] for layer in found["layers"]]
        table = _table(list(columns.values()), rows, text=(0, 1, 9))
        title, conclusion = escape(name[0].upper() + name[1:]), escape(found["conclusion"])
        if name == "all outputs active":
            yield f"<p><strong>{title}.</strong> {conclusion}</p>{table}"
        else:
            yield f"<details><summary><strong>{title}.</strong> {conclusion}</summary>{table}</details>"


def _samples(audit: Audit) -> Iterable[str]:
    yield "<h2>What came back</h2>"
    headers = [
        "sample",
        "outcome",
        "determined",
        "rests on",
        "PSNR, dB",
        "error bars promise, dB",
        "errors within 4 bars",
        "CPU, s",
    ]
    rows = []
    for name, row in audit.json["reconstructions"].items():
        if name not in audit.results:
            rows.append([name, _reason(row), *[""] * 6])
            continue
        promised, within = row.get("promised_psnr_db"), row.get("within_4_bars")
        rows.append(
            [name, WHAT_IT_MEANS[row["status"]], _share(row["determined_share"]), _grounds(row),
             _decibels(row["psnr_db"]), _decibels(promised), _share(within), f"{row['cpu_s']:.1f}"]
        )  # fmt: skip
    yield _table(headers, rows, text=(0, 1, 3))
    for name, result in list(audit.results.items())[:1]:
        yield _flow(name, result)
    for name, result in audit.results.items():
        truth = audit.steps[name].truth
        assert truth is not None
        if not plotting.is_picture(truth.shape):
            continue
        share = _share(audit.json["reconstructions"][name]["determined_share"])
        yield _picture(truth, f"The sample {name} that the client trains on", name)
        yield _picture(
            guess(result), f"What the gradient gives away of {name}: {share} of the values determined", "came back"
        )
        if result.determined.any():
            yield _error(np.where(result.determined, result.input, np.nan), truth, name)
        if result.beyond_equations:
            yield _ground_map(result, name)
        yield "<br>"


def _defences(audit: Audit) -> Iterable[str]:
    found = audit.json["defences"]
    yield "<h2>What each defence leaves</h2>"
    if found["sample"] is None:
        yield "<p>No sample could be computed without a defence, and so none was tried.</p>"
        return
    grey = next((row["grey_psnr_db"] for row in found["rows"] if row.get("grey_psnr_db") is not None), None)
    yield (
        f'<p class="note">The sample {escape(found["sample"])} again. “Layers solved” counts from the head down; the'
        " input is solved with the last of them. PSNR is that of the whole picture, with a guess where nothing is"
        f" determined: plain mid-grey has {_decibels(grey)} dB. A picture with more than that shows something,"
        " determined or not. Pruned entries count as unknown, and so does whatever is zero anyway: an observer who can"
        " tell the two apart knows more.</p>"
    )
    headers = [
        "defence",
        "strength",
        "outcome",
        "layers solved",
        "rank of layer 1",
        "determined",
        "rests on",
        "PSNR, dB",
        "picture",
    ]
    rows = []
    for rule, row in zip(audit.left, found["rows"], strict=True):
        result = audit.left[rule]
        if result is None:
            rows.append([escape(row["defence"]), escape(row["strength"]), escape(_reason(row)), *[""] * 6])
            continue
        shown = guess(result)
        seen = (
            _image(shown, f"What is left of {found['sample']} under {rule}", 64)
            if plotting.is_picture(shown.shape)
            else ""
        )
        rows.append(
            [escape(row["defence"]), escape(row["strength"]), WHAT_IT_MEANS[row["status"]],
             f"{row['solved_layers']} of {row['layers']}", _share(row["rank_share"]), _share(row["determined_share"]),
             escape(_grounds(row)), _decibels(row["psnr_db"]), seen]
        )  # fmt: skip
    yield _table(headers, rows, text=(0, 1, 2, 6), raw=True)


def _limits(audit: Audit) -> Iterable[str]:
    yield "<h2>What this does not say</h2>"
    yield (
        "<p>“Not determined” is about equations, and no promise of privacy: a picture may be recognisable although no"
        " single value of it is determined, and an observer who knows what pictures look like sees more than least"
        " squares does. All figures are those of single samples; a batch hides more. A trained network has other"
        " gradients than the weights that the factory returned.</p>"
    )
    told = ", ".join(f"{name} {version}" for name, version in audit.json["versions"].items())
    yield f'<p class="note">{escape(told)}, commit {escape(audit.json["commit"])}, seed {audit.json["seed"]}.</p>'


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, text: Sequence[int], raw: bool = False) -> str:
    """Return a table; the columns in `text` are set left, and cells are HTML already where `raw`."""
    sides = ['class="text"' if number in text else "" for number in range(len(headers))]
    head = "".join(f'<th scope="col" {side}>{escape(h)}</th>' for h, side in zip(headers, sides, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td {s}>{c if raw else escape(c)}</td>" for c, s in zip(row, sides, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _picture(image: FloatArray, alt: str, caption: str) -> str:
    return f"<figure>{_image(image, alt, 160)}<figcaption>{escape(caption)}</figcaption></figure>"


def _image(image: FloatArray, alt: str, height: int) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(plotting.pixels(image)).save(stream, format="PNG")
    return _inlined(stream, alt, f'height="{height}"')


def _error(image: FloatArray, truth: FloatArray, name: str) -> str:
    """Return the map of absolute errors, dark for small ones, where values are determined."""
    with plotting.style():
        figure = Figure(figsize=(3.6, 2.1), layout="constrained")
        plotting.absolute_error(image, truth, title="", ax=figure.subplots())
        for ax in figure.axes:
            ax.grid(visible=False)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    largest = float(np.nanmax(np.abs(image - truth)))
    alt = f"Absolute error of {name} on a logarithmic scale; the largest is {largest:.1e}"
    return f"<figure>{_inlined(stream, alt, 'class=smooth')}<figcaption>absolute error</figcaption></figure>"


def _ground_map(result: Reconstruction, name: str) -> str:
    """Return the map of what each pixel rests on."""
    with plotting.style():
        figure = Figure(figsize=(2.6, 3.0), layout="constrained")
        plotting.ground_map(result.ground, ax=figure.subplots()).set_title("")
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    told = ", ".join(f"{count:,} values on {ground.words}" for ground, count in result.grounds.items())
    alt = f"On what each pixel of {name} rests: {told}"
    return f"<figure>{_inlined(stream, alt, 'class=smooth')}<figcaption>on what each pixel rests</figcaption></figure>"


def _grounds(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {label}" for label, count in row["grounds"].items())


def _flow(name: str, result: Reconstruction) -> str:
    """Return a bar for each layer: the determined share of its input."""
    with plotting.style():
        figure = Figure(figsize=(min(9.0, 3 + 0.9 * len(result.layers)), 3.4), layout="constrained")
        plotting.knowledge_flow(result, figure.subplots())
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=100, metadata={"Software": None})
    shares = ", ".join(f"{layer.determined:,} of {layer.unknowns:,} at {layer.name}" for layer in result.layers[::-1])
    alt = f"Determined values of every layer's input for {name}, from the head down: {shares}"
    return f"<figure>{_inlined(stream, alt, 'class=smooth')}<figcaption>{escape(name)}</figcaption></figure><br>"


def _inlined(stream: io.BytesIO, alt: str, more: str) -> str:
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img {more} alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _reason(row: Mapping[str, Any]) -> str:
    return f"{WHAT_IT_MEANS[row['status']]}: {row['reason']}"


def _number(value: Any) -> str:
    return "?" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %" if value in {0, 1} else f"{100 * value:.1f} %"


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
