"""Ways to use the database of a store: going on without it where it fails, or one clear error."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sktl.engine._database import Database, ForeignFileError
from sktl.engine._rows import evict
from sktl.exceptions import ParameterError, SktlError, StoreWarning

__all__ = ["Access"]

# After a failure, of which a warning tells, the database is tried again after so many seconds, and
# after twice as many each time until something can be written again.
_REST_S, _LONGEST_REST_S = 60.0, 3600.0


class _Rest:
    """How long a database is left alone."""

    until = 0.0
    length = _REST_S


# Of each file in this process, whichever store it failed in.
_rests: defaultdict[Path, _Rest] = defaultdict(_Rest)
# Files of which a warning has told that their limit is too small.
_too_small: set[Path] = set()


class Access:
    """A database, with what happens when it cannot be used.

    Parameters
    ----------
    database : Database
        The file, or what is in memory.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._path = database.path

    def attempt(
        self, action: Callable[[sqlite3.Connection], Any], otherwise: Any, *, create: bool = True
    ) -> Any:
        """Run `action`, or warn, give `otherwise`, and let the database rest for a while.

        Parameters
        ----------
        action : callable
            Gets a connection.
        otherwise : object
            What is given if that fails, while the database rests, or if there is none.
        create : bool, default=True
            Whether the file is made if there is none.

        Returns
        -------
        found : object
            What `action` gives, or `otherwise`.
        """
        rest = _rests[self._path]
        if time.monotonic() < rest.until:
            return otherwise
        try:
            if not create and not self.database.exists():
                return otherwise
            with self.database.open() as db:
                found = action(db)
            if create:
                rest.length = _REST_S
            return found
        # sqlite3.Error, OSError and ForeignFileError, and whatever else bytes lead to that are not
        # what was written.
        except Exception as error:  # noqa: BLE001
            now = time.monotonic()
            if now < rest.until:  # another thread has told of it in the meantime
                return otherwise
            rest.until, rest.length = now + rest.length, min(2 * rest.length, _LONGEST_REST_S)
            warnings.warn(
                f"the feature store {self._path} cannot be used ({error}); the work goes on "
                "without it. Pass store=None, or a path where one can be written",
                StoreWarning,
                stacklevel=3,
            )
            return otherwise

    def write(self, action: Callable[[sqlite3.Connection], Any], max_bytes: float) -> None:
        """Run `action` if that can be, and make room for what it has written.

        Parameters
        ----------
        action : callable
            Gets a connection.
        max_bytes : float
            Limit of the database.
        """
        since = self.database.since()

        def write_and_evict(db: sqlite3.Connection) -> bool:
            action(db)
            return evict(db, max_bytes, since)

        if self.attempt(write_and_evict, False):
            self.say_that_it_is_small(max_bytes)

    @contextlib.contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """Connect for what cannot go on without the database; its rest is over if that works.

        Raises
        ------
        ParameterError
            If it cannot be opened, or what is done with it fails.
        """
        is_open = False
        try:
            with self.database.open() as db:
                is_open = True
                yield db
        except SktlError:
            raise
        # The last two are what damage leads to.
        except (sqlite3.Error, OSError, ForeignFileError, TypeError, ValueError) as error:
            raise ParameterError(
                f"the feature store {self._path} cannot be used: {error}. Where the disk is full, "
                "make room or delete the file; where the file is damaged, delete it: what it holds "
                "is computed again"
                if is_open
                else f"the feature store {self._path} cannot be opened: {error}"
            ) from error
        self.rest_no_longer()

    def rest_no_longer(self) -> None:
        """Try again at the next use, whatever has failed before."""
        _rests.pop(self._path, None)

    def say_that_it_is_small(self, max_bytes: float) -> None:
        """Warn, once for each file, that rows had to go which were in use."""
        if self._path not in _too_small:
            _too_small.add(self._path)
            warnings.warn(
                f"max_bytes={max_bytes} is too small: the feature store {self._path} has "
                "deleted rows that were used a moment ago. Pass a larger one to FeatureStore",
                StoreWarning,
                stacklevel=2,
            )
