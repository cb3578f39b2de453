"""What identifies a picture: its content, however it is held."""

from __future__ import annotations

import hashlib
import os

from PIL import Image

__all__ = ["digest_bytes", "digest_file", "digest_picture"]

_SIZE = 20


def digest_bytes(content: bytes, kind: str = "encoded") -> bytes:
    """BLAKE2b of encoded bytes; `kind` keeps other content from meeting them."""
    return hashlib.blake2b(content, digest_size=_SIZE, person=kind.encode()).digest()


def digest_file(path: str | os.PathLike[str]) -> bytes:
    """BLAKE2b of a file: the same as that of its bytes in memory."""
    with open(path, "rb") as file:
        return digest_bytes(file.read())


def digest_picture(image: Image.Image) -> bytes:
    """BLAKE2b of a decoded picture: mode, size and pixels."""
    header = f"{image.mode} {image.width} {image.height}\n".encode()
    return digest_bytes(header + image.tobytes(), "pixels")
