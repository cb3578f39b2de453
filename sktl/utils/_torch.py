"""Devices, by the names that users give them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sktl.exceptions import ParameterError
from sktl.utils._optional import import_optional

if TYPE_CHECKING:
    import torch

__all__ = ["launched_process", "resolve_device"]


def launched_process() -> Any:
    """What accelerate knows of this process among those that it started: its PartialState.

    Raises
    ------
    MissingDependencyError
        If accelerate is not installed.
    """
    import torch

    accelerate = import_optional("accelerate", extra="accelerate", caller='device="accelerate"')
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return accelerate.PartialState(cpu=asked or not torch.accelerator.is_available())


def resolve_device(device: str | torch.device) -> torch.device:
    """The torch device for `device`.

    "auto" is CUDA where there is one, else the CPU; "accelerate" is what `accelerate launch` gave
    this process.

    Apple's MPS is used when it is asked for, not by "auto".

    Raises
    ------
    ParameterError
        If the device is unknown or not there. It is never changed in silence.
    """
    import torch

    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(device, str) and device == "accelerate":
        given: torch.device = launched_process().device
        return given
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ParameterError(
            f'device must be "auto" or a torch device such as "cpu" or "cuda:0"; got {device!r}'
        ) from error
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ParameterError(
            f"device={device!r} is not there: torch sees {torch.cuda.device_count()} CUDA "
            'devices. Pass device="auto" to use what there is'
        )
    if resolved.type not in ("cpu", "cuda", "mps"):
        raise ParameterError(f"device must be of type cpu, cuda or mps; got {device!r}")
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ParameterError(f'device={device!r} is not there. Pass device="auto"')
    return resolved
