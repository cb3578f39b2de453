"""Pictures that are there twice: within a set, and in two sets that should share none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sktl.datasets._duplicates_search import Fingerprints, check_search, find_pairs
from sktl.datasets._report_measure import Look, look_at
from sktl.exceptions import BadImage, BadImageWarning, describe_bad_images
from sktl.images import as_images

__all__ = ["check_leakage", "group_duplicates", "near_duplicate_groups"]


def near_duplicate_groups(
    X: Any,
    *,
    max_distance: int = 8,
    min_correlation: float = 0.9,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> npt.NDArray[np.intp]:
    """Group pictures that are the same or nearly so, to keep them in one part of a split.

    Parameters
    ----------
    X : array-like of n_images pictures
        Anything that :func:`sktl.images.as_images` takes.
    max_distance : int, default=8
        Most of the 64 bits in which the perceptual hashes of near duplicates differ.
    min_correlation : float, default=0.9
        Least correlation of the details of near duplicates, in thumbnails of 32 x 32 pixels.
    n_jobs : int, default=None
        Number of threads; -1 is one a core.
    verbose : int, default=0
        Whether to show a progress bar.

    Returns
    -------
    groups : ndarray of shape (n_images,), dtype int
        Equal for duplicates, and for duplicates of duplicates; numbered as they appear. A picture
        without a duplicate is a group of its own.

    Warns
    -----
    BadImageWarning
        If some pictures cannot be read; each is a group of its own.

    See Also
    --------
    image_report : Names the duplicates, and more.
    sktl.model_selection.PerClassSplit : Keeps groups together.

    Notes
    -----
    Candidates have perceptual hashes (pHash, [1]_) that differ in few bits. That alone takes
    many objects on a plain ground for each other, so that candidates must also correlate in
    detail. Changes of size, compression, brightness, contrast and colour are seen through; crops
    by more than about 2 %, rotations and mirror images are not. Pictures without detail are only
    duplicates if their pixels are equal.

    References
    ----------
    .. [1] C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010.

    Examples
    --------
    >>> from PIL import Image
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl.datasets import near_duplicate_groups
    >>> temple, flower = map(Image.fromarray, load_sample_images().images)
    >>> near_duplicate_groups([temple, flower, temple.resize((320, 213))])
    array([0, 1, 0])
    """
    check_search("near_duplicate_groups", max_distance, min_correlation, n_jobs)
    looks = look_at(as_images(X), n_jobs=n_jobs, progress=bool(verbose))
    _warn_of_broken(looks, "X")
    fingerprints = Fingerprints.from_looks(looks)
    return group_duplicates(
        fingerprints, find_pairs(fingerprints, fingerprints, max_distance, min_correlation)
    )


def check_leakage(
    X_train: Any,
    X_test: Any,
    *,
    max_distance: int = 8,
    min_correlation: float = 0.9,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Find test pictures that are the same as training pictures, or nearly so.

    Parameters
    ----------
    X_train : array-like of n_train pictures
        Anything that :func:`sktl.images.as_images` takes.
    X_test : array-like of n_test pictures
        The same; need not be held in the same way.
    max_distance : int, default=8
        Most of the 64 bits in which the perceptual hashes of near duplicates differ.
    min_correlation : float, default=0.9
        Least correlation of the details of near duplicates, in thumbnails of 32 x 32 pixels.
    n_jobs : int, default=None
        Number of threads; -1 is one a core.
    verbose : int, default=0
        Whether to show a progress bar.

    Returns
    -------
    pairs : DataFrame
        One row a pair, exact ones first; empty if there is no leak. Columns:

        - train, test : int, positions in X_train and X_test;
        - kind : "exact" if the decoded pixels are equal, else "near";
        - distance : int, bits in which the hashes differ;
        - correlation : float, of the details;
        - train_source, test_source : str, paths, or short descriptions of pictures in memory.

    Warns
    -----
    BadImageWarning
        If some pictures cannot be read; they are compared with none.

    See Also
    --------
    near_duplicate_groups : Says how near duplicates are found, and which are not.

    Examples
    --------
    >>> from PIL import Image
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl.datasets import check_leakage
    >>> temple, flower = map(Image.fromarray, load_sample_images().images)
    >>> small = temple.resize((320, 213))
    >>> check_leakage([temple, flower], [small, flower])[["train", "test", "kind"]]
       train  test   kind
    0      1     1  exact
    1      0     0   near
    """
    check_search("check_leakage", max_distance, min_correlation, n_jobs)
    sets = {"X_train": as_images(X_train), "X_test": as_images(X_test)}
    looks = {
        name: look_at(images, n_jobs=n_jobs, progress=bool(verbose))
        for name, images in sets.items()
    }
    for name, seen in looks.items():
        _warn_of_broken(seen, name)
    train, test = looks["X_train"], looks["X_test"]
    a, b = Fingerprints.from_looks(train), Fingerprints.from_looks(test)

    digests = [pd.DataFrame({"digest": [k.digest for k in seen]}) for seen in (train, test)]
    exact = pd.merge(
        digests[0].rename_axis("train").reset_index().dropna(),
        digests[1].rename_axis("test").reset_index().dropna(),
        on="digest",
    )
    exact = exact[["train", "test"]].assign(kind="exact", distance=0, correlation=1.0)

    near = find_pairs(a, b, max_distance, min_correlation)
    near = near.merge(_positions(a, "train"), left_on="a", right_on="code")
    near = near.merge(_positions(b, "test"), left_on="b", right_on="code")
    near = near[["train", "test", "distance", "correlation"]].assign(kind="near")

    pairs = pd.concat([exact, near[exact.columns]], ignore_index=True)
    pairs = pairs.drop_duplicates(["train", "test"])  # the same pixels are found both ways
    pairs = pairs.sort_values(["kind", "distance", "train", "test"], ignore_index=True)
    return pairs.assign(
        train_source=[train[i].source for i in pairs["train"]],
        test_source=[test[i].source for i in pairs["test"]],
    )


def group_duplicates(fingerprints: Fingerprints, pairs: pd.DataFrame) -> npt.NDArray[np.intp]:
    """Connected components, numbered as they appear; broken pictures are alone."""
    code = fingerprints.code
    n_distinct = len(fingerprints.hashes)
    code = np.where(code < 0, n_distinct + np.arange(len(code)), code)
    size = n_distinct + len(code)
    ones = np.ones(len(pairs), dtype=bool)
    graph = coo_array((ones, (pairs["a"].to_numpy(), pairs["b"].to_numpy())), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    groups: npt.NDArray[np.intp] = pd.factorize(component[code])[0]
    return groups


def _positions(fingerprints: Fingerprints, name: str) -> pd.DataFrame:
    """Positions by code."""
    code = fingerprints.code
    return pd.DataFrame({"code": code, name: np.arange(len(code))})[code >= 0]


def _warn_of_broken(looks: Sequence[Look], name: str) -> None:
    bad = [BadImage(i, k.source, k.broken) for i, k in enumerate(looks) if k.broken is not None]
    if bad:
        lines = "\n".join(describe_bad_images(bad))
        warnings.warn(
            f"{len(bad)} of {len(looks)} pictures in {name} cannot be read, and are taken for "
            f"duplicates of none:\n{lines}",
            BadImageWarning,
            stacklevel=3,
        )
