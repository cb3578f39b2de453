"""The image report, drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from sktl.datasets._captions import letters_across, shorten
from sktl.images._decode import BadImageError
from sktl.utils._optional import import_optional

if TYPE_CHECKING:
    from sktl.datasets._report import ImageReport

__all__ = ["ImageReportDisplay"]

_MOST_NAMED = 30
_COLUMNS = 8
_THUMBNAIL = 160
_CAPTION_SIZE = 7
_LONGEST_NAME = 20


class ImageReportDisplay:
    """Pictures of each class, their sizes, and those that something is wrong with.

    Parameters
    ----------
    report : ImageReport
        What is drawn.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes
        Of the counts, of the sizes, and of each picture shown.
    figure_ : matplotlib Figure

    See Also
    --------
    image_report : Makes the report.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktl.datasets import ImageReportDisplay, image_report
    >>> report = image_report(load_sample_images().images, ["temple", "flower"])
    >>> display = ImageReportDisplay(report).plot()
    >>> [ax.get_title() for ax in display.ax_]
    ['Pictures a class', 'Sizes']
    """

    def __init__(self, report: ImageReport) -> None:
        self.report = report

    def plot(self, ax: Any = None, *, n_shown: int = 16) -> Self:
        """Draw the report.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; its place is divided. A new figure by default.
        n_shown : int, default=16
            How many pictures are shown, at most: of everything that is wrong some.

        Returns
        -------
        self : ImageReportDisplay
        """
        plt = import_optional("matplotlib.pyplot", extra="plot", caller="ImageReportDisplay.plot")
        from matplotlib.gridspec import GridSpec, GridSpecFromSubplotSpec

        shown = _choose(self.report, n_shown)
        n_rows = -(-len(shown) // _COLUMNS)
        layout: dict[str, Any] = {
            "nrows": 1 + n_rows,
            "ncols": _COLUMNS,
            "height_ratios": [2.6] + [1.0] * n_rows,
        }
        if ax is None:
            figure = plt.figure(figsize=(12, 4 + 1.9 * n_rows), layout="constrained")
            grid: Any = GridSpec(figure=figure, **layout)
        else:
            figure = ax.figure
            ax.set_axis_off()
            grid = GridSpecFromSubplotSpec(subplot_spec=ax.get_subplotspec(), **layout)
        half = _COLUMNS // 2
        counts = figure.add_subplot(grid[0, :half])
        sizes = figure.add_subplot(grid[0, half:])
        _draw_counts(counts, self.report.classes["n_pictures"])
        _draw_sizes(sizes, self.report.pictures)
        cells = [
            figure.add_subplot(grid[1 + k // _COLUMNS, k % _COLUMNS], xticks=[], yticks=[])
            for k in range(len(shown))
        ]
        width = letters_across(cells[0], _CAPTION_SIZE) if cells else 0
        for cell, (i, title) in zip(cells, shown, strict=True):
            self._draw_picture(cell, i, title, width)
        self.ax_, self.figure_ = np.array([counts, sizes, *cells], dtype=object), figure
        return self

    def _draw_picture(self, ax: Any, i: int, title: str, width: int) -> None:
        row: dict[Any, Any] = self.report.pictures.loc[i].to_dict()
        ax.set_title(title, fontsize=8)
        name = PurePath(row["source"]).name
        label = "" if pd.isna(row["label"]) else f"{shorten(row['label'], width)}\n"
        name = name if len(name) <= width else f"…{name[-max(width, 2) + 1 :]}"
        ax.set_xlabel(f"{label}{name}", fontsize=_CAPTION_SIZE)
        try:
            if row["broken"]:
                raise BadImageError(row["broken"])
            image = self.report.images.read_rgb(i)
        except BadImageError as error:  # or moved since the report was made
            words = textwrap.fill(str(error), 18, max_lines=6)
            ax.text(0.5, 0.5, words, fontsize=7, ha="center", va="center", transform=ax.transAxes)
            return
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        ax.imshow(np.asarray(image))


def _choose(report: ImageReport, n_shown: int) -> list[tuple[int, str]]:
    """Positions and titles of pictures to show: each kind of fault in turn, pairs side by side."""
    table = report.pictures
    duplicates: Iterable[Any] = report.duplicates.itertuples()
    groups: list[list[tuple[int, str]]] = [
        [(i, f"{'conflict' if row.conflicting else row.kind} {k + 1}") for i in row.positions[:2]]
        for k, row in enumerate(duplicates)
    ]
    queues = [groups] + [
        [[(int(i), name)] for i in np.flatnonzero(table[name].astype(bool))]
        for name in ("broken", "dark", "flat", "blurred")
    ]
    chosen: list[list[list[tuple[int, str]]]] = [[] for _ in queues]
    left = n_shown
    while left > 0 and any(queues):
        for queue, taken in zip(queues, chosen, strict=True):
            if queue and len(queue[0]) <= left:
                taken.append(queue.pop(0))
                left -= len(taken[-1])
            elif queue:
                queue.clear()
    return [shown for taken in chosen for some in taken for shown in some]


def _draw_counts(ax: Any, counts: pd.Series[int]) -> None:
    counts = counts.sort_values(ascending=False, kind="stable")
    names = [shorten(name, _LONGEST_NAME) for name in counts.index]
    positions = np.arange(len(counts))
    if len(counts) <= _MOST_NAMED:
        ax.barh(positions, counts.to_numpy(), color="C0")
        ax.set_yticks(positions, names, fontsize=8 if len(counts) <= 15 else 6)
        ax.invert_yaxis()
        ax.set_xlabel("Pictures")
        ax.xaxis.get_major_locator().set_params(integer=True)
    else:
        ax.bar(positions, counts.to_numpy(), width=1.0, color="C0")
        words = (
            f"{len(counts)} classes, by number of pictures\nmost: {names[0]} {counts.iloc[0]}; "
            f"median: {counts.median():g}; least: {names[-1]} {counts.iloc[-1]}"
        )
        ax.set(xlabel=words, ylabel="Pictures", xticks=[])
    ax.set_title("Pictures a class")


def _draw_sizes(ax: Any, pictures: pd.DataFrame) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    known = pictures[["width", "height"]].dropna().astype(int)
    counts = known.value_counts()
    if len(counts):
        width, height = (counts.index.get_level_values(k).to_numpy() for k in (0, 1))
        area = 6 + 120 * np.sqrt(counts.to_numpy() / counts.max())
        ax.scatter(width, height, s=area, alpha=0.35, lw=0)
        ends = 0.8 * min(width.min(), height.min()), 1.25 * max(width.max(), height.max())
        ax.plot(ends, ends, color="0.7", lw=0.8, zorder=0)  # square pictures
        ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:.0f}")
            axis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="Width, pixels", ylabel="Height, pixels", title="Sizes")
