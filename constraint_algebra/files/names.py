"""What a name stands for, asked of names that no file can have as well, which stand for nothing.

The methods of `Path` raise for names that are too long, hold a zero byte or lie where nobody may look.
"""

# ruff: noqa: PTH110, PTH112, PTH113, PTH114 -- see above

from __future__ import annotations

import os
from pathlib import Path


def is_folder(path: Path) -> bool:
    """Return whether it is a folder, or a link to one."""
    return os.path.isdir(path)


def is_file(path: Path) -> bool:
    """Return whether it is a regular file, or a link to one."""
    return os.path.isfile(path)


def is_link(path: Path) -> bool:
    """Return whether it is a link, wherever it leads."""
    return os.path.islink(path)


def leads_somewhere(path: Path) -> bool:
    """Return whether there is something, behind the link if it is one."""
    return os.path.exists(path)


def is_there(path: Path) -> bool:
    """Return whether there is something of that name, be it a link that leads nowhere."""
    return os.path.lexists(path)
