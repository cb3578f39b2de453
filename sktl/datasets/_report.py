"""What a set of pictures holds, and what is wrong with it, before anything is trained on it."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sktl.datasets._duplicates import group_duplicates
from sktl.datasets._duplicates_search import Fingerprints, check_search, find_pairs
from sktl.datasets._report_measure import Look, look_at
from sktl.exceptions import ParameterError
from sktl.images import ImageCollection, as_images
from sktl.utils._parameters import ParameterChecks

if TYPE_CHECKING:
    from sktl.datasets._report_display import ImageReportDisplay

__all__ = ["ImageReport", "image_report"]

_PROBLEMS = ("broken", "conflicting", "duplicate", "dark", "flat", "blurred")


@dataclass(frozen=True, repr=False, eq=False)
class ImageReport:
    """What :func:`image_report` found.

    Attributes
    ----------
    pictures : DataFrame of n_images rows
        One row a picture, in the order of X. Columns:

        - source : str, the path, or a short description of a picture in memory;
        - label : its class; missing without y;
        - format, mode : str, Pillow's names, such as "JPEG" and "L"; no format for arrays;
        - bytes : Int64, of the encoded picture;
        - width, height : Int64, in pixels, upright;
        - aspect : float, width / height;
        - brightness, contrast : float, mean and standard deviation of the gray values, 0-255;
        - sharpness : float, variance of the Laplacian by that of the gray values;
        - dark, flat, blurred : bool;
        - broken : str, why it cannot be read; empty if it can;
        - digest : str, of the decoded pixels;
        - group : int, equal for duplicates, exact or near;
        - duplicate : str, "exact", "near", or empty for a picture without a duplicate;
        - conflicting : bool, whether a duplicate has another label.
    classes : DataFrame of n_classes rows
        One row a class, sorted: n_pictures, share; medians of width, height, aspect and
        kilobytes; number of pictures that are broken, dark, flat, blurred, exact and near
        duplicates, and conflicting. Without y one row, "all".
    duplicates : DataFrame
        One row a group of duplicates, those with conflicting labels first: kind ("exact" if the
        pixels of all are equal, else "near"), n_pictures, conflicting, labels, positions, sources.
    images : ImageCollection
        The pictures.

    Examples
    --------
    >>> from PIL import Image
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl.datasets import image_report
    >>> temple, flower = map(Image.fromarray, load_sample_images().images)
    >>> report = image_report([temple, flower, temple], ["temple", "flower", "palace"])
    >>> report.classes[["n_pictures", "width", "conflicting"]]
            n_pictures  width  conflicting
    flower           1  640.0            0
    palace           1  640.0            1
    temple           1  640.0            1
    """

    pictures: pd.DataFrame
    classes: pd.DataFrame
    duplicates: pd.DataFrame
    images: ImageCollection

    @property
    def groups(self) -> npt.NDArray[np.intp]:
        """Group of each picture, as :func:`near_duplicate_groups` gives them."""
        return self.pictures["group"].to_numpy(dtype=np.intp)

    @property
    def flagged(self) -> pd.DataFrame:
        """Rows of `pictures` that something is wrong with; the column `problems` says what."""
        table = self.pictures
        marks = pd.DataFrame({name: table[name].astype(bool) for name in _PROBLEMS})
        named = [
            ", ".join(name for name, marked in zip(_PROBLEMS, row, strict=True) if marked)
            for row in marks.to_numpy()
        ]
        return table.assign(problems=named)[marks.any(axis=1)]

    def plot(self, **kwargs: Any) -> ImageReportDisplay:
        """Draw the report.

        Parameters
        ----------
        **kwargs : dict
            Handed to :meth:`ImageReportDisplay.plot`.

        Returns
        -------
        display : ImageReportDisplay
        """
        from sktl.datasets._report_display import ImageReportDisplay

        return ImageReportDisplay(self).plot(**kwargs)

    def __repr__(self) -> str:
        table, counts = self.pictures, self.classes["n_pictures"]
        lines = [f"{len(table)} pictures"]
        unlabelled = int(table["label"].isna().sum())
        if unlabelled < len(table):
            least, most = counts.min(), counts.max()
            lines[0] += f" of {len(counts)} classes: " + (
                f"{least} a class"
                if least == most
                else f"{least} ({counts.idxmin()}) to {most} ({counts.idxmax()}) a class"
            )
            if unlabelled:
                lines[0] += f"; {unlabelled} without a label"
        for name, unit in (("width", "pixels"), ("height", "pixels"), ("bytes", "bytes")):
            known = table[name].dropna()
            if len(known):
                lines.append(
                    f"{name}: {known.min()} to {known.max()}, median {known.median():.0f} {unit}"
                )
        for name in ("format", "mode"):
            known = table[name].value_counts()
            if len(known):
                lines.append(f"{name}: " + ", ".join(f"{k} {n}" for k, n in known.items()))
        single = ("broken", "dark", "flat", "blurred")
        lines.append(", ".join(f"{name} {int(table[name].astype(bool).sum())}" for name in single))
        exact = int((self.duplicates["kind"] == "exact").sum())
        lines.append(
            f"groups of duplicates: {exact} exact, {len(self.duplicates) - exact} near; "
            f"{int(self.duplicates['conflicting'].sum())} with conflicting labels"
        )
        return "\n".join(lines)


def image_report(
    X: Any,
    y: Any = None,
    *,
    max_distance: int = 8,
    min_correlation: float = 0.9,
    dark: float = 40,
    flat: float = 5,
    blurred: float = 0.015,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> ImageReport:
    """Look at every picture once: counts, sizes, damage, darkness, blur, duplicates.

    Parameters
    ----------
    X : array-like of n_images pictures
        Anything that :func:`sktl.images.as_images` takes.
    y : array-like of shape (n_images,), default=None
        Labels.
    max_distance : int, default=8
        Most of the 64 bits in which the perceptual hashes of near duplicates differ.
    min_correlation : float, default=0.9
        Least correlation of the details of near duplicates, in thumbnails of 32 x 32 pixels.
    dark : float, default=40
        A picture is dark if 99 % of its gray values, 0-255, are below this.
    flat : float, default=5
        A picture is flat if the standard deviation of its gray values is below this.
    blurred : float, default=0.015
        A picture is blurred if its sharpness is below this. It is measured at no more than 256
        pixels, so that only blur counts which a network would see.
    n_jobs : int, default=None
        Number of threads; -1 is one a core.
    verbose : int, default=0
        Whether to show a progress bar.

    Returns
    -------
    report : ImageReport
        Tables of pictures, classes and duplicates; `plot` draws them.

    Raises
    ------
    ImageFormatError
        If X is not understood. Pictures that cannot be read are no error here, but reported.
    ParameterError
        If an argument cannot be right.

    See Also
    --------
    check_leakage : Duplicates across a training and a test set.
    near_duplicate_groups : Says how near duplicates are found, and which are not.

    Notes
    -----
    Sharpness is the variance of the Laplacian [1]_ divided by the variance of the gray values,
    without which low contrast would pass for blur. A picture whose subject is small on a soft
    ground can fall below any threshold: look at what is flagged.

    References
    ----------
    .. [1] J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative
       study", ICPR 2000.

    Examples
    --------
    >>> from PIL import Image
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl.datasets import image_report
    >>> temple, flower = map(Image.fromarray, load_sample_images().images)
    >>> pictures = [temple, flower, temple.resize((320, 213)), Image.new("L", (64, 64))]
    >>> report = image_report(pictures, ["temple", "flower", "flower", "flower"])
    >>> report.flagged[["label", "width", "problems"]]
        label  width                problems
    0  temple    640  conflicting, duplicate
    2  flower    320  conflicting, duplicate
    3  flower     64              dark, flat
    >>> report.duplicates[["kind", "n_pictures", "labels"]]
       kind  n_pictures            labels
    0  near           2  (flower, temple)
    """
    check_search("image_report", max_distance, min_correlation, n_jobs)
    checks = ParameterChecks("image_report")
    thresholds: dict[str, Any] = {"dark": dark, "flat": flat, "blurred": blurred}
    for name, value in thresholds.items():
        fits = isinstance(value, numbers.Real) and float(value) >= 0
        checks.that(name, value, fits, "a number of at least 0")
    checks.done()
    images = as_images(X)
    labels = _labels(y, len(images))
    looks = look_at(images, n_jobs=n_jobs, progress=bool(verbose))
    fingerprints = Fingerprints.from_looks(looks)
    pairs = find_pairs(fingerprints, fingerprints, max_distance, min_correlation)
    pictures = _picture_table(looks, labels)
    pictures = pictures.assign(
        dark=[look.highlight < dark for look in looks],
        flat=pictures["contrast"] < flat,
        blurred=pictures["sharpness"] < blurred,
        broken=[look.broken or "" for look in looks],
        digest=[look.digest.hex() if look.digest else "" for look in looks],
        group=group_duplicates(fingerprints, pairs),
    )
    pictures = _mark_duplicates(pictures)
    return ImageReport(pictures, _class_table(pictures), _duplicate_table(pictures), images)


def _labels(y: Any, n_images: int) -> npt.NDArray[Any] | None:
    if y is None:
        return None
    labels = np.asarray(y)
    if labels.shape != (n_images,):
        raise ParameterError(
            f"y must have one label a picture, shape ({n_images},); got {labels.shape}"
        )
    return labels


def _picture_table(looks: Sequence[Look], labels: npt.NDArray[Any] | None) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "source": pd.Series([look.source for look in looks], dtype=object),
            "label": pd.Series([None] * len(looks) if labels is None else labels.tolist()),
            "format": pd.Series([look.format for look in looks], dtype=object),
            "mode": pd.Series([look.mode for look in looks], dtype=object),
            "bytes": pd.Series([look.n_bytes for look in looks], dtype="Int64"),
            "width": pd.Series([look.width for look in looks], dtype="Int64"),
            "height": pd.Series([look.height for look in looks], dtype="Int64"),
        }
    )
    table["aspect"] = (
        (table["width"] / table["height"]).astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    )
    for name in ("brightness", "contrast", "sharpness"):
        table[name] = [float(getattr(look, name)) for look in looks]
    return table


def _mark_duplicates(pictures: pd.DataFrame) -> pd.DataFrame:
    """Columns that say whether a picture has duplicates, and of which kind."""
    group_size = pictures.groupby("group")["group"].transform("size")
    # Broken pictures have no digest, and are alone in their group.
    copies = pictures.groupby(["group", "digest"])["group"].transform("size")
    kind = np.where(copies > 1, "exact", np.where(group_size > 1, "near", ""))
    n_labels = pictures.groupby("group")["label"].transform("nunique")
    return pictures.assign(duplicate=kind, conflicting=n_labels > 1)


def _class_table(pictures: pd.DataFrame) -> pd.DataFrame:
    by = pictures["label"] if pictures["label"].notna().any() else np.full(len(pictures), "all")
    classes = pictures.assign(
        exact_duplicate=pictures["duplicate"] == "exact",
        near_duplicate=pictures["duplicate"] == "near",
        broken=pictures["broken"] != "",
        kilobytes=pictures["bytes"].to_numpy(dtype=float, na_value=np.nan) / 1000,
        width=pictures["width"].to_numpy(dtype=float, na_value=np.nan),
        height=pictures["height"].to_numpy(dtype=float, na_value=np.nan),
    ).groupby(by, sort=True)
    n_pictures = classes.size()
    medians = classes[["width", "height", "aspect", "kilobytes"]].median()
    counts = classes[
        ["broken", "dark", "flat", "blurred", "exact_duplicate", "near_duplicate", "conflicting"]
    ].sum()
    table = pd.concat(
        [
            pd.DataFrame({"n_pictures": n_pictures, "share": n_pictures / max(1, len(pictures))}),
            medians,
            counts.astype(int),
        ],
        axis=1,
    )
    return table.rename_axis(None)


def _duplicate_table(pictures: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for _, members in pictures[pictures["duplicate"] != ""].groupby("group"):
        labels = members["label"].dropna().unique().tolist()
        rows.append(
            {
                "kind": "exact" if members["digest"].nunique() == 1 else "near",
                "n_pictures": len(members),
                "conflicting": len(labels) > 1,
                "labels": tuple(sorted(labels, key=str)),
                "positions": tuple(members.index.tolist()),
                "sources": tuple(members["source"].tolist()),
            }
        )
    columns = ["kind", "n_pictures", "conflicting", "labels", "positions", "sources"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("conflicting", ascending=False, kind="stable", ignore_index=True)
