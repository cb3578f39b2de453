"""Other libraries' warnings, off for a while in all threads."""

from __future__ import annotations

import threading
import warnings
from typing import Any

__all__ = ["PILLOW_QUIET", "Quiet"]


class Quiet:
    """Silences some warnings in all threads for as long as at least one of them is inside.

    `warnings.catch_warnings` is not for threads: those that overlap put back each other's whole
    list of filters. This adds entries, and takes these away.

    Parameters
    ----------
    *filters : dict
        Category or module, as of :func:`warnings.filterwarnings`, or both.
    """

    _lock = threading.Lock()  # of all of them

    def __init__(self, *filters: dict[str, Any]) -> None:
        self._filters = filters
        self._inside = 0
        self._entries: list[Any] = []

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                for given in self._filters:
                    # The empty alternative keeps this entry apart from one that the user has made.
                    warnings.filterwarnings("ignore", "(?:|)", **given)
                    self._entries.append(warnings.filters[0])

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for entry in self._entries:
                    if entry in warnings.filters:
                        warnings.filters.remove(entry)  # type: ignore[attr-defined]
                self._entries.clear()


# Odd metadata make Pillow warn, and a program that turns warnings into errors would lose pictures
# that others read.
PILLOW_QUIET = Quiet({"module": r"PIL\."})
