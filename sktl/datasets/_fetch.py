"""What all fetchers share: a data set downloaded, or found in a local folder or archive."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pooch
from sklearn.utils import Bunch

from sktl.datasets._download import download
from sktl.datasets._unpack import is_archive, unpack
from sktl.exceptions import DatasetError

__all__ = ["Files", "Published", "data_folder", "hand_over", "locked", "open_dataset", "read_mat"]

_DEPTH = 3  # how many folders archives and users put around a data set
_SHOWN = 5


@dataclass(frozen=True)
class Published:
    """Where a data set comes from.

    `files` are the files to download with their digests; `archives` the names of other archives
    that the data may lie in, inside of those or in a local folder; `remedy` how to get them by
    hand.
    """

    name: str
    remedy: str
    files: Mapping[str, str | None] = field(default_factory=dict)
    archives: tuple[str, ...] = ()


class Files:
    """The pieces of a data set, by name, wherever they lie below a folder.

    Archives that lie there are unpacked elsewhere, one by one, when a piece is not found without.
    """

    def __init__(self, published: Published, root: Path, home: Path, progress: bool) -> None:
        self.published = published
        self.home = home
        self.progress = progress
        self.roots = [root]
        packed = {name for name in published.files if is_archive(Path(name))}
        packed.update(published.archives)
        self.archives = [
            folder / name
            for folder in _folders(root, depth=1)
            for name in sorted(packed)
            if (folder / name).is_file()
        ]

    def folder(self, *names: str) -> Path:
        """The folder that has one of these names, the nearest to the top."""
        return self._find(names, Path.is_dir)

    def file(self, *names: str) -> Path:
        """The file that has one of these names, the nearest to the top."""
        return self._find(names, Path.is_file)

    def _find(self, names: tuple[str, ...], is_kind: Callable[[Path], bool]) -> Path:
        # An archive of that name first, then the small ones.
        self.archives.sort(key=lambda a: (not a.name.startswith(names), a.stat().st_size))
        while (found := self._look(names, is_kind)) is None and self.archives:
            archive = self.archives.pop(0)
            self.roots.append(_unpacked(self.published, archive, self.home, self.progress))
        if found is None:
            shown = " or ".join(names[:_SHOWN])
            raise DatasetError(f"there is no {shown} in {self.roots[0]}. {self.published.remedy}")
        return found

    def _look(self, names: tuple[str, ...], is_kind: Callable[[Path], bool]) -> Path | None:
        for root in self.roots:
            for folder in _folders(root):
                for name in names:
                    if is_kind(folder / name):
                        return folder / name
            if root.name in names and is_kind(root):
                return root
        return None


def open_dataset(
    published: Published,
    *,
    source: str | os.PathLike[str] | None,
    data_home: str | os.PathLike[str] | None,
    base_url: str = "",
    download_if_missing: bool = True,
    verbose: int = 0,
) -> Files:
    """The data set's files: those of a local folder or archive, or the downloaded ones."""
    home, progress = data_folder(data_home), bool(verbose)
    if source is not None:
        path = Path(source).expanduser()
        if not path.exists():
            raise DatasetError(f"there is no {path.absolute()}. {published.remedy}")
        if path.is_file():
            path = _unpacked(published, path, home, progress)
        return Files(published, path, home, progress)
    folder = home / published.name
    if not folder.is_dir():
        if not published.files:
            raise DatasetError(f"{published.name} cannot be downloaded freely. {published.remedy}")
        if not download_if_missing:
            raise DatasetError(f"there is no {folder}. {published.remedy}")

        def make(new: Path, downloads: Path) -> None:
            for name, digest in published.files.items():
                path = download(
                    name, digest, downloads,
                    base_url=base_url, remedy=published.remedy, progress=progress,
                )  # fmt: skip
                _add(path, new, published, progress)

        _build(folder, make)
    return Files(published, folder, home, progress)


def data_folder(data_home: str | os.PathLike[str] | None) -> Path:
    """The folder of all data sets: the user's cache folder, or SKTL_CACHE, by default."""
    if data_home is not None:
        return Path(data_home).expanduser()
    return Path(os.environ.get("SKTL_CACHE") or pooch.os_cache("sktl"), "datasets")


def hand_over(data: Bunch, description: str, return_X_y: bool) -> Any:
    """The Bunch with its description, or the pair of pictures and labels."""
    if return_X_y:
        return data.images, data.target
    data.DESCR = description
    return data


def read_mat(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """Variables of a MATLAB file, each flattened."""
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        return [np.ravel(content[name]) for name in names]
    except Exception as error:  # whatever SciPy stumbles over in a damaged file
        wanted = ", ".join(names)
        raise DatasetError(f"{path} is not a MATLAB file with {wanted}: {error}") from error


def _folders(root: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """The folder and those below it, the nearest first."""
    level = [root]
    for remaining in range(depth, -1, -1):
        yield from level
        if remaining:
            level = [sub for folder in level for sub in _subfolders(folder)]


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            if not entry.name.startswith(".") and entry.is_dir()
        )


def _unpacked(published: Published, archive: Path, home: Path, progress: bool) -> Path:
    """The folder of a local archive's content: the same as long as the archive is the same."""
    about = archive.stat()
    key = f"{archive.resolve()}|{about.st_size}|{about.st_mtime_ns}"
    folder = home / f"{published.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        _build(folder, lambda new, _: _unpack_all(archive, new, published, progress))
    return folder


def _add(path: Path, folder: Path, published: Published, progress: bool) -> None:
    if is_archive(path):
        _unpack_all(path, folder, published, progress)
    else:
        shutil.copyfile(path, folder / path.name)


def _unpack_all(archive: Path, folder: Path, published: Published, progress: bool) -> None:
    """Unpack an archive, and the archives within it in the place where they lie."""
    unpack(archive, folder, progress=progress)
    for below in list(_folders(folder, depth=1)):
        for name in published.archives:
            inner = below / name
            if inner.is_file():
                unpack(inner, below, name=f"{name} in {archive}", progress=progress)
                inner.unlink()


def _build(folder: Path, make: Callable[[Path, Path], None]) -> None:
    """Make a folder that takes its name when it is whole; `make` gets one for downloads too.

    Other processes that want the same wait, and then find it. Downloads are kept until all is done.
    """
    new = folder.parent / f".{folder.name}.new-{uuid.uuid4().hex[:8]}"
    downloads = folder.parent / f".{folder.name}.download"
    with locked(folder) as held:
        if held:  # then what looks unfinished is what a killed process left
            for left in folder.parent.glob(f".{folder.name}.new-*"):
                shutil.rmtree(left, ignore_errors=True)
        if folder.is_dir():
            return
        try:
            new.mkdir()
            make(new, downloads)
            try:
                new.rename(folder)
            except OSError:  # without locks, another process may have been first
                if not folder.is_dir():
                    raise
            shutil.rmtree(downloads, ignore_errors=True)
        finally:
            shutil.rmtree(new, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keep other processes from making the folder; False on systems that have no such locks."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.parent / f".{folder.name}.lock").open("w")
    except OSError as error:
        raise DatasetError(
            f"{folder.parent} cannot be written to: {error}. data_home= names another folder"
        ) from error
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
            held = True
        except (ImportError, OSError):  # Windows; some network file systems
            held = False
        yield held
