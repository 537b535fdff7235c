"""The report: claim by claim what was found, then how the library stands beside the baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from paper_repro import plan
from paper_repro.claims import Entry, Evidence, Judgement, judged
from paper_repro.plan import CELL, METHODS, OURS
from paper_repro.tables import markdown, quality, rivals

START = """# The paper, redone: report

Written by `python -m paper_repro.run` from `runs.csv`; figures and tables lie beside it. Threat model: an observer who
knows the architecture, the weights and the gradient of one training step on one sample, and changes nothing.

Quality is the mean squared error over the whole image with values in [0, 1], and PSNR with `data_range` 1. A run is
*recognised* below a mean squared error of 1e-2, 20 dB, and *exact* below 1e-6. "R-CONV as published" is the published
algorithm in our own code, "constraint-algebra" the library: the same principle, least squares over all equations.
"""


def report(entries: Sequence[Entry], evidence: Evidence, *, quick: bool) -> str:
    """Return the text of REPORT.md."""
    parts = [START, *_about(evidence.runs, quick=quick), "## Claims and stored figures\n"]
    verdicts = [(entry, judged(entry, evidence)) for entry in entries]
    parts += [_overview(verdicts), "\n"]
    parts += [_entry(entry, judgement) for entry, judgement in verdicts]
    parts += ["## The library beside the baselines\n", *_comparison(evidence.runs)]
    parts += ["## The baselines in their best setting\n", *_settings(evidence.runs, quick=quick)]
    return "\n".join(parts)


def _about(runs: pd.DataFrame, *, quick: bool) -> Iterator[str]:
    dates = sorted(set(runs["date"].astype(str)))
    commits = ", ".join(sorted(set(runs["commit"].astype(str))))
    yield (
        f"{len(runs)} runs, {runs['cpu'].sum() / 60:.0f} minutes of processor time in all, {dates[0]} to {dates[-1]},"
        f" commit {commits}; versions in `runs.csv`.\n"
    )
    if quick:
        yield (
            "**This is a quick run: one image and one seed of each cell.** It shows that everything works; what it says"
            " of failing methods and of shares is not to be relied on.\n"
        )


def _overview(verdicts: Sequence[tuple[Entry, Judgement]]) -> str:
    lines = [{"entry": entry["id"], "verdict": j.verdict.value, "numbers": j.numbers} for entry, j in verdicts]
    return markdown(pd.DataFrame(lines))


def _entry(entry: Entry, judgement: Judgement) -> str:
    return (
        f"### {entry['id']}: {judgement.verdict.value}\n\n{entry['statement']}\n\n"
        f"- Provenance: {entry['provenance']}.\n- Convention: {entry['convention']}.\n"
        f"- Found: {judgement.numbers}.\n- Reason: {judgement.reason}.\n"
    )


def _comparison(runs: pd.DataFrame) -> Iterator[str]:
    """Say where the library is not at least as good as, or not faster than, the best baseline, and why."""
    table = rivals(quality(runs))
    if table.empty:
        yield "No cell has the library and a baseline.\n"
        return
    compared, timed = table["at least as good"].notna(), table["faster"].notna()
    good, fast = table.loc[compared, "at least as good"].astype(bool), table.loc[timed, "faster"].astype(bool)
    yield (
        f"Of {len(table)} cells with a baseline, somebody recognises a run in {int(compared.sum())}. In"
        f" {int(good.sum())} of these the library is at least as good as the best baseline: it recognises at least the"
        " same share of runs, and where the baseline recognises any, its median mean squared error is no larger. Of"
        f" {int(timed.sum())} cells in which both succeed it takes less processor time in {int(fast.sum())}.\n"
    )
    for _, row in table[~compared].iterrows():
        yield f"- Not compared, since nobody recognises a run: {_cell(row)}: {_why(row)}."
    for _, row in table[compared][~good].iterrows():
        yield f"- Not as good: {_cell(row)}: {_why(row)}."
    for _, row in table[timed][~fast].iterrows():
        yield (
            f"- Not faster: {_cell(row)}: {row['library CPU s']:.2g} s against {row['baseline CPU s']:.2g} s of the"
            " fastest baseline that succeeds."
        )
    yield ""


def _cell(row: pd.Series) -> str:
    return ", ".join(str(row[name]) for name in CELL)


def _why(row: pd.Series) -> str:
    mse = ["no image" if math.isinf(row[n]) else f"{row[n]:.1e}" for n in ("library MSE", "baseline MSE")]
    numbers = f"median error {mse[0]} against {mse[1]} of {METHODS[row['best baseline']]}"
    if row["determined"] < 1:
        share = f"{row['determined']:.0%} of the values"
        return f"{numbers}; the gradient determines {share}, and the library makes no guess at the others"
    return f"{numbers}; both are determined, the difference is one of rounding"


SETTINGS = {
    plan.DLG: "DLG: LeNet with strides of 2, sigmoid, weights from U(-0.5, 0.5), N(0, 1) start, 300 calls of L-BFGS,"
    " float32; float64 beside it",
    plan.IDLG: "iDLG: as DLG, the label read off the head's gradient first",
    plan.RGAP: "R-GAP: CNN6 without biases, LeakyReLU, logistic loss, from PyTorch's default start and from"
    " U(-0.5, 0.5), both roots of the margin followed, float64 arithmetic on gradients of either precision",
    plan.RCONV: "R-CONV as published: float64 arithmetic on gradients of either precision",
}


def _settings(runs: pd.DataFrame, *, quick: bool) -> Iterator[str]:
    cells = quality(runs)
    for method, words in SETTINGS.items():
        mine = cells[cells["method"] == method]
        yield f"{words}.\n"
        columns = ["runs", "impossible", "out of time", "recognised", "exact", "PSNR dB", "CPU s", "memory MB"]
        if not mine.empty:
            named = mine.rename(columns={"psnr": "PSNR dB", "cpu": "CPU s"})
            yield markdown(named[[*CELL, *columns]].round({"PSNR dB": 1, "CPU s": 2, "memory MB": 0})) + "\n"
    failing = cells[(cells["method"] != OURS) & (cells["recognised"] == 0) & (cells["impossible"] < cells["runs"])]
    seeds = runs.groupby([*CELL, "method"])["seed"].nunique()
    few = [
        f"{_cell(row)} ({METHODS[row['method']]})"
        for _, row in failing.iterrows()
        if seeds[tuple(row[n] for n in (*CELL, "method"))] < 3
    ]
    if few and not quick:
        yield f"Fewer than three seeds behind a failure: {'; '.join(few)}.\n"
    yield "## Runs that recognise nothing, and why\n"
    yield from _failures(runs[~runs["recognised"].astype(bool)])


def _failures(runs: pd.DataFrame) -> Iterator[str]:
    """Say of each method how its runs failed, the library included."""
    wrong = runs["outcome"] == "FINISHED"  # to the end, and a wrong image: each with numbers of its own
    for method, group in runs[wrong].groupby("method", sort=False):
        counted = ", ".join(
            f"{name} ({act}) {n}" for (name, act), n in group.groupby(["network", "activation"]).size().items()
        )
        rest = int(group["reason"].astype(str).str.endswith("at rest").sum())
        words = f"; in {rest} of them the search comes to rest where it is" if rest else ""
        yield f"- {METHODS[method]} ran to its end with a wrong image in {_number(len(group))}: {counted}{words}."
    for (method, outcome, reason), group in runs[~wrong].groupby(["method", "outcome", "reason"], dropna=False):
        places = ", ".join(sorted({f"{r.network} ({r.activation})" for r in group.itertuples()}))
        yield f"- {METHODS[method]}, {outcome}, {_number(len(group))} on {places}: {reason}."


def _number(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
