"""PyTorch files that declare more than they hold, or what no array can hold: refused before anything is allocated."""

from __future__ import annotations

import io
import resource
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import constraint_algebra as ca

MANY = 10**12
STATM = Path("/proc/self/statm")
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@contextmanager
def little_room(extra: int = 2**28) -> Iterator[None]:
    """Let this process have so many more bytes of addresses, touched or not, and no more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (int(STATM.read_text().split()[0]) * resource.getpagesize() + extra, before[1])
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def saved(content: object, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def forged(count: int, *, legacy: bool) -> bytes:
    """A file of four values that says that it holds so many, in the tensor's shape and in its storage."""
    content = saved({"w": torch.arange(4.0)}, legacy=legacy)
    said = b"\x8a\x06" + count.to_bytes(6, "little")  # a long number, as pickles write it
    if legacy:
        return content.replace(b"K\x04", said)
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data.replace(b"K\x04", said) if name.endswith("data.pkl") else data)
    return changed.getvalue()


HUGE = {
    "one value 10^12 times": (lambda: saved({"w": torch.zeros(1).expand(MANY)}), r"would take 7.3 TiB of memory"),
    "the same in the old format": (lambda: saved({"w": torch.zeros(1).expand(MANY)}, legacy=True), "7.3 TiB of memory"),
    "a storage of 10^12": (lambda: forged(MANY, legacy=False), "damaged"),
    "an old storage of 10^12": (lambda: forged(MANY, legacy=True), "damaged"),
    "a shape without values": (lambda: saved({"w": torch.zeros(MANY, device="meta")}), "a shape and no values"),
    "10^12 zeros that are not there": (
        lambda: saved(
            {
                "w": torch.sparse_coo_tensor(
                    torch.zeros((2, 1), dtype=torch.long), torch.ones(1), (10**6, 10**6), check_invariants=False
                )
            }
        ),
        "layout sparse_coo.*to_dense",
    ),
}


@pytest.mark.skipif(not STATM.exists(), reason="asks Linux how many addresses a process has")
@pytest.mark.parametrize("kind", HUGE)
def test_a_huge_shape_is_refused_before_room_is_made_for_it(tmp_path, kind) -> None:
    make, words = HUGE[kind]
    path = tmp_path / "huge.pt"
    path.write_bytes(make())
    assert path.stat().st_size < 5000
    with little_room(), pytest.raises(ca.StorageError, match=words) as caught:
        ca.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.eye(3).to_sparse_csr(), "layout sparse_csr"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "layout nested"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8), r"type torch\.quint8.*dequantize"),
        (lambda: torch.ones(3).to(torch.float8_e4m3fn), r"type torch\.float8_e4m3fn"),
    ],
    ids=["sparse", "nested", "quantised", "eight bits"],
)
def test_tensors_that_no_array_can_hold_are_refused_by_name(tmp_path, make, words) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, of features that may change
        torch.save({"w": make()}, tmp_path / "a.pt")
    with pytest.raises(ca.StorageError, match=rf"a\.pt: 'w' has the {words}"):
        ca.load(tmp_path / "a.pt")


def test_views_are_read_as_they_are(tmp_path) -> None:
    turned = torch.complex(torch.ones(2), torch.arange(2.0)).conj()
    content = {"turned": turned, "repeated": torch.arange(2.0).expand(3, 2), "negative": turned.clone().conj().imag}
    torch.save(content, tmp_path / "a.pt")
    found = ca.load(tmp_path / "a.pt")
    np.testing.assert_array_equal(found["turned"], [1, 1 - 1j])
    np.testing.assert_array_equal(found["repeated"], [[0, 1]] * 3)
    np.testing.assert_array_equal(found["negative"], [0, 1])
