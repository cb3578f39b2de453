"""Pillow's warnings, off while pictures are read."""

from __future__ import annotations

import threading
import warnings

__all__ = ["PILLOW_QUIET"]


class _QuietPillow:
    """Silences Pillow in all threads for as long as at least one of them is inside.

    Odd metadata make Pillow warn, and a program that turns warnings into errors would lose
    pictures that others read. `warnings.catch_warnings` is not for threads: those that overlap put
    back each other's whole list of filters. This adds one entry, and takes that one away.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                # The empty alternative keeps this entry apart from one that the user has made.
                warnings.filterwarnings("ignore", module=r"PIL\.(?:|)")
                self._entry = warnings.filters[0]

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._entry in warnings.filters:
                warnings.filters.remove(self._entry)  # type: ignore[attr-defined]


PILLOW_QUIET = _QuietPillow()
