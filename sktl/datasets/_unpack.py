"""Archives unpacked so that nothing is written outside the folder, and no link is made."""

from __future__ import annotations

import gzip
import lzma
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Self

from tqdm import tqdm

from sktl.exceptions import DatasetError

__all__ = ["is_archive", "unpack"]

_SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    NotImplementedError, RuntimeError,
)  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether the name is one of an archive."""
    return path.name.lower().endswith(_SUFFIXES)


def unpack(archive: Path, folder: Path, *, name: str | None = None, progress: bool = False) -> None:
    """Unpack a zip or tar archive into a folder that exists.

    Members that would leave the folder, and devices, are refused before they are written. Links
    within a tar archive become copies of what they point to, so that no member can be written
    through one. Errors call the archive by `name`, its path by default.

    Raises
    ------
    DatasetError
        If the archive is neither zip nor tar, is damaged or cut, or has a member that is refused;
        what was unpacked before stays.
    """
    called = name or str(archive)
    with _naming(called):
        # An uncompressed tar archive that ends with a zip file looks like one.
        if tarfile.is_tarfile(archive):
            members = _tar_members(archive, called)
        elif zipfile.is_zipfile(archive):
            members = _zip_members(archive, called)
        else:
            raise DatasetError(f"{called} is neither a zip nor a tar archive, or is damaged")
        bar = tqdm(
            members, desc=archive.name, unit="file", unit_scale=True, delay=3, disable=not progress
        )
        for member, content in bar:
            path = folder / member
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)


@contextmanager
def _naming(archive: str) -> Iterator[None]:
    """Errors of the libraries, raised as one that names the archive."""
    try:
        yield
    except DatasetError:
        raise
    except _DAMAGED as error:
        raise DatasetError(f"{archive} is damaged: {error}") from error
    except OSError as error:
        raise DatasetError(f"{archive} cannot be unpacked: {error}") from error


class _Header(tarfile.TarInfo):
    """Header of a member; a tar archive that ends otherwise than with a block of zeros is damaged.

    tarfile itself takes a missing or damaged header behind the first for the end.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} instead of a member or the end's mark") from error


def _tar_members(archive: Path, called: str) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    with tarfile.open(archive, tarinfo=_Header) as tar:
        for member in tar:
            name = _inside(member.name, called)
            if member.issym():
                _inside(posixpath.normpath(name.parent / member.linkname), called)
            elif member.islnk():
                _inside(member.linkname, called)
            elif not (member.isfile() or member.isdir()):
                raise DatasetError(f"{called} is refused: {member.name!r} is a device or a pipe")
            if member.isdir() or _is_litter(name):
                continue
            try:
                content = tar.extractfile(member)
            except KeyError:
                content = None
            if content is None:
                raise DatasetError(
                    f"{called} is refused: {member.name!r} is a link to "
                    f"{member.linkname!r}, which is no file of the archive"
                )
            yield name, content
        # The checksum of what is compressed comes behind the archive's own end.
        while tar.fileobj is not None and tar.fileobj.read(1 << 20):
            pass


def _zip_members(archive: Path, called: str) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            name = _inside(member.filename, called)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DatasetError(
                    f"{called} is refused: {member.filename!r} is a link, a device or a pipe"
                )
            if member.is_dir() or _is_litter(name):
                continue
            with file.open(member) as content:
                yield name, content


def _inside(name: str, archive: str) -> PurePosixPath:
    """The member's path, refused where it leads out of the folder."""
    # On Windows a backslash parts folders, and C: is a drive; the rule is the same everywhere.
    path = PureWindowsPath(name)
    if path.drive or path.root or ".." in path.parts or "\0" in name:
        raise DatasetError(f"{archive} is refused: {name!r} leads out of its folder")
    return PurePosixPath(*path.parts)


def _is_litter(name: PurePosixPath) -> bool:
    """What the archiver of macOS adds: copies of all folders, with attributes of their files."""
    return "__MACOSX" in name.parts or name.name.startswith("._")
