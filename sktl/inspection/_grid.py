"""Pictures side by side, in square cells with their titles in line."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sktl.exceptions import ParameterError
from sktl.utils._optional import import_optional

__all__ = ["make_axes", "percent", "show", "single_axes"]

# Up to this side pixels are shown as squares, beyond it smoothly.
_FEW_PIXELS = 64


def single_axes(ax: Any, caller: str, size: tuple[float, float] | None = None) -> Any:
    """`ax`, or the axes of a new figure."""
    plt = import_optional("matplotlib.pyplot", extra="plot", caller=caller)
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def make_axes(
    n_rows: int, n_columns: int, cell: tuple[float, float], ax: Any, caller: str, **options: Any
) -> tuple[Any, npt.NDArray[np.object_]]:
    """A figure and (n_rows, n_columns) axes: new ones, or in the place of `ax`.

    The size of a cell is in inches.
    """
    plt = import_optional("matplotlib.pyplot", extra="plot", caller=caller)
    if ax is None:
        size = (cell[0] * n_columns, cell[1] * n_rows)
        figure = plt.figure(figsize=size, layout="constrained")
        return figure, figure.subplots(n_rows, n_columns, squeeze=False, **options)
    place = ax.get_subplotspec()
    if place is None:
        raise ParameterError(
            "ax must be one of plt.subplots or figure.add_subplot, so that it can be divided"
        )
    ax.set_axis_off()
    grid = place.subgridspec(n_rows, n_columns)
    return ax.figure, grid.subplots(squeeze=False, **options)


def show(
    ax: Any,
    picture: npt.NDArray[np.uint8] | None,
    title: str = "",
    *,
    fontsize: float = 9,
    centred: bool = False,
) -> None:
    """Draw one picture in a square cell, at its top or centred; without a picture, clear it."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.patch.set_visible(False)
    if picture is None:
        ax.set_box_aspect(1)
        return
    height, width = picture.shape[:2]
    side = max(height, width)
    ax.imshow(picture, interpolation="nearest" if side <= _FEW_PIXELS else "antialiased")
    middle = (width - 1) / 2
    ax.set_xlim(middle - side / 2, middle + side / 2)
    top = (height - side) / 2 if centred else 0
    ax.set_ylim(top + side - 0.5, top - 0.5)
    ax.set_title(title, fontsize=fontsize)


def percent(share: float) -> str:
    """A share between 0 and 1, such as "7 %"; never rounded to 0 or 100 where it is not."""
    value = 100 * share
    if 0 < value < 1:
        return "<1 %"
    return ">99 %" if 99 < value < 100 else f"{value:.0f} %"
