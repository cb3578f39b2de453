"""How many pictures of each class there are, and how large they are."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from PIL import ExifTags, Image

from sktl.datasets._captions import shorten
from sktl.images import ImageCollection
from sktl.images._decode import is_encoded
from sktl.inspection._grid import make_axes
from sktl.inspection._pictures import labels_of, pictures_of, read_pictures
from sktl.utils._quiet import PILLOW_QUIET

__all__ = ["ImageSetDisplay"]

# More bars than these have no room for names.
_MOST_NAMES = 40
# From this ratio of the longest to the shortest side on, axes are logarithmic.
_MANY_TIMES = 10
# Orientations of EXIF that swap width and height.
_ON_ITS_SIDE = (5, 6, 7, 8)


class ImageSetDisplay:
    """Pictures by class, and their sizes.

    Parameters
    ----------
    frame : DataFrame
        One row a picture: `width` and `height` in pixels, and `label` where labels are known.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        Number of pictures by class, where labels are known, and sizes.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl.inspection import ImageSetDisplay
    >>> photographs = load_sample_images().images
    >>> ImageSetDisplay.from_images(photographs, ["building", "flower"]).frame
       width  height     label
    0    640     427  building
    1    640     427    flower
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame

    @classmethod
    def from_images(cls, X: Any, y: Any = None, *, ax: Any = None) -> Self:
        """Look at pictures and draw; of files the headers alone are read.

        Parameters
        ----------
        X : array-like of n pictures
            Anything that :func:`sktl.images.as_images` takes.
        y : array-like of shape (n,), default=None
            Labels.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : ImageSetDisplay
        """
        images = pictures_of(X)
        sizes = [_size(images, i) for i in range(len(images))]
        frame = pd.DataFrame(sizes, columns=["width", "height"])
        if y is not None:
            frame["label"] = labels_of(y, len(images))
        return cls(frame).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the bars and the sizes.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        self : ImageSetDisplay
        """
        by_class = "label" in self.frame
        n_classes = self.frame["label"].nunique() if by_class else 0
        height = max(3.6, 0.8 + 0.22 * n_classes) if n_classes <= _MOST_NAMES else 4.0
        self.figure_, axes = make_axes(1, 1 + by_class, (4.6, height), ax, "ImageSetDisplay.plot")
        self.axes_ = axes[0]
        if by_class:
            self._plot_classes(self.axes_[0])
        self._plot_sizes(self.axes_[-1])
        return self

    def _plot_classes(self, axis: Any) -> None:
        counts = self.frame["label"].value_counts().sort_index()
        title = f"{len(self.frame)} pictures, {len(counts)} classes"
        if len(counts) > _MOST_NAMES:
            ordered = np.sort(counts.to_numpy())[::-1]
            axis.fill_between(np.arange(1, len(ordered) + 1), ordered, step="mid", alpha=0.9)
            axis.set(xlabel="Classes, from the largest to the smallest", ylabel="Pictures")
            axis.set(ylim=(0, None), xlim=(0.5, len(ordered) + 0.5))
            ends = [int(counts.argmax()), int(counts.argmin())]
            named = [f"{shorten(counts.index[i], 16)} {counts.iloc[i]}" for i in ends]
            title += f"\nlargest: {named[0]}; smallest: {named[1]}"
        else:
            names = [shorten(label, 20) for label in counts.index]
            places = np.arange(len(counts))
            bars = axis.barh(places, counts, height=0.7)
            axis.bar_label(bars, padding=3, fontsize=8)
            axis.set_yticks(places, names)
            axis.set(xlabel="Pictures", ylim=(len(counts) - 0.4, -0.6))
            axis.margins(x=0.12)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)

    def _plot_sizes(self, axis: Any) -> None:
        counts = self.frame.value_counts(["width", "height"])
        width, height = (
            counts.index.get_level_values(name).to_numpy() for name in ("width", "height")
        )
        most, least = max(width.max(), height.max()), min(width.min(), height.min())
        area = 12 + 300 * counts.to_numpy() / len(self.frame)
        axis.scatter(width, height, s=area, alpha=0.5, lw=0)
        margin = 0.08 * most
        limits = (0 if least < most / 2 else least - margin, most + margin)
        if most > _MANY_TIMES * least:
            axis.set(xscale="log", yscale="log")
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_major_formatter("{x:g}")
            limits = (least / 1.2, most * 1.2)
        axis.plot(limits, limits, color="0.6", lw=1, ls="--", zorder=0)
        axis.set(xlim=limits, ylim=limits, xlabel="Width in pixels", ylabel="Height in pixels")
        axis.set_aspect("equal")
        if len(counts) == 1:
            title = f"all pictures are {width[0]} x {height[0]} pixels"
        else:
            middle = self.frame[["width", "height"]].median().astype(int)
            title = f"{len(counts)} sizes, median {middle['width']} x {middle['height']} pixels"
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)


def _size(images: ImageCollection, i: int) -> tuple[int, int]:
    """Width and height of an upright picture."""
    item = images[i]
    if is_encoded(item) and not isinstance(item, (bytes, bytearray, memoryview, Image.Image)):
        try:
            with PILLOW_QUIET, Image.open(item) as image:
                on_its_side = image.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
                return image.size[::-1] if on_its_side else image.size
        except Exception:  # noqa: BLE001 (named by the reading below)
            pass
    (picture,) = read_pictures(images, [i])
    return picture.size
