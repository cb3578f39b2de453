"""Tiny ImageNet: 64 x 64 pictures of 200 classes."""

from __future__ import annotations

import os
from typing import Any, Literal

import pandas as pd

from sktl.datasets._fetch import Files, Published, hand_over, open_dataset
from sktl.datasets._folder import load_image_folder
from sktl.datasets._table import load_image_table
from sktl.exceptions import DatasetError
from sktl.utils._parameters import ParameterChecks

__all__ = ["fetch_tiny_imagenet"]

_URL = "http://cs231n.stanford.edu"
_PUBLISHED = Published(
    name="tiny-imagenet",
    # Stanford publishes no digest; this one is in
    # avalanche/benchmarks/datasets/tiny_imagenet/tiny_imagenet.py of
    # github.com/ContinualAI/avalanche.
    files={"tiny-imagenet-200.zip": "md5:90528d7ca1a48142e341f4ef8d21d0de"},
    remedy=(
        f"Download {_URL}/tiny-imagenet-200.zip and pass it, or the folder that it unpacks to, as "
        "source="
    ),
)
_DESCR = """Tiny ImageNet

Pictures of 64 x 64 pixels of 200 of ImageNet's classes: 500 of each for training, 50 for
validation, 50 for testing, the latter without labels. They come from ImageNet: networks trained on
ImageNet have seen many of them.

Y. Le, X. Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS 231N, 2015.
"""


def fetch_tiny_imagenet(
    *,
    subset: Literal["train", "val", "test"] = "train",
    source: str | os.PathLike[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    base_url: str = _URL,
    download_if_missing: bool = True,
    verbose: int = 0,
    return_X_y: bool = False,
) -> Any:
    r"""Load Tiny ImageNet, pictures of 64 x 64 pixels of 200 classes.

    Parameters
    ----------
    subset : {"train", "val", "test"}, default="train"
        The 100,000 pictures for training, the 10,000 for validation, or the 10,000 without labels.
    source : str or Path, default=None
        The archive, or the folder that it unpacks to. Nothing is downloaded then.
    data_home : str or Path, default=None
        Where data sets are kept and archives unpacked. By default ``datasets`` in the folder that
        the environment variable SKTL_CACHE names, or in the user's cache folder.
    base_url : str, default="http://cs231n.stanford.edu"
        Where the archive comes from; what comes is checked against a published digest.
    download_if_missing : bool, default=True
        If False, raise an error where the data set is not in `data_home`.
    verbose : int, default=0
        Above 0, show the progress of downloading and unpacking.
    return_X_y : bool, default=False
        If True, return ``(images, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        - images : ndarray of shape (n_images,), dtype object: paths as str, sorted, or in the
          order of ``val_annotations.txt``;
        - target : ndarray of shape (n_images,), dtype str: WordNet ids; None for the test part;
        - target_names : list of str: the ids, sorted; None for the test part;
        - class_names : list of str: the names of `target_names` in words, from ``words.txt``; None
          for the test part;
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
    .. [1] Y. Le, X. Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS 231N, 2015.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl.datasets import fetch_tiny_imagenet
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\n")
    >>> (folder / "train/n01443537/images").mkdir(parents=True)
    >>> (folder / "train/n01443537/images/n01443537_0.JPEG").touch()
    >>> data = fetch_tiny_imagenet(source=folder)
    >>> data.target.tolist(), data.class_names
    (['n01443537'], ['goldfish, Carassius auratus'])
    """
    checks = ParameterChecks("fetch_tiny_imagenet")
    checks.choice("subset", subset, ("train", "val", "test"))
    checks.done()
    files = open_dataset(
        _PUBLISHED,
        source=source,
        data_home=data_home,
        base_url=base_url,
        download_if_missing=download_if_missing,
        verbose=verbose,
    )
    if subset == "val":
        annotations = files.file("val_annotations.txt")
        # Behind the file's name and the class come four numbers, the box of the object.
        frame = pd.read_csv(annotations, sep="\t", header=None, usecols=[0, 1], dtype=str)
        data = load_image_table(frame, folder=annotations.parent / "images")
        del data["frame"]
    else:
        folder = files.folder(subset)
        data = load_image_folder(folder if subset == "train" else folder / "images")
        if (data.target is None) != (subset == "test"):
            raise DatasetError(f"{folder} has not the layout of Tiny ImageNet")
        del data["ignored"]
    data.class_names = None if data.target is None else _words(files, data.target_names)
    return hand_over(data, _DESCR, return_X_y)


def _words(files: Files, wnids: list[str]) -> list[str]:
    words = {}
    for line in files.file("words.txt").read_text(encoding="utf-8").splitlines():
        wnid, _, name = line.partition("\t")
        words[wnid] = name.strip()
    return [words.get(wnid, wnid) for wnid in wnids]
