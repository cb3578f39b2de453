"""Progress bars, in terminals and notebooks."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

__all__ = ["ProgressBar"]


class ProgressBar(tqdm):
    """tqdm's, but for the thread that its bars, shown or not, leave behind in the process."""

    monitor_interval = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # That thread redraws bars whose steps become slow; here each step may.
        super().__init__(*args, miniters=1, **kwargs)
