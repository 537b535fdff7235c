"""The study in one command, on a network of the size of a stamp."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from constraint_algebra import zoo
from constraint_algebra.errors import StorageError
from constraint_algebra.files.locks import locked
from paper_repro import claims, plan, run
from paper_repro.plan import OURS, RCONV, RGAP, Block
from tests.paper_repro.test_claims import COUNTS, INFORMED
from tests.paper_repro.test_tables import runs_of

mpl.use("Agg")

TINY = zoo.ZooEntry(
    "rconv2024",
    ((12, "5/2/2", zoo.LEAKY), (6, "5/1/2", zoo.RELU)),
    classes=10,
    input_shape=(3, 12, 12),
)
SUFFIXES = {
    "tables": {"quality", "time", "rivals", "constraints", "constraint_kinds"},
    "figures": {"figure1_architectures", "figure2_dlg", "figure3_rgap", "claim2_constraint_kinds"},
}


def invoke(*arguments: str) -> str:
    """What the command prints."""
    app = typer.Typer()
    app.command()(run.main)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture
def _small_study(monkeypatch) -> None:
    monkeypatch.setitem(zoo.NETWORKS, "tiny", TINY)
    block = Block(("tiny",), ("cifar10",), (OURS, RCONV, RGAP), dtypes=("float64",), images=2, seeds=1)
    monkeypatch.setattr(plan, "BLOCKS", (block,))
    monkeypatch.setattr(run, "evidence_of", lambda runs: claims.Evidence(runs, COUNTS, INFORMED))


@pytest.mark.usefixtures("_small_study")
@pytest.mark.slow
def test_one_command_makes_everything_and_resumes(tmp_path) -> None:
    given = ["--processes", "1", "--out", str(tmp_path)]
    output = invoke(*given)
    assert "6 runs, tables, figures and REPORT.md in" in output
    rows = pd.read_csv(tmp_path / "runs.csv")
    ours, theirs, refused = (rows[rows["method"] == method] for method in (OURS, RCONV, RGAP))
    assert ours["exact"].all()
    assert theirs["recognised"].all()
    assert (refused["outcome"] == "IMPOSSIBLE").all()
    for folder, names in SUFFIXES.items():
        suffixes = {".csv", ".md", ".tex"} if folder == "tables" else {".png", ".pdf"}
        assert {path.name for path in (tmp_path / folder).iterdir()} == {n + s for n in names for s in suffixes}
    report = (tmp_path / "REPORT.md").read_text()
    assert "In 1 of these the library is at least as good as the best baseline" in report
    assert "quick run" not in report
    assert "R-GAP, IMPOSSIBLE, 2 runs on tiny (as published): R-GAP is not made for this network" in report
    before = (tmp_path / "runs.csv").read_text()
    invoke(*given)
    assert (tmp_path / "runs.csv").read_text() == before
    (tmp_path / "reconstructions").mkdir(exist_ok=True)
    (tmp_path / "reconstructions" / "of_earlier_runs.png").touch()
    invoke(*given, "--quick", "--restart")
    assert not (tmp_path / "reconstructions" / "of_earlier_runs.png").exists()
    assert not list(tmp_path.glob("*.before-restart"))
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 3
    assert "quick run" in (tmp_path / "REPORT.md").read_text()


def test_two_runs_into_one_folder_are_one_too_many(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run, "do_runs", lambda *_, **__: pytest.fail("began"))
    with (
        locked(tmp_path / "REPORT.md"),
        pytest.raises(StorageError, match=r"another process writes to .*REPORT\.md \(process \d+ on"),
    ):
        run.main(processes=1, out=tmp_path)


def provenance(rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows).assign(date="2026-01-01", commit="abc")


def test_the_report_says_where_the_library_is_not_ahead_and_why() -> None:
    rows = runs_of(OURS, 1e-9, cpu=5.0, determined=100) + runs_of(RCONV, 1e-12)
    rows += runs_of(OURS, 0.9, dtype="float32", determined=25) + runs_of(RCONV, 1e-5, dtype="float32")
    evidence = claims.Evidence(provenance(rows), COUNTS, INFORMED)
    text = run.report(claims.load(), evidence, quick=False)
    assert "Of 2 cells with a baseline, somebody recognises a run in 2. In 0 of these the library is" in text
    assert "Not faster: lenet, relu, uniform, mnist, float64: 5 s against 2 s" in text
    assert "the gradient determines 25% of the values, and the library makes no guess at the others" in text
    assert "both are determined, the difference is one of rounding" in text
    for entry in claims.load():
        assert f"### {entry['id']}: " in text


def test_the_report_says_which_failures_rest_on_few_seeds() -> None:
    rows = runs_of(OURS, 1e-9) + runs_of(RCONV, 1.0, 1.0) + runs_of(RGAP, 1.0, 1.0, 1.0)
    text = run.report(claims.load(), claims.Evidence(provenance(rows), COUNTS, INFORMED), quick=False)
    assert (
        "Fewer than three seeds behind a failure: lenet, relu, uniform, mnist, float64 (R-CONV as published)." in text
    )


def test_what_the_report_rests_on_is_counted_anew() -> None:
    evidence = run.evidence_of(pd.DataFrame())
    pd.testing.assert_frame_equal(evidence.counts, COUNTS)
    pd.testing.assert_frame_equal(evidence.informed, INFORMED)
