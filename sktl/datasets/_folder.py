"""A folder of pictures, with a sub-folder for each class or without classes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sktl.exceptions import ParameterError
from sktl.utils._parameters import suggest

__all__ = ["PICTURE_SUFFIXES", "load_image_folder", "missing_files", "read_list"]

# fmt: off
PICTURE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
})
# fmt: on
_SHOWN = 5
# Folders that hold parts of a data set, as data sets name them.
_PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def load_image_folder(
    root: str | os.PathLike[str],
    *,
    split_file: str | os.PathLike[str] | None = None,
    exclude: str | Iterable[str] = (),
    return_X_y: bool = False,
) -> Any:
    """List the pictures of a folder; none is opened.

    A folder with sub-folders holds a class in each of them, pictures at any depth below it. A
    folder with nothing but pictures has no labels. Files and folders whose name begins with a dot
    do not count; links are followed.

    Parameters
    ----------
    root : str or Path
        The folder.
    split_file : str or Path, default=None
        A text file with one path a line, relative to `root`, such as a list of training pictures.
        Only those are loaded, in that order, whatever their suffixes.
    exclude : str or iterable of str, default=()
        Classes to leave out, such as Caltech-101's ``"BACKGROUND_Google"``.
    return_X_y : bool, default=False
        If True, return ``(images, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        - images : ndarray of shape (n_images,), dtype object: paths as str, sorted by class and
          name, or in the order of `split_file`;
        - target : ndarray of shape (n_images,), dtype str: class names; None without classes;
        - target_names : list of str, sorted; None without classes;
        - ignored : list of str, sorted: files left out because their suffix is not a picture's.
    (images, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    FileNotFoundError
        If the folder, the split file or pictures that it lists are not there.
    ParameterError
        If there are no pictures, if pictures lie beside class folders, if a class to exclude
        does not exist, or if the split file lists files outside the folder or beside its classes.

    Warns
    -----
    UserWarning
        If the classes seem to be the folders one level below: where all pictures lie in several of
        those, and there is one class only, or classes have names such as "train" and "test".

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl import load_image_folder
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("daisy/1.jpg", "rose/1.jpg", "rose/2.jpg"):
    ...     (root / name).parent.mkdir(exist_ok=True)
    ...     (root / name).touch()
    >>> images, y = load_image_folder(root, return_X_y=True)
    >>> y
    array(['daisy', 'rose', 'rose'], dtype='<U5')
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root.absolute()}")
    excluded = {exclude} if isinstance(exclude, str) else set(exclude)
    found, ignored = _scan(root)
    loose = [path for path in found if "/" not in path]
    if loose and len(loose) < len(found):
        raise ParameterError(
            f"{root} has pictures ({', '.join(loose[:_SHOWN])}) beside its class folders; move "
            "them into a folder of their class, or away"
        )
    if not found:
        raise ParameterError(f"there are no pictures in {root}")
    classes = set() if loose else {_class_of(path) for path in found}
    unknown = sorted(excluded - classes)
    if unknown:
        raise ParameterError(
            f"exclude: {root} has no class {', '.join(map(repr, unknown))}."
            + "".join(suggest(name, classes) for name in unknown)
        )
    _warn_of_parts(root, [path for path in found if _class_of(path) not in excluded])
    chosen = found
    if split_file is not None:
        chosen = _read_split(Path(split_file), root, in_classes=not loose)
    chosen = [path for path in chosen if _class_of(path) not in excluded]
    if not chosen:
        raise ParameterError(
            f"split_file and exclude leave none of the {len(found)} pictures in {root}"
        )
    images = np.array([str(root / path) for path in chosen], dtype=object)
    target = None if loose else np.array([_class_of(path) for path in chosen])
    if return_X_y:
        return images, target
    return Bunch(
        images=images,
        target=target,
        target_names=None if target is None else sorted(set(target.tolist())),
        ignored=sorted(set(ignored) - set(images)),
    )


def read_list(file: str | os.PathLike[str]) -> list[str]:
    """The lines of a text file in UTF-8, stripped, without empty ones; raise ParameterError."""
    file = Path(file).expanduser()
    # Editors on Windows may put a byte order mark before the first path.
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{file} is no text in UTF-8 ({error}); save it as such") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def missing_files(paths: Sequence[Path | str], hint: str) -> FileNotFoundError | None:
    """One error for all files that are not there, or None."""
    missing = [str(path) for path in paths if not os.path.isfile(path)]  # noqa: PTH113 (faster)
    if not missing:
        return None
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return FileNotFoundError(
        f"{len(missing)} of {len(paths)} listed pictures are not there: "
        f"{', '.join(missing[:_SHOWN])}{more}. {hint}"
    )


def _warn_of_parts(root: Path, found: list[str]) -> None:
    """Say so if the class folders seem to be parts of a data set, with the classes in them."""
    classes = {_class_of(path) for path in found}
    are_parts = len(classes) == 1 or {name.casefold() for name in classes} <= _PARTS
    if not classes or not are_parts or min(path.count("/") for path in found) < 2:
        return
    below = sorted({path.split("/")[1] for path in found})
    if len(below) == 1:
        return
    warnings.warn(
        f"{root} holds the folders {', '.join(map(repr, sorted(classes)[:_SHOWN]))}, which are "
        f"taken for classes; the pictures lie in folders in them, such as "
        f"{', '.join(map(repr, below[:_SHOWN]))}. If those are the classes, load "
        f"{str(root / min(classes))!r}",
        stacklevel=3,
    )


def _class_of(path: str) -> str:
    return path.partition("/")[0]


def _scan(root: Path) -> tuple[list[str], list[str]]:
    """Relative paths of pictures, and paths of other files; hidden ones do not count."""
    found, ignored = [], []
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_raise):
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and not _leads_back(Path(folder, name), root)
        )
        for name in sorted(files):
            if name.startswith("."):
                continue
            path = Path(folder, name)
            if path.suffix.lower() in PICTURE_SUFFIXES:
                found.append(path.relative_to(root).as_posix())
            else:
                ignored.append(str(path))
    return sorted(found, key=lambda path: path.split("/")), ignored


def _raise(error: OSError) -> None:
    """What os.walk would pass over in silence: a folder that cannot be read."""
    raise error


def _leads_back(folder: Path, root: Path) -> bool:
    """Whether the folder is a link to one that led to it, which would never end."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    way = [parent for parent in folder.parents if parent.is_relative_to(root)]
    return any(parent.resolve().is_relative_to(target) for parent in way)


def _read_split(split_file: Path, root: Path, *, in_classes: bool) -> list[str]:
    chosen = [Path(line) for line in read_list(split_file)]
    outside = [
        str(path)
        for path in chosen
        if path.is_absolute() or ".." in path.parts or (in_classes and len(path.parts) == 1)
    ]
    if outside:
        raise ParameterError(
            f"{split_file} must list paths relative to {root}, inside its class folders if it has "
            f"any; got {', '.join(outside[:_SHOWN])}"
        )
    error = missing_files([root / path for path in chosen], f"{split_file} lists them below {root}")
    if error:
        raise error
    return [path.as_posix() for path in chosen]
