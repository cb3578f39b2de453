"""What identifies a picture: its content, however it is held."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from PIL import Image

from sktl.images._decode import RGB, is_surely_opaque

__all__ = ["Content", "digest_bytes", "digest_picture"]

_SIZE = 20


class Content(NamedTuple):
    """What an encoded picture is.

    Attributes
    ----------
    digest : bytes
        BLAKE2b of its bytes.
    is_opaque : bool
        Whether nothing shines through it for sure.
    """

    digest: bytes
    is_opaque: bool

    @classmethod
    def of_bytes(cls, encoded: bytes) -> Content:
        """Content of encoded bytes."""
        return cls(digest_bytes(encoded), is_surely_opaque(encoded))

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> Content:
        """Content of a file: the same as that of its bytes in memory."""
        with open(path, "rb") as file:
            return cls.of_bytes(file.read())

    def on(self, background: RGB) -> bytes:
        """Digest of what is seen: one for each background that can be seen through the picture."""
        if self.is_opaque:
            return self.digest
        return digest_bytes(self.digest + bytes(background), "laid on")


def digest_bytes(content: bytes, kind: str = "encoded") -> bytes:
    """BLAKE2b of encoded bytes; `kind` keeps other content from meeting them."""
    return hashlib.blake2b(content, digest_size=_SIZE, person=kind.encode()).digest()


def digest_picture(image: Image.Image) -> bytes:
    """BLAKE2b of a decoded picture: mode, size and pixels."""
    header = f"{image.mode} {image.width} {image.height}\n".encode()
    return digest_bytes(header + image.tobytes(), "pixels")
