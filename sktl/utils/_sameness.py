"""What tells whether a file or an object is still the same."""

from __future__ import annotations

import os
import re
from typing import Any

__all__ = ["ADDRESS", "file_state", "without_addresses"]

# Where an object lies in memory, in what it says of itself.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def without_addresses(thing: Any) -> str:
    """What an object says of itself, but for where it lies in memory."""
    return ADDRESS.sub("", repr(thing))


def file_state(path: str | os.PathLike[str]) -> tuple[int, int, int, int]:
    """Size, mtime_ns, inode and ctime_ns of a file.

    The last changes also where its time was put back, but not on Windows.
    """
    state = os.stat(path)  # noqa: PTH116 (faster, for paths that are many)
    return state.st_size, state.st_mtime_ns, state.st_ino, state.st_ctime_ns
