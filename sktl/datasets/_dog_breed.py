"""Kaggle's Dog Breed Identification: labels.csv, and the table that the competition takes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from sktl.datasets._fetch import Published, hand_over, open_dataset
from sktl.datasets._folder import load_image_folder
from sktl.datasets._table import load_image_table
from sktl.exceptions import DatasetError
from sktl.utils._parameters import ParameterChecks, suggest

__all__ = ["fetch_dog_breed", "write_dog_breed_submission"]

_PUBLISHED = Published(
    name="dog-breed",
    archives=("dog-breed-identification.zip", "labels.csv.zip", "train.zip", "test.zip"),
    remedy=(
        "Download it from https://www.kaggle.com/c/dog-breed-identification/data with a Kaggle "
        "account and pass the archive, or a folder that has it or labels.csv, train and test, as "
        "source="
    ),
)
_DESCR = """Dog Breed Identification

10,222 pictures of 120 breeds of dogs with labels.csv, and 10,357 without labels (Kaggle 2017). They
are those of Stanford Dogs, and so of ImageNet: networks trained on ImageNet have seen many of them.

https://www.kaggle.com/c/dog-breed-identification
"""
# The columns of the competition's sample_submission.csv.
_BREEDS = (
    "affenpinscher", "afghan_hound", "african_hunting_dog", "airedale",
    "american_staffordshire_terrier", "appenzeller", "australian_terrier", "basenji", "basset",
    "beagle", "bedlington_terrier", "bernese_mountain_dog", "black-and-tan_coonhound",
    "blenheim_spaniel", "bloodhound", "bluetick", "border_collie", "border_terrier", "borzoi",
    "boston_bull", "bouvier_des_flandres", "boxer", "brabancon_griffon", "briard",
    "brittany_spaniel", "bull_mastiff", "cairn", "cardigan", "chesapeake_bay_retriever",
    "chihuahua", "chow", "clumber", "cocker_spaniel", "collie", "curly-coated_retriever",
    "dandie_dinmont", "dhole", "dingo", "doberman", "english_foxhound", "english_setter",
    "english_springer", "entlebucher", "eskimo_dog", "flat-coated_retriever", "french_bulldog",
    "german_shepherd", "german_short-haired_pointer", "giant_schnauzer", "golden_retriever",
    "gordon_setter", "great_dane", "great_pyrenees", "greater_swiss_mountain_dog", "groenendael",
    "ibizan_hound", "irish_setter", "irish_terrier", "irish_water_spaniel", "irish_wolfhound",
    "italian_greyhound", "japanese_spaniel", "keeshond", "kelpie", "kerry_blue_terrier",
    "komondor", "kuvasz", "labrador_retriever", "lakeland_terrier", "leonberg", "lhasa",
    "malamute", "malinois", "maltese_dog", "mexican_hairless", "miniature_pinscher",
    "miniature_poodle", "miniature_schnauzer", "newfoundland", "norfolk_terrier",
    "norwegian_elkhound", "norwich_terrier", "old_english_sheepdog", "otterhound", "papillon",
    "pekinese", "pembroke", "pomeranian", "pug", "redbone", "rhodesian_ridgeback", "rottweiler",
    "saint_bernard", "saluki", "samoyed", "schipperke", "scotch_terrier", "scottish_deerhound",
    "sealyham_terrier", "shetland_sheepdog", "shih-tzu", "siberian_husky", "silky_terrier",
    "soft-coated_wheaten_terrier", "staffordshire_bullterrier", "standard_poodle",
    "standard_schnauzer", "sussex_spaniel", "tibetan_mastiff", "tibetan_terrier", "toy_poodle",
    "toy_terrier", "vizsla", "walker_hound", "weimaraner", "welsh_springer_spaniel",
    "west_highland_white_terrier", "whippet", "wire-haired_fox_terrier", "yorkshire_terrier",
)  # fmt: skip


def fetch_dog_breed(
    source: str | os.PathLike[str] | None = None,
    *,
    subset: Literal["train", "test"] = "train",
    data_home: str | os.PathLike[str] | None = None,
    verbose: int = 0,
    return_X_y: bool = False,
) -> Any:
    r"""Load Kaggle's Dog Breed Identification from the archive or folder.

    Parameters
    ----------
    source : str or Path, default=None
        Kaggle's archive, or a folder that has it or what it unpacks to: ``labels.csv``, ``train``
        and ``test``. Kaggle gives it to those who have an account and accept its terms, so that it
        cannot be downloaded here: where None is given, an error says where to get it.
    subset : {"train", "test"}, default="train"
        The 10,222 pictures with labels, or the 10,357 without.
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
        - images : ndarray of shape (n_images,), dtype object: paths as str, in the order of
          ``labels.csv``, or sorted for the test part;
        - target : ndarray of shape (n_images,), dtype str: breeds; None for the test part;
        - target_names : list of str, sorted; None for the test part;
        - ids : ndarray of shape (n_images,), dtype str: file names without ``.jpg``;
        - DESCR : str.
    (images, target) : tuple
        If `return_X_y` is True.

    Raises
    ------
    DatasetError
        If the data set is missing or damaged.
    FileNotFoundError
        If pictures of ``labels.csv`` are not there.

    References
    ----------
    .. [1] https://www.kaggle.com/c/dog-breed-identification

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl.datasets import fetch_dog_breed
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "labels.csv").write_text("id,breed\n00a,boxer\n1e5,collie\n")
    >>> (folder / "train").mkdir()
    >>> for name in ("00a.jpg", "1e5.jpg"):
    ...     (folder / "train" / name).touch()
    >>> data = fetch_dog_breed(folder)
    >>> data.ids.tolist(), data.target.tolist()
    (['00a', '1e5'], ['boxer', 'collie'])
    """
    checks = ParameterChecks("fetch_dog_breed")
    checks.choice("subset", subset, ("train", "test"))
    checks.done()
    files = open_dataset(_PUBLISHED, source=source, data_home=data_home, verbose=verbose)
    if subset == "train":
        data = load_image_table(
            files.file("labels.csv"),
            folder=files.folder("train"),
            path_column="id",
            label_column="breed",
            suffix=".jpg",
        )
        del data["frame"]
    else:
        root = files.folder("test")
        data = load_image_folder(root)
        if data.target is not None:
            raise DatasetError(f"{root} has folders, and not the pictures themselves")
        del data["ignored"]
    data.ids = np.array([Path(path).stem for path in data.images])
    return hand_over(data, _DESCR, return_X_y)


def write_dog_breed_submission(
    file: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]] | npt.NDArray[Any],
    probabilities: npt.ArrayLike,
    classes: Iterable[str],
    *,
    breeds: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Write the table of probabilities that Kaggle's Dog Breed Identification takes.

    Parameters
    ----------
    file : str or Path
        The CSV file to write.
    images : array-like of shape (n_images,)
        Paths or ids of the test pictures; an id is the file's name without its suffix.
    probabilities : array-like of shape (n_images, n_classes)
        What ``predict_proba`` returns, from 0 to 1.
    classes : iterable of str
        The breed of each column of `probabilities`: the classifier's ``classes_``.
    breeds : iterable of str, default=None
        The columns to write, in this order; by default the competition's 120, sorted. Those that
        are not in `classes` get the probability 0.

    Returns
    -------
    table : DataFrame of shape (n_images, 1 + n_breeds)
        What was written: ``id``, and a column for each breed.

    Raises
    ------
    ParameterError
        If the shapes do not match, ids come twice, a class is none of the breeds, or there are
        values that are no probabilities. Nothing is written then.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sktl.datasets import write_dog_breed_submission
    >>> file = pathlib.Path(tempfile.mkdtemp(), "submission.csv")
    >>> table = write_dog_breed_submission(
    ...     file, ["test/00a.jpg", "test/1e5.jpg"], [[0.25, 0.75], [1, 0]], ["pug", "boxer"]
    ... )
    >>> table.shape
    (2, 121)
    >>> table[["id", "boxer", "pug"]]
        id  boxer   pug
    0  00a   0.75  0.25
    1  1e5   0.00  1.00
    """
    known = list(_BREEDS if breeds is None else breeds)
    names = [str(name) for name in classes]
    ids = [_stem(image) for image in images]
    values = np.asarray(probabilities, dtype=np.float64)
    checks = ParameterChecks("write_dog_breed_submission")
    shape = (len(ids), len(names))
    if values.shape != shape:
        checks.wrong.append(
            f"probabilities must have the shape {shape}, pictures by classes; got {values.shape}."
        )
    else:
        # float32 probabilities may be a little above 1; NaN is wrong too.
        right = ((values >= 0) & (values <= 1 + 1e-5)).all(axis=1)
        rows = np.flatnonzero(~right)[:5].tolist()
        checks.that("probabilities", f"others in the rows {rows}", not rows, "from 0 to 1")
    for parameter, listed in (("images", ids), ("classes", names), ("breeds", known)):
        twice = [name for name, count in Counter(listed).items() if count > 1]
        if twice:
            checks.wrong.append(f"{parameter} must not come twice; these do: {twice[:5]}.")
    unknown = [name for name in names if name not in set(known)]
    if unknown:
        checks.wrong.append(
            f"classes must be among the {len(known)} breeds; {unknown[:5]} are not."
            f"{suggest(unknown[0], known)} breeds= names other columns."
        )
    checks.done()
    table = pd.DataFrame(values, columns=names).reindex(columns=known, fill_value=0.0)
    table.insert(0, "id", ids)
    table.to_csv(file, index=False)
    return table


def _stem(image: str | os.PathLike[str]) -> str:
    name = Path(image).name
    return Path(name).stem if Path(name).suffix.lower() in (".jpg", ".jpeg") else name
