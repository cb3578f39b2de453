"""The filters of a network's first layer, which can be looked at as pictures."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sktl.exceptions import ParameterError
from sktl.inspection._grid import make_axes, show
from sktl.inspection._networks import as_backbone
from sktl.inspection._pictures import check_count

__all__ = ["FirstLayerFiltersDisplay"]


class FirstLayerFiltersDisplay:
    """The weights of the first convolution as small colour pictures.

    Gray is a weight of 0. Each filter is scaled by its largest weight.

    Parameters
    ----------
    filters : ndarray of shape (n_filters, 3, height, width)
        Weights of the first convolution for red, green and blue.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sktl import load_backbone
    >>> from sktl.inspection import FirstLayerFiltersDisplay
    >>> backbone = load_backbone("resnet18", weights=None)  # random weights, for the example
    >>> FirstLayerFiltersDisplay.from_estimator(backbone).filters.shape
    (64, 3, 7, 7)
    """

    def __init__(self, filters: npt.NDArray[np.float32]) -> None:
        self.filters = filters

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> Self:
        """Draw the filters of an estimator's network.

        Parameters
        ----------
        estimator : str, nn.Module, Backbone or estimator
            A network, or CNNFeatures, a fitted CNNClassifier, or a pipeline that begins with one.
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.

        Returns
        -------
        display : FirstLayerFiltersDisplay
        """
        from torch import nn

        backbone = as_backbone(estimator)
        for module in backbone.module.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels == 3:
                return cls(module.weight.detach().cpu().float().numpy()).plot(ax)
        raise ParameterError(f"{backbone.spec.name} has no convolution of three colours")

    def plot(self, ax: Any = None, *, n_columns: int | None = None) -> Self:
        """Draw all filters.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Whose place is taken; a new figure by default.
        n_columns : int, default=None
            Filters in a row; by default so many that the whole is about a square.

        Returns
        -------
        self : FirstLayerFiltersDisplay
        """
        n = len(self.filters)
        default = int(np.ceil(np.sqrt(n)))
        n_columns = check_count("n_columns", default if n_columns is None else n_columns)
        self.figure_, self.axes_ = make_axes(
            -(-n // n_columns), n_columns, (0.65, 0.65), ax, "FirstLayerFiltersDisplay.plot"
        )
        for cell in self.axes_.flat[n:]:
            show(cell, None)
        for cell, weights in zip(self.axes_.flat, self.filters, strict=False):
            scaled = weights / max(float(np.abs(weights).max()), 1e-12)
            picture = np.round(127.5 * (1 + scaled)).astype(np.uint8)
            show(cell, picture.transpose(1, 2, 0))  # (3, h, w) -> (h, w, 3)
        return self
