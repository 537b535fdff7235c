"""Files: what goes in comes out, and what is no such file is refused without being executed."""

from __future__ import annotations

import json
import pickle
import stat
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import constraint_algebra as ca
from constraint_algebra.storage import load, load_metadata, save

FORMATS = [".npz", ".safetensors"]
DTYPES = ["float16", "float32", "float64", "int8", "int64", "uint8", "uint16", "bool", "bfloat16"]


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same names, dtypes, shapes and bits."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def arrays_of(dtype: str) -> st.SearchStrategy[np.ndarray]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    if dtype == "bfloat16":
        return hnp.arrays(np.uint16, shapes).map(lambda bits: bits.view(ml_dtypes.bfloat16))
    return hnp.arrays(dtype, shapes)


NAMES = st.sampled_from(["0.weight", "file", "self", "a/b", "größe", "__metadata", "allow_pickle", "x" * 80])


@pytest.mark.parametrize("suffix", FORMATS)
@given(arrays=st.dictionaries(NAMES, st.sampled_from(DTYPES).flatmap(arrays_of), max_size=4))
@settings(max_examples=40)
def test_every_dtype_shape_and_name_comes_back_bit_by_bit(tmp_path_factory, suffix, arrays) -> None:
    path = tmp_path_factory.mktemp("files") / f"arrays{suffix}"
    assert save(path, arrays) == path
    assert_same(load(path), arrays)
    assert load_metadata(path) == {}


@pytest.mark.parametrize("suffix", FORMATS)
def test_views_lists_and_foreign_byte_orders(tmp_path, suffix) -> None:
    values = np.arange(6.0).reshape(2, 3)
    path = save(
        tmp_path / f"a{suffix}", {"t": values.T, "big": values.astype(">f4"), "list": [[1.5, 2.5]], "s": values[::-1]}
    )
    assert_same(
        load(path),
        {
            "t": np.ascontiguousarray(values.T),
            "big": values.astype("<f4"),
            "list": np.array([[1.5, 2.5]]),
            "s": np.ascontiguousarray(values[::-1]),
        },
    )
    load(path)["t"][0, 0] = 7  # writable


@pytest.mark.parametrize("suffix", FORMATS)
def test_not_a_number_is_a_value_like_any_other(tmp_path, suffix) -> None:
    values = np.array([np.nan, np.inf, -np.inf, -0.0])
    np.testing.assert_array_equal(load(save(tmp_path / f"a{suffix}", {"x": values}))["x"], values)


@pytest.mark.parametrize("suffix", FORMATS)
def test_metadata(tmp_path, suffix) -> None:
    metadata = {"loss": "cross_entropy", "ключ": "значение", "empty": ""}
    path = save(tmp_path / f"a{suffix}", {"x": np.ones(2)}, metadata=metadata)
    assert load_metadata(path) == metadata
    assert list(load(path)) == ["x"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_arrays_make_the_same_bytes(tmp_path, suffix) -> None:
    arrays = {"b": np.ones(3), "a": np.zeros((2, 2), np.float32)}
    first, second = (save(tmp_path / f"{name}{suffix}", arrays).read_bytes() for name in "ab")
    assert first == second


def test_other_programs_read_what_is_written(tmp_path) -> None:
    arrays = {"file": np.arange(3.0), "n": np.ones((2, 2), np.float32)}
    with np.load(save(tmp_path / "a.npz", arrays), allow_pickle=False) as read:
        assert_same({name: read[name] for name in arrays}, arrays)
    path = save(tmp_path / "a.safetensors", {"x": np.array([1.5, -2.0], ml_dtypes.bfloat16)})
    assert torch.equal(safetensors.torch.load_file(path)["x"], torch.tensor([1.5, -2.0], dtype=torch.bfloat16))


def test_files_of_other_programs(tmp_path) -> None:
    arrays = {"x": np.arange(3.0), "y": np.ones((2, 2), np.float32)}
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "compressed.NPZ", **arrays)
    (tmp_path / "compressed.NPZ.npz").rename(tmp_path / "compressed.NPZ")
    safetensors.numpy.save_file(arrays, tmp_path / "plain.safetensors")
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "plain.pt")
    torch.save({"x": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "half.pth")
    for name in ("plain.npz", "compressed.NPZ", "plain.safetensors", "plain.pt"):
        assert_same(load(tmp_path / name), arrays)
    assert_same(load(tmp_path / "half.pth"), {"x": np.ones(2, ml_dtypes.bfloat16)})
    assert load_metadata(tmp_path / "plain.npz") == load_metadata(tmp_path / "plain.pt") == {}


def test_nothing_is_overwritten_silently(tmp_path) -> None:
    path = save(tmp_path / "a.npz", {"x": np.ones(2)})
    with pytest.raises(ca.OutputExistsError, match=r"a\.npz.*overwrite=True"):
        save(path, {"x": np.zeros(2)})
    assert load(path)["x"][0] == 1
    save(path, {"x": np.zeros(2)}, overwrite=True)
    assert load(path)["x"][0] == 0


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    path = save(tmp_path / "a.npz", {"x": np.ones(2)})
    before = path.read_bytes()

    def full(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ca.StorageError, match="No space left"):
        save(path, {"x": np.zeros(2)}, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX")
def test_a_file_has_the_rights_of_any_new_file(tmp_path) -> None:
    (tmp_path / "usual").touch()
    path = save(tmp_path / "a.npz", {"x": np.ones(2)})
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


SAVE_REFUSED = {
    "suffix": ("a.txt", {"x": np.ones(2)}, {}, r"\.npz, \.safetensors, got '\.txt'"),
    "no suffix": ("a", {"x": np.ones(2)}, {}, "got 'none'"),
    "PyTorch's": ("a.pt", {"x": np.ones(2)}, {}, "got '.pt'"),
    "no folder": ("deep/a.npz", {"x": np.ones(2)}, {}, "create it"),
    "objects": ("a.npz", {"x": np.array([None])}, {}, r"arrays\['x'\] must be an array of numbers, .* object"),
    "strings": ("a.npz", {"x": np.array(["a"])}, {}, r"arrays\['x'\] must be an array of numbers"),
    "complex": ("a.safetensors", {"x": np.array([1j])}, {}, "complex128"),
    "long doubles": ("a.npz", {"x": np.ones(2, np.longdouble)}, {}, "use float64"),
    "metadata": ("a.npz", {"x": np.ones(2)}, {"seed": 1}, r"metadata\['seed'\] must be a string, got 1"),
}


@pytest.mark.parametrize("case", SAVE_REFUSED)
def test_what_cannot_be_saved(case, tmp_path) -> None:
    name, arrays, metadata, words = SAVE_REFUSED[case]
    wrong_kind = case in {"objects", "strings", "complex", "metadata"}
    with pytest.raises(ca.ArgumentError if wrong_kind else ca.StorageError, match=words):
        save(tmp_path / name, arrays, metadata=metadata)
    assert not list(tmp_path.iterdir())


class Bomb:
    """An object whose unpickling would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path) + ".bomb", "w"))


def member(path: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)


def header_only(path: Path, header: object, data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def cut(path: Path, keep: float) -> None:
    save(path, {"x": np.arange(100.0), "y": np.ones(3)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def flipped(path: Path) -> None:
    """One bit of the compressed data changed, which the checksum of the zip archive notices."""
    save(path, {"x": np.random.default_rng(0).normal(size=100)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# (file name, what writes it, words of the message)
DAMAGED = {
    "missing npz": ("a.npz", lambda _path: None, "does not exist"),
    "missing pt": ("a.pt", lambda _path: None, "does not exist"),
    "a folder": ("a.npz", lambda path: path.mkdir(), "is a folder"),
    "unknown suffix": ("a.onnx", lambda path: path.write_bytes(b"x"), "got '.onnx'"),
    "empty npz": ("a.npz", lambda path: path.write_bytes(b""), "no .npz file"),
    "text as npz": ("a.npz", lambda path: path.write_text("hello"), "no .npz file"),
    "a single array": ("a.npz", lambda path: np.save(path.open("wb"), np.ones(2)), "no .npz file"),
    "npz cut in half": ("a.npz", lambda path: cut(path, 0.5), "write it again"),
    "npz without its end": ("a.npz", lambda path: cut(path, 0.98), "write it again"),
    "npz with a flipped bit": ("a.npz", flipped, "write it again"),
    "another zip": ("a.npz", lambda path: member(path, "readme.txt", b"hello"), "'readme.txt' is no array"),
    "a foreign entry": ("a.npz", lambda path: member(path, "x.npy", b"hello"), "damaged"),
    "pickled objects": (
        "a.npz",
        lambda path: np.savez(path, x=np.array([Bomb(path)], dtype=object), allow_pickle=True),
        "execute code",
    ),
    "a pickle as npz": ("a.npz", lambda path: path.write_bytes(pickle.dumps(Bomb(path))), "no .npz file"),
    "a broken header": ("a.npz", lambda path: np.savez(path, __constraint_algebra__=np.ones(3)), "damaged"),
    "a header that is no dictionary": (
        "a.npz",
        lambda path: np.savez(path, __constraint_algebra__=np.frombuffer(b"[1]", np.uint8)),
        "damaged",
    ),
    "text as safetensors": ("a.safetensors", lambda path: path.write_text("hello"), "no safetensors file"),
    "empty safetensors": ("a.safetensors", lambda path: path.write_bytes(b""), "no safetensors file"),
    "safetensors cut in half": ("a.safetensors", lambda path: cut(path, 0.5), "damaged"),
    "safetensors without data": (
        "a.safetensors",
        lambda path: header_only(path, {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        "damaged",
    ),
    "a dtype of eight bits": (
        "a.safetensors",
        lambda path: header_only(path, {"x": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"12"),
        "F8_E4M3",
    ),
    "a pickle as pt": ("a.pt", lambda path: path.write_bytes(pickle.dumps(Bomb(path))), "code"),
    "a model in pt": ("a.pt", lambda path: torch.save(torch.nn.Linear(2, 2), path), "needs code"),
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_damaged_and_foreign_files_are_refused_and_nothing_is_executed(case, tmp_path) -> None:
    name, write, words = DAMAGED[case]
    path = tmp_path / name
    write(path)
    with pytest.raises(ca.StorageError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert not list(tmp_path.glob("*.bomb"))


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ca.MissingPackageError, match=r"constraint-algebra\[torch\].*or use \.npz"):
        save(tmp_path / "a.safetensors", {"x": np.ones(2)})
    path = save(tmp_path / "a.npz", {"x": np.ones(2, ml_dtypes.bfloat16)})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ca.MissingPackageError, match="ml_dtypes"):
        load(path)
