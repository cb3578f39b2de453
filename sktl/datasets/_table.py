"""A table that names the pictures and their labels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from sktl.datasets._folder import PICTURE_SUFFIXES, missing_files
from sktl.exceptions import ParameterError
from sktl.utils._parameters import suggest

__all__ = ["load_image_table"]


def load_image_table(
    table: str | os.PathLike[str] | pd.DataFrame,
    *,
    folder: str | os.PathLike[str] | None = None,
    path_column: str | None = None,
    label_column: str | None = "auto",
    suffix: str = "",
    return_X_y: bool = False,
) -> Any:
    r"""List the pictures that a table names; none is opened, but each must be there.

    Parameters
    ----------
    table : str, Path or DataFrame
        A CSV file, such as Kaggle's ``labels.csv``, or what was read from it.
    folder : str or Path, default=None
        Where the pictures are. By default the folder of the CSV file, or the current one.
    path_column : str, default=None
        Column of the file names, or of the ids from which they follow. By default the first.
    label_column : str or None, default="auto"
        Column of the labels. "auto" is the second of two columns; None is for no labels.
    suffix : str, default=""
        What an id lacks to be a file name, such as ``".jpg"``.
    return_X_y : bool, default=False
        If True, return ``(images, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        - images : ndarray of shape (n_images,), dtype object: paths as str, in the table's order;
        - target : ndarray of shape (n_images,): the labels; None without labels;
        - target_names : list, the distinct labels, sorted; None without labels;
        - frame : DataFrame, the table as it was read.
    (images, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    FileNotFoundError
        If the table or pictures that it names are not there.
    ParameterError
        If a column does not exist, or labels or names are missing.

    Notes
    -----
    Names are text even where they look like numbers, and only an empty cell is a missing value:
    "NA" and "None" are labels like any other. Labels that are all numbers or all True and False
    keep that type; all others are strings.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl import load_image_table
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "labels.csv").write_text("id,breed\n007,boxer\n1e5,collie\n")
    >>> for name in ("007", "1e5"):
    ...     (folder / f"{name}.jpg").touch()
    >>> images, y = load_image_table(folder / "labels.csv", suffix=".jpg", return_X_y=True)
    >>> [pathlib.Path(image).name for image in images], y.tolist()
    (['007.jpg', '1e5.jpg'], ['boxer', 'collie'])
    """
    frame, base = _read(table, path_column)
    if len(frame) == 0 or len(frame.columns) == 0:
        raise ParameterError("the table names no pictures")
    known = [str(column) for column in frame.columns]
    columns = frame.set_axis(known, axis=1)
    names = _column(columns, "path_column", known[0] if path_column is None else path_column)
    labels = None
    if label_column == "auto":
        others = [column for column in known if column != names.name]
        if len(others) > 1:
            raise ParameterError(
                f"the table has the columns {known[:10]}; say which has the labels, as in "
                f"label_column={others[0]!r}, or label_column=None for none"
            )
        labels = columns[others[0]] if others else None
    elif label_column is not None:
        labels = _column(columns, "label_column", label_column)
    for column in (names, labels):
        if column is not None and column.isna().any():
            rows = np.flatnonzero(column.isna())[:5].tolist()
            raise ParameterError(f"the column {column.name!r} has no value in the rows {rows}")
    folder = Path(folder).expanduser() if folder is not None else base
    stems = [folder / str(name) for name in names]
    paths = [f"{stem}{suffix}" for stem in stems]
    error = missing_files(paths, _hint(stems))
    if error:
        raise error
    images = np.array(paths, dtype=object)
    target = None if labels is None else _labels(labels)
    if return_X_y:
        return images, target
    target_names = None if target is None else np.unique(target).tolist()
    return Bunch(images=images, target=target, target_names=target_names, frame=frame)


def _read(
    table: str | os.PathLike[str] | pd.DataFrame, path_column: str | None
) -> tuple[pd.DataFrame, Path]:
    if isinstance(table, pd.DataFrame):
        return table, Path()
    path = Path(table).expanduser()
    try:
        header = pd.read_csv(path, nrows=0).columns
    except pd.errors.EmptyDataError:
        return pd.DataFrame(), path.parent
    except ValueError as error:
        raise _not_a_table(path, error) from error
    # Names are text even where they look like numbers: 007 is not 7, and 1e5 is not 100000.0.
    names = path_column if path_column in header else header[0]
    try:
        frame = pd.read_csv(
            path,
            dtype={names: str},
            keep_default_na=False,
            na_values=[""],
            low_memory=False,  # else a part of a column may be of numbers, and another of strings
        )
    except ValueError as error:
        raise _not_a_table(path, error) from error
    return frame, path.parent


def _not_a_table(path: Path, error: ValueError) -> ParameterError:
    """For what is not UTF-8, or has rows of more cells than columns."""
    return ParameterError(f"{path} is no table of comma-separated values in UTF-8: {error}")


def _column(columns: pd.DataFrame, parameter: str, name: Any) -> pd.Series[Any]:
    known = [str(column) for column in columns]
    if known.count(str(name)) > 1:
        raise ParameterError(
            f"{parameter}: the table has several columns {str(name)!r}; it has {known[:10]}"
        )
    if str(name) not in known:
        raise ParameterError(
            f"{parameter}: the table has no column {str(name)!r}.{suggest(name, known)} "
            f"It has {known[:10]}"
        )
    return columns[str(name)]


def _labels(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    column = column.infer_objects()
    if column.dtype.kind in "biuf":
        return np.array(column)
    return np.array([str(label) for label in column])


def _hint(stems: list[Path]) -> str:
    """The likely remedy, if one of a few usual ones would find all pictures."""
    for suffix in sorted(PICTURE_SUFFIXES):
        for candidate in (suffix, suffix.upper()):
            if all(Path(f"{stem}{candidate}").is_file() for stem in stems):
                return f"With suffix={candidate!r} they would be"
    return "Check folder= and suffix="
