"""Files that are damaged on purpose, by kind; whatever is drawn by chance comes from a seed in the name of the case."""

from __future__ import annotations

import io
import json
import random
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

from constraint_algebra import storage

ARRAYS = {"0.weight": np.arange(60.0).reshape(3, 4, 5), "0.bias": np.ones(3, np.float32)}
Damage = Callable[[bytes], bytes]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def archive(entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    """A zip archive; names twice are allowed, and so is a zero byte."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            entry = zipfile.ZipInfo("x") if isinstance(name, str) else name
            if isinstance(name, str):
                entry.filename = name
                entry.compress_type = zipfile.ZIP_DEFLATED
            if entry.filename in file.NameToInfo:
                file.NameToInfo.pop(entry.filename)
            file.writestr(entry, content)
    return stream.getvalue()


def header(text: str, data: bytes = b"") -> bytes:
    """An array whose header says what it likes."""
    padded = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data


def declares(shape: str, descr: str = "'<f8'", data: bytes = bytes(16)) -> bytes:
    return archive([("x.npy", header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}", data))])


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def forged_size(size: int) -> bytes:
    """An archive whose table of contents says that every entry unpacks to so many bytes."""
    content = bytearray(archive([(f"{number}.npy", npy(np.ones(3))) for number in range(6)]))
    place = content.find(b"PK\x01\x02")
    while place >= 0:
        content[place + 24 : place + 28] = struct.pack("<I", size)
        place = content.find(b"PK\x01\x02", place + 4)
    return bytes(content)


def safetensors(shape: list[int], offsets: list[int], data: bytes = b"", dtype: str = "F64") -> bytes:
    text = json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = npy(np.ones(3))
ABOUT = "__constraint_algebra__.npy"


def told(text: str) -> bytes:
    return archive([("x.npy", ONE), (ABOUT, npy(np.frombuffer(text.encode(), np.uint8)))])


# kind → cases: what must be refused, whatever else is in the file.
REFUSED: dict[str, dict[str, bytes]] = {
    "names": {
        "above": archive([("../x.npy", ONE)]),
        "above, inside": archive([("a/../../x.npy", ONE)]),
        "absolute": archive([("/etc/x.npy", ONE)]),
        "backslashes": archive([("..\\x.npy", ONE)]),
        "a drive": archive([("C:\\x.npy", ONE)]),
        "a zero byte": archive([("x\0y.npy", ONE)]),
        "twice": archive([("x.npy", ONE), ("x.npy", npy(np.zeros(3)))]),
        "a link": archive([(link("x.npy"), b"/etc/passwd")]),
        "a link that is an array": archive([(link("x.npy"), ONE)]),
        "a folder": archive([("x.npy/", b"")]),
    },
    "sizes": {
        "a table of contents of 24 GB": forged_size(0xFFFFFFF0),
        "a shape of 8 TB": declares("(1000000, 1000000)"),
        "a shape beyond 64 bits": declares("(10000000000000000000000,)"),
        "a negative shape": declares("(-1,)"),
        "negative twice": declares("(-2, -1)"),
        "less than there is": declares("(1,)"),
        "no data": declares("(2,)", data=b""),
        "a wide type": declares("(1,)", "'<V2000000000'"),
        "safetensors of 8 TB": safetensors([1000000, 1000000], [0, 8 * 10**12], bytes(16)),
        "a header of safetensors of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
        "offsets that overlap nothing": safetensors([2], [8, 24], bytes(24)),
        "safetensors of nothing": safetensors([10**12], [0, 0]),
        "10^12 values of no bytes": declares("(1000000000000,)", "'|V0'", b""),
        "10^10 texts of no letters, which NumPy gives one": declares("(10000000000,)", "'<U0'", b""),
    },
    "headers": {
        "no dictionary": archive([("x.npy", header("7"))]),
        "no type": declares("(2,)", "'<q9'"),
        "objects": declares("(2,)", "'|O'"),
        "a call": declares("__import__('os').getpid()"),
        "deep": archive([("x.npy", header("(" * 5000))]),
        "an unknown version": archive([("x.npy", b"\x93NUMPY\x09\x00" + bytes(80))]),
        "JSON that is deep": told("[" * 100_000),
        "JSON of numbers": told('{"metadata": 7}'),
        "bfloat16 of nothing": told('{"bfloat16": ["y"]}'),
        "bfloat16 of other bits": told('{"bfloat16": ["x"]}'),
    },
    "contents": {
        "no archive": b"hello, this is text",
        "nothing": b"",
        "zeros": bytes(5000),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "a foreign entry": archive([("readme.txt", b"hello")]),
        "text as an array": archive([("x.npy", b"hello")]),
    },
}


def whole(suffix: str, path) -> bytes:
    return storage.save(path / f"whole{suffix}", ARRAYS, metadata={"loss": "other"}).read_bytes()


def by_chance(kind: str, count: int, seed: int) -> Iterator[Damage]:
    """Damages of a kind, drawn from a seed."""
    for number in range(count):
        chance = random.Random(f"{kind} {seed} {number}")
        if kind == "truncated":
            yield lambda content, r=chance: content[: r.randrange(len(content))]
        elif kind == "bits":
            yield lambda content, r=chance: flipped(content, r)
        elif kind == "a hole":
            yield lambda content, r=chance: (at := r.randrange(len(content))) * b"" + content[:at] + content[at + 7 :]
        else:
            yield lambda content, r=chance: spoilt(content, r)


def flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def spoilt(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    start = chance.randrange(len(changed))
    for place in range(start, min(start + 16, len(changed))):
        changed[place] = chance.randrange(256)
    return bytes(changed)


BY_CHANCE = ("truncated", "bits", "a hole", "a block")
