"""Parameters and gradients on disk: `.npz` without pickle, and safetensors; PyTorch files for reading.

Opening a file never executes anything in it, and what an archive says that it unpacks to is looked at before a byte of
it is unpacked. Writing is that of `files`: an interruption leaves either the old file or the new one.
"""

from __future__ import annotations

import io
import json
import math
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from constraint_algebra import memory
from constraint_algebra.arguments import checked
from constraint_algebra.arrays import Arrays
from constraint_algebra.errors import MemoryLimitError, MissingPackageError, StorageError
from constraint_algebra.files.names import is_file, is_folder, leads_somewhere
from constraint_algebra.files.space import check_file, refuse_file
from constraint_algebra.files.writing import write
from constraint_algebra.networks import written
from constraint_algebra.networks.network import Network

# The entry of an .npz that holds the metadata and the names of the arrays that are bfloat16, which NumPy's format
# does not know; those are stored as their bits, uint16.
_HEADER = "__constraint_algebra__"
_NETWORK = "network"  # the metadata that hold a network
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
_DAMAGE = (
    *(ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, RuntimeError, ArithmeticError, SyntaxError),
    *(zlib.error, struct.error, tokenize.TokenError, MemoryError),
)
MOST_COPIES = 2.0  # of what a file holds: the bytes that were read, and the arrays
_WRITABLE, _READABLE = (".npz", ".safetensors"), (".npz", ".safetensors", ".pt", ".pth")


@checked
def save(
    path: str | Path,
    arrays: Mapping[str, ArrayLike],
    *,
    metadata: Mapping[str, str] | None = None,
    network: Network | None = None,
    overwrite: bool = False,
) -> Path:
    """Write arrays to a `.npz` or `.safetensors` file, as its suffix says; every dtype comes back as it was.

    The same arrays make the same bytes, whenever they are written.

    Args:
        path: the file; its folder must exist.
        arrays: arrays of numbers by name; bfloat16 (of ml_dtypes) included. NaN and infinity are allowed here.
        metadata: strings by name, to keep with the arrays.
        network: the network that they belong to, to keep with them: see `load_network`.
        overwrite: whether a file that is already there may be replaced.

    Raises:
        OutputExistsError: the file is there, or a link of its name, and `overwrite` is false.
        StorageError: the suffix is unknown, the folder is missing, an array holds no numbers or has a name that no
            archive can hold, or the disk refuses.
        MissingPackageError: safetensors is not installed.
    """
    path = Path(path)
    _suffix(path, _WRITABLE)
    refuse_file(path, overwrite=overwrite)
    texts = dict(metadata or {})
    if network is not None:
        if _NETWORK in texts:
            raise StorageError(f"{path}: metadata has {_NETWORK!r} already, which is the network's place; rename it")
        texts[_NETWORK] = written.to_text(network)
    write(path, to_bytes(path, arrays, metadata=texts), overwrite=overwrite)
    return path


def check_target(path: Path, *, overwrite: bool = False, needed: int = 0) -> None:
    """Refuse, before any work, a file that `save` could not write after it.

    Args:
        path: the file.
        overwrite: whether it may replace one that is there.
        needed: bytes that it is expected to take.

    Raises:
        OutputExistsError: something is there and `overwrite` is false.
        StorageError: the suffix is unknown, or the folder takes no new file or has no room.
    """
    _suffix(path, _WRITABLE)
    check_file(path, overwrite=overwrite, needed=needed)


def to_bytes(path: Path, arrays: Mapping[str, ArrayLike], *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return what `save` would write, in the format of a file's suffix.

    Raises:
        StorageError, MissingPackageError: as `save`.
    """
    suffix = _suffix(path, _WRITABLE)
    texts = dict(metadata or {})
    if not all(isinstance(text, str) for pair in texts.items() for text in pair):
        raise StorageError(f"{path}: metadata must be strings by name, got {texts}; use str() or json.dumps()")
    numbers = {name: _numbers(path, name, array) for name, array in arrays.items()}
    for name in numbers:
        _check_name(path, name)
    return _npz_bytes(numbers, texts) if suffix == ".npz" else _safetensors_bytes(numbers, texts)


@checked
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
        _check_torch(path)
        from constraint_algebra.pytorch.tensors import load_torch_file

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


@checked
def load_network(path: str | Path) -> Network:
    """Return the network that `save` kept with the arrays of a `.npz` or `.safetensors` file.

    Raises:
        StorageError: the file has none; otherwise as `load`.
    """
    path = Path(path)
    texts = load_metadata(path)
    if _NETWORK not in texts:
        raise StorageError(f"{path} holds no network; write one with save(path, arrays, network=network)")
    try:
        return written.from_text(texts[_NETWORK])
    except StorageError as error:
        raise StorageError(f"{path}: {error}") from error


def _suffix(path: Path, known: tuple[str, ...]) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        raise StorageError(f"{path}: the suffix must be one of {', '.join(known)}, got {suffix or 'none'!r}; rename it")
    return suffix


def _exists(path: Path) -> None:
    if not is_file(path):
        other = "is a device or a pipe" if leads_somewhere(path) else "does not exist"
        raise StorageError(f"{path} {'is a folder' if is_folder(path) else other}; give the path of a file")
    _check_size(path, path.stat().st_size, "has")


def _numbers(path: Path, name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.array(values, order="C")
    if array.dtype.name != "bfloat16" and array.dtype.kind not in "fiub":
        raise StorageError(f"{path}: array {name!r} has dtype {array.dtype}; only real numbers can be stored")
    if array.dtype.name in {"longdouble", "float128", "float96"}:
        raise StorageError(f"{path}: array {name!r} has dtype {array.dtype}, which differs by machine; use float64")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _check_name(path: Path, name: str) -> None:
    """Refuse a name that is cut off at a zero byte, or that would lead out of a folder where somebody unpacks it."""
    parts = name.replace("\\", "/").split("/")
    if "\0" in name or ".." in parts or not parts[0] or ":" in parts[0]:
        raise StorageError(
            f"{path}: {name!r} is no name of an array, as it could lead outside of the archive; rename it"
        )


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


def _check_torch(path: Path) -> None:
    """Refuse a PyTorch file, an archive as well, that unpacks to more than is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, *_DAMAGE):
        return  # of the older format, or damaged: PyTorch says so
    _check_size(path, sum(entry.file_size for entry in entries), "unpacks to")


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
            _check_entries(path, archive)
            for entry in archive.infolist():
                with archive.open(entry) as stream:
                    arrays[entry.filename.removesuffix(".npy")] = _array(stream, entry.file_size)
        header = json.loads(arrays.pop(_HEADER, np.frombuffer(b"{}", np.uint8)).tobytes())
        for name in header.get("bfloat16", []):
            if arrays[name].dtype != np.uint16:
                raise ValueError(f"{name!r} is said to be bfloat16 and has dtype {arrays[name].dtype}")
            arrays[name] = arrays[name].view(_bfloat16())
        metadata = {str(name): str(text) for name, text in header.get("metadata", {}).items()}
    except zipfile.BadZipFile as error:
        raise StorageError(f"{path} is no .npz file, or is cut off ({error}); write it again") from error
    except _DAMAGE as error:
        if "Object arrays" in str(error):
            raise StorageError(
                f"{path} holds Python objects, which could execute code and are refused; save arrays of numbers"
            ) from error
        raise StorageError(f"{path} is damaged, or no .npz file of arrays ({error}); write it again") from error
    return arrays, metadata


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive by its table of contents: nothing is unpacked yet."""
    entries = archive.infolist()
    names = [entry.orig_filename for entry in entries]
    for entry, name in zip(entries, names, strict=True):
        if not name.endswith(".npy") or stat.S_ISLNK(entry.external_attr >> 16):
            raise StorageError(f"{path}: entry {name!r} is no array; write the file with save() or numpy.savez")
        _check_name(path, name)
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise StorageError(f"{path} holds {twice!r} twice, and which one counts is not known; write it again")
    _check_size(path, sum(entry.file_size for entry in entries), "unpacks to")


def _check_size(path: Path, size: int, has: str) -> None:
    try:
        memory.demand("it", MOST_COPIES * size, "split it")
    except MemoryLimitError as error:
        raise StorageError(f"{path} {has} {size:,} bytes: {error}") from error


def _array(stream: IO[bytes], size: int) -> NDArray[Any]:
    """Return the array of an entry of so many bytes, once its header declares no more than that."""
    version = np.lib.format.read_magic(stream)
    if version not in {(1, 0), (2, 0), (3, 0)}:
        raise ValueError(f"format {version} is not known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    if not dtype.itemsize:  # any number of them in no bytes at all, and NumPy makes some of these types longer
        raise ValueError(f"values of dtype {dtype.str} have no bytes")
    declared, rest = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if min(shape, default=0) < 0 or declared != rest:
        raise ValueError(f"an array of shape {shape} and dtype {dtype} has {declared:,} bytes, and there are {rest:,}")
    values = np.frombuffer(stream.read(rest), dtype) if declared else np.empty(math.prod(shape), dtype)
    return values.reshape(shape, order="F" if fortran else "C").copy(order="F" if fortran else "C")


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
