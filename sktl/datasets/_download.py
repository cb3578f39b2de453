"""Files downloaded with pooch, checked by digest, and gone on with after a broken connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pooch
from tqdm import tqdm

from sktl.exceptions import DatasetError

__all__ = ["download"]

_TRIES = 5
_PAUSE = 2.0  # seconds, times the number of failures in a row
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 16


def download(
    name: str, digest: str | None, folder: Path, *, base_url: str, remedy: str, progress: bool
) -> Path:
    """The file in the folder, downloaded where it is not there or is not the published one.

    What a broken connection leaves is kept as ``<name>.part`` and gone on with, in this call or
    in a later one, where the server allows it (RFC 9110, section 14) and still has the same file.

    Raises
    ------
    DatasetError
        If the file cannot be had, or is another than the published one.
    """
    url = f"{base_url.rstrip('/')}/{name}"
    try:
        with _quiet():
            path = pooch.retrieve(
                url,
                known_hash=digest,
                fname=name,
                path=folder,
                downloader=_ResumingDownloader(folder / f"{name}.part", progress),
            )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, pooch's ValueErrors
        raise DatasetError(f"{name} cannot be had from {base_url}: {error}. {remedy}") from error
    return Path(path)


class _ResumingDownloader:
    """A downloader for pooch that goes on with a part of the file.

    Beside the part lies what the server said to know its version by, so that parts of two
    versions are never joined.
    """

    def __init__(self, part: Path, progress: bool) -> None:
        self.part = part
        self.version = part.with_name(f"{part.name}.version")
        self.progress = progress
        self.answered = False

    def __call__(self, url: str, output_file: str, pooch: Any = None) -> None:
        import requests

        failures, most = 0, self._size()
        while True:
            try:
                self._go_on(url)
                break
            except requests.RequestException as error:
                # Who has no network is to learn so at once.
                if not (self.answered and _may_pass(error)):
                    raise
                failures = failures + 1 if self._size() <= most else 1
                most = max(most, self._size())
                if failures >= _TRIES:
                    raise
                time.sleep(_PAUSE * failures)
        self.part.replace(output_file)
        self.version.unlink(missing_ok=True)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _go_on(self, url: str) -> None:
        import requests

        have = self._size() if self.version.exists() else 0
        # Compressed on the way, the bytes would not be those of the file.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": self.version.read_text()}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            self.answered = True
            reply = response.headers.get("Content-Range", "")
            if response.status_code == 416 and reply.endswith(f"/{have}"):
                return  # the part was whole
            if response.status_code == 416 or (
                response.status_code == 206 and not reply.startswith(f"bytes {have}-")
            ):
                self.version.unlink(missing_ok=True)
                raise requests.ConnectionError(f"the server answers with {reply!r}")
            response.raise_for_status()
            if response.status_code != 206:
                have = 0
                self._start(response.headers)
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            with (
                self.part.open("ab" if have else "wb") as file,
                tqdm(
                    total=total, initial=have, desc=self.part.stem, unit="B", unit_scale=True,
                    delay=3, disable=not self.progress,
                ) as bar,
            ):  # fmt: skip
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        # urllib3 before version 2 takes a broken connection for the end.
        if total is not None and self._size() != total:
            raise requests.ConnectionError(f"the connection broke after {self._size()} bytes")

    def _start(self, headers: Any) -> None:
        """Forget what there was, and note the version of what comes."""
        self.version.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)
        etag = headers.get("ETag", "")
        # A weak tag is no promise that the bytes are the same.
        version = etag if etag.startswith('"') else headers.get("Last-Modified")
        if version:
            self.version.write_text(version)


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help: not where the server has said no."""
    response = getattr(error, "response", None)
    return response is None or response.status_code >= 500 or response.status_code == 429


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that pooch logs to the console."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
