"""The audit of one's own network: what the report says, that it needs nothing else, and its JSON twin."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

import constraint_algebra as ca
from analysis import audit as audit_module
from analysis.audit import Audit
from analysis.command import app
from analysis.own_report import WHAT_IT_MEANS, page
from analysis.subjects import sample_step
from constraint_algebra.ground import Ground

MODEL = """
import torch
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.LeakyReLU(0.2),
        nn.Conv2d(16, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10))

def vector():
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))

def saturated():
    model = build()
    with torch.no_grad():
        model[-1].bias[4] = 500.0  # certain of class 4: no gradient where that is the label
    return model

def pooled():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10))

def bent():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.LPPool2d(2, 1), nn.Flatten(), nn.Linear(144, 10))
"""


class Page(HTMLParser):
    """What a page holds: pictures, links, texts of table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[dict[str, str]] = []
        self.loaded: list[str] = []
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        given = dict(attrs)
        if tag == "img":
            self.pictures.append(given)
        self.loaded += [given[key] for key in ("src", "href") if key in given]
        if tag == "td":
            self._in_cell = True
            self.cells.append("")
        assert tag not in {"script", "link", "iframe"}

    def handle_endtag(self, tag) -> None:
        if tag == "td":
            self._in_cell = False

    def handle_data(self, data) -> None:
        if self._in_cell:
            self.cells[-1] += data


def audit(folder, *more: str, factory: str = "build", shape: str = "1,8,8"):
    (folder / "model.py").write_text(MODEL)
    given = [
        "own",
        "--model",
        f"{folder / 'model.py'}:{factory}",
        "--input-shape",
        shape,
        "--out",
        str(folder / "out"),
        *more,
    ]
    return CliRunner().invoke(app, given)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of one audit, and what it printed."""
    folder = tmp_path_factory.mktemp("own")
    found = audit(folder, "--image", "mnist:1", "--image", "mnist:4")
    assert found.exit_code == 0, found.output
    return folder, found.output


def test_the_page_needs_nothing_else_and_its_pictures_have_words(done) -> None:
    page = Page((done[0] / "out" / "report.html").read_text())
    assert page.pictures
    assert all(source.startswith("data:image/png;base64,") for source in page.loaded)
    assert all(len(picture["alt"]) > 20 for picture in page.pictures)
    words = " ".join(picture["alt"] for picture in page.pictures)
    assert "The sample mnist:4 that the client trains on" in words
    assert "Determined values of every layer's input for mnist:1, from the head down: 96 of 96 at 5" in words
    assert "What is left of mnist:1 under quantisation, 8 bits" in words


def test_page_and_twin_say_the_same(done) -> None:
    folder, printed = done
    text = (folder / "out" / "report.html").read_text()
    told = json.loads((folder / "out" / "report.json").read_text())
    assert told["conclusion"] in text
    assert told["conclusion"] in printed
    assert "honest-but-curious observer" in text
    cells = Page(text).cells
    for row in told["reconstructions"].values():
        assert row["status"] == "DETERMINED"
        assert row["determined_share"] == 1
        assert f"{row['psnr_db']:.1f}" in cells
    for row in told["defences"]["rows"]:
        assert f"{row['psnr_db']:.1f}" in cells
    assert (
        sum(cell == "DP-SGD" for cell in cells) == sum(r["defence"] == "DP-SGD" for r in told["defences"]["rows"]) == 9
    )


def test_figures_are_those_of_the_library(done) -> None:
    told = json.loads((done[0] / "out" / "report.json").read_text())
    assert set(told["feasibility"]) == {"all outputs active", "active as for mnist:1", "active as for mnist:4"}
    layers = [
        *(ca.Conv2d(16, 3, stride=2, padding=1), ca.LeakyReLU(0.2)),
        *(ca.Conv2d(6, 3, stride=1, padding=1), ca.ReLU(), ca.Flatten(), ca.Linear(10)),
    ]
    report = ca.feasibility(ca.Network((1, 8, 8), layers))
    found = told["feasibility"]["all outputs active"]
    assert found["conclusion"] == report.conclusion
    assert [row["generic"] for row in found["layers"]] == [row.generic for row in report.layers]
    left = {(row["defence"], row["strength"]): row for row in told["defences"]["rows"]}
    assert left["withheld", "layer 1 of 3"]["determined_share"] == 1  # 256 weight equations for 64 unknowns
    assert left["only shared", "biases"]["determined_share"] == 0
    assert left["none", ""]["psnr_db"] == told["reconstructions"]["mnist:1"]["psnr_db"] > 80
    counts = re.search(r"Of (\d+) settings of defences, (\d+) leave", told["conclusion"])
    others = [row for key, row in left.items() if key != ("none", "")]
    assert [int(n) for n in counts.groups()] == [len(others), sum(row["determined_share"] == 1 for row in others)]


def test_a_report_is_not_overwritten(done) -> None:
    before = (done[0] / "out" / "report.json").read_bytes()
    found = audit(done[0])
    assert found.exit_code == 2
    assert "already holds" in found.stderr
    assert (done[0] / "out" / "report.json").read_bytes() == before


def test_a_model_of_vectors_is_audited_on_random_values(tmp_path) -> None:
    found = audit(tmp_path, factory="vector", shape="20")
    assert found.exit_code == 0, found.output
    text = (tmp_path / "out" / "report.html").read_text()
    assert "random:0" in text
    (picture,) = Page(text).pictures  # the flow of knowledge: there is nothing else to show
    assert picture["alt"].startswith(
        "Determined values of every layer's input for random:0, from the head down: 20 of 20"
    )


def test_a_model_without_equations_is_refused_by_name(tmp_path) -> None:
    found = audit(tmp_path, factory="bent")
    assert found.exit_code == 2
    assert "LPPool2d" in found.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_graph_is_audited_and_what_takes_a_chain_is_told(tmp_path) -> None:
    found = audit(tmp_path, factory="pooled")
    assert found.exit_code == 0, found.output
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["defences"]["rows"]
    reasons = [row["reason"] for row in rows if row["status"] == "NOT_COMPUTED"]
    assert reasons
    assert all("MaxPool2d" in reason for reason in reasons)


@pytest.mark.slow
def test_a_saturated_sample_is_told_and_the_others_are_kept(tmp_path) -> None:
    found = audit(tmp_path, "--image", "mnist:4", "--image", "mnist:1", factory="saturated")
    assert found.exit_code == 0, found.output
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = told["reconstructions"]
    assert rows["mnist:4"]["status"] == "NOT_COMPUTED"
    assert rows["mnist:1"]["determined_share"] == 1
    assert told["defences"]["sample"] == "mnist:1"
    assert "Of 2 samples, 1 came back" in told["conclusion"]
    assert f"1 could not be computed ({rows['mnist:4']['reason']})" in told["conclusion"]
    text = (tmp_path / "out" / "report.html").read_text()
    assert f"not computed: {rows['mnist:4']['reason']}" in Page(text).cells


def test_a_report_is_written_although_no_sample_could_be_computed(tmp_path) -> None:
    found = audit(tmp_path, "--image", "mnist:4", factory="saturated")
    assert found.exit_code == 0, found.output
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["defences"] == {"sample": None, "rows": []}
    assert "None of 1 samples could be computed (" in told["conclusion"]
    assert told["conclusion"] in found.output
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert page.pictures == []
    assert f"not computed: {told['reconstructions']['mnist:4']['reason']}" in page.cells


def test_a_time_limit_gives_a_report_that_says_what_is_missing(tmp_path) -> None:
    found = audit(tmp_path, "--time-limit", "0")
    assert found.exit_code == 0, found.output
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert "the time limit of 0 s came first" in report["conclusion"]
    assert {row["status"] for row in report["reconstructions"].values()} == {"NOT_COMPUTED"}
    assert report["feasibility"]["all outputs active"]["verdict"]
    assert (tmp_path / "out/report.html").exists()


def test_what_rests_on_more_than_equations_is_told_in_words_and_drawn(monkeypatch) -> None:
    network = ca.Network((1, 8, 8), [ca.Conv2d(4, 3, padding=1), ca.LeakyReLU(0.2), ca.Flatten(), ca.Linear(3)])
    seen = sample_step(network, "mnist:1", seed=0)
    ground = np.zeros((1, 8, 8), dtype=np.uint8)
    ground[0, :5] = Ground.ZEROS

    def by_zeros(seen, *_, **__):
        whole, nothing = np.ones((1, 8, 8), dtype=bool), np.zeros((1, 8, 8))
        return ca.Reconstruction(seen.truth, whole, nothing, ca.Status.PARTIAL, (), 1, {}, ground=ground).judged({})

    monkeypatch.setattr(audit_module, "observe", by_zeros)
    audited = Audit("model.py:build", {"mnist:1": seen})
    audited.json["dtype"] = "float64"
    audited.look_at_shapes()
    audited.reconstruct()
    audited.defend()
    audited.json["conclusion"] = audited.conclusion
    row = audited.json["reconstructions"]["mnist:1"]
    assert (row["status"], row["grounds"]) == ("BY_ZEROS", {"equations": 24, "zeros": 40})
    assert "1 came back with every value determined, 1 of them by zeros (PSNR" in audited.conclusion
    shown = Page(page(audited))
    rows = 1 + len(audited.json["defences"]["rows"])
    assert shown.cells.count("every value, by zeros: not proven") == rows
    assert shown.cells.count("24 equations, 40 zeros") == rows
    (drawn,) = [p["alt"] for p in shown.pictures if p["alt"].startswith("On what each pixel of mnist:1 rests")]
    assert "40 values on zeros that are no accident" in drawn


def test_every_status_has_words() -> None:
    assert {status.name for status in ca.Status} <= set(WHAT_IT_MEANS)
