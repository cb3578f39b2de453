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
    """List the pictures that a table names; none is opened, but each must be there.

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

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl import load_image_table
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "labels.csv").write_text("id,breed\\n007,boxer\\n1e5,collie\\n")
    >>> for name in ("007", "1e5"):
    ...     (folder / f"{name}.jpg").touch()
    >>> images, y = load_image_table(folder / "labels.csv", suffix=".jpg", return_X_y=True)
    >>> [pathlib.Path(image).name for image in images], y.tolist()
    (['007.jpg', '1e5.jpg'], ['boxer', 'collie'])
    """
    frame, base = _read(table, path_column)
    columns = [str(column) for column in frame.columns]
    path_column = _column(columns, path_column or columns[0], "path_column")
    if label_column == "auto":
        if len(columns) > 2:
            raise ParameterError(
                f"the table has the columns {columns[:10]}; say which has the labels, as in "
                f"label_column={columns[1]!r}, or label_column=None for none"
            )
        label_column = next((column for column in columns if column != path_column), None)
    elif label_column is not None:
        label_column = _column(columns, label_column, "label_column")
    for column in (path_column, label_column):
        if column is not None and frame[column].isna().any():
            rows = np.flatnonzero(frame[column].isna())[:5].tolist()
            raise ParameterError(f"the column {column!r} has no value in the rows {rows}")
    folder = Path(folder).expanduser() if folder is not None else base
    paths = [folder / f"{name}{suffix}" for name in frame[path_column].astype(str)]
    error = missing_files(paths, _hint(paths))
    if error:
        raise error
    images = np.array([str(path) for path in paths], dtype=object)
    target = None if label_column is None else _labels(frame[label_column])
    if return_X_y:
        return images, target
    names = None if target is None else np.unique(target).tolist()
    return Bunch(images=images, target=target, target_names=names, frame=frame)


def _read(
    table: str | os.PathLike[str] | pd.DataFrame, path_column: str | None
) -> tuple[pd.DataFrame, Path]:
    if isinstance(table, pd.DataFrame):
        return table, Path()
    path = Path(table).expanduser()
    header = pd.read_csv(path, nrows=0).columns
    if len(header) == 0:
        raise ParameterError(f"{path} has no columns")
    # Names are text even where they look like numbers: 007 is not 7, and 1e5 is not 100000.0.
    names = path_column if path_column in header else header[0]
    return pd.read_csv(path, dtype={names: str}, keep_default_na=True), path.parent


def _column(columns: list[str], name: str, parameter: str) -> str:
    if name not in columns:
        raise ParameterError(
            f"{parameter}: the table has no column {name!r}.{suggest(name, columns)} "
            f"It has {columns[:10]}"
        )
    return name


def _labels(column: pd.Series[Any]) -> np.ndarray[Any, Any]:
    if column.dtype.kind in "biuf":
        return column.to_numpy()
    return np.array([str(label) for label in column])


def _hint(paths: list[Path]) -> str:
    """The likely remedy, if one of a few usual ones would find the first picture."""
    first = paths[0]
    for suffix in sorted(PICTURE_SUFFIXES):
        if first.with_name(first.name + suffix).is_file():
            return f"With suffix={suffix!r} they would be"
    return "Check folder= and suffix="
