"""Oxford Flowers: 17 kinds of flowers, and 102 kinds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.utils import Bunch

from sktl.datasets._fetch import Files, Published, hand_over, open_dataset, read_mat
from sktl.datasets._folder import missing_files
from sktl.exceptions import DatasetError
from sktl.utils._parameters import ParameterChecks

__all__ = ["fetch_flowers17", "fetch_flowers102"]

_URL_17 = "https://www.robots.ox.ac.uk/~vgg/data/flowers/17"
_PUBLISHED_17 = Published(
    name="flowers-17",
    # Oxford publishes no digests; these are those of github.com/google-deepmind/dm_nevis, in
    # dm_nevis/datasets_storage/handlers/oxford_flowers_17.py.
    files={
        "17flowers.tgz": "md5:b59a65d8d1a99cd66944d474e1289eab",
        "datasplits.mat": "md5:4828cddfd0d803c5abbdebcb1e148a1e",
    },
    remedy=f"Download 17flowers.tgz and datasplits.mat from {_URL_17}/ and pass their folder as "
    "source=",
)
_DESCR_17 = """Oxford Flowers-17

1,360 pictures of 17 kinds of flowers common in Britain, 80 of each, and three splits into training
(680), validation (340) and test (340).

M.-E. Nilsback, A. Zisserman, "A Visual Vocabulary for Flower Classification", CVPR 2006.
https://www.robots.ox.ac.uk/~vgg/data/flowers/17/
"""
# 80 pictures of each, in this order; the archive itself has no labels.
_NAMES_17 = (
    "daffodil", "snowdrop", "lily valley", "bluebell", "crocus", "iris", "tigerlily", "tulip",
    "fritillary", "sunflower", "daisy", "colts' foot", "dandelion", "cowslip", "buttercup",
    "windflower", "pansy",
)  # fmt: skip
_OF_EACH_17 = 80

_URL_102 = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
_PUBLISHED_102 = Published(
    name="flowers-102",
    # From torchvision/datasets/flowers102.py.
    files={
        "102flowers.tgz": "md5:52808999861908f626f3c1f4e79d11fa",
        "imagelabels.mat": "md5:e0620be6f572b9609742df49c70aed4d",
        "setid.mat": "md5:a5357ecc9cb78c4bef273ce3793fc85c",
    },
    remedy=f"Download 102flowers.tgz, imagelabels.mat and setid.mat from {_URL_102}/ and pass "
    "their folder as source=",
)
_DESCR_102 = """Oxford Flowers-102

8,189 pictures of 102 kinds of flowers common in Britain, 40 to 258 of each, split into training
(1,020, ten of each), validation (1,020) and test (6,149).

M.-E. Nilsback, A. Zisserman, "Automated Flower Classification over a Large Number of Classes",
ICVGIP 2008. https://www.robots.ox.ac.uk/~vgg/data/flowers/102/
"""
# In the order of the labels 1 to 102, as torchvision.datasets.Flowers102 has them.
_NAMES_102 = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea",
    "english marigold", "tiger lily", "moon orchid", "bird of paradise", "monkshood",
    "globe thistle", "snapdragon", "colt's foot", "king protea", "spear thistle", "yellow iris",
    "globe-flower", "purple coneflower", "peruvian lily", "balloon flower",
    "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger",
    "grape hyacinth", "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke",
    "sweet william", "carnation", "garden phlox", "love in the mist", "mexican aster",
    "alpine sea holly", "ruby-lipped cattleya", "cape flower", "great masterwort", "siam tulip",
    "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia", "bolero deep blue",
    "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia",
    "wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura", "geranium",
    "orange dahlia", "pink-yellow dahlia?", "cautleya spicata", "japanese anemone",
    "black-eyed susan", "silverbush", "californian poppy", "osteospermum", "spring crocus",
    "bearded iris", "windflower", "tree poppy", "gazania", "azalea", "water lily", "rose",
    "thorn apple", "morning glory", "passion flower", "lotus", "toad lily", "anthurium",
    "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow", "magnolia",
    "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove",
    "bougainvillea", "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower",
    "trumpet creeper", "blackberry lily",
)  # fmt: skip


def fetch_flowers17(
    *,
    subset: Literal["train", "val", "test", "all"] = "all",
    split: Literal[1, 2, 3] = 1,
    source: str | os.PathLike[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    base_url: str = _URL_17,
    download_if_missing: bool = True,
    verbose: int = 0,
    return_X_y: bool = False,
) -> Any:
    """Load Oxford Flowers-17, 80 pictures of each of 17 kinds of flowers.

    Parameters
    ----------
    subset : {"train", "val", "test", "all"}, default="all"
        A part of the split, in the order of its list, or all pictures by number.
    split : {1, 2, 3}, default=1
        Which of the three splits; results are published as the mean over them.
    source : str or Path, default=None
        A folder that is there already, with ``17flowers.tgz`` and ``datasplits.mat`` or what they
        unpack to, or an archive of it. ``datasplits.mat`` is needed for parts only. Nothing is
        downloaded then.
    data_home : str or Path, default=None
        Where data sets are kept and archives unpacked. By default ``datasets`` in the folder that
        the environment variable SKTL_CACHE names, or in the user's cache folder.
    base_url : str, default="https://www.robots.ox.ac.uk/~vgg/data/flowers/17"
        Where the files come from; what comes is checked against published digests.
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
        - target : ndarray of shape (n_images,), dtype str: names of the flowers;
        - target_names : list of str, sorted;
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
    .. [1] M.-E. Nilsback, A. Zisserman, "A Visual Vocabulary for Flower Classification", CVPR 2006.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl.datasets import fetch_flowers17
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "jpg").mkdir()
    >>> for number in range(1, 1361):
    ...     (folder / "jpg" / f"image_{number:04d}.jpg").touch()
    >>> images, y = fetch_flowers17(source=folder, return_X_y=True)
    >>> y[0], y[79], y[80]
    (np.str_('daffodil'), np.str_('daffodil'), np.str_('snowdrop'))
    """
    checks = ParameterChecks("fetch_flowers17")
    checks.choice("subset", subset, ("train", "val", "test", "all"))
    checks.that("split", split, split in (1, 2, 3), "1, 2 or 3")
    checks.done()
    files = open_dataset(
        _PUBLISHED_17,
        source=source,
        data_home=data_home,
        base_url=base_url,
        download_if_missing=download_if_missing,
        verbose=verbose,
    )
    labels = np.repeat(np.arange(1, len(_NAMES_17) + 1), _OF_EACH_17)
    variable = {"train": f"trn{split}", "val": f"val{split}", "test": f"tst{split}"}.get(subset)
    data = _numbered(files, _NAMES_17, labels, 4, ("datasplits.mat", variable))
    return hand_over(data, _DESCR_17, return_X_y)


def fetch_flowers102(
    *,
    subset: Literal["train", "val", "test", "all"] = "all",
    source: str | os.PathLike[str] | None = None,
    data_home: str | os.PathLike[str] | None = None,
    base_url: str = _URL_102,
    download_if_missing: bool = True,
    verbose: int = 0,
    return_X_y: bool = False,
) -> Any:
    """Load Oxford Flowers-102, 8,189 pictures of 102 kinds of flowers.

    Parameters
    ----------
    subset : {"train", "val", "test", "all"}, default="all"
        The 1,020 pictures for training, the 1,020 for validation, the 6,149 for testing, in the
        order of their list, or all by number.
    source : str or Path, default=None
        A folder that is there already, with ``102flowers.tgz`` or what it unpacks to,
        ``imagelabels.mat`` and ``setid.mat``, as torchvision's ``flowers-102`` has, or an archive
        of it. ``setid.mat`` is needed for parts only. Nothing is downloaded then.
    data_home : str or Path, default=None
        Where data sets are kept and archives unpacked. By default ``datasets`` in the folder that
        the environment variable SKTL_CACHE names, or in the user's cache folder.
    base_url : str, default="https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
        Where the files come from; what comes is checked against published digests.
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
        - target : ndarray of shape (n_images,), dtype str: names of the flowers, as torchvision
          has them;
        - target_names : list of str, sorted;
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
    .. [1] M.-E. Nilsback, A. Zisserman, "Automated Flower Classification over a Large Number of
       Classes", ICVGIP 2008.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from scipy.io import savemat
    >>> from sktl.datasets import fetch_flowers102
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> savemat(folder / "imagelabels.mat", {"labels": [77, 1, 77]})
    >>> savemat(folder / "setid.mat", {"trnid": [2], "valid": [1], "tstid": [3]})
    >>> (folder / "jpg").mkdir()
    >>> for number in (1, 2, 3):
    ...     (folder / "jpg" / f"image_{number:05d}.jpg").touch()
    >>> fetch_flowers102(source=folder).target.tolist()
    ['passion flower', 'pink primrose', 'passion flower']
    >>> fetch_flowers102(source=folder, subset="train").target.tolist()
    ['pink primrose']
    """
    checks = ParameterChecks("fetch_flowers102")
    checks.choice("subset", subset, ("train", "val", "test", "all"))
    checks.done()
    files = open_dataset(
        _PUBLISHED_102,
        source=source,
        data_home=data_home,
        base_url=base_url,
        download_if_missing=download_if_missing,
        verbose=verbose,
    )
    (labels,) = read_mat(files.file("imagelabels.mat"), "labels")
    variable = {"train": "trnid", "val": "valid", "test": "tstid"}.get(subset)
    data = _numbered(files, _NAMES_102, labels, 5, ("setid.mat", variable))
    return hand_over(data, _DESCR_102, return_X_y)


def _numbered(
    files: Files,
    names: tuple[str, ...],
    labels: npt.NDArray[Any],
    digits: int,
    part: tuple[str, str | None],
) -> Bunch:
    """The pictures numbered from 1, or those of a part, with their names.

    `labels` are from 1 and in the order of the numbers; `part` is a MATLAB file and the variable in
    it that lists the numbers, None for all.
    """
    folder = files.folder("jpg")
    numbers = np.arange(1, len(labels) + 1)
    where: Path = folder
    file, variable = part
    if variable is not None:
        where = files.file(file)
        (numbers,) = read_mat(where, variable)
    if not len(numbers) or not np.isin(numbers, np.arange(1, len(labels) + 1)).all():
        raise DatasetError(f"{where} lists pictures that are not among the {len(labels)} labelled")
    numbers = numbers.astype(np.int64)
    chosen = labels[numbers - 1].astype(np.int64)
    if chosen.min() < 1 or chosen.max() > len(names):
        raise DatasetError(f"the labels of {folder} must be from 1 to {len(names)}")
    images = [str(folder / f"image_{number:0{digits}d}.jpg") for number in numbers.tolist()]
    error = missing_files(images, f"{where} wants them")
    if error:
        raise error
    target = np.array([names[label - 1] for label in chosen])
    return Bunch(
        images=np.array(images, dtype=object),
        target=target,
        target_names=np.unique(target).tolist(),
    )
