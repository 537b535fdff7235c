"""Places that refuse: a small file system that is full, folders without rights, processes with a limit on files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534


@contextmanager
def small_disk(place: Path, size: str = "256k") -> Iterator[Path]:
    """Mount a file system of that size; the test is skipped where that is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Fill a disk to its last byte."""
    path = place / "filling"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def python(program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, from the root of the repository."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=check,
        cwd=ROOT,
        timeout=120,
    )


def started(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program and do not wait for it."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


# For the beginning of a program: it may write files of so many bytes and no more, as on a disk that becomes full.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""
# For a program after its imports: it goes on as somebody whom the rights of files hold for, which root is not.
WITHOUT_RIGHTS = f"""
import os
if os.getuid() == 0:
    os.setgid({NOBODY}); os.setuid({NOBODY})
"""


@contextmanager
def open_to_all() -> Iterator[Path]:
    """A folder that everybody may reach, unlike pytest's own."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="faults-", dir="/tmp"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        for each in [folder, *folder.rglob("*")]:
            if each.is_dir() and not each.is_symlink():
                os.chmod(each, 0o777)  # noqa: PTH101 -- a link is left alone above
        shutil.rmtree(folder)
