"""The commands that are killed, all of them small: study, audit, certificate with intervals, hunt, paper."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import constraint_algebra as ca
from constraint_algebra.files.locks import hidden
from tests.analysis.test_own import MODEL
from tests.faults.killing import Command, lock_of
from tests.hunt.records import resumed

TIMES = {"process", "wall", "cpu", "memory_mb", "date"}  # columns that no two runs share

STUDY = """
if __name__ == "__main__":
    from pathlib import Path
    from analysis.runner import run_study
    from tests.squares import COLUMNS, Run, slow
    runs = [Run("log", number) for number in range(60)]
    run_study(runs, Path("rows.csv"), COLUMNS, slow, processes=2, about={"study": "squares"})
"""


def study(folder: Path) -> Command:
    """A study of 60 rows in two processes."""

    def result(place: Path) -> Any:
        told = json.loads((place / "rows.json").read_text())
        return told["rows"], told["failed"], rows(place / "rows.csv", 2)

    table = lambda place: lines(place / "rows.csv")  # noqa: E731
    return Command([_program(folder, STUDY)], lock_of("rows.csv"), result, table, never_less(table))


def audit(folder: Path) -> Command:
    """An audit, which is not resumed: until the new report is complete, the old one is there; then the new one is."""
    (folder / "model.py").write_text(MODEL)
    names, old = ("report.html", "report.json"), b"the old one"

    def prepare(place: Path) -> None:
        (place / "out").mkdir()
        for name in names:
            (place / "out" / name).write_bytes(old)

    def result(place: Path) -> Any:
        told = json.loads((place / "out/report.json").read_text())
        assert {path.name for path in (place / "out").iterdir()} == set(names)
        return without("cpu_s", told), (place / "out/report.html").read_bytes()

    def check(place: Path) -> None:
        """Both files are of one report; or the page, which stands for it, is on its way, and another place has it."""
        out = place / "out"
        if (out / names[0]).exists():
            assert ((out / names[0]).read_bytes() == old) == ((out / names[1]).read_bytes() == old)
        else:
            ways = [hidden(out / names[0], state) / names[0] for state in ("old", "ready", "moving")]
            assert any(way.exists() for way in ways)

    model = ["--model", str(folder / "model.py") + ":vector", "--input-shape", "20", "--out", "out", "--force"]
    writes = hidden(Path("out") / names[0], "begun")
    sign = lock_of(f"out/{names[0]}")
    return Command(
        ["-m", "analysis", "own", *model], sign, result, lambda _: set(), check, prepare, writes=writes, resumes=False
    )


CERTIFICATE = """
if __name__ == "__main__":
    import constraint_algebra as ca
    from constraint_algebra.proofs import interval_maps
    from tests.twin_cases import random_case
    import numpy as np
    case = random_case(8)
    ca.certify(case.model, case.image, case.label).save("certificate", overwrite=True)
    interval_maps.EVERY = 0.0  # seconds between two writes: each interval is kept at once
    few = np.arange(case.image.size).reshape(case.image.shape) % 3 == 0
    ca.interval_map(case.set(), few, path="intervals.npz", workers=2)
"""


def certificate(folder: Path) -> Command:
    """A certificate, which is written anew, and the intervals of its set, which are kept as they come."""

    def kept(place: Path) -> set[Any]:
        path = place / "intervals.npz"
        found = ca.load(path)["lower_outer"] if path.exists() else np.array([np.nan])
        return {(int(i), float(found.flat[i])) for i in np.flatnonzero(~np.isnan(found))}

    def result(place: Path) -> Any:
        told = json.loads((place / "certificate/certificate.json").read_text())
        arrays = [ca.load(place / name) for name in ("certificate/certificate.npz", "intervals.npz")]
        return told, [{name: values.tobytes() for name, values in each.items()} for each in arrays]

    return Command([_program(folder, CERTIFICATE)], lock_of("intervals.npz"), result, kept, never_less(kept))


def hunt(folder: Path) -> Command:
    """A hunt of 14 cases in two processes; what it finds is not the question here."""
    del folder

    def result(place: Path) -> Any:
        seeds = [json.loads(line)["seed"] for line in (place / "hunt.jsonl").read_text().splitlines()]
        assert len(set(seeds)) == len(seeds)
        return [replace(record, seconds=0.0) for _, record in sorted(resumed(place / "hunt.jsonl").items())]

    def seeds(place: Path) -> set[Any]:
        return {json.loads(line)["seed"] for line in lines(place / "hunt.jsonl")}

    words = ["-m", "tests.hunt", "--cases", "14", "--jobs", "2", "--out", "hunt.jsonl"]
    check = never_less(lambda place: lines(place / "hunt.jsonl"))
    return Command(words, lock_of("hunt.jsonl"), result, seeds, check, codes=(0, 1))


PAPER = """
import os, pickle
from pathlib import Path
from constraint_algebra import zoo
from constraint_algebra.commands.terminal import run_alone
from paper_repro import claims, plan, run
from paper_repro.plan import OURS, RCONV, RGAP, Block

filters = ((12, "5/2/2", zoo.LEAKY), (6, "5/1/2", zoo.RELU))
zoo.NETWORKS["tiny"] = zoo.ZooEntry("rconv2024", filters, classes=10, input_shape=(3, 12, 12))
plan.BLOCKS = (Block(("tiny",), ("cifar10",), (OURS, RCONV, RGAP), dtypes=("float64",), images=2, seeds=3),)
run.evidence_of = lambda runs: claims.Evidence(runs, *pickle.loads(Path("EVIDENCE").read_bytes()))
if __name__ == "__main__":
    Path("sign").write_text(f"process {os.getpid()} ")
    run_alone(run.main)
"""


def paper(folder: Path) -> Command:
    """The paper on a network of the size of a stamp; what is counted for its tables is counted once."""
    import pickle

    from paper_repro import run

    evidence = run.evidence_of(pd.DataFrame())
    (folder / "evidence.pickle").write_bytes(pickle.dumps((evidence.counts, evidence.informed)))

    def result(place: Path) -> Any:
        files = {str(path.relative_to(place)): path for path in (place / "out").rglob("*") if path.is_file()}
        assert all(path.read_bytes().rstrip().endswith(b"%%EOF") for path in files.values() if path.suffix == ".pdf")
        same = {name: path.read_bytes() for name, path in files.items() if "constraint" in name or "png" in name}
        return rows(place / "out/runs.csv", 8), set(files), {n: c for n, c in same.items() if not n.endswith("pdf")}

    table = lambda place: lines(place / "out/runs.csv")  # noqa: E731
    program = _program(folder, PAPER.replace("EVIDENCE", str(folder / "evidence.pickle")))
    return Command([program, "--processes", "2", "--out", "out"], Path("sign"), result, table, never_less(table))


def _program(folder: Path, text: str) -> str:
    path = folder / "program.py"
    path.write_text(text)
    return str(path)


def never_less(there: Callable[[Path], set[Any]]) -> Callable[[Path], None]:
    """A check that nothing which was there after an earlier kill is gone after a later one."""
    before: dict[Path, set[Any]] = {}

    def check(place: Path) -> None:
        now = there(place)
        assert before.get(place, set()) <= now
        before[place] = now

    return check


def lines(path: Path) -> set[bytes]:
    """The whole lines of a file: the last one may be cut off."""
    return {line for line in path.read_bytes().splitlines(True) if line.endswith(b"\n")} if path.exists() else set()


def rows(path: Path, fields: int) -> list[tuple[str, ...]]:
    """The rows of a table as text, without times; two of the same fields fail."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    keys = [tuple(row) for row in table.iloc[:, :fields].to_numpy()]
    assert len(set(keys)) == len(keys)
    return [tuple(row) for row in table.drop(columns=[name for name in table if name in TIMES]).to_numpy()]


def without(name: str, content: Any) -> Any:
    """What was read from JSON, without all entries of a name."""
    if isinstance(content, dict):
        return {key: without(name, value) for key, value in content.items() if key != name}
    return [without(name, each) for each in content] if isinstance(content, list) else content
