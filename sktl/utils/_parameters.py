"""Arguments checked together, before any work, with every culprit in one error."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from sktl.exceptions import ParameterError

__all__ = ["ParameterChecks", "require_labels", "shown", "suggest"]

_MOST_SHOWN = 300  # characters of a value


def suggest(name: str, known: Iterable[str], n: int = 3) -> str:
    """``" Did you mean 'a' or 'b'?"``, or nothing."""
    by_lower = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(str(name).casefold(), by_lower, n=n, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(by_lower[c]) for c in close)}?" if close else ""


def shown(value: Any) -> str:
    """What a value says of itself, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... (cut)"


def require_labels(y: Any, called: str, each: str = "picture") -> None:
    """Raise ParameterError if some labels are missing."""
    import pandas as pd

    is_missing = pd.isna(np.asarray(y, dtype=object))  # of NaN among strings NumPy makes "nan"
    if is_missing.any():
        raise ParameterError(
            f"{called} must give each {each} a label; {is_missing.sum()} of {len(is_missing)} are "
            f"missing, the first at position {is_missing.argmax()}. Leave these {each}s out"
        )


def require_one_kind(**labels: list[Any] | npt.NDArray[Any]) -> None:
    """Raise ParameterError where some lists hold only strings and others none: no two are equal."""
    given = {
        name: values.tolist() if isinstance(values, np.ndarray) else values
        for name, values in labels.items()
    }
    kinds = [{isinstance(value, str) for value in values} for values in given.values()]
    if all(kinds) and not set.intersection(*kinds):
        firsts = " and ".join(f"{values[0]!r} in {name}" for name, values in given.items())
        raise ParameterError(
            f"{' and '.join(given)} must be of one kind, for their labels to be the same; got "
            f"{firsts}"
        )


class ParameterChecks:
    """Collects what is wrong with an estimator's parameters; `done` raises it as one error.

    Examples
    --------
    >>> checks = ParameterChecks("CNNFeatures")
    >>> checks.choice("pooling", "agv", ("avg", "max"))
    >>> checks.integer("batch_size", 0, minimum=1)
    >>> checks.done()
    Traceback (most recent call last):
    ...
    sktl.exceptions.ParameterError: CNNFeatures has 2 wrong parameters:
      pooling must be one of 'avg', 'max'; got 'agv'. Did you mean 'avg'?
      batch_size must be an integer of at least 1; got 0.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.wrong: list[str] = []

    def choice(self, name: str, value: Any, allowed: tuple[str, ...]) -> None:
        if not (isinstance(value, str) and value in allowed):
            hint = suggest(value, allowed) if isinstance(value, str) else ""
            listed = ", ".join(repr(a) for a in allowed)
            self.wrong.append(f"{name} must be one of {listed}; got {value!r}.{hint}")

    def integer(self, name: str, value: Any, *, minimum: int, optional: bool = False) -> None:
        if optional and value is None:
            return
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or value < minimum:
            none = " or None" if optional else ""
            self.wrong.append(
                f"{name} must be an integer of at least {minimum}{none}; got {value!r}."
            )

    def number(
        self,
        name: str,
        value: Any,
        *,
        above: float | None = None,
        least: float = 0.0,
        most: float = math.inf,
        below: float = math.inf,
        when: str = "",
    ) -> None:
        """A finite number from `least`, or above `above`, to `most`, or below `below`."""
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        enough = is_number and (float(value) >= least if above is None else float(value) > above)
        fits = enough and float(value) <= most and float(value) < below
        rule = "a finite number" if most == below else "a number"
        if above is not None:
            rule += f" above {above:g}"
        else:
            rule += f" from {least:g}" if most < below else f" of at least {least:g}"
        if most < below:
            rule += f" to {most:g}"
        elif below < math.inf:
            rule += f" and below {below:g}"
        self.that(name, value, fits, f"{rule} {when}".rstrip())

    def n_jobs(self, value: Any) -> None:
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        fine = value is None or (whole and value != 0)
        self.that("n_jobs", value, fine, "a number of jobs or None")

    def truth(self, name: str, value: Any) -> None:
        if not isinstance(value, (bool, np.bool_)):
            self.wrong.append(f"{name} must be True or False; got {value!r}.")

    def that(self, name: str, value: Any, holds: bool, rule: str) -> None:
        if not holds:
            self.wrong.append(f"{name} must be {rule}; got {shown(value)}.")

    def attempt(self, call: Any, *args: Any) -> None:
        """Run a check that raises a ParameterError of its own."""
        try:
            call(*args)
        except ParameterError as error:
            self.wrong.append(str(error))

    def done(self) -> None:
        if len(self.wrong) == 1:
            raise ParameterError(f"{self.owner}: {self.wrong[0]}")
        if self.wrong:
            listed = "\n".join(f"  {line}" for line in self.wrong)
            raise ParameterError(f"{self.owner} has {len(self.wrong)} wrong parameters:\n{listed}")
