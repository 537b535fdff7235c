"""Each claim of the paper and each figure stored with it, held against what the study found.

`expected.toml` holds them; every entry names the function below that judges it.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from constraint_algebra import zoo
from paper_repro.plan import AS_PUBLISHED, METHODS, OURS, RCONV

FILE = Path(__file__).with_name("expected.toml")
Entry = Mapping[str, Any]
FIELDS = ("id", "judge", "statement", "provenance", "convention")


class Verdict(Enum):
    """How a claim fares."""

    AGREED = "agreed"
    DIFFERS = "differs"
    NOT_COMPARED = "cannot be compared"


@dataclass(frozen=True)
class Evidence:
    """What the study found.

    Attributes:
        runs: rows of `study.judge`.
        counts: rows of `constraints.counts`, both networks.
        informed: rows of `constraints.informed`, all networks.
    """

    runs: pd.DataFrame
    counts: pd.DataFrame
    informed: pd.DataFrame


@dataclass(frozen=True)
class Judgement:
    """A verdict with the numbers that it rests on and the reason."""

    verdict: Verdict
    numbers: str
    reason: str


def load(path: Path = FILE) -> list[Entry]:
    """Return the entries."""
    return list(tomllib.loads(path.read_text(encoding="utf-8"))["entry"])


def judged(entry: Entry, evidence: Evidence) -> Judgement:
    """Return the verdict on an entry."""
    return JUDGES[entry["judge"]](entry, evidence)


def _verdict(holds: bool) -> Verdict:
    return Verdict.AGREED if holds else Verdict.DIFFERS


def _none(entry: Entry, _: Evidence) -> Judgement:
    return Judgement(Verdict.NOT_COMPARED, "none", entry["reason"])


def _no_runs(what: str) -> Judgement:
    return Judgement(Verdict.NOT_COMPARED, "none", f"this study has no runs of {what}; the complete one has")


def _runs(values: pd.Series) -> str:
    return "1 run" if len(values) == 1 else f"{len(values)} runs"


def _select(runs: pd.DataFrame, entry: Entry, **more: str) -> pd.DataFrame:
    """Return the runs that an entry is about: those that agree with each of its keys that are columns."""
    wanted = {name: entry[name] for name in ("network", "activation", "init", "dataset", "dtype", "method")
              if name in entry} | more  # fmt: skip
    for name, value in wanted.items():
        runs = runs[runs[name] == value]
    return runs


def _relu(entry: Entry, evidence: Evidence) -> Judgement:
    """Judge by the library's runs with ReLU, in float64."""
    wanted = {tuple(pair) for pair in entry["networks"]}
    runs = evidence.runs[
        [pair in wanted for pair in zip(evidence.runs["network"], evidence.runs["activation"], strict=True)]
    ]
    chosen = _select(runs, {}, dtype="float64", method=OURS)
    if chosen.empty:
        return _no_runs("the library with ReLU")
    published = _select(runs, {}, dtype="float64", method=RCONV)
    by_network = ", ".join(
        f"{network} {int(group['exact'].sum())} of {len(group)}"
        for network, group in chosen.groupby("network", sort=False)
    )
    numbers = (
        f"library: {int(chosen['exact'].sum())} of {len(chosen)} runs exact ({by_network});"
        f" published algorithm: {int(published['exact'].sum())} of {len(published)}"
    )
    bad = chosen[~chosen["exact"].astype(bool)].sort_values(["network", "dataset", "image", "seed"])
    reason = "ReLU's derivative follows from its output"
    if len(bad):
        places = ", ".join(f"{r.network} {r.dataset}:{r.image} seed {r.seed} ({r.outcome})" for r in bad.itertuples())
        reason += f", as far as enough outputs are active for the gradient to determine the input: not in {places}"
    return Judgement(_verdict(chosen["exact"].mean() >= 1 - entry["tolerance"]), numbers, reason)


def _gradient_informs_more(entry: Entry, evidence: Evidence) -> Judgement:
    """Judge by the ranks of each kind of equations, layer by layer."""
    table = evidence.informed
    behind = table[table["gradient rank"] < table["weight rank"] - entry["tolerance"]]
    numbers = f"rank by gradient equations is at least that by weight equations in {len(table) - len(behind)} of"
    numbers += f" {len(table)} layers"
    if behind.empty:
        return Judgement(Verdict.AGREED, numbers, "in every layer")
    places = ", ".join(
        f"{r['network']} layer {r['layer']} ({r['gradient rank']:.0%} against {r['weight rank']:.0%})"
        for _, r in behind.iterrows()
    )
    why = "a stride leaves few filters for many pixels there, and every filter gives a weight equation at each output"
    return Judgement(Verdict.DIFFERS, numbers, f"weight equations tell more in {places}: {why}")


def _more_with_depth(entry: Entry, evidence: Evidence) -> Judgement:
    """Judge by the advantage of gradient equations in determined unknowns, layer by layer."""
    falls, behind, words = [], [], []
    for network, table in evidence.informed.groupby("network", sort=False):
        advantage = (table["gradient determined"] - table["weight determined"]).tolist()
        words.append(f"{network}: {', '.join(f'{a:+.0%}' for a in advantage)}")
        if any(after < before - entry["tolerance"] for before, after in pairwise(advantage)):
            falls.append(str(network))
        if min(advantage[1:], default=math.inf) <= advantage[0]:
            behind.append(str(network))
    step = (
        "smallest in the first layer of every network" if not behind else f"not smallest first in {', '.join(behind)}"
    )
    reason = f"the advantage is {step}"
    if falls:
        reason += f", and falls again further up in {', '.join(falls)}, where weight equations alone suffice as well"
    return Judgement(_verdict(not falls), "advantage in determined unknowns by layer, " + "; ".join(words), reason)


def _share(entry: Entry, evidence: Evidence, column: str, words: str) -> Judgement:
    table = evidence.counts
    row = table[(table["network"] == entry["network"]) & (table["layer"] == entry["layer"])].iloc[0]
    found = float(row[column])
    numbers = f"{words.format_map(row)}: {found:g} %, claimed {entry['value']:g} %"
    holds = abs(found - entry["value"]) <= entry["tolerance"]
    others = table[table[column] < 5]
    where = ", ".join(f"{r['network']} layer {r['layer']}" for _, r in others.iterrows())
    return Judgement(_verdict(holds), numbers, f"below 5 % in {where or 'no layer'} of {len(table)} layers counted")


def _filter_share(entry: Entry, evidence: Evidence) -> Judgement:
    return _share(entry, evidence, "filter share %", "{needed by gradient} of {filters} filters suffice")


def _row_share(entry: Entry, evidence: Evidence) -> Judgement:
    return _share(entry, evidence, "row share %", "{rows needed} of {reported} rows suffice")


def _psnr_offset(entry: Entry, _: Evidence) -> Judgement:
    found = 20 * math.log10(255)
    numbers = f"20 log10(255) = {found:.2f} dB, stated {entry['value']:.2f} dB"
    holds = abs(found - entry["value"]) <= entry["tolerance"]
    return Judgement(_verdict(holds), numbers, "arithmetic, nothing measured; all PSNR here use data_range 1")


def _notebook_mse(entry: Entry, evidence: Evidence) -> Judgement:
    """Judge by whether the stored error lies in the range of the published algorithm's, with a tolerance in decades.

    Where that algorithm has no image to show, it cannot be compared, and the library's error stands beside the figure.
    """
    place = {"activation": AS_PUBLISHED, "dtype": "float64"}
    ours = _select(evidence.runs, entry, **place, method=OURS)["mse"].dropna()
    theirs = _select(evidence.runs, entry, **place, method=RCONV)
    errors = theirs["mse"].dropna()
    if ours.empty:
        return _no_runs(f"{entry['network']} on {entry['dataset']}")
    numbers = f"stored {entry['value']:.1e}; library {ours.min():.1e} to {ours.max():.1e} in {_runs(ours)}"
    if errors.empty:
        why = "; ".join(sorted(set(theirs["reason"].dropna()))) or "it was not run"
        reason = f"the algorithm as published, in our code, gives no image here ({why})"
        return Judgement(Verdict.NOT_COMPARED, numbers, reason)
    numbers += f"; published algorithm {errors.min():.1e} to {errors.max():.1e}, median {errors.median():.1e}"
    margin = 10 ** entry["tolerance"]
    holds = errors.min() / margin <= entry["value"] <= errors.max() * margin
    library = "at or below" if ours.median() <= entry["value"] else "above"
    reason = f"within the published algorithm's range and {entry['tolerance']:g} decades" if holds else "out of range"
    return Judgement(_verdict(holds), numbers, f"{reason}; the library's median is {library} the stored figure")


def _parameter_counts(entry: Entry, _: Evidence) -> Judgement:
    wrong = []
    for name, count in entry["values"].items():
        found = zoo.network(name).parameter_count
        if abs(found - count) > entry["tolerance"]:
            wrong.append(f"{name}: {found} and not {count}")
    return Judgement(
        _verdict(not wrong), "; ".join(wrong) or f"all {len(entry['values'])} equal", "counted from shapes"
    )


def _success_share(entry: Entry, evidence: Evidence) -> Judgement:
    chosen = _select(evidence.runs, entry)
    if chosen.empty:
        return _no_runs(f"{METHODS[entry['method']]} on {entry['network']}")
    good = chosen[chosen["mse"] < entry["threshold"]]
    share = len(good) / len(chosen)
    numbers = f"{len(good)} of {len(chosen)} runs, expected a share of {entry['value']:g}"
    reason = f"median MSE of the successes {good['mse'].median():.1e}" if share else "no run succeeds"
    return Judgement(_verdict(abs(share - entry["value"]) <= entry["tolerance"]), numbers, reason)


def _psnr_range(entry: Entry, evidence: Evidence) -> Judgement:
    runs = _select(evidence.runs, entry)
    if runs.empty:
        return _no_runs(f"{METHODS[entry['method']]} on {entry['network']}")
    psnr = runs.loc[runs["mse"] < entry["threshold"], "psnr"]
    if psnr.empty:
        return Judgement(Verdict.DIFFERS, f"0 of {_runs(runs)} succeed", "no run succeeds")
    numbers = f"{psnr.min():.1f} to {psnr.max():.1f} dB, median {psnr.median():.1f}, in {len(psnr)} of {_runs(runs)}"
    off = max(entry["low"] - psnr.median(), psnr.median() - entry["high"], 0.0)
    where = f"outside by {off:.1f} dB" if off else "within"
    reason = f"of {entry['low']:g} to {entry['high']:g} dB, the median of the successful runs lies {where}"
    return Judgement(_verdict(off <= entry["tolerance"]), numbers, reason)


JUDGES: dict[str, Callable[[Entry, Evidence], Judgement]] = {
    "none": _none,
    "relu": _relu,
    "gradient_informs_more": _gradient_informs_more,
    "more_with_depth": _more_with_depth,
    "filter_share": _filter_share,
    "row_share": _row_share,
    "psnr_offset": _psnr_offset,
    "notebook_mse": _notebook_mse,
    "parameter_counts": _parameter_counts,
    "success_share": _success_share,
    "psnr_range": _psnr_range,
}
