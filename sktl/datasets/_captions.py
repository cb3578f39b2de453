"""Captions no wider than the picture that they belong to."""

from __future__ import annotations

from typing import Any

__all__ = ["letters_across", "shorten"]

# Of the size of a font: the width of its digits, somewhat more than the mean of its letters.
_LETTER = 0.64


def letters_across(ax: Any, fontsize: float) -> int:
    """About how many letters of a size in points are as wide as an axes, as it is laid out now."""
    figure = ax.figure.canvas.figure  # of a subfigure the whole
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    pixels = ax.get_position(original=True).width * ax.figure.bbox.width
    return int(pixels / figure.dpi * 72 / (_LETTER * fontsize))


def shorten(label: Any, width: int) -> str:
    """A label in at most `width` letters: its ends, as labels may begin or end alike."""
    text = str(label)
    if len(text) <= width:
        return text
    kept = max(width, 2) - 1
    behind = kept // 3
    return f"{text[: kept - behind].rstrip()}…{text[len(text) - behind :].lstrip()}"
