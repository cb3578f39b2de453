"""Splits that a list file gives."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sktl.datasets._folder import read_list
from sktl.exceptions import ParameterError
from sktl.images import as_images
from sktl.utils._parameters import ParameterChecks

__all__ = ["split_from_list"]

Indices = npt.NDArray[np.intp]

_SHOWN = 5


def split_from_list(
    X: Any,
    list_file: str | os.PathLike[str],
    *,
    on_missing: Literal["raise", "ignore"] = "raise",
) -> tuple[Indices, Indices]:
    r"""Split pictures by a list of some of them.

    Parameters
    ----------
    X : array-like of n_images paths
        The pictures.
    list_file : str or Path
        A text file in UTF-8 with the end of one path a line, such as
        ``accordion/image_0002.jpg``. Empty lines do not count.
    on_missing : {"raise", "ignore"}, default="raise"
        What to do with lines that fit none of the pictures, as those of a class that was left out.

    Returns
    -------
    listed : ndarray of int
        Positions of the listed pictures in X, in the order of the list; each once.
    others : ndarray of int
        Positions of the others, in the order of X.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ParameterError
        If X does not hold paths, the list is empty or not in UTF-8, or lines fit none or several of
        the pictures; also if all lines fit none and are to be ignored.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl.model_selection import split_from_list
    >>> list_file = pathlib.Path(tempfile.mkdtemp(), "test.txt")
    >>> _ = list_file.write_text("rose/2.jpg\n")
    >>> X = ["flowers/daisy/1.jpg", "flowers/rose/1.jpg", "flowers/rose/2.jpg"]
    >>> test, train = split_from_list(X, list_file)
    >>> test, train
    (array([2]), array([0, 1]))

    The pair is one split of a search:

    >>> cv = [(train, test)]
    """
    checks = ParameterChecks("split_from_list")
    checks.choice("on_missing", on_missing, ("raise", "ignore"))
    checks.done()
    images = as_images(X)
    if images.kind != "paths":
        raise ParameterError(f"X must hold paths, for a list to name them; got {images.kind}")
    lines = {_path_parts(line): line for line in read_list(list_file)}
    if not lines:
        raise ParameterError(f"{list_file} lists no pictures")
    depths = {len(parts) for parts in lines}
    by_end: dict[tuple[str, ...], list[int]] = {}
    for i, path in enumerate(images):
        parts = _path_parts(os.fspath(path))
        for depth in depths:
            if depth <= len(parts):
                by_end.setdefault(parts[-depth:], []).append(i)
    missing = [line for parts, line in lines.items() if parts not in by_end]
    several = [line for parts, line in lines.items() if len(by_end.get(parts, ())) > 1]
    if missing and (on_missing == "raise" or len(missing) == len(lines)):
        raise _wrong_lines("fit none", missing, len(lines), list_file, len(images))
    if several:
        raise _wrong_lines("fit several", several, len(lines), list_file, len(images))
    found = [by_end[parts][0] for parts in lines if parts in by_end]
    listed = np.array(list(dict.fromkeys(found)), dtype=np.intp)
    return listed, np.setdiff1d(np.arange(len(images)), listed)


def _wrong_lines(
    problem: str, wrong: list[str], n_lines: int, list_file: Any, n_images: int
) -> ParameterError:
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return ParameterError(
        f"{len(wrong)} of {n_lines} lines of {list_file} {problem} of the {n_images} pictures: "
        f"{', '.join(wrong[:_SHOWN])}{more}. Each line must be the end of one path in X"
        + ('; on_missing="ignore" passes over those that fit none' if problem == "fit none" else "")
    )


def _path_parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path.replace("\\", "/")).parts
