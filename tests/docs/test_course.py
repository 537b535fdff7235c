"""The course: checkers accept right answers in several forms and reject wrong ones; lessons are whole and run."""

from __future__ import annotations

import ast
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import sympy

import constraint_algebra as ca

DB = np.array([0, 1.5, 0, -0.25])  # the bias gradient of 1.2
Y, Z = sympy.symbols("y z")
COURSE = Path(__file__).parents[2] / "docs/course"
LESSONS = sorted(COURSE.glob("[0-9]*.md"))
sys.path.insert(0, str(COURSE))

import ca_course  # noqa: E402 -- from the folder of the lessons

NARROW = ca.Network((3, 32, 32), [ca.Conv2d(6, 5, stride=2), ca.ReLU(), ca.Flatten(), ca.Linear(10)])
RIGHT = {
    "1_1": (
        [3, -1, 4],
        (3.0, -1.0, 4.0),
        np.array([[3], [-1], [4]]),
        sympy.Matrix([3, -1, 4]),
        sp.csr_array([[3, -1, 4]]),
    ),
    "1_2": (
        *({1, 3}, [3, 1], (1, 3), np.array([1, 3]), [1.0, 3.0], sympy.FiniteSet(1, 3)),
        *(np.nonzero(DB), np.where(DB != 0), np.flatnonzero(DB), np.argwhere(DB), np.array(np.nonzero(DB))),
        *(DB != 0, list(DB != 0), tuple(DB != 0)),
    ),
    "1_3": ([3 - 0.15 / 4.25, -1 - 0.25 / 4.25, 4 + 0.25 / 4.25], [2.9647, -1.0588, 4.0588]),
    "2_1": ((12, 16), [12, 16], np.array([12, 16]), (12.0, 16.0)),
    "2_2": (
        *({(1, 1)}, [(1, 1)], [[1, 1]], np.array([[1, 1]]), (1, 1), [1, 1], np.array([1, 1])),
        *(np.nonzero([[0, 0], [0, 1]]), [[False, False], [False, True]]),
    ),
    "2_3": (4, 4.0, "4", sympy.Integer(4), np.int64(4)),
    "3_1": ((8, 16), [8, 16]),
    "3_2": (46, "46", sympy.Integer(46)),
    "3_3": ({1}, [1], (1,), 1),
    "4_1": ([1, -1, 0, 0, 0], [-2, 2, 0, 5, 5], sympy.Matrix([1, -1, 0, 0, 0])),
    "4_2": ({2}, [2], [(2,)], 2, np.arange(5) == 2, [False, False, True, False, False], (np.array([2]),)),
    "4_3": (True, "yes", np.True_, sympy.true),
    "5_1": (lambda y: y * (1 - y), lambda y: y - y**2, Y * (1 - Y), Z - Z**2, sympy.Lambda(Y, Y * (1 - Y))),
    "5_2": ([0.5, 2, -3], np.array([0.5, 2, -3])),
    "5_3": (3, "3"),
    "6_1": (6e-5, "6e-5", 1e-4, "0.006%", "0.006 %"),
    "6_3": (110, 110.0, "110", sympy.Integer(110), "110 dB", "110dB"),
    "7_1": (112, "112"),
    "7_2": (True, "yes"),
    "7_3": (False, "no"),
    "7_4": ([1, 2, 1], (2, 4, 2), np.array([[0.5], [1], [0.5]]), sympy.Matrix([1, 2, 1])),
    "7_5": ([0, 0, 0, 0, 7, 3], np.array([0, 0, 0, 0, 7, 3.0]), sympy.Matrix([0, 0, 0, 0, 7, 3])),
    "8_1": (NARROW,),
    "8_2": (1e-4, "1e-4", "0.0001", "0.01%", sympy.Rational(1, 10**4)),
    "8_3": (False, "no"),
    "9_1": (98, "98", np.int64(98)),
    "9_2": ([1, 1, 1], (0.5, 0.5, 0.5), sympy.Matrix([2, 2, 2])),
    "9_3": (0.6, "0.6", sympy.Rational(3, 5)),
    "9_4": (True, "yes"),
}
WRONG = {
    "1_1": ([1.5, -0.5, 2], [1 / 3, -1, 0.25], [1, 2], "frog", None, ...),
    "1_2": (
        *({0, 1}, {2, 4}, {1}, 1, "1, 3", {1, 3, 7}, [1.9, 3.7], [[]], [[1, 3], [1]], set()),
        *(DB == 0, [True, False], np.nonzero(DB == 0), {"one"}, object(), [np.nan]),
    ),
    "1_3": ([3.2, -1.2, 4.2], [3, -1, 4], [2.95, -1.05, 4.05], [np.inf, 0, 0]),
    "2_1": ((16, 12), (48, 16), (12, 36), (8, 16), 12),
    "2_2": ({(0, 0), (1, 1)}, set(), {(3, 3)}, (3, 3), (1.2, 1.7), {1}, [[]], 1, [[1, 1, 1]], [[True, False]]),
    "2_3": (9, 16, 1, 4.5, np.nan, np.inf, "nan", 10**400, "four pixels"),
    "3_1": ((16, 8), (8, 8), (7, 16), 16),
    "3_2": (54, 64, 48),
    "3_3": ({1, 2}, {2}, set(), [1.5], [True, False, False]),
    "4_1": ([0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [1, 1, 0, 0, 0], [1, -1], [np.inf, -1, 0, 0, 0]),
    "4_2": ({0, 2}, {3}, set(), [2.5], np.arange(5) != 2, np.array([], bool)),
    "4_3": (False, "perhaps"),
    "5_1": (lambda y: np.exp(-y) / (1 + np.exp(-y)) ** 2, lambda y: 1 - y**2, lambda y: y / 0, 0.25, 1 - Y**2, Y * Z),
    "5_2": ([0.5, -1.0], [0.5, 3, -3], [1, 1, 1]),
    "5_3": (6, 2),
    "6_1": (6e-8, 6e-11, 5.0, "small", "0.006", "6e-8 dB %"),
    "6_2": (1.0, 0.0, 0.4, 40, "0.8 %"),
    "6_3": (220, -110, 158.13, 11, "110 %"),
    "7_1": (-112, 562, 318, 185, 0),
    "7_2": (False,),
    "7_3": (True,),
    "7_4": ([0, 0, 0], [1, 1, 1], [-1, -2, -1], [1, 2], [1, 2, 1, 0, 0], "positive"),
    "7_5": ([1, 3, 4, 5, 6, 1], [0, 3, 3, 3, 7, 0], [0, 0, 0, 0, 0, 0], [1, -3, -2, -1, 6, 7], [0, 0, 0, 0, 7]),
    "8_1": (ca.zoo.network("lenet-o", classes=10), ca.zoo.network("lenet-o"), "LeNet", None),
    "8_2": (1e-6, 1e-2, "1e-6 %", "0.01"),
    "8_3": (True,),
    "9_1": (49, 196, 4, 14, "2^49"),
    "9_2": ([0, 0, 0], [1, 1, 0], [-1, -1, -1], [1, 2, 1], [1, 1], "positive"),
    "9_3": (1, 0.4, -0.6, 0.3, "four"),
    "9_4": (False,),
}
ROUNDED = {  # right as far as they go
    "1_3": ([2.96, -1.06, 4.06], (2.96, -1.06, 4.06), ["3.0", "-1.1", "4.1"], np.round([2.9647, -1.0588, 4.0588], 1)),
    "5_1": (lambda y: np.round(y * (1 - y), 2), lambda y: round(float(y * (1 - y)), 3)),
    "5_2": ([1, 2, -3], np.round([0.5, 2, -3])),
    "6_3": (100, "1e2", "100 dB"),
}
WHOLE_COURSE = 360  # seconds of processor time that the nine lessons may take together
EXERCISES = dict.fromkeys(range(1, 10), 3) | {7: 5, 9: 4}  # of each lesson
CHECKERS = [f"{lesson}_{number}" for lesson, many in EXERCISES.items() for number in range(1, many + 1)]


def said(name: str, answer, capsys) -> str:
    """What the checker prints."""
    getattr(ca_course, f"check_{name}")(answer)
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", [name for name in CHECKERS if name in RIGHT])
def test_right_answers_in_several_forms(name, capsys) -> None:
    for answer in RIGHT[name]:
        assert said(name, answer, capsys) == "Right.", answer


@pytest.mark.parametrize("name", CHECKERS)
def test_wrong_answers_are_told_why_and_not_what(name, capsys) -> None:
    for answer in WRONG[name]:
        words = said(name, answer, capsys)
        assert words.startswith("Not yet: "), answer
        assert len(words) > 25
        assert "cannot be read" not in words  # the last resort
        if name in RIGHT:
            right = RIGHT[name][0]
            given = [f"{right:g}"] if isinstance(right, int | float) and not isinstance(right, bool) else []
            assert not any(re.search(rf"(?<![\d.e-]){re.escape(text)}(?![\d.])", words) for text in given), words


@pytest.mark.parametrize("name", ROUNDED)
def test_a_right_answer_rounded_too_far_is_asked_for_more_digits(name, capsys) -> None:
    for answer in ROUNDED[name]:
        assert said(name, answer, capsys) == "Not yet: the digits that you give are right; give more digits.", answer


def test_a_share_rounded_too_far_is_asked_for_more_digits(capsys, monkeypatch) -> None:
    monkeypatch.setattr("ca_course.lesson_6.share_within_one_bar", lambda: 0.6432)
    for answer in (0.6, "0.6", "60 %"):
        assert "more digits" in said("6_2", answer, capsys)
    for answer in (0.7, 0.66801, 0.59):
        assert "more digits" not in said("6_2", answer, capsys)


@pytest.mark.parametrize("name", CHECKERS)
def test_a_wrong_answer_is_not_asked_for_more_digits(name, capsys) -> None:
    for answer in WRONG[name]:
        assert "more digits" not in said(name, answer, capsys), answer


def test_too_many_rows_are_told_so(capsys) -> None:
    assert "one too many" in said("1_2", {1, 3, 7}, capsys)


@pytest.mark.parametrize("name", CHECKERS)
def test_no_answer_gives_a_traceback(name, capsys) -> None:
    odd = (np.nan, -np.inf, "", [], {}, [[]], [[1], []], object(), np.ndarray, Y, 1j, [1j], np.zeros((0, 3)))
    for answer in (*odd, sp.eye_array(3), ca, lambda: 0, range(0), iter([]), 10**400, [None], [...], (np.zeros(2),)):
        assert said(name, answer, capsys).startswith("Not yet: "), answer


def test_the_share_of_errors_is_that_of_the_lesson(capsys) -> None:
    from ca_course.lesson_6 import share_within_one_bar

    share = share_within_one_bar()
    assert 0.5 < share < 0.95
    assert said("6_2", share, capsys) == said("6_2", f"{100 * share:.0f} %", capsys) == "Right."


# Lessons


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_page_says_where_its_checkers_are_and_how_to_get_them(lesson) -> None:
    beginning = lesson.read_text("utf-8").partition("## Your prediction")[0]
    assert "the folder `ca_course` beside it" in beginning
    assert "(index.md#to-follow-along)" in beginning
    assert (COURSE / "ca_course/__init__.py").exists()
    assert re.search(r"ca_course.*\n*.*clone|clone.*\n*.*ca_course", (COURSE / "index.md").read_text("utf-8"))


def test_students_do_not_stumble_over_the_answers() -> None:
    """No page of the course is the instructor's; that of the exam is in no menu and in no search."""
    instructors = COURSE.parent / "instructors"
    assert (
        "instructor" not in re.findall(r"```\{toctree\}.*?```", (COURSE / "index.md").read_text("utf-8"), re.DOTALL)[0]
    )
    assert sorted(page.name for page in COURSE.glob("*.md")) == [*(page.name for page in LESSONS), "index.md"]
    head = re.match(r"---\n(.*?)\n---\n", (instructors / "exam.md").read_text("utf-8"), re.DOTALL)[1].splitlines()
    assert head == ["orphan: true", "nosearch: true"]
    for page in (*instructors.glob("*.md"), *COURSE.glob("*.md"), COURSE.parent / "index.md"):
        toctrees = re.findall(r"```\{toctree\}.*?```", page.read_text("utf-8"), re.DOTALL)
        assert not any("exam" in toctree for toctree in toctrees), page.name
    for page in COURSE.glob("*.md"):
        assert "exam.md" not in page.read_text("utf-8")


def cells(lesson: Path) -> list[tuple[str, str]]:
    """Options and code of the code cells."""
    found = re.findall(r"```\{code-cell\} ipython3\n(.*?)```", lesson.read_text("utf-8"), re.DOTALL)
    parts = (re.fullmatch(r"(---\n.*?\n---\n|:tags:[^\n]*\n\n)?(.*)", cell, re.DOTALL) for cell in found)
    return [(part[1] or "", part[2]) for part in parts]


def run(lesson: Path, capsys) -> str:
    """Run a lesson from top to bottom; return what it printed."""
    import matplotlib as mpl

    mpl.use("Agg")
    space: dict = {}
    for _, code in cells(lesson):
        exec(compile(ast.parse(code), lesson.name, "exec"), space)
    import matplotlib.pyplot as plt

    plt.close("all")
    return capsys.readouterr().out


def test_there_are_nine_lessons() -> None:
    assert [lesson.name[:2] for lesson in LESSONS] == [f"0{number}" for number in range(1, 10)]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_has_all_its_parts(lesson) -> None:
    text, number = lesson.read_text("utf-8"), int(lesson.name[:2])
    for part in ("**Question.**", "## Your prediction", "## Exercises", "## Solutions", "## Summary", "minutes"):
        assert part in text, part
    summary = text.partition("## Summary")[2].strip()
    assert len(re.findall(r"^\d\. ", summary, re.MULTILINE)) == 5
    for exercise in range(1, EXERCISES[number] + 1):
        assert f"**{number}.{exercise}**" in text
        assert text.count(f"check_{number}_{exercise}(") == 2  # once for the student, once in the solution
    (folded,) = [options for options, _ in cells(lesson) if "solution" in options]
    assert "tags: [hide-cell, solution]\n" in folded  # on the site
    assert "jupyter:\n  source_hidden: true\n  outputs_hidden: true\n" in folded  # in JupyterLab
    drawing = [options for options, code in cells(lesson) if "plt.subplots" in code]
    assert drawing
    assert all("alt:" in options for options in drawing)
    assert "output" not in text.partition("kernelspec")[0]


LONG = [pytest.param(one, marks=pytest.mark.slow) if one.stem.startswith("08") else one for one in LESSONS]


@pytest.mark.parametrize("lesson", LONG, ids=lambda lesson: lesson.stem)
def test_every_lesson_runs_and_its_solutions_are_right(lesson, capsys) -> None:
    output = run(lesson, capsys)
    assert output.count("Right.\n") == EXERCISES[int(lesson.name[:2])]
    assert output.count("Not yet: ") == EXERCISES[int(lesson.name[:2])]  # the student's cells still hold dots


@pytest.mark.slow
@pytest.mark.timeout(2 * WHOLE_COURSE)
def test_all_lessons_together_take_less_than_six_minutes(capsys) -> None:
    start = time.process_time()
    for lesson in LESSONS:
        run(lesson, capsys)
    assert time.process_time() - start < WHOLE_COURSE
