"""Five kinds of flowers: TensorFlow's flower_photos, and Kaggle's flowers in the same layout."""

from __future__ import annotations

import os
from typing import Any

from sktl.datasets._fetch import Published, hand_over, open_dataset
from sktl.datasets._folder import load_image_folder

__all__ = ["fetch_flowers"]

_URL = "https://storage.googleapis.com/download.tensorflow.org/example_images"
_PUBLISHED = Published(
    name="flowers",
    # From tensorflow_datasets/url_checksums/tf_flowers.txt in github.com/tensorflow/datasets.
    files={
        "flower_photos.tgz": "sha256:"
        "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
    },
    archives=("flowers-recognition.zip", "flowers.zip"),
    remedy=(
        "Download https://storage.googleapis.com/download.tensorflow.org/example_images/"
        "flower_photos.tgz, or https://www.kaggle.com/datasets/alxmamaev/flowers-recognition, and "
        "pass the archive or its folder as source="
    ),
)
_DESCR = """Five kinds of flowers

3,670 photographs from Flickr, each under a Creative Commons licence that LICENSE.txt names beside
them, collected by The TensorFlow Team (2019): daisy, dandelion, roses, sunflowers, tulips. Kaggle's
"Flowers Recognition" (A. Mamaev) has other photographs of daisy, dandelion, rose, sunflower, tulip.
"""


def fetch_flowers(
    *,
    source: str | os.PathLike[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    base_url: str = _URL,
    download_if_missing: bool = True,
    verbose: int = 0,
    return_X_y: bool = False,
) -> Any:
    """Load photographs of five kinds of flowers, TensorFlow's or Kaggle's.

    Parameters
    ----------
    source : str or Path, default=None
        An archive or a folder that is there already: TensorFlow's ``flower_photos.tgz``, Kaggle's
        "Flowers Recognition", or what either unpacks to. Nothing is downloaded then.
    data_home : str or Path, default=None
        Where data sets are kept and archives unpacked. By default ``datasets`` in the folder that
        the environment variable SKTL_CACHE names, or in the user's cache folder.
    base_url : str, \
default="https://storage.googleapis.com/download.tensorflow.org/example_images"
        Where TensorFlow's archive comes from; what comes is checked against its published digest.
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
          name; 3,670 of TensorFlow's;
        - target : ndarray of shape (n_images,), dtype str: names of the folders, which are
          "roses", "sunflowers" and "tulips" at TensorFlow's and "rose", "sunflower" and "tulip" at
          Kaggle's;
        - target_names : list of str, sorted;
        - ignored : list of str, sorted: files that are no pictures;
        - DESCR : str.
    (images, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    DatasetError
        If the data set is missing, cannot be downloaded, or is damaged.

    References
    ----------
    .. [1] The TensorFlow Team, "Flowers", 2019,
       http://download.tensorflow.org/example_images/flower_photos.tgz
    .. [2] https://www.kaggle.com/datasets/alxmamaev/flowers-recognition

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl.datasets import fetch_flowers
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("daisy/1.jpg", "roses/1.jpg", "roses/2.jpg"):
    ...     (folder / "flower_photos" / name).parent.mkdir(parents=True, exist_ok=True)
    ...     (folder / "flower_photos" / name).touch()
    >>> images, y = fetch_flowers(source=folder, return_X_y=True)
    >>> y.tolist()
    ['daisy', 'roses', 'roses']
    """
    files = open_dataset(
        _PUBLISHED,
        source=source,
        data_home=data_home,
        base_url=base_url,
        download_if_missing=download_if_missing,
        verbose=verbose,
    )
    root = files.folder("daisy").parent
    # Some versions of Kaggle's archive hold the whole set a second time, in flowers/flowers.
    twice = ["flowers"] if (root / "flowers" / "daisy").is_dir() else []
    data = load_image_folder(root, exclude=twice)
    return hand_over(data, _DESCR, return_X_y)
