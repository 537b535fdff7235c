"""Files that are damaged or hostile, and places that refuse: refused by name, and nothing lost or written elsewhere."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import constraint_algebra as ca
from constraint_algebra import storage
from constraint_algebra.experiments import results
from constraint_algebra.experiments.capture import from_image
from constraint_algebra.experiments.recipe import Recipe
from constraint_algebra.files.locks import locked
from constraint_algebra.files.result_folder import ResultFolder
from constraint_algebra.files.space import check_folder, folder_within
from constraint_algebra.files.writing import write
from tests.command import run, strict
from tests.faults import damage
from tests.faults.dying import hidden_in
from tests.faults.places import LIMITED, WITHOUT_RIGHTS, fill, open_to_all, python, small_disk
from tests.hunt.pretended import quick
from tests.hunt.running import hunt
from tests.twin_cases import random_case

CASES = [(kind, name) for kind, cases in damage.REFUSED.items() for name in cases]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """Where results are kept that cannot be written where they should be."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}: {name}" for kind, name in CASES])
def test_what_an_archive_may_not_hold_is_refused_by_the_name_of_the_file(tmp_path, kind, name) -> None:
    suffix = ".safetensors" if "safetensors" in name or "offsets" in name else ".npz"
    path = tmp_path / f"hostile{suffix}"
    path.write_bytes(damage.REFUSED[kind][name])
    before = sorted(tmp_path.rglob("*"))
    tracemalloc.start()
    try:
        with pytest.raises(ca.StorageError, match=r"hostile\."):
            ca.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()
    assert sorted(tmp_path.rglob("*")) == before


def refused_or_read(path: Path, content: bytes) -> bool:
    """Load what chance has made of a file: arrays, or the one kind of exception, which names the file."""
    path.write_bytes(content)
    try:
        found = ca.load(path)
        storage.load_metadata(path)
    except ca.StorageError as error:
        return path.name in str(error)
    return all(isinstance(array, np.ndarray) for array in found.values())


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kind", damage.BY_CHANCE)
def test_damage_by_chance_is_refused_by_name_and_raises_nothing_else(tmp_path, kind, suffix) -> None:
    content = damage.whole(suffix, tmp_path)
    for change in damage.by_chance(kind, 40, seed=0):
        assert refused_or_read(tmp_path / f"a{suffix}", change(content))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kind", damage.BY_CHANCE)
def test_much_damage_by_chance(tmp_path, kind, suffix) -> None:
    seed = np.random.SeedSequence().entropy
    print(f"seed {seed}")  # noqa: T201 -- of a failure
    content = damage.whole(suffix, tmp_path)
    for change in damage.by_chance(kind, 3000, seed):
        assert refused_or_read(tmp_path / f"a{suffix}", change(content))


def test_a_bit_of_the_values_never_changes_unnoticed_in_an_npz(tmp_path) -> None:
    content = damage.whole(".npz", tmp_path)
    for change in damage.by_chance("bits", 60, seed=1):
        (tmp_path / "a.npz").write_bytes(change(content))
        try:
            found = ca.load(tmp_path / "a.npz")
        except ca.StorageError:
            continue
        for name in set(found) & set(damage.ARRAYS):
            np.testing.assert_array_equal(found[name], damage.ARRAYS[name])


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_an_archive_that_unpacks_to_more_than_is_read_is_refused_before_it_is_unpacked(
    tmp_path, monkeypatch, suffix
) -> None:
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(damage.archive([("x.npy", damage.npy(np.zeros(2**23)))]))
    assert path.stat().st_size < 2**18
    monkeypatch.setenv("CONSTRAINT_ALGEBRA_MEMORY", "1M")
    tracemalloc.start()
    try:
        with pytest.raises(ca.StorageError, match=r"unpacks to 67,108,992 bytes: .* at most 1.0 MiB"):
            ca.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "x\0y", "C:/x", "..\\x"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays_with_names_that_lead_elsewhere_are_not_saved(tmp_path, suffix, name) -> None:
    with pytest.raises(ca.StorageError, match="is no name of an array"):
        ca.save(tmp_path / f"a{suffix}", {name: np.ones(2)})
    assert not list(tmp_path.glob("a*"))


@pytest.mark.parametrize("name", ["a\0b.npz", "x" * 300 + ".npz", "no/folder.npz"])
def test_a_name_that_no_file_can_have_is_refused_with_the_name(tmp_path, name) -> None:
    for work in (lambda: ca.save(tmp_path / name, {"x": np.ones(2)}), lambda: ca.load(tmp_path / name)):
        with pytest.raises(ca.StorageError) as caught:
            work()
        assert name in str(caught.value)


@pytest.mark.parametrize("length", [200, 240])
def test_long_names_are_names(tmp_path, length) -> None:
    path = tmp_path / ("x" * (length - 4) + ".npz")
    ca.save(path, {"x": np.ones(2)})
    ca.save(path, {"x": np.zeros(2)}, overwrite=True)
    assert ca.load(path)["x"][0] == 0


def test_a_pipe_is_no_file_and_nobody_waits_for_it(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ca.StorageError, match=r"pipe\.npz is a device or a pipe; give the path of a file"):
        ca.load(tmp_path / "pipe.npz")


def test_a_link_is_something_that_is_there_wherever_it_leads(tmp_path) -> None:
    outside, link = tmp_path / "outside.npz", tmp_path / "link.npz"
    link.symlink_to(outside)
    with pytest.raises(ca.OutputExistsError, match=r"link\.npz is already there \(a link to .*outside\.npz\)"):
        ca.save(link, {"x": np.ones(2)})
    assert not outside.exists()
    ca.save(outside, {"x": np.ones(2)})
    ca.save(link, {"x": np.zeros(2)}, overwrite=True)  # the link goes, what it led to stays
    assert not link.is_symlink()
    assert ca.load(outside)["x"][0] == 1
    assert ca.load(link)["x"][0] == 0


def test_a_folder_within_another_is_no_link(tmp_path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "tables").symlink_to(tmp_path / "outside")
    with pytest.raises(ca.StorageError, match=r"tables is a link to .*outside, and links are not followed"):
        folder_within(tmp_path, "tables")


@pytest.mark.parametrize("target", ["outside", "missing"])
def test_reconstruct_writes_through_no_link(folder, target) -> None:
    (folder / "outside").write_text("mine")
    (folder / "out").mkdir()
    (folder / "out" / "result.json").symlink_to(folder / target)
    start = ["reconstruct", "-m", "models.py:small", "-i", "picture.png", "--dtype", "float64"]
    assert "out already holds result.json" in run(*start, code=2).stderr
    run(*start, "--force")
    assert (folder / "outside").read_text() == "mine"
    assert not (folder / "missing").exists()
    assert strict(folder / "out" / "result.json")["status"] == "determined"


def test_a_disk_that_is_full_keeps_the_old_result_and_the_new_one_is_elsewhere(folder, temporary) -> None:
    """The room is asked for before the work; this disk becomes full after that."""
    start = ["reconstruct", "-m", "models.py:small", "-i", "picture.png", "--dtype", "float64", "-o"]
    with small_disk(folder / "disk", "2m") as disk:
        run(*start, disk / "out")
        before = {path.name: path.read_bytes() for path in (disk / "out").iterdir()}
        filling = fill(disk)
        refused = run(*start, disk / "out", "--force", code=2)
        assert "out cannot take 1,048,576 bytes (No space left on device); free some space" in refused.stderr
        results_room, results.ROOM = results.ROOM, 0
        try:
            refused = run(*start, disk / "out", "--force", "--seed", "1", code=2)
        finally:
            results.ROOM = results_room
        assert {path.name: path.read_bytes() for path in (disk / "out").iterdir()} == before
        filling.unlink()
        run(*start, disk / "out", "--force", "--seed", "1")
        assert hidden_in(disk / "out") == []
    assert "No space left on device" in refused.stderr
    (kept,) = temporary.iterdir()
    assert f"the result is kept in {kept}" in refused.stderr
    assert {path.name for path in kept.iterdir()} == set(results.FILES)
    assert strict(kept / "result.json")["seed"] == 1


SAVING = """
import numpy as np
import constraint_algebra as ca
path = sys.argv[1]
try:
    ca.save(path, {"x": np.random.default_rng(0).random(100_000)}, overwrite=True)
except ca.StorageError as error:
    print(error)
"""


def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path) -> None:
    path = ca.save(tmp_path / "a.npz", {"x": np.ones(2)})
    before = path.read_bytes()
    told = python(LIMITED.format(size=10_000) + SAVING, path).stdout
    assert told == f"{path} cannot be written (File too large); check the folder, its rights and the space\n"
    assert path.read_bytes() == before
    assert hidden_in(tmp_path) == []


RIGHTS = f"""
import sys
from pathlib import Path
import numpy as np
import constraint_algebra as ca
from constraint_algebra import storage
from constraint_algebra.files import locks, result_folder, space, writing
folder = Path(sys.argv[1])
{WITHOUT_RIGHTS}
works = [
    lambda: ca.save(folder / "a.npz", {{"x": np.ones(2)}}, overwrite=True),
    lambda: space.check_folder(folder),
    lambda: space.check_folder(folder / "new" / "deep"),
    lambda: space.make(folder / "new"),
    lambda: locks.locked(folder / "a.npz").__enter__(),
    lambda: result_folder.ResultFolder(folder, ["head"]).__enter__(),
    lambda: ca.load(folder / "secret.npz"),
]
for number, work in enumerate(works):
    try:
        work()
        print(number, "done")
    except ca.StorageError as error:
        print(number, error)
"""


def test_a_folder_without_rights_is_said_to_be_one_before_the_work() -> None:
    with open_to_all() as folder:
        ca.save(folder / "a.npz", {"x": np.ones(2)})
        ca.save(folder / "secret.npz", {"x": np.ones(2)})
        (folder / "secret.npz").chmod(0)
        before = (folder / "a.npz").read_bytes()
        folder.chmod(0o555)
        lines = python(RIGHTS, folder).stdout.splitlines()
        assert (folder / "a.npz").read_bytes() == before
        assert len(lines) == 7
        for line in lines:
            assert str(folder) in line
            assert "Permission denied" in line


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: place.write_text("a file"), r"place is a file; name a folder"),
        (lambda place: place.symlink_to("nowhere"), r"place is a link to nowhere, which does not exist"),
    ],
)
def test_what_is_no_folder_is_refused_before_the_work(tmp_path, make, words) -> None:
    make(tmp_path / "place")
    for folder in (tmp_path / "place", tmp_path / "place" / "deep"):
        with pytest.raises(ca.ConstraintAlgebraError, match=words):
            results.refuse_existing(folder, overwrite=True)
        with pytest.raises(ca.StorageError, match=words):
            check_folder(folder)


def test_a_folder_in_the_place_of_a_file_is_refused_before_the_work(folder) -> None:
    (folder / "out" / "result.json").mkdir(parents=True)
    words = ["reconstruct", "-m", "missing.py:f", "-i", "picture.png", "--force"]
    assert "result.json is a folder" in run(*words, code=2).stderr


def test_more_than_the_disk_has_is_refused_before_the_work(tmp_path) -> None:
    with pytest.raises(ca.StorageError, match=r"cannot take 1,152,921,504,606,846,976 bytes \(No space left"):
        check_folder(tmp_path, 2**60)
    assert list(tmp_path.glob(".*")) == []


def test_a_capture_that_cannot_be_written_is_kept(folder, temporary) -> None:
    captured = from_image(Recipe("models.py:small"), "picture.png")
    with small_disk(folder / "disk") as disk:
        (disk / "step.npz").write_bytes(b"old")
        filling = fill(disk)
        with pytest.raises(ca.StorageError, match="No space left") as caught:
            captured.save(disk / "step.npz", overwrite=True)
        assert (disk / "step.npz").read_bytes() == b"old"
        assert {path.name for path in disk.iterdir()} == {"step.npz", filling.name}
    assert caught.value.result is captured
    (kept,) = temporary.iterdir()
    assert caught.value.kept == kept
    assert set(ca.load(kept / "step.npz")) >= {"parameters/0.weight", "gradients/0.weight"}


def test_intervals_that_cannot_be_kept_are_in_the_exception(tmp_path, monkeypatch) -> None:
    case = random_case(8)
    found, few = case.set(), np.zeros(case.image.shape, dtype=bool)
    few[0, 0, :2] = True
    monkeypatch.setattr("constraint_algebra.storage.write", lambda path, *_a, **_o: write(path / "x", b""))
    with pytest.raises(ca.StorageError) as caught:
        ca.interval_map(found, few, path=tmp_path / "intervals.npz")
    np.testing.assert_array_equal(caught.value.result.width, ca.interval_map(found, few).width)


@pytest.mark.parametrize("name", ["intervals.txt", "no/intervals.npz", "link.npz"])
def test_a_place_where_intervals_cannot_be_kept_is_refused_before_the_first(tmp_path, name) -> None:
    case = random_case(8)
    (tmp_path / "link.npz").symlink_to(tmp_path / "missing.npz")
    seen: list[int] = []
    with pytest.raises(ca.StorageError):
        ca.interval_map(case.set(), path=tmp_path / name, progress=lambda done, *_: seen.append(done))
    assert seen == []
    assert not (tmp_path / "missing.npz").exists()


@pytest.mark.parametrize("name", ["intervals.npz", "hunt.jsonl"])
def test_while_one_keeps_intervals_or_hunts_another_one_is_refused(tmp_path, name) -> None:
    path = tmp_path / "place" / name
    path.parent.mkdir()
    began = lambda *_: pytest.fail("began")  # noqa: E731
    works = {
        "intervals.npz": lambda: ca.interval_map(random_case(8).set(), path=path, progress=began),
        "hunt.jsonl": lambda: hunt(path, range(3), quick),
    }
    words = rf"another process writes to .*{name}.*\(process \d+ on"
    with locked(path), pytest.raises(ca.StorageError, match=words):
        works[name]()
    assert list(path.parent.iterdir()) == []


def test_while_one_writes_a_result_the_command_is_refused_before_its_work(folder, monkeypatch):
    monkeypatch.setattr("constraint_algebra.files.result_folder.WAIT", 0.2)
    start = ["reconstruct", "-m", "models.py:small", "-i", "picture.png", "--dtype", "float64"]
    with ResultFolder(folder / "out", results.FILES):
        refused = run(*start, code=2)
    assert "another process writes to out/result.json (process" in refused.stderr
    assert "layer" not in refused.output  # nothing was solved for nobody
    assert not (folder / "out" / "result.json").exists()
