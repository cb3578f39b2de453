"""Content digests of pictures; those of files are remembered by the state of the file."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sktl.engine._database import among, chunks
from sktl.images import ImageCollection
from sktl.images._decode import RGB, BadImageError
from sktl.images._digest import Content, digest_picture
from sktl.utils._files import is_text
from sktl.utils._sameness import file_state

if TYPE_CHECKING:
    from sktl.engine._store import FeatureStore

__all__ = [
    "Seen",
    "digest_files",
    "is_as_seen",
    "known_files",
    "picture_digests",
    "remember_files",
    "see_pictures",
]

_RACY_NS = 2_000_000_000


class Seen(NamedTuple):
    """Digest of what a picture shows, and in which state its file was then.

    Attributes
    ----------
    digest : bytes or None
        None for what cannot be read.
    path : str or None
        None for what is no file.
    state : tuple or None
        Size, mtime_ns, inode and ctime_ns.
    """

    digest: bytes | None
    path: str | None = None
    state: tuple[int, ...] | None = None


def is_as_seen(picture: Seen) -> bool:
    """Whether a file has not been changed since its digest was taken."""
    if picture.path is None or picture.digest is None:
        return True
    try:
        return file_state(picture.path) == picture.state
    except OSError:
        return False


def picture_digests(images: ImageCollection, store: FeatureStore) -> list[bytes | None]:
    """Digest of what each picture shows; None for what cannot be read."""
    return [picture.digest for picture in see_pictures(images, store)]


def see_pictures(images: ImageCollection, store: FeatureStore) -> list[Seen]:
    """Digest of what each picture shows, and the state of its file."""
    seen = [Seen(None)] * len(images)
    paths = {}
    for i in range(len(images)):
        item = None if images.kind == "arrays" else images[i]  # which is read once only, below
        if isinstance(item, (str, os.PathLike)):
            paths[i] = os.fspath(item)
        elif isinstance(item, (bytes, bytearray, memoryview)):
            seen[i] = Seen(Content.of_bytes(bytes(item)).on(images.background))
        else:
            try:
                seen[i] = Seen(digest_picture(images.read_rgb(i)))
            except BadImageError:
                continue
    files = store.see_files(list(paths.values()), images.background)
    for i, file in zip(paths, files, strict=True):
        seen[i] = file
    return seen


def known_files(db: sqlite3.Connection, paths: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """What is remembered of files, by path: size, times, inode and content."""
    known = {}
    for chunk in chunks([path for path in paths if is_text(path)]):
        for path, *rest in db.execute(f"SELECT * FROM files WHERE path {among(chunk)}", chunk):
            known[path] = tuple(rest)
    return known


def digest_files(
    paths: Iterable[str], known: Mapping[str, tuple[Any, ...]], background: RGB
) -> tuple[dict[str, Seen], list[tuple[Any, ...]]]:
    """Digests by path, and what is to be remembered. Files are read only if not known as they are.

    None for files that cannot be read.
    """
    seen: dict[str, Seen] = {}
    fresh = []
    now = time.time_ns()
    for path in dict.fromkeys(paths):
        try:
            state = file_state(path)
            if path in known and known[path][:4] == state:
                content = Content(*known[path][4:])
                seen[path] = Seen(content.on(background), path, state)
                continue
            content = Content.of_file(path)
            seen[path] = Seen(content.on(background), path, state)
        except (OSError, ValueError):  # ValueError: a path with a null byte
            seen[path] = Seen(None)
            continue
        # A file written this very moment may change again without its time showing it, so it is
        # remembered under no time, and read again the next time.
        size, mtime_ns, inode, ctime_ns = state
        if now - max(mtime_ns, ctime_ns) <= _RACY_NS:
            mtime_ns = -1
        fresh.append((path, size, mtime_ns, inode, ctime_ns, *content))
    return seen, fresh


def remember_files(db: sqlite3.Connection, files: list[tuple[Any, ...]]) -> None:
    """Keep (path, size, mtime_ns, inode, ctime_ns, digest, is_opaque) of files."""
    with db:
        db.executemany(
            "INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?,?)",
            [file for file in files if is_text(file[0])],  # SQLite holds no others,
        )
