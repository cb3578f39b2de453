"""JPEG files decoded by a GPU: by nvJPEG, through TorchCodec."""

from __future__ import annotations

import functools
import importlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from sktl.images import as_images
from sktl.images._jpeg import jpeg_trials
from sktl.utils._devices import is_out_of_memory

__all__ = ["decode_on", "decodes_jpeg"]

# Levels by which brightness and colours may differ from Pillow's in a trial, in the mean. nvJPEG
# repeats colours that are stored at half the size; libjpeg-turbo, doing so, is .7 and 10 away.
_MOST_OF_LUMA, _MOST_OF_RGB = 3, 15

_Decode = Callable[[Sequence[bytes]], list[torch.Tensor]]


def decodes_jpeg(device: torch.device) -> bool:
    """Whether a device decodes JPEG files to about Pillow's pixels, by a trial.

    Parameters
    ----------
    device : torch.device
        Where to decode.

    Returns
    -------
    does : bool
        False where TorchCodec is missing, too.
    """
    return _decoder(device) is not None


def decode_on(device: torch.device, encoded: Sequence[bytes]) -> list[torch.Tensor | None]:
    """Decode JPEG files on a device that does.

    Parameters
    ----------
    device : torch.device
        Where to decode.
    encoded : sequence of bytes
        Files that :meth:`sktl.images.ImageCollection.plain_jpeg` gave.

    Returns
    -------
    pictures : list of Tensor of shape (height, width, 3), dtype uint8, or None
        On the device; it may still be at work. None for what it does not decode.

    Raises
    ------
    RuntimeError
        If there is not even room for one of them.
    """
    decode = _decoder(device)
    if decode is None or not encoded:
        return [None] * len(encoded)
    try:
        return [picture.permute(1, 2, 0) for picture in decode(encoded)]  # (3, H, W) -> (H, W, 3)
    except Exception as error:
        if len(encoded) == 1:
            # Which decoder a picture has must not depend on the memory that is left.
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            return [None]
    return [decode_on(device, [one])[0] for one in encoded]  # all but what was in the way


@functools.cache
def _decoder(device: torch.device) -> _Decode | None:
    try:
        decode_jpeg = importlib.import_module("torchcodec.decoders").decode_jpeg
    except Exception:  # noqa: BLE001 (it may not be there, or not fit the PyTorch that is)
        return None

    def decode(encoded: Sequence[bytes]) -> list[torch.Tensor]:
        # As tensors: with bytes, TorchCodec changes the warning filters, which threads share.
        files = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in encoded]
        if device.type != "cuda":
            return list(decode_jpeg(files, mode="RGB", device=device))
        # nvJPEG waits for all that is in its stream, which should not be the network's.
        network = torch.cuda.current_stream(device)
        own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(own):
            pictures: list[torch.Tensor] = decode_jpeg(files, mode="RGB", device=device)
        network.wait_stream(own)
        for picture in pictures:
            picture.record_stream(network)
        return pictures

    images = as_images(jpeg_trials())
    trials = [image for image in map(images.plain_jpeg, range(len(images))) if image is not None]
    try:
        pictures = decode(trials)
    except Exception:  # noqa: BLE001 (no such decoder in this build, or for this device)
        return None
    pairs = zip(trials, pictures, strict=True)
    is_near = all(_is_near(encoded, picture) for encoded, picture in pairs)
    return decode if is_near else None


def _is_near(encoded: bytes, picture: torch.Tensor) -> bool:
    with Image.open(io.BytesIO(encoded), formats=["JPEG"]) as image:
        expected = image.convert("RGB")
    if picture.shape != (3, expected.height, expected.width):
        return False
    found = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
    return (
        _distance(found, expected) < _MOST_OF_RGB
        and _distance(found.convert("L"), expected.convert("L")) < _MOST_OF_LUMA
    )


def _distance(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())
