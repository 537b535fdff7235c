"""What an audit finds, step by step: what shapes decide, what comes back of samples, what each defence leaves."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import constraint_algebra as ca
from analysis.measured import measured
from analysis.provenance import commit
from analysis.screen import progress
from analysis.sharing import Defence, defences, observe
from analysis.subjects import step
from constraint_algebra.arrays import FloatArray
from constraint_algebra.errors import ConstraintAlgebraError
from constraint_algebra.experiments.capture import Capture
from constraint_algebra.experiments.recipe import Recipe
from constraint_algebra.experiments.results import versions
from constraint_algebra.networks.network import Network
from constraint_algebra.plotting import is_picture
from constraint_algebra.recursion.result import Reconstruction
from constraint_algebra.theory.activity import activity_of
from constraint_algebra.theory.report import THREAT_MODEL, FeasibilityReport

SEED = 0
SAMPLES = {3: ("cifar10:3", "cifar10:7", "cifar10:12"), 1: ("mnist:0", "mnist:1", "mnist:2")}
# On what a whole input rests that is not proven to be the only one, by status.
UNPROVEN = {
    "BY_ZEROS": "zeros",
    "BY_BITS": "sides of activations that fit",
    "BY_WINNERS": "winners of windows that fit",
    "BY_BRANCHES": "branches of activations that fit",
    "LOCAL": "a search, unique nearby",
}
NOT_COMPUTED = "NOT_COMPUTED"  # the status of a row that has a reason instead of figures
Json = dict[str, Any]


class Audit:
    """Everything that a report says, step by step.

    Attributes:
        model: as given on the command line.
        steps: one training step a sample, by the sample's name.
        results: what came back of each sample that could be computed.
        left: what came back of the first of those under each defence, `None` where that was not computed.
    """

    def __init__(self, model: str, steps: Mapping[str, Capture], *, time_limit: float = math.inf) -> None:
        """Keep the steps; nothing is computed yet, and no reconstruction begins after so many seconds."""
        self.time_limit, self.deadline = time_limit, time.monotonic() + time_limit
        self.model, self.steps = model, dict(steps)
        self.results: dict[str, Reconstruction] = {}
        self.left: dict[str, Reconstruction | None] = {}
        self.json: Json = {
            "model": model,
            "input_shape": list(self.network.input_shape),
            "parameters": self.network.parameter_count,
            "threat_model": THREAT_MODEL,
            "seed": SEED,
            "commit": commit(),
            "versions": versions(),
        }

    @property
    def network(self) -> Network:
        """The network of all steps."""
        return next(iter(self.steps.values())).network

    def look_at_shapes(self) -> None:
        """Say what shapes alone decide, with all outputs active and with those of every sample."""
        self.json["feasibility"] = {"all outputs active": _feasibility(ca.feasibility(self.network, seed=SEED))}
        for name, seen in self.steps.items():
            weights = {n: a.astype(float) for n, a in seen.parameters.items()}
            masks = activity_of(self.network, weights, _truth(seen))
            if masks:
                found = ca.feasibility(self.network, activity=masks, seed=SEED)
                self.json["feasibility"][f"active as for {name}"] = _feasibility(found)

    def reconstruct(self) -> None:
        """Reconstruct every sample from its gradient; one that cannot be is told with its reason."""
        self.json["reconstructions"] = {}
        with progress(len(self.steps), "samples") as advance:
            for name, seen in self.steps.items():
                found, row = self._tried(seen, defences(self.network)[0])
                if found is not None:
                    self.results[name] = found
                self.json["reconstructions"][name] = row
                advance(name)

    def defend(self) -> None:
        """Reconstruct the first sample that could be again, under every defence; nothing where there is none."""
        name = next(iter(self.results), None)
        self.json["defences"] = {"sample": name, "rows": []}
        if name is None:
            return
        rules = defences(self.network)
        with progress(len(rules), "defences") as advance:
            for rule in rules:
                self.left[rule.name], row = self._tried(self.steps[name], rule)
                about = {"defence": rule.kind, "strength": rule.strength}
                self.json["defences"]["rows"].append(about | row)
                advance(rule.name)

    def _tried(self, seen: Capture, rule: Defence) -> tuple[Reconstruction | None, Json]:
        """Return what came back and its row, or nothing and a row with the reason."""
        if time.monotonic() > self.deadline:
            return None, {"status": NOT_COMPUTED, "reason": f"the time limit of {self.time_limit:g} s came first"}
        try:
            return _timed(seen, rule)
        except ConstraintAlgebraError as error:
            return None, {"status": NOT_COMPUTED, "reason": " ".join(str(error).split()).rstrip(".")}

    @property
    def conclusion(self) -> str:
        """The outcome in a few sentences."""
        shapes = self.json["feasibility"]["all outputs active"]["conclusion"]
        return " ".join([shapes, self._of_samples(), *self._of_defences()])

    def _of_samples(self) -> str:
        told = self.json["reconstructions"].values()
        rows = [row for row in told if row["status"] != NOT_COMPUTED]
        reasons = "; ".join(dict.fromkeys(row["reason"] for row in told if row["status"] == NOT_COMPUTED))
        if not rows:
            return f"None of {len(told)} samples could be computed ({reasons}), and so no defence was tried."
        whole = sum(row["determined_share"] == 1 for row in rows)
        quality = ", ".join(f"{row['psnr_db']:.0f}" for row in rows)
        weaker = Counter(row["status"] for row in rows if row["status"] in UNPROVEN)
        of_these = "".join(f", {count} of them by {UNPROVEN[status]}" for status, count in weaker.items())
        text = f"Of {len(told)} samples, {whole} came back with every value determined{of_these} (PSNR {quality} dB)."
        missing = len(told) - len(rows)
        return f"{text} {missing} could not be computed ({reasons})." if missing else text

    def _of_defences(self) -> list[str]:
        table = self.json["defences"]["rows"]
        if not table:
            return []
        tried = [row for row in table if row["defence"] != "none"]
        against = [row for row in tried if row.get("psnr_db") is not None]
        useless = [row for row in against if row["determined_share"] == 1]
        seen = [row for row in against if row["determined_share"] < 1 and row["psnr_db"] > row["grey_psnr_db"] + 3]
        text = f"Of {len(tried)} settings of defences, {len(useless)} leave every value determined"
        if seen:
            text += f", and {len(seen)} more leave a picture at least 3 dB better than mid-grey without determining it"
        missing = len(tried) - len(against)
        return [f"{text}; {missing} could not be computed." if missing else f"{text}."]


def _timed(seen: Capture, rule: Defence) -> tuple[Reconstruction, Json]:
    shared = rule.share(seen.gradients, np.random.default_rng(SEED))
    start = time.process_time()
    result = observe(seen, shared, seed=SEED)
    row = measured(result, _truth(seen), seen.network)
    row |= {"cpu_s": round(time.process_time() - start, 3), "conclusion": result.conclusion}
    return result, _plain(row | {"grounds": result.to_dict()["grounds"]})


def _feasibility(found: FeasibilityReport) -> Json:
    layers = [{**vars(row), "input_shape": list(row.input_shape)} for row in found.layers]
    return {
        "verdict": found.verdict,
        "conclusion": found.conclusion,
        "assumptions": found.assumptions,
        "layers": layers,
    }


def _truth(seen: Capture) -> FloatArray:
    assert seen.truth is not None
    return seen.truth


def _plain(row: Mapping[str, Any]) -> Json:
    """Return a row that strict JSON can hold: what is not finite becomes null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def take_steps(recipe: Recipe, images: list[str]) -> dict[str, Capture]:
    """Return one training step of the model for each sample; for inputs that are no pictures, of random values."""
    built = recipe.build()
    shape = built.input_shape
    assert shape is not None
    network, _ = ca.from_torch(built.model, shape)
    outputs = network.output_shape[0]
    loss = built.loss or ("logistic" if outputs == 1 else "cross_entropy")
    steps = {}
    if is_picture(shape):
        for name in images or list(SAMPLES[shape[0]]):
            sample = ca.samples.load(name) if not Path(name).is_file() else None
            image = ca.samples.read_image(name) if sample is None else sample.image
            label = 0 if sample is None or sample.label is None else sample.label
            steps[name] = step(built.model, network, image, label % (2 if loss == "logistic" else outputs), loss=loss)
        return steps
    for number in range(3):
        values = np.random.default_rng([SEED, number]).random(shape)
        steps[f"random:{number}"] = step(built.model, network, values, number % max(outputs, 2), loss=loss)
    return steps
