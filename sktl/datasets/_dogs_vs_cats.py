"""Dogs vs. Cats: Kaggle's 25,000 pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sktl.datasets._fetch import Published, hand_over, open_dataset
from sktl.datasets._folder import load_image_folder
from sktl.exceptions import DatasetError
from sktl.utils._parameters import ParameterChecks

__all__ = ["fetch_dogs_vs_cats"]

_PUBLISHED = Published(
    name="dogs-vs-cats",
    archives=(
        "dogs-vs-cats.zip",
        "dogs-vs-cats-redux-kernels-edition.zip",
        "train.zip",
        "test1.zip",
        "test.zip",
    ),
    remedy=(
        "Download it from https://www.kaggle.com/c/dogs-vs-cats/data with a Kaggle account and "
        "pass the archive, or a folder that has it or train/cat.0.jpg and so on, as source="
    ),
)
_DESCR = """Dogs vs. Cats

25,000 pictures of dogs and cats, half of each, for training, and 12,500 without labels (Kaggle
2013), a part of the Asirra set.

J. Elson, J. R. Douceur, J. Howell, J. Saul, "Asirra: A CAPTCHA that Exploits Interest-Aligned
Manual Image Categorization", CCS 2007. https://www.kaggle.com/c/dogs-vs-cats
"""


def fetch_dogs_vs_cats(
    source: str | os.PathLike[str] | None = None,
    *,
    subset: Literal["train", "test"] = "train",
    data_home: str | os.PathLike[str] | None = None,
    verbose: int = 0,
    return_X_y: bool = False,
) -> Any:
    """Load Kaggle's Dogs vs. Cats from the archive or folder.

    Parameters
    ----------
    source : str or Path, default=None
        Kaggle's archive, or a folder that has it or what it unpacks to. Kaggle gives it to those
        who have an account and accept its terms, so that it cannot be downloaded here: where None
        is given, an error says where to get it.
    subset : {"train", "test"}, default="train"
        The 25,000 pictures with labels, or the 12,500 without.
    data_home : str or Path, default=None
        Where archives are unpacked. By default ``datasets`` in the folder that the environment
        variable SKTL_CACHE names, or in the user's cache folder.
    verbose : int, default=0
        Above 0, show the progress of unpacking.
    return_X_y : bool, default=False
        If True, return ``(images, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        - images : ndarray of shape (n_images,), dtype object: paths as str, sorted;
        - target : ndarray of shape (n_images,), dtype str: "cat" or "dog"; None for the test part;
        - target_names : list of str: "cat" and "dog"; None for the test part;
        - ignored : list of str, sorted: files that are no pictures;
        - DESCR : str.
    (images, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    DatasetError
        If the data set is missing or damaged.

    References
    ----------
    .. [1] J. Elson, J. R. Douceur, J. Howell, J. Saul, "Asirra: A CAPTCHA that Exploits
       Interest-Aligned Manual Image Categorization", CCS 2007.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl.datasets import fetch_dogs_vs_cats
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "train").mkdir()
    >>> for name in ("cat.0.jpg", "cat.1.jpg", "dog.0.jpg"):
    ...     (folder / "train" / name).touch()
    >>> images, y = fetch_dogs_vs_cats(folder, return_X_y=True)
    >>> y.tolist()
    ['cat', 'cat', 'dog']
    """
    checks = ParameterChecks("fetch_dogs_vs_cats")
    checks.choice("subset", subset, ("train", "test"))
    checks.done()
    files = open_dataset(_PUBLISHED, source=source, data_home=data_home, verbose=verbose)
    root = files.folder(*(("train",) if subset == "train" else ("test1", "test")))
    data = load_image_folder(root)
    if data.target is not None:
        raise DatasetError(
            f"{root} has folders {data.target_names[:5]}, and not the pictures themselves. "
            "sktl.load_image_folder loads folders of classes"
        )
    if subset == "train":
        data.target = np.array([Path(path).name.partition(".")[0] for path in data.images])
        data.target_names = np.unique(data.target).tolist()
        if not set(data.target_names) <= {"cat", "dog"}:
            strange = sorted(set(data.target_names) - {"cat", "dog"})
            raise DatasetError(f"{root}: names begin with cat or dog, not with {strange[:5]}")
    return hand_over(data, _DESCR, return_X_y)
