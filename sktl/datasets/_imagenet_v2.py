"""ImageNetV2, matched frequency: 10,000 new pictures for ImageNet's 1,000 classes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from sktl.datasets._fetch import Published, hand_over, open_dataset
from sktl.datasets._folder import load_image_folder
from sktl.datasets._imagenet_classes import choose_wnids, imagenet_classes
from sktl.exceptions import DatasetError

__all__ = ["fetch_imagenet_v2"]

_URL = "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main"
_TOP = "imagenetv2-matched-frequency-format-val"
_PUBLISHED = Published(
    name="imagenetv2-matched-frequency",
    # From tensorflow_datasets/datasets/imagenet_v2/checksums.tsv in github.com/tensorflow/datasets.
    files={
        "imagenetv2-matched-frequency.tar.gz": "sha256:"
        "f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c"
    },
    remedy=(
        f"Download imagenetv2-matched-frequency.tar.gz from {_URL}/ and pass it, or the folder "
        "that it unpacks to, as source="
    ),
)
_DESCR = """ImageNetV2, matched frequency

10,000 pictures collected ten years after ImageNet in the same way, 10 for each of its 1,000
classes, to test networks on pictures that they cannot have seen in training.

B. Recht, R. Roelofs, L. Schmidt, V. Shankar, "Do ImageNet Classifiers Generalize to ImageNet?",
ICML 2019, arXiv:1902.10811.
"""


def fetch_imagenet_v2(
    *,
    classes: str | Iterable[str] | None = None,
    source: str | os.PathLike[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    base_url: str = _URL,
    download_if_missing: bool = True,
    verbose: int = 0,
    return_X_y: bool = False,
) -> Any:
    """Load ImageNetV2 (matched frequency), or those of its pictures that show some classes.

    Parameters
    ----------
    classes : "dogs", list of str or None, default=None
        None is all 1,000 classes; "dogs" the 118 breeds of dogs; a list has WordNet ids such as
        "n02085620" or names such as "Chihuahua", in which case and underscores do not matter.
    source : str or Path, default=None
        The archive, or the folder that it unpacks to, with a folder for each class index, "0" to
        "999". Nothing is downloaded then.
    data_home : str or Path, default=None
        Where data sets are kept and archives unpacked. By default ``datasets`` in the folder that
        the environment variable SKTL_CACHE names, or in the user's cache folder.
    base_url : str, default="https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main"
        Where the archive (1.3 GB) comes from; what comes is checked against the published digest.
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
          name; ten of each class;
        - target : ndarray of shape (n_images,), dtype str: WordNet ids;
        - target_names : list of str: the ids, sorted, which is the order of the class indices;
        - class_names : list of str: the names of `target_names` in words, as torchvision has them;
        - DESCR : str.
    (images, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    ParameterError
        If ImageNet has no such classes.
    DatasetError
        If the data set is missing, cannot be downloaded, or is damaged.

    References
    ----------
    .. [1] B. Recht, R. Roelofs, L. Schmidt, V. Shankar, "Do ImageNet Classifiers Generalize to
       ImageNet?", ICML 2019, arXiv:1902.10811.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl.datasets import fetch_imagenet_v2
    >>> folder = pathlib.Path(tempfile.mkdtemp(), "imagenetv2-matched-frequency-format-val")
    >>> for index in (0, 151, 254):
    ...     (folder / str(index)).mkdir(parents=True)
    ...     (folder / str(index) / "a.jpeg").touch()
    >>> data = fetch_imagenet_v2(classes="dogs", source=folder)
    >>> data.target.tolist(), data.class_names
    (['n02085620', 'n02110958'], ['Chihuahua', 'pug'])
    """
    wnids = list(imagenet_classes())
    wanted = choose_wnids(classes)
    files = open_dataset(
        _PUBLISHED,
        source=source,
        data_home=data_home,
        base_url=base_url,
        download_if_missing=download_if_missing,
        verbose=verbose,
    )
    indices = {str(index): wnid for index, wnid in enumerate(wnids)}
    root = files.folder(_TOP, *indices)
    if root.name in indices:
        root = root.parent
    images, folders = load_image_folder(root, return_X_y=True)
    strange = sorted(set(folders) - set(indices)) if folders is not None else [Path(root).name]
    if strange:
        raise DatasetError(
            f"{root} must have folders named 0 to 999, the class indices; it has {strange[:5]}"
        )
    target = np.array([indices[folder] for folder in folders])
    # Sorted by name, folder 10 comes before 2; sorted by id, the classes are in their order.
    order = np.argsort(target, kind="stable")
    order = order[np.isin(target[order], wanted)]
    images, target = images[order], target[order]
    names = np.unique(target).tolist()
    if not names:
        raise DatasetError(f"{root} has no pictures of these classes: {', '.join(wanted[:5])}")
    data = Bunch(
        images=images,
        target=target,
        target_names=names,
        class_names=[imagenet_classes()[wnid] for wnid in names],
    )
    return hand_over(data, _DESCR, return_X_y)
