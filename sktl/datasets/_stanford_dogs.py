"""Stanford Dogs: 20,580 pictures of 120 breeds, from ImageNet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sktl.datasets._fetch import Published, hand_over, open_dataset, read_mat
from sktl.datasets._folder import load_image_folder, missing_files
from sktl.exceptions import DatasetError
from sktl.utils._parameters import ParameterChecks

__all__ = ["fetch_stanford_dogs"]

_URL = "http://vision.stanford.edu/aditya86/ImageNetDogs"
_PUBLISHED = Published(
    name="stanford-dogs",
    # From tensorflow_datasets/url_checksums/stanford_dogs.txt in github.com/tensorflow/datasets.
    files={
        "images.tar": "sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
        "lists.tar": "sha256:34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
    },
    remedy=(f"Download images.tar and lists.tar from {_URL}/ and pass their folder as source="),
)
_DESCR = """Stanford Dogs

20,580 pictures of 120 breeds of dogs, with a list of 12,000 for training (100 a breed) and 8,580
for testing. The pictures come from ImageNet: networks trained on ImageNet have seen many of them.

A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei, "Novel Dataset for Fine-Grained Image
Categorization", FGVC workshop, CVPR 2011. http://vision.stanford.edu/aditya86/ImageNetDogs/
"""


def fetch_stanford_dogs(
    *,
    subset: Literal["train", "test", "all"] = "all",
    source: str | os.PathLike[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    base_url: str = _URL,
    download_if_missing: bool = True,
    verbose: int = 0,
    return_X_y: bool = False,
) -> Any:
    """Load Stanford Dogs, 20,580 pictures of 120 breeds.

    Parameters
    ----------
    subset : {"train", "test", "all"}, default="all"
        The 12,000 pictures of ``train_list.mat``, the 8,580 of ``test_list.mat``, in the order of
        the list, or all, sorted.
    source : str or Path, default=None
        A folder that is there already, with ``images.tar`` and ``lists.tar`` or what they unpack
        to, or an archive of it. The lists are needed for "train" and "test" only. Nothing is
        downloaded then.
    data_home : str or Path, default=None
        Where data sets are kept and archives unpacked. By default ``datasets`` in the folder that
        the environment variable SKTL_CACHE names, or in the user's cache folder.
    base_url : str, default="http://vision.stanford.edu/aditya86/ImageNetDogs"
        Where the archives come from; what comes is checked against the published digests.
    download_if_missing : bool, default=True
        If False, raise an error where the data set is not in `data_home`.
    verbose : int, default=0
        Above 0, show the progress of downloading and unpacking.
    return_X_y : bool, default=False
        If True, return ``(images, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        - images : ndarray of shape (n_images,), dtype object: paths as str;
        - target : ndarray of shape (n_images,), dtype str: breeds, such as "Chihuahua" and
          "German_short-haired_pointer";
        - target_names : list of str, sorted;
        - wnids : list of str, the WordNet ids of `target_names`;
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
    .. [1] A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei, "Novel Dataset for Fine-Grained Image
       Categorization", Workshop on Fine-Grained Visual Categorization, CVPR 2011.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl.datasets import fetch_stanford_dogs
    >>> folder = pathlib.Path(tempfile.mkdtemp(), "Images")
    >>> for name in ("n02085620-Chihuahua/n02085620_7.jpg", "n02110958-pug/n02110958_13.jpg"):
    ...     (folder / name).parent.mkdir(parents=True)
    ...     (folder / name).touch()
    >>> data = fetch_stanford_dogs(source=folder)
    >>> data.target.tolist(), data.wnids
    (['Chihuahua', 'pug'], ['n02085620', 'n02110958'])
    """
    checks = ParameterChecks("fetch_stanford_dogs")
    checks.choice("subset", subset, ("train", "test", "all"))
    checks.done()
    files = open_dataset(
        _PUBLISHED,
        source=source,
        data_home=data_home,
        base_url=base_url,
        download_if_missing=download_if_missing,
        verbose=verbose,
    )
    root = files.folder("Images")
    data = load_image_folder(root)
    if data.target is None:
        raise DatasetError(f"{root} has no folders of breeds")
    if subset != "all":
        data.images = _listed(files.file(f"{subset}_list.mat"), root)
    folders = [Path(path).relative_to(root).parts[0] for path in data.images]
    data.target = np.array([_breed(folder) for folder in folders])
    wnids = {_breed(folder): folder.partition("-")[0] for folder in folders}
    data.target_names = sorted(wnids)
    data.wnids = [wnids[name] for name in data.target_names]
    del data["ignored"]
    return hand_over(data, _DESCR, return_X_y)


def _breed(folder: str) -> str:
    """What follows the WordNet id: n02086240-Shih-Tzu is Shih-Tzu."""
    return folder.partition("-")[2] or folder


def _listed(path: Path, root: Path) -> np.ndarray[Any, Any]:
    (cells,) = read_mat(path, "file_list")
    images = [str(root / str(np.asarray(cell).item())) for cell in cells]
    error = missing_files(images, f"{path} lists them below {root}")
    if error:
        raise error
    return np.array(images, dtype=object)
