"""Files that are there whole or not at all, and their names."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["is_text", "replacing"]


def is_text(path: str) -> bool:
    """Whether a path can be written down: old file names are bytes that are no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file of another name to write, which then takes the place of `path`, or goes.

    Of several that are written at once, each has a name of its own, and the last one stays.
    """
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
