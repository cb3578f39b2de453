"""Ctrl-C, as told from callbacks that raise the same exception."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["interrupts_of", "was_interrupted"]


@contextlib.contextmanager
def interrupts_of(net: Any) -> Iterator[None]:
    """Let a net know of the signal that Ctrl-C sends, which does what it did before.

    skorch's callbacks end a training by a KeyboardInterrupt of their own.
    """
    before = signal.getsignal(signal.SIGINT)
    # Only Python's main thread can be interrupted.
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not callable(before):
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        try:
            before(number, frame)
        except KeyboardInterrupt:
            net.__dict__["was_interrupted"] = True
            raise

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is note:  # and not that of a callback
            signal.signal(signal.SIGINT, before)
        net.__dict__.pop("was_interrupted", None)


def was_interrupted(net: Any) -> bool:
    """Whether the signal has raised the exception since this was last asked."""
    return bool(net.__dict__.pop("was_interrupted", False))
