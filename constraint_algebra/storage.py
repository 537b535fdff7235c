"""Parameters and gradients on disk: `.npz` without pickle, and safetensors; PyTorch files for reading.

Opening a file never executes anything in it. A file is written under another name first and then moved into place, so
that an interruption leaves either the old file or the new one.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from constraint_algebra.arrays import Arrays
from constraint_algebra.errors import MissingPackageError, OutputExistsError, StorageError

# The entry of an .npz that holds the metadata and the names of the arrays that are bfloat16, which NumPy's format
# does not know; those are stored as their bits, uint16.
_HEADER = "__constraint_algebra__"
_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "uint16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
# What a damaged archive makes of zipfile, NumPy and json.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, zlib.error, RuntimeError)
_WRITABLE, _READABLE = (".npz", ".safetensors"), (".npz", ".safetensors", ".pt", ".pth")


def save(
    path: str | Path,
    arrays: Mapping[str, ArrayLike],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write arrays to a `.npz` or `.safetensors` file, as its suffix says; every dtype comes back as it was.

    The same arrays make the same bytes, whenever they are written.

    Args:
        path: the file; its folder must exist.
        arrays: arrays of numbers by name; bfloat16 (of ml_dtypes) included. NaN and infinity are allowed here.
        metadata: strings by name, to keep with the arrays.
        overwrite: whether a file that is already there may be replaced.

    Raises:
        OutputExistsError: the file is there and `overwrite` is false.
        StorageError: the suffix is unknown, the folder is missing, an array holds no numbers, or the disk refuses.
        MissingPackageError: safetensors is not installed.
    """
    path = Path(path)
    suffix = _suffix(path, _WRITABLE)
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} is already there; pass overwrite=True to replace it, or choose another name")
    texts = dict(metadata or {})
    if not all(isinstance(text, str) for pair in texts.items() for text in pair):
        raise StorageError(f"{path}: metadata must be strings by name, got {texts}; use str() or json.dumps()")
    numbers = {name: _numbers(path, name, array) for name, array in arrays.items()}
    content = _npz_bytes(numbers, texts) if suffix == ".npz" else _safetensors_bytes(numbers, texts)
    _replace(path, content)
    return path


def load(path: str | Path) -> Arrays:
    """Return the arrays of a `.npz`, `.safetensors`, `.pt` or `.pth` file by name.

    Raises:
        StorageError: the file is missing, damaged, of another kind, or would need code to open.
        MissingPackageError: the file needs safetensors, PyTorch or ml_dtypes, which are not installed.
    """
    path = Path(path)
    suffix = _suffix(path, _READABLE)
    if suffix in {".pt", ".pth"}:
        _exists(path)
        from constraint_algebra.pytorch.gradients import load_torch_file

        return load_torch_file(path)
    return _read(path)[0]


def load_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata that `save` kept with the arrays; empty where there is none, as in PyTorch's files.

    Raises:
        StorageError: as `load`.
    """
    path = Path(path)
    if _suffix(path, _READABLE) in _WRITABLE:
        return _read(path)[1]
    _exists(path)
    return {}


def _suffix(path: Path, known: tuple[str, ...]) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        raise StorageError(f"{path}: the suffix must be one of {', '.join(known)}, got {suffix or 'none'!r}; rename it")
    return suffix


def _exists(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise StorageError(f"{path} {what}; give the path of a file")


def _numbers(path: Path, name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.array(values, order="C")
    if array.dtype.name != "bfloat16" and array.dtype.kind not in "fiub":
        raise StorageError(f"{path}: array {name!r} has dtype {array.dtype}; only real numbers can be stored")
    if array.dtype.name in {"longdouble", "float128", "float96"}:
        raise StorageError(f"{path}: array {name!r} has dtype {array.dtype}, which differs by machine; use float64")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _replace(path: Path, content: bytes) -> None:
    if not path.parent.is_dir():
        raise StorageError(f"{path}: folder {path.parent} does not exist; create it first")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error}); check the folder, its rights and the space") from error
    finally:
        temporary.unlink(missing_ok=True)


def _npz_bytes(arrays: Arrays, metadata: dict[str, str]) -> bytes:
    bfloat16 = [name for name, array in arrays.items() if array.dtype.name == "bfloat16"]
    header = json.dumps({"bfloat16": bfloat16, "metadata": metadata}).encode()
    entries = {_HEADER: np.frombuffer(header, np.uint8)} | {
        name: array.view(np.uint16) if name in bfloat16 else array for name, array in arrays.items()
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in entries.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: the bytes do not depend on the clock
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()


def _safetensors_bytes(arrays: Arrays, metadata: dict[str, str]) -> bytes:
    from_package = _safetensors()
    return bytes(from_package.numpy.save(arrays, metadata=metadata or None))


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise MissingPackageError(
            '.safetensors files need safetensors, which is not installed; pip install "constraint-algebra[torch]", '
            "or use .npz"
        ) from error
    return safetensors


def _read(path: Path) -> tuple[Arrays, dict[str, str]]:
    _exists(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error}); check its rights") from error
    return (_read_npz if path.suffix.lower() == ".npz" else _read_safetensors)(path, content)


def _read_npz(path: Path, content: bytes) -> tuple[Arrays, dict[str, str]]:
    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.namelist():
                if not entry.endswith(".npy"):
                    raise StorageError(
                        f"{path}: entry {entry!r} is no array; write the file with save() or numpy.savez"
                    )
                member = io.BytesIO(archive.read(entry))
                arrays[entry.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
        header = json.loads(arrays.pop(_HEADER, np.frombuffer(b"{}", np.uint8)).tobytes())
        for name in header.get("bfloat16", []):
            arrays[name] = arrays[name].view(_bfloat16())
        return arrays, dict(header.get("metadata", {}))
    except zipfile.BadZipFile as error:
        raise StorageError(f"{path} is no .npz file, or is cut off ({error}); write it again") from error
    except _DAMAGE as error:
        if "Object arrays" in str(error):
            raise StorageError(
                f"{path} holds Python objects, which could execute code and are refused; save arrays of numbers"
            ) from error
        raise StorageError(f"{path} is damaged, or no .npz file of arrays ({error}); write it again") from error


def _read_safetensors(path: Path, content: bytes) -> tuple[Arrays, dict[str, str]]:
    package = _safetensors()
    try:
        entries = package.deserialize(content)
    except package.SafetensorError as error:
        raise StorageError(f"{path} is no safetensors file, or is damaged ({error}); write it again") from error
    arrays: Arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            known = ", ".join(_SAFETENSORS_DTYPES)
            raise StorageError(f"{path}: array {name!r} has dtype {entry['dtype']}; only {known} can be read")
        values = np.frombuffer(entry["data"], np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]]).newbyteorder("<"))
        values = values.reshape(entry["shape"]).copy()
        arrays[name] = values.view(_bfloat16()) if entry["dtype"] == "BF16" else values
    # The format: eight bytes with the length of a JSON header, the header, the data; checked by the package above.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return arrays, header.get("__metadata__") or {}


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError as error:
        raise MissingPackageError(
            'bfloat16 arrays need ml_dtypes, which is not installed; pip install "constraint-algebra[torch]"'
        ) from error
    return ml_dtypes.bfloat16
