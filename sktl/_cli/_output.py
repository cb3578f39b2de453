"""Features as a file that other programs read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sktl.exceptions import ParameterError
from sktl.utils._files import is_text, replacing
from sktl.utils._optional import import_optional

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from sktl.datasets import ImageReport

__all__ = [
    "check_folder",
    "check_folder_of",
    "check_names",
    "check_output",
    "write_csv",
    "write_features",
    "write_picture",
]

_NEEDS = {".csv": None, ".parquet": ("pyarrow", "cli"), ".h5": ("h5py", "hdf5")}
_SAME = {".hdf5": ".h5", ".pq": ".parquet"}


def check_output(path: Path) -> None:
    """Raise an error now for what would otherwise fail after the work is done."""
    suffix = _kind(path)
    if suffix not in _NEEDS:
        raise ParameterError(
            f"{path}: features are written as {', '.join(_NEEDS)}; end the name in one of these"
        )
    check_folder_of(path)
    needed = _NEEDS[suffix]
    if needed is not None:
        module, extra = needed
        import_optional(module, extra=extra, caller=f"writing {suffix} files")


def check_folder_of(path: Path) -> None:
    """Raise an error if a file of that name could not be made."""
    if path.is_dir():
        raise ParameterError(f"{path} is a folder; give the name of a file")
    if not path.absolute().parent.is_dir():
        raise ParameterError(f"{path}: there is no folder {path.absolute().parent}; make it first")


def check_folder(path: Path) -> None:
    """Raise an error if there is something else than a folder of that name."""
    if path.exists() and not path.is_dir():
        raise ParameterError(f"{path} is a file; give the name of a folder")


def check_names(images: npt.NDArray[np.object_]) -> None:
    """Raise an error if paths cannot be written down, as their names are no UTF-8."""
    unwritable = [path for path in images if not is_text(path)]
    if unwritable:
        shown = ", ".join(map(repr, unwritable[:5]))
        raise ParameterError(
            f"{len(unwritable)} of {len(images)} pictures have names that are no UTF-8, which no "
            f"table can hold: {shown}. Rename them"
        )


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index; an existing file is replaced only by a finished one."""
    with replacing(path) as unfinished:
        table.to_csv(unfinished, index=False)


def write_features(
    path: Path,
    images: npt.NDArray[np.object_],
    labels: npt.NDArray[Any] | None,
    features: npt.NDArray[np.float32],
    names: npt.NDArray[np.object_],
    origin: Mapping[str, str],
) -> None:
    """Write one row a picture; an existing file is replaced only by a finished one.

    Parameters
    ----------
    path : Path
        Its suffix decides the format, as `check_output` has found to be possible.
    images : ndarray of shape (n_images,)
        Paths.
    labels : ndarray of shape (n_images,) or None
        Labels.
    features : ndarray of shape (n_images, n_features)
        Features.
    names : ndarray of shape (n_features,)
        Their names.
    origin : mapping
        Which network gave them, kept in the file where the format can.
    """
    with replacing(path) as unfinished:
        if _kind(path) == ".h5":
            _write_hdf5(unfinished, images, labels, features, names, origin)
        else:
            _write_table(unfinished, _kind(path), images, labels, features, names, origin)


def write_picture(report: ImageReport, path: Path) -> None:
    """Draw a report into a file; one warning for all letters that the font lacks."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report.plot().figure_.savefig(path, dpi=150)
    others = [w for w in caught if not str(w.message).startswith("Glyph ")]
    for other in others:
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if len(others) < len(caught):
        warnings.warn(
            f"{path}: the font lacks letters of some names; add a font that has them to "
            "font.family in matplotlibrc",
            stacklevel=2,
        )


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    return _SAME.get(suffix, suffix)


def _write_table(
    path: Path,
    kind: str,
    images: npt.NDArray[np.object_],
    labels: npt.NDArray[Any] | None,
    features: npt.NDArray[np.float32],
    names: npt.NDArray[np.object_],
    origin: Mapping[str, str],
) -> None:
    import pandas as pd

    table = pd.DataFrame(features, index=pd.Index(images, name="path"), columns=names)
    if labels is not None:
        table.insert(0, "label", labels)
    if kind == ".csv":
        table.to_csv(path)
    else:
        table.attrs.update(origin)
        table.to_parquet(path, engine="pyarrow")


def _write_hdf5(
    path: Path,
    images: npt.NDArray[np.object_],
    labels: npt.NDArray[Any] | None,
    features: npt.NDArray[np.float32],
    names: npt.NDArray[np.object_],
    origin: Mapping[str, str],
) -> None:
    import h5py

    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        file.attrs.update(origin)
        file["features"] = features
        file.create_dataset("feature_names", data=names, dtype=text)
        file.create_dataset("paths", data=images, dtype=text)
        if labels is not None and labels.dtype.kind in "biuf":
            file["labels"] = labels
        elif labels is not None:
            file.create_dataset("labels", data=labels.astype(object), dtype=text)
