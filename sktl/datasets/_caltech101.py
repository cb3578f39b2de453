"""Caltech-101: 8,677 pictures of 101 kinds of objects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sktl.datasets._fetch import Published, hand_over, open_dataset
from sktl.datasets._folder import load_image_folder

__all__ = ["fetch_caltech101"]

_URL = "https://data.caltech.edu/records/mzrjq-6wc02/files"
_BACKGROUND = "BACKGROUND_Google"
_PUBLISHED = Published(
    name="caltech101",
    # Address, MD5 and the archive within are those of torchvision/datasets/caltech.py.
    files={"caltech-101.zip": "md5:3138e1922a9193bfa496528edbbc45d0"},
    archives=("101_ObjectCategories.tar.gz",),
    remedy=(
        "Download caltech-101.zip from https://data.caltech.edu/records/mzrjq-6wc02 and pass it, "
        "or the folder that it unpacks to, as source="
    ),
)
_DESCR = """Caltech-101

Pictures of 101 kinds of objects, 31 to 800 of each, mostly about 300 x 200 pixels, and of a clutter
class, BACKGROUND_Google. CC BY 4.0.

F.-F. Li, M. Andreeto, M. Ranzato, P. Perona, "Caltech 101", CaltechDATA, 2022,
https://doi.org/10.22002/D1.20086
"""


def fetch_caltech101(
    *,
    split_file: str | os.PathLike[str] | None = None,
    background: bool = False,
    source: str | os.PathLike[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    base_url: str = _URL,
    download_if_missing: bool = True,
    verbose: int = 0,
    return_X_y: bool = False,
) -> Any:
    """Load Caltech-101, or those of its pictures that a split list names.

    Parameters
    ----------
    split_file : str or Path, default=None
        A text file with one path a line, relative to ``101_ObjectCategories``, such as
        ``accordion/image_0002.jpg``. Only those pictures are loaded, in that order. A name that is
        no file from here is looked for beside ``101_ObjectCategories``.
    background : bool, default=False
        Whether the class of clutter, BACKGROUND_Google, is loaded too.
    source : str or Path, default=None
        The archive, or a folder that has it or what it unpacks to, as torchvision's does. Nothing
        is downloaded then.
    data_home : str or Path, default=None
        Where data sets are kept and archives unpacked. By default ``datasets`` in the folder that
        the environment variable SKTL_CACHE names, or in the user's cache folder.
    base_url : str, default="https://data.caltech.edu/records/mzrjq-6wc02/files"
        Where the archive comes from; what comes is checked against the published digest.
    download_if_missing : bool, default=True
        If False, raise an error where the data set is not in `data_home`.
    verbose : int, default=0
        Above 0, show the progress of downloading and unpacking.
    return_X_y : bool, default=False
        If True, return ``(images, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        - images : ndarray of shape (n_images,), dtype object: paths as str, sorted by class and
          name, or in the order of `split_file`;
        - target : ndarray of shape (n_images,), dtype str: class names;
        - target_names : list of str, sorted;
        - ignored : list of str, sorted: files that are no pictures;
        - DESCR : str.
    (images, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    DatasetError
        If the data set is missing, cannot be downloaded, or is damaged.
    FileNotFoundError
        If pictures of the list are not there.

    References
    ----------
    .. [1] F.-F. Li, M. Andreeto, M. Ranzato, P. Perona, "Caltech 101", CaltechDATA, 2022,
       https://doi.org/10.22002/D1.20086

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl.datasets import fetch_caltech101
    >>> folder = pathlib.Path(tempfile.mkdtemp(), "101_ObjectCategories")
    >>> for name in ("accordion", "BACKGROUND_Google", "camera"):
    ...     (folder / name).mkdir(parents=True)
    ...     (folder / name / "image_0001.jpg").touch()
    >>> images, y = fetch_caltech101(source=folder, return_X_y=True)
    >>> y.tolist()
    ['accordion', 'camera']
    """
    files = open_dataset(
        _PUBLISHED,
        source=source,
        data_home=data_home,
        base_url=base_url,
        download_if_missing=download_if_missing,
        verbose=verbose,
    )
    root = files.folder("101_ObjectCategories")
    if split_file is not None and not Path(split_file).expanduser().exists():
        split_file = files.file(str(split_file))
    exclude = [_BACKGROUND] if not background and (root / _BACKGROUND).is_dir() else []
    data = load_image_folder(root, split_file=split_file, exclude=exclude)
    return hand_over(data, _DESCR, return_X_y)
